"""Maps lie where the head is, in scales that can be compared; a face is never offered in 3-D."""

from dataclasses import replace

import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.report.data import ReportScans
from moediff.report.display import display
from moediff.report.privacy import why_no_3d


def layer(scans: ReportScans, key: str):
    return next(m for m in display(scans).maps if m.key == key)


def test_experts_share_one_scale(scans):
    changed_XYZE = torch.stack([torch.full(scans.enhanced.shape, float(e)) for e in range(1, 5)], -1)
    shown = display(replace(scans, changed_XYZE=changed_XYZE))
    single = [m for m in shown.maps if m.key.startswith("single")]
    assert [int(m.data_XYZ.max()) for m in single] == [160, 192, 223, 255]  # 128 is no change
    assert {m.high for m in single} == {4.0} and {m.low for m in single} == {-4.0}


def test_darker_and_brighter_changes_differ_and_none_is_in_the_middle(scans):
    change = torch.zeros(scans.enhanced.shape)
    change[24, 28, 20], change[24, 28, 22] = 5.0, -5.0
    assert scans.interpolated is not None
    enhanced = scans.enhanced.with_data(scans.interpolated.data_XYZ + change)
    shown = display(replace(scans, enhanced=enhanced, interpolated=scans.interpolated))
    drawn = next(m for m in shown.maps if m.key == "change")
    assert drawn.signed and int(drawn.data_XYZ.min()) == 1 and int(drawn.data_XYZ.max()) == 255
    assert int(drawn.data_XYZ.flatten().median()) == 128


def test_views_open_inside_an_outlined_lesion(scans, phantom):
    mask = torch.zeros(phantom.shape)
    mask[12:15, 20:26, 30:33] = 1
    shown = display(replace(scans, lesions=phantom.with_data(mask)))
    lesions = next(m for m in shown.maps if m.key == "lesions")
    assert int(lesions.data_XYZ[shown.centre]) == 1
    nothing = display(replace(scans, lesions=phantom.with_data(0 * mask)))
    assert nothing.centre == display(scans).centre


def test_a_residual_on_coarse_voxels_is_drawn_as_blocks_and_nothing_is_said_beyond_them(scans, phantom):
    affine = phantom.affine @ torch.diag(torch.tensor([4.0, 4, 4, 1], dtype=torch.float64))
    gap = Volume(torch.zeros(7, 14, 11), affine)  # the last of its voxels ends in the middle of the head
    gap.data_XYZ[6] = -7.0
    drawn = layer(replace(scans, residual=gap), "residual").data_XYZ
    planes = [x for x, plane in enumerate(drawn) if int(plane.min()) == 1]
    assert len(planes) == 4 and planes[3] - planes[0] == 3
    assert bool((drawn[planes[3] + 1 :] == 128).all())


def test_lesions_are_labels_on_the_enhanced_grid(scans, phantom):
    mask = torch.zeros(phantom.shape)
    mask[20:24, 20:24, 20:24] = 1
    lesions = layer(replace(scans, lesions=phantom.with_data(mask)), "lesions")
    assert int(lesions.data_XYZ.sum()) == 64 and len(lesions.labels) == 1


def test_only_stripped_scans_may_be_turned_in_3d(mni_scan, phantom):
    stripped = ReportScans(enhanced=mni_scan, name="a")
    assert why_no_3d(stripped) == ""
    skin = mni_scan.with_data(mni_scan.data_XYZ + 0.2 * mni_scan.data_XYZ.max())
    assert "face" in why_no_3d(ReportScans(enhanced=skin, name="a"))
    assert "face" in why_no_3d(replace(stripped, source=skin))  # one scan with a face is one too many
    assert why_no_3d(replace(stripped, source=skin, defaced=True)) == ""


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_part_of_a_head_is_not_taken_for_a_stripped_brain(axis, mni_scan):
    """Air at zero and the volume of a brain, but cut by the field of view: a slab of a head may hold the face."""
    middle = mni_scan.data_XYZ.narrow(axis, 25, mni_scan.shape[axis] - 60)
    assert "face" in why_no_3d(ReportScans(enhanced=Volume(middle, mni_scan.affine), name="a"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_padding_around_a_part_of_a_head_does_not_hide_that_it_is_cut(axis, mni_scan):
    middle = mni_scan.data_XYZ.narrow(axis, 25, mni_scan.shape[axis] - 60)
    padded = torch.zeros(mni_scan.shape)
    padded.narrow(axis, 25, mni_scan.shape[axis] - 60).copy_(middle)
    assert "face" in why_no_3d(ReportScans(enhanced=mni_scan.with_data(padded), name="a"))


def test_noise_in_air_keeps_a_scan_flat(mni_scan):
    """Whether it was stripped cannot be seen then; the volume alone would let parts of heads through."""
    noise = 20 * torch.rand(mni_scan.shape, generator=rng_for(0))
    assert "face" in why_no_3d(ReportScans(enhanced=mni_scan.with_data(mni_scan.data_XYZ + noise), name="a"))
