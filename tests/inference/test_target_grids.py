"""Target grids: results on grids that are smaller or larger than the scan, turned, coarser, or elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.core.geometry import crop, with_spacing
from moediff.core.volume import Grid, Volume
from moediff.inference import grid_plan as grids
from moediff.inference.dry_run import dry_run
from moediff.inference.grid_plan import coarser_warnings
from moediff.inference.options import EnhanceOptions
from moediff.inference.outputs import OutputPaths
from moediff.inference.run import EnhanceRequest
from moediff.inference.sidecar import SliceIntensity


@pytest.fixture(scope="module")
def truth(make_phantom) -> Volume:
    return make_phantom((60, 64, 60), (3.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def low(truth) -> Volume:
    return degrade(truth, thick_slices(4, 0.01, "thick4"), rng_for(0))


@pytest.fixture(scope="module")
def whole(enhancer, low, truth):
    return enhancer(low, EnhanceOptions(like=truth.grid))


def turned(like: Grid, degrees: float, spacing_mm: float, shape: tuple[int, int, int]) -> Grid:
    """A box about the middle of another, turned about S."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64) * spacing_mm
    middle = like.affine @ torch.tensor([*((n - 1) / 2 for n in like.shape), 1.0], dtype=torch.float64)
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((torch.tensor(shape, dtype=torch.float64) - 1) / 2)
    return Grid(shape, affine)


def test_a_part_is_the_same_part_of_the_whole_result(enhancer, low, whole):
    box = (20, 16, 24), (24, 30, 20)
    result = enhancer(low, EnhanceOptions(like=crop(whole.volume, *box).grid, single_experts=True))
    top = float(whole.volume.data_XYZ.max())
    for part, all_of_it in ((result.volume, whole.volume), (result.uncertainty, whole.uncertainty)):
        assert float((part.data_XYZ - crop(all_of_it, *box).data_XYZ).abs().max()) < 1e-5 * top
    assert torch.equal(result.mask_XYZ, crop(whole.volume.with_data(whole.mask_XYZ), *box).data_XYZ)
    assert result.single_experts_XYZE is not None and result.single_experts_XYZE.shape[:3] == box[1]
    assert result.sidecar.data_consistency == whole.sidecar.data_consistency


@pytest.mark.parametrize("tta", [1, 2])
def test_a_part_of_fine_voxels_is_nearly_the_same_with_a_bounded_margin(tta, enhancer, low, truth, monkeypatch):
    options = EnhanceOptions(like=truth.grid, tta=tta)
    whole = enhancer(low, options).volume
    box = (28, 26, 27), (10, 12, 10)
    monkeypatch.setattr(grids, "MARGIN_VOX", 20)
    near = grids.working_grid(low.grid, crop(whole, *box).grid)
    assert max(near.shape) < 56
    part = enhancer(low, replace(options, like=crop(whole, *box).grid)).volume
    gap = (part.data_XYZ - crop(whole, *box).data_XYZ).abs() / float(whole.data_XYZ.max())
    assert float(gap.max()) < 5e-3 and float(gap.square().mean().sqrt()) < 1e-3


@pytest.mark.parametrize("degrees", [0.005, 0.011, 0.02, 0.05])
@pytest.mark.parametrize("thickness", [None, 10.0])
def test_a_small_box_turned_by_next_to_nothing_is_the_box(degrees, thickness, enhancer, low, truth):
    straight, nearly = (turned(truth.grid, angle, 3.0, (10, 10, 10)) for angle in (0.0, degrees))
    results = [enhancer(low, EnhanceOptions(like=grid, slice_thickness=thickness)) for grid in (straight, nearly)]
    gap = results[0].volume.data_XYZ - results[1].volume.data_XYZ
    assert float(gap.square().mean().sqrt()) < 0.03 * float(results[0].volume.data_XYZ.max())
    assert torch.equal(results[1].volume.affine, nearly.affine)


def test_nothing_is_added_where_nothing_was_measured(enhancer, low, whole):
    affine = whole.volume.affine.clone()
    affine[2, 3] -= 30
    target = Grid((60, 64, 90), affine)
    result = enhancer(low, EnhanceOptions(like=target, single_experts=True))
    beyond = torch.zeros(target.shape, dtype=torch.bool)
    beyond[:, :, :10] = beyond[:, :, 70:] = True
    for data in (result.volume, result.uncertainty, result.interpolated):
        assert float(data.data_XYZ[beyond].abs().max()) == 0
    assert not bool(result.mask_XYZ[beyond].any()) and float(result.gate_XYZE[beyond].abs().max()) == 0
    assert float(result.single_experts_XYZE[beyond].abs().max()) == 0
    inside = result.volume.data_XYZ[:, :, 10:70] - whole.volume.data_XYZ
    assert float(inside.abs().max()) < 1e-5 * float(whole.volume.data_XYZ.max())
    notes = [warning for warning in result.sidecar.warnings if "field of view" in warning]
    assert notes == ["33.3% of the target grid lies outside the scan's field of view: not measured, filled with air"]
    assert not any("field of view" in warning for warning in whole.sidecar.warnings)


@pytest.mark.parametrize("samples", [1, 2])
def test_maps_on_a_turned_grid_are_never_negative(samples, enhancer, low):
    target = turned(low.grid, 20, 3.0, (80, 80, 70))
    result = enhancer(low, EnhanceOptions(like=target, samples=samples, steps=2))
    assert float(result.uncertainty.data_XYZ.min()) >= 0 and float(result.gate_XYZE.min()) >= 0
    assert float(result.volume.data_XYZ.min()) >= 0 and not bool(result.mask_XYZ[0, 0].any())
    assert any("outside the scan's field of view" in warning for warning in result.sidecar.warnings)


def test_a_magnitude_scan_stays_one(enhancer, low, whole):
    """The record's residual is that of the result as it is written."""
    assert float(low.data_XYZ.min()) >= 0 and float(whole.volume.data_XYZ.min()) >= 0
    signed = low.with_data(low.data_XYZ - 40)
    assert float(enhancer(signed, EnhanceOptions(voxel_size=(3.0,))).volume.data_XYZ.min()) < 0


def test_a_grid_elsewhere_or_over_air_is_refused(enhancer, make_phantom, tmp_path):
    head = make_phantom((40, 40, 20), (4.0, 4.0, 8.0))
    padded = Volume(torch.zeros(80, 40, 20), head.affine)
    padded.data_XYZ[:40] = head.data_XYZ
    fine = with_spacing(padded.grid, (4.0, 4.0, 4.0))
    box = Volume(torch.empty(1).expand(fine.shape), fine.affine)
    over_air = EnhanceOptions(like=crop(box, (60, 10, 10), (12, 12, 12)).grid)
    request = EnhanceRequest(source=padded, options=over_air, outputs=OutputPaths(scan=tmp_path / "out.nii.gz"))
    for run in (lambda: enhancer(padded, over_air), lambda: dry_run(request, enhancer.bundle.config)):
        with pytest.raises(DataError, match=r"no part of the head, only air, expected a grid over the head: register"):
            run()
    away = fine.affine.clone()
    away[0, 3] += 1000
    for spacing in ((4.0, 4.0, 4.0), (4.0, 4.0, 8.0)):  # to be enhanced, to be passed through
        elsewhere = with_spacing(Grid(fine.shape, away), spacing)
        with pytest.raises(DataError, match=r"wholly outside the scan's field of view"):
            enhancer(padded, EnhanceOptions(like=elsewhere))


def grating(spacing_mm: tuple[float, float, float], shape: tuple[int, int, int], period_mm: float) -> Volume:
    """Stripes along the first axis in a ball."""
    volume = Volume(torch.zeros(shape), torch.diag(torch.tensor([*spacing_mm, 1.0], dtype=torch.float64)))
    place = [(torch.arange(n) - (n - 1) / 2) * size for n, size in zip(shape, spacing_mm, strict=True)]
    x, y, z = torch.meshgrid(*place, indexing="ij")
    ball = (x**2 + y**2 + z**2).sqrt() < 0.45 * shape[0] * spacing_mm[0]
    return volume.with_data(ball * (500 + 200 * torch.sin(2 * math.pi * x / period_mm)))


@pytest.mark.parametrize("slices_mm", [1.0, 5.0])
@pytest.mark.parametrize(("period_mm", "left"), [(2.7, (0.0, 0.15)), (12.0, (0.75, 1.1))])
def test_what_a_coarser_grid_cannot_hold_is_dropped(slices_mm, period_mm, left, enhancer):
    """5 mm slices become finer while the stripes' axis gets coarser; slices of 1 mm are resampled, as they say."""
    fine = grating((1.0, 1.0, slices_mm), (96, 96, round(96 / slices_mm)), period_mm)
    result = enhancer(fine, EnhanceOptions(voxel_size=(2.0,), data_consistency=False))
    assert result.sidecar.pass_through is (slices_mm == 1)
    said = "only resampled to them, nothing was enhanced" if slices_mm == 1 else "detail along it was given up"
    assert [w for w in result.sidecar.warnings if "are coarser than the scan's" in w and said in w]
    assert not any("already as fine" in w for w in result.sidecar.warnings)
    for volume in (result.volume, result.interpolated):
        x, y, z = (slice(n // 2 - 6, n // 2 + 6) for n in volume.shape)
        line = volume.data_XYZ[x, y, z].double()
        swing = float((line - line.mean()).square().mean().sqrt()) / (200 * math.sqrt(0.5))
        assert left[0] <= swing <= left[1]
        assert float(volume.data_XYZ.min()) > -1e-3 or volume is result.interpolated


def test_what_was_not_done_is_recorded(enhancer, low, make_phantom):
    result = enhancer(low, EnhanceOptions(voxel_size=(12.0,), correct_slice_intensity=True))
    record = result.sidecar
    assert (record.settings.data_consistency, record.settings.steps, record.pass_through) == (False, 0, True)
    assert record.slice_intensity == SliceIntensity(corrected=False)
    assert any("--correct-slice-intensity changed nothing: the scan was passed through" in w for w in record.warnings)
    cubes = make_phantom((48, 56, 44), (4.0, 4.0, 4.0))
    record = enhancer(cubes, EnhanceOptions(voxel_size=(3.0,), correct_slice_intensity=True)).sidecar
    assert record.slice_intensity == SliceIntensity(corrected=False) and record.settings.data_consistency
    assert any("--correct-slice-intensity changed nothing: it needs thick slices" in w for w in record.warnings)
    even = make_phantom((48, 56, 22), (4.0, 4.0, 8.0))
    warnings = enhancer(even, EnhanceOptions(voxel_size=(4.0,), correct_slice_intensity=True)).sidecar.warnings
    assert any("no more than chance" in w for w in warnings)


@pytest.mark.fault(58)
def test_voxels_that_leave_nothing_to_see_are_refused(enhancer, low):
    """50 mm, where 0.5 was meant; a grid of another scan may be as small as it likes."""
    with pytest.raises(
        DataError, match=r"voxels of 50 mm leave [0-9]+ of [0-9]+ along an axis, expected at least 8: give"
    ):
        enhancer(low, EnhanceOptions(voxel_size=(50.0,)))
    small = with_spacing(low.grid, (50.0, 50.0, 50.0))
    assert enhancer(low, EnhanceOptions(like=small)).volume.shape == small.shape


@pytest.mark.fault(58)
def test_only_a_finer_or_equal_target_says_nothing_of_coarser_voxels(low):
    assert coarser_warnings(low.grid, low.grid) == ()
    assert coarser_warnings(low.grid, with_spacing(low.grid, (3.0, 3.0, 3.0))) == ()
    (note,) = coarser_warnings(low.grid, with_spacing(low.grid, (6.0, 3.0, 12.0)))
    assert note.startswith(
        "the target voxels of 6 x 3 x 12 mm are coarser than the scan's 3 x 3 x 12: the scan was only"
    )
