"""What a report reads from files: scans that cover less than the result say nothing beyond what they measured."""

from __future__ import annotations

import nibabel as nib
import pytest
import torch

from moediff.core.errors import DataError, GeometryError
from moediff.core.geometry import crop
from moediff.core.volume import Volume
from moediff.io.scans import save
from moediff.report.data import ReportFiles, ReportScans, from_files
from moediff.report.display import display
from moediff.report.embed import placed_on
from moediff.report.layers import nearest
from moediff.report.regions import regions
from moediff.report.summary_text import summarise


@pytest.fixture
def result(tmp_path, phantom):
    """A phantom head as a result on disk."""
    save(phantom, tmp_path / "a_desc-sr.nii.gz")
    (tmp_path / "a_desc-sr.json").write_text('{"software": "moediff-sr 0.1.0"}')
    return tmp_path / "a_desc-sr.nii.gz"


@pytest.fixture
def slab(tmp_path, phantom):
    """The middle of the same head, as far as a smaller field of view shows it."""
    save(crop(phantom, (0, 0, 12), (48, 56, 20)), tmp_path / "slab.nii.gz")
    return tmp_path / "slab.nii.gz"


@pytest.fixture
def elsewhere(tmp_path, phantom):
    """A scan that shares no place with the result."""
    affine = phantom.affine.clone()
    affine[:3, 3] += 500
    save(Volume(phantom.data_XYZ, affine), tmp_path / "elsewhere.nii.gz")
    return tmp_path / "elsewhere.nii.gz"


def test_a_result_is_judged_where_its_truth_was_measured(result, slab, phantom):
    save(phantom.with_data(phantom.data_XYZ.clamp_min(1) / 50), slab.with_name("sd.nii.gz"))
    scans = from_files(ReportFiles(scan=result, truth=slab, uncertainty=slab.with_name("sd.nii.gz")))
    summary = summarise(scans)
    assert summary.scores[0].psnr > 100 and summary.scores[0].ssim == pytest.approx(1)
    assert summary.regions[0].wrong == pytest.approx(0, abs=1e-6)
    assert bool((scans.truth.data_XYZ[:, :, [*range(12), *range(32, 44)]] == 0).all())


def test_a_region_that_the_truth_does_not_reach_has_no_true_error(result, slab, phantom):
    lesion = torch.zeros(phantom.shape)
    lesion[20:28, 24:32, 34:38] = 1
    save(phantom.with_data(lesion), slab.with_name("lesion.nii.gz"))
    save(phantom.with_data(phantom.data_XYZ.clamp_min(1) / 50), slab.with_name("sd.nii.gz"))
    files = ReportFiles(
        scan=result, truth=slab, uncertainty=slab.with_name("sd.nii.gz"), lesions=slab.with_name("lesion.nii.gz")
    )
    assert {region.name: region.wrong is None for region in summarise(from_files(files)).regions} == {
        "whole head": False,
        "outlined lesions": True,
    }


def test_a_truth_of_another_place_is_refused(result, elsewhere):
    with pytest.raises(GeometryError, match="truth lies wholly outside the enhanced scan"):
        from_files(ReportFiles(scan=result, truth=elsewhere))


def test_a_mask_without_lesions_is_told_as_a_mask(result, slab, phantom):
    save(phantom.with_data(torch.zeros(phantom.shape)), slab, overwrite=True)
    with pytest.raises(DataError, match=r"all voxels have the value 0: expected voxels inside .* and outside"):
        from_files(ReportFiles(scan=result, lesions=slab))


def test_nothing_of_the_input_is_shown_beyond_its_field_of_view(result, slab):
    scans = from_files(ReportFiles(scan=result, source=slab))
    outside = [*range(12), *range(32, 44)]
    assert bool((scans.interpolated.data_XYZ[:, :, outside] == 0).all())
    shown = display(scans)
    views = {scan.key: scan.volume for scan in shown.scans}
    assert bool((views["interpolated"].data_XYZ[:, :, :8] == 0).all())
    start_mm, voxel_mm = placed_on(views["input"].grid, shown.grid)
    end_mm = start_mm[2] + voxel_mm[2] * views["input"].shape[2]
    box_mm = shown.grid.shape[2] * shown.grid.spacing_mm[2]
    assert start_mm[2] >= 30 and end_mm <= box_mm - 30  # voxels of the input alone, and no more


def test_beyond_an_oblique_scan_there_is_what_was_asked_for(phantom):
    affine = 4 * torch.eye(4, dtype=torch.float64)
    affine[:2, :2] = 4 * torch.tensor([[0.9, -(0.19**0.5)], [0.19**0.5, 0.9]])
    affine[3, 3] = 1
    read = nearest(Volume(torch.full((40, 40, 10), 7.0), affine), phantom.grid, outside=-1.0)
    assert set(read.round().unique().tolist()) == {-1.0, 7.0} and bool((read[:, :, :20] == -1).all())


def test_a_scan_at_an_angle_is_named_by_the_voxels_it_was_measured_with(phantom):
    turn = torch.tensor([[0.9, -(0.19**0.5), 0], [0.19**0.5, 0.9, 0], [0, 0, 1]], dtype=torch.float64)
    names = []
    for axes in (torch.eye(3, dtype=torch.float64), turn):
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = axes * torch.tensor([4.0, 4.0, 20.0])
        source = Volume(torch.ones(40, 40, 9), affine)
        names.append(display(ReportScans(enhanced=phantom, name="a", source=source)).scans[0].voxel_size)
    assert names == ["4 x 4 x 20 mm", "4 x 4 x 20 mm, resampled"]


def test_an_input_of_another_place_is_refused(result, elsewhere):
    with pytest.raises(GeometryError, match="input lies wholly outside the enhanced scan"):
        from_files(ReportFiles(scan=result, source=elsewhere))


def test_lesions_do_not_go_on_beyond_their_mask(result, slab, phantom):
    mask = torch.zeros(48, 56, 20)
    mask[20:28, 24:32, 16:] = 1  # to the mask's last plane
    place = crop(phantom, (0, 0, 12), (48, 56, 20))
    save(place.with_data(mask), slab, overwrite=True)
    save(phantom.with_data(phantom.data_XYZ.clamp_min(1) / 50), slab.with_name("sd.nii.gz"))
    found = regions(from_files(ReportFiles(scan=result, lesions=slab, uncertainty=slab.with_name("sd.nii.gz"))))
    assert found[-1].name == "outlined lesions"
    assert round(found[-1].share * 24 * 28 * 22) == 4 * 4 * 2  # every second voxel along each axis


def test_lesions_drawn_elsewhere_are_refused(result, elsewhere):
    with pytest.raises(GeometryError, match="lesion mask lies wholly outside"):
        from_files(ReportFiles(scan=result, lesions=elsewhere))


def test_maps_of_another_kind_are_refused(result, phantom):
    """`enhance` writes one volume an expert into --experts and two into --differences."""
    result.with_name("a_desc-sr.json").write_text('{"software": "moediff-sr 0.1.0", "experts": ["one", "two"]}')
    swapped = result.with_name("four.nii.gz")
    volumes = torch.stack([phantom.data_XYZ] * 4, -1).numpy()
    nib.save(nib.Nifti1Image(volumes, phantom.affine.numpy()), swapped)
    with pytest.raises(DataError, match="found 4 volumes, expected 1 for each of 2 experts"):
        from_files(ReportFiles(scan=result, experts=swapped))
    assert from_files(ReportFiles(scan=result, differences=swapped)).changed_XYZE.shape[3] == 2
