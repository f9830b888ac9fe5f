"""Grids that must agree, and signs that two scans do not belong together."""

import pytest
import torch
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.core.errors import DataError, GeometryError
from moediff.core.geometry import crop, field_of_view_mask, with_spacing
from moediff.core.volume import Grid, Volume
from moediff.evaluation.alignment import correlation, doubts, judged_mask, on_grid, same_grid


def moved(volume, mm):
    affine = volume.affine.clone()
    affine[0, 3] += mm
    return Volume(volume.data_XYZ, affine)


def mirrored_storage(volume):
    """The same head in the same place, first axis stored the other way."""
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, 0] * (volume.shape[0] - 1)
    affine[:3, 0] *= -1
    return Volume(volume.data_XYZ.flip(0), affine)


@pytest.mark.parametrize(("mm", "same"), [(0.0, True), (0.01, True), (0.2, False), (4.0, False)])
def test_a_fiftieth_of_a_voxel_may_be_rounding(head, mm, same):
    assert same_grid(moved(head, mm).grid, head.grid) is same


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: moved(v, 3.0), r"corners of the field of view up to 3\.00 mm apart"),
        (lambda v: crop(v, (4, 0, 0), (36, 44, 36)), r"shape \(36, 44, 36\) against \(40, 44, 36\).*corners"),
        (mirrored_storage, "axes LAS against RAS"),
        (lambda v: Volume(v.data_XYZ[::2], with_spacing(v.grid, (8, 4, 4)).affine), "voxels 8 x 4 x 4 mm"),
    ],
)
def test_another_grid_is_refused_in_one_sentence(head, change, match):
    with pytest.raises(GeometryError, match=match) as caught:
        on_grid(change(head), head.grid, resample=False)
    assert "--resample" in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_grid_is_not_resampled(head):
    landed, how = on_grid(head, head.grid, resample=False)
    assert how is None and landed.data_XYZ is head.data_XYZ


def test_resampling_reads_the_same_place(head):
    landed, how = on_grid(mirrored_storage(head), head.grid, resample=True)
    assert how == "cubic"
    assert_close(landed.data_XYZ, head.data_XYZ, atol=1e-2, rtol=0)
    assert same_grid(landed.grid, head.grid)


def test_coverage_of_a_cropped_scan(head):
    part = crop(head, (10, 0, 4), (20, 44, 30))
    expected = torch.zeros(head.shape, dtype=torch.bool)
    expected[10:30, :, 4:34] = True
    assert torch.equal(field_of_view_mask(part.grid, head.grid), expected)


def test_coverage_of_coarser_voxels_is_the_field_of_view():
    fine = Grid((8, 8, 8), torch.eye(4))
    assert bool(field_of_view_mask(with_spacing(fine, (2.0, 4.0, 1.0)), fine).all())


def test_what_was_not_seen_is_not_judged(head):
    mask = torch.ones(head.shape, dtype=torch.bool)
    notes: list[str] = []
    covered = judged_mask(mask, crop(head, (0, 0, 0), (30, 44, 36)).grid, head.grid, notes)
    assert int(covered.sum()) == 30 * 44 * 36 and "25.0% of the mask" in notes[0]
    with pytest.raises(GeometryError, match="misses 75% of the mask"):
        judged_mask(mask, crop(head, (0, 0, 0), (10, 44, 36)).grid, head.grid, notes)


def test_correlation_of_known_values():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert correlation(x, 5 - 2 * x) == pytest.approx(-1.0)
    assert correlation(x, torch.tensor([1.0, -1.0, -1.0, 1.0])) == pytest.approx(0.0)
    assert correlation(x, torch.ones(4)) == 0.0


@pytest.mark.parametrize(("axis", "words"), [(0, "left to right"), (1, "front to back"), (2, "top to bottom")])
def test_a_flipped_prediction_is_named(head, blurred, everywhere, axis, words):
    _, notes = doubts((head.data_XYZ + blurred).flip(axis), head, everywhere)
    assert any(f"mirrored {words}" in note for note in notes)


def mirror_notes(head, axes):
    """What is said of mirroring when a noisy copy of a head is flipped along these axes."""
    noisy = head.data_XYZ + 50 * torch.randn(head.shape, generator=rng_for(0, "noise"))
    _, notes = doubts(noisy.flip(axes), head, head.data_XYZ > 30)
    return [note for note in notes if "mirrored" in note]


@pytest.mark.parametrize(("axis", "words"), [(0, "left to right:"), (1, "front to back:")])
def test_where_folds_turn_with_either_flip_only_the_true_one_is_named(make_phantom, axis, words):
    """The phantom's folds are odd in x and in y, so both asymmetries are opposite after one flip."""
    (note,) = mirror_notes(make_phantom(), (axis,))
    assert f"mirrored {words}" in note


@pytest.mark.parametrize(
    ("axes", "words"),
    [((0,), "left to right:"), ((1,), "front to back:"), ((0, 1), "left to right and front to back:")],
)
def test_two_flips_are_both_named_where_each_axis_has_an_asymmetry_of_its_own(make_phantom, axes, words):
    head = make_phantom()
    x, y = (torch.linspace(-1, 1, n) for n in head.shape[:2])
    head = head.with_data(head.data_XYZ * (1 + 0.2 * torch.sin(5 * x)[:, None, None] + 0.2 * torch.sin(4 * y)[:, None]))
    (note,) = mirror_notes(head, axes)
    assert f"mirrored {words}" in note


def test_two_flips_that_leave_every_asymmetry_as_it_was_are_not_seen(make_phantom):
    """What is odd in x and in y at once looks the same after both flips: no warning, rather than a wrong one."""
    assert mirror_notes(make_phantom(), (0, 1)) == []


def test_a_flip_is_named_by_anatomy_not_by_voxel_axis(head, blurred, everywhere):
    order = (1, 2, 0)
    affine = head.affine[:, [*order, 3]]
    turned = Volume(head.data_XYZ.permute(order), affine)
    _, notes = doubts(blurred.flip(0).permute(order), turned, everywhere.permute(order))
    assert [note for note in notes if "mirrored left to right" in note]
    assert not [note for note in notes if "front" in note]


def test_a_good_prediction_raises_no_doubt(head, blurred, everywhere):
    alike, notes = doubts(blurred, head, everywhere)
    assert alike > 0.85 and notes == []


def test_unrelated_scans_are_noticed(head, everywhere):
    other = torch.rand(head.shape, generator=rng_for(0, "other"))
    alike, notes = doubts(other, head, everywhere)
    assert abs(alike) < 0.1 and any("correlation inside the mask" in note for note in notes)


@pytest.mark.parametrize("which", ["prediction", "reference"])
def test_a_constant_scan_is_refused(head, everywhere, which):
    flat = torch.full(head.shape, 7.0)
    pair = (flat, head) if which == "prediction" else (head.data_XYZ, head.with_data(flat))
    with pytest.raises(DataError, match=f"the {which} is constant"):
        doubts(*pair, everywhere)
