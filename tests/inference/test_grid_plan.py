"""Grid plan: target and working grids, and that moving a result to its target moves nothing in mm."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.operators import assumed_acquisition
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.core.errors import DataError
from moediff.core.geometry import (
    PARALLEL_VOX,
    axis_positions,
    canonical_grid,
    canonicalise,
    corner_gap_mm,
    drift_vox,
    with_spacing,
)
from moediff.core.volume import Grid, Volume
from moediff.inference.grid_plan import (
    MARGIN_VOX,
    MAX_OUTPUT_VOXELS,
    GridPlan,
    aligned_grid,
    is_as_fine,
    measured_mask,
    move_to_grid,
    target_grid,
    working_grid,
)
from moediff.inference.options import EnhanceOptions
from moediff.registration.rigid import Rigid


def grid(spacing=(1.0, 1.0, 5.0), shape=(40, 44, 10), degrees=0.0) -> Grid:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]).double() * torch.tensor(spacing)
    affine[:3, 3] = torch.tensor([-20.0, 100.0, 3.0])
    return Grid(shape, affine)


def stored(volume: Volume) -> Volume:
    """The same voxels with axes S, R, A, the first and last running backwards."""
    matrix = torch.tensor([[0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    matrix[1, 3], matrix[2, 3] = volume.shape[1] - 1, volume.shape[2] - 1
    return Volume(volume.data_XYZ.permute(2, 0, 1).flip(0, 2), volume.affine @ matrix)


def ramp(on: Grid) -> Volume:
    """Intensity x + 2 y - 3 z of the place in mm."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in on.shape), indexing="ij"), -1)
    point_mm = index @ on.affine[:3, :3].T + on.affine[:3, 3]
    return Volume(point_mm @ torch.tensor([1.0, 2.0, -3.0]).double(), on.affine)


TARGETS = {
    "default_thick": (EnhanceOptions(), (1, 1, 1), (40, 44, 50)),
    "one_number": (EnhanceOptions(voxel_size=(2.0,)), (2, 2, 2), (20, 22, 25)),
    "three_numbers": (EnhanceOptions(voxel_size=(1.0, 0.5, 2.5)), (1, 0.5, 2.5), (40, 88, 20)),
}


@pytest.mark.parametrize(("options", "spacing", "shape"), TARGETS.values(), ids=TARGETS.keys())
def test_target_grid_known_answers(options, spacing, shape):
    target = target_grid(grid(), options)
    assert target.spacing_mm == pytest.approx(spacing) and target.shape == shape
    assert torch.equal(target.affine, with_spacing(grid(), spacing).affine)


def test_a_fine_scan_is_halved_by_default():
    assert target_grid(grid((1.0, 1.0, 1.2)), EnhanceOptions()).spacing_mm == pytest.approx((0.5, 0.5, 0.6))


def test_voxel_sizes_follow_the_stored_axis_order():
    scan = stored(Volume(torch.zeros(40, 44, 10), grid().affine))
    target = target_grid(scan.grid, EnhanceOptions(voxel_size=(2.5, 1.0, 0.5)))
    assert target.shape == (20, 40, 88) and target.spacing_mm == pytest.approx((2.5, 1.0, 0.5))


def test_a_reference_grid_is_taken_as_it_is():
    like = grid((0.7, 0.8, 0.9), (5, 6, 7), degrees=20)
    assert target_grid(grid(), EnhanceOptions(like=like)) is like


def test_an_enormous_grid_is_refused():
    huge = Grid((850, 850, 850), torch.eye(4))
    assert MAX_OUTPUT_VOXELS < 850**3
    with pytest.raises(DataError, match=r"614 M voxels, expected at most 600 M: ask for larger voxels"):
        target_grid(grid(), EnhanceOptions(like=huge))


PASSES = {
    (1.0, 1.0, 5.0): True,
    (2.0, 2.0, 6.0): True,
    (1.0, 1.0, 4.0): False,
    (0.9, 2.0, 5.0): False,
    (0.99, 0.99, 4.95): True,
    (5.0, 1.0, 1.0): False,  # coarser along one axis is no stand-in for finer along another
}


@pytest.mark.parametrize("tilt", [(0, 0, 0), (5, -20, 8)])
@pytest.mark.parametrize(("spacing", "expected"), PASSES.items())
def test_is_as_fine_table(spacing, expected, tilt):
    target = grid(spacing)
    assert is_as_fine(grid(), Grid(target.shape, Rigid.of(tilt, (0, 0, 0)).matrix @ target.affine)) is expected


def test_nearest_axes_are_compared_of_grids_that_are_tilted_apart():
    """Both are stored along R, A, S, yet the second axis of one is nearest to the third of the other."""
    tilted = [Rigid.of((degrees, 0, 0), (0, 0, 0)).matrix for degrees in (40, -40)]
    scan = Grid((40, 44, 10), tilted[0] @ grid().affine)
    assert is_as_fine(scan, Grid((40, 10, 44), tilted[1] @ grid((1.0, 5.0, 1.0)).affine)) is True
    assert is_as_fine(scan, Grid((40, 44, 10), tilted[1] @ grid((1.0, 1.0, 5.0)).affine)) is False


def shifted(on: Grid, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Grid:
    """Another box of the same lattice."""
    affine = on.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor(start).double()
    return Grid(shape, affine)


ORDINARY = [(1.0, 1.0, 1.0), (0.9, 0.7, 1.1), (1.0, 1.0, 2.0), (0.6, 0.6, 1.7)]


@pytest.mark.parametrize("spacing", ORDINARY)
def test_a_target_over_the_whole_scan_is_worked_on_as_it_is(spacing):
    target = with_spacing(grid(), spacing)
    assert working_grid(grid(), target) is target and measured_mask(grid(), target) is None


def test_a_target_short_of_the_scan_by_less_than_a_sample_is_worked_on_as_it_is():
    """A degraded scan ends up to one thick slice beyond its truth."""
    target = shifted(with_spacing(grid(), (1, 1, 1)), (0, 0, 0), (40, 44, 46))
    assert working_grid(grid(), target) is target


def test_a_part_of_the_scan_is_worked_on_with_all_around_it_on_the_same_lattice():
    whole = with_spacing(grid(), (1, 1, 1))
    working = working_grid(grid(), shifted(whole, (10, 12, 20), (20, 20, 20)))
    assert working.shape == whole.shape
    assert_close(working.affine, whole.affine)


def test_work_around_a_small_target_of_fine_voxels_is_bounded():
    fine = with_spacing(grid(), (0.1, 0.1, 0.1))
    working = working_grid(grid(), shifted(fine, (200, 200, 250), (30, 30, 30)))
    assert working.shape == (30 + 2 * MARGIN_VOX,) * 3


def test_a_target_beyond_the_scan_is_worked_on_where_it_was_measured():
    whole = with_spacing(grid(), (1, 1, 1))
    target = shifted(whole, (-8, 0, 30), (40, 44, 50))
    working = working_grid(grid(), target)
    assert working.shape == whole.shape
    assert_close(working.affine, whole.affine)
    inside = measured_mask(grid(), target)
    expected = torch.zeros(target.shape, dtype=torch.bool)
    expected[8:, :, :20] = True
    assert inside is not None and torch.equal(inside, expected)


def test_an_oblique_target_is_worked_on_over_its_own_box_and_size_is_limited():
    scan = grid((1.0, 1.0, 5.0), (200, 200, 40))
    target = grid((0.5, 0.5, 0.5), (40, 40, 40), degrees=20)
    target = Grid(target.shape, target.affine + torch.tensor([[0, 0, 0, 100], [0, 0, 0, 100], [0, 0, 0, 100], [0] * 4]))
    working = working_grid(scan, target)
    assert axis_positions(scan, working) is not None
    assert all(40 < n < 2 * (40 + MARGIN_VOX) for n in working.shape)
    huge = grid((0.1, 0.4, 0.4), (2000, 400, 400), degrees=20)
    assert target_grid(scan, EnhanceOptions(like=huge)) is huge
    with pytest.raises(DataError, match=r"part of the scan to work on .* expected at most 600 M: ask for larger"):
        working_grid(scan, huge)


def test_a_target_elsewhere_is_refused():
    with pytest.raises(DataError, match=r"wholly outside .* expected the same part of one head: register"):
        measured_mask(grid(), shifted(grid(), (400, 0, 0), (40, 44, 10)))


def test_moving_cuts_and_pads_one_lattice_exactly():
    volume = ramp(grid())
    target = shifted(grid(), (15, -3, 1), (30, 50, 9))
    moved = move_to_grid(volume, target, outside=-7.0)
    back = move_to_grid(moved, volume.grid, outside=0.0).data_XYZ
    assert torch.equal(back[15:, :, 1:], volume.data_XYZ[15:, :, 1:])
    assert int((moved.data_XYZ == -7).sum()) == 30 * 50 * 9 - 25 * 44 * 9


def test_aligned_grid_is_the_target_when_axes_are_parallel():
    target = grid((1.0, 1.0, 1.0), (30, 30, 30))
    assert aligned_grid(grid(), target) is target


def test_aligned_grid_of_an_oblique_target_is_the_scans_box_with_fine_voxels():
    working = aligned_grid(grid(), grid((2.0, 0.8, 2.0), degrees=15))
    assert working.spacing_mm == pytest.approx((0.8, 0.8, 0.8)) and working.shape == (50, 55, 62)
    assert axis_positions(grid(), working) is not None
    assert aligned_grid(grid(), grid((3.0, 3.0, 3.0), degrees=15)).spacing_mm == pytest.approx((1, 1, 3))


DEGREES = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.011, 0.015, 0.02, 0.05)


@pytest.mark.parametrize("size_mm", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(8, 8, 8), (40, 44, 60), (160, 176, 120)])
def test_a_nearly_parallel_target_is_worked_on_parallel_to_the_scan(size_mm, shape):
    """Whatever the angle: nothing that follows decides otherwise than the plan."""
    scan = grid((2.0, 2.0, 4.0), (60, 66, 30))
    for degrees in DEGREES:
        target = grid((size_mm,) * 3, shape, degrees)
        working = working_grid(scan, target)
        assert drift_vox(scan, working) < 2e-3
        assert axis_positions(scan, working) is not None is not axis_positions(working, scan)
        assert assumed_acquisition(working, scan).matrices[2].shape[0] == 30
        part = GridPlan.between(Volume(torch.zeros(scan.shape), scan.affine), target)
        assert part.oblique == (axis_positions(working, target) is None)


def test_a_nearly_parallel_target_gets_the_voxels_of_the_parallel_one():
    scan = grid((2.0, 2.0, 4.0), (60, 66, 30))
    straight, nearly = (grid((2.0,) * 3, (30, 30, 30), degrees) for degrees in (0.0, 0.01))
    assert 1e-3 < drift_vox(scan, nearly) < PARALLEL_VOX
    data = Volume(torch.rand(scan.shape), scan.affine)
    plans = [GridPlan.between(data, target) for target in (straight, nearly)]
    assert plans[0].working.shape == plans[1].working.shape
    assert corner_gap_mm(*(plan.working for plan in plans)) < 1e-5
    ramps = [plan.scan_to_target(ramp(plan.working)) for plan in plans]
    assert_close(ramps[0].data_XYZ, ramps[1].data_XYZ, atol=1e-4, rtol=0)  # copied, not interpolated
    assert torch.equal(ramps[1].affine, nearly.affine)
    prepare(data, plans[1].working, PrepareSettings(kernel="cubic"))


def test_rounded_affines_are_worked_on_as_they_are():
    turned = grid((1.0, 1.0, 5.0), degrees=11)
    target = with_spacing(turned, (1, 1, 1))
    rounded = Grid(target.shape, target.affine.float())
    assert working_grid(turned, rounded) is rounded


def test_grids_of_one_shape_whose_corners_lie_apart_are_not_the_same():
    """Voxels that differ by less than 1e-3 mm lie a third of a voxel apart at the far end."""
    volume = ramp(grid((0.5, 1.0, 1.0), (300, 8, 8)))
    wider = grid((0.5009, 1.0, 1.0), (300, 8, 8))
    moved = move_to_grid(volume, wider)
    assert_close(moved.data_XYZ[:-8], ramp(wider).data_XYZ[:-8], atol=0.02, rtol=0, check_dtype=False)
    almost = Grid(volume.shape, volume.affine.clone())
    almost.affine[:3, 3] += 0.002
    assert torch.equal(move_to_grid(volume, almost).data_XYZ, volume.data_XYZ)


@pytest.mark.parametrize("size_mm", [0.8, 1.3])
def test_an_interpolated_scan_goes_no_lower_than_the_scan(size_mm):
    box = torch.zeros(12, 12, 12)
    box[4:8, 4:8, 4:8] = 100
    scan = Volume(box, torch.eye(4, dtype=torch.float64))
    plan = GridPlan.between(scan, with_spacing(scan.grid, (size_mm,) * 3))
    assert float(plan.interpolated(scan).data_XYZ.min()) == 0
    copied = GridPlan.between(scan, scan.grid)
    outlier = scan.with_data(box.index_put((torch.tensor(0),) * 3, torch.tensor(-30.0)))
    assert torch.equal(copied.interpolated(outlier).data_XYZ, outlier.data_XYZ)


def test_moving_on_the_same_grid_keeps_every_voxel_and_takes_the_targets_affine():
    volume = ramp(grid())
    target = Grid(volume.shape, volume.affine + 1e-6 * torch.ones(4, 4))
    moved = move_to_grid(volume, target)
    assert torch.equal(moved.data_XYZ, volume.data_XYZ) and torch.equal(moved.affine, target.affine)


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_moving_keeps_places_in_mm(degrees):
    volume = ramp(grid((1.0, 1.0, 1.0), (60, 60, 60)))
    wanted = grid((0.8, 1.3, 0.9), (20, 18, 22), degrees)
    wanted.affine[:3, 3] = torch.tensor([10.0, 128.0, 25.0])
    inside = stored(Volume(torch.zeros(wanted.shape), wanted.affine)).grid
    moved = move_to_grid(volume, inside)
    assert moved.shape == inside.shape and torch.equal(moved.affine, inside.affine)
    assert_close(moved.data_XYZ, ramp(inside).data_XYZ, atol=0.01, rtol=1e-5, check_dtype=False)


def test_canonical_grid_matches_canonicalise():
    scan = stored(ramp(grid()))
    assert torch.equal(canonical_grid(scan.grid).affine, canonicalise(scan)[0].affine)
