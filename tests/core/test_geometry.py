"""Orientation, grids and moving between them: places in mm are the judge."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from moediff.core.errors import GeometryError
from moediff.core.geometry import (
    PARALLEL_VOX,
    along_axes_of,
    are_parallel,
    axis_positions,
    canonicalise,
    centre_crop,
    corner_gap_mm,
    crop,
    default_spacing,
    drift_vox,
    ras_axes,
    resample,
    with_spacing,
)
from moediff.core.volume import Grid, Volume

SHAPE = (4, 5, 6)
STORAGE = [(o, f) for o in itertools.permutations(range(3)) for f in itertools.product((1, -1), repeat=3)]


def affine_of(columns: np.ndarray, offset=(-40.0, 25.0, 300.0)) -> torch.Tensor:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, offset
    return torch.from_numpy(affine)


def oblique(angles, spacing=(1.0, 1.0, 1.0), offset=(-40.0, 25.0, 300.0)) -> torch.Tensor:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return affine_of(turn * np.array(spacing), offset)


def millimetres(grid: Grid) -> torch.Tensor:
    """[X, Y, Z, 3] place of every voxel centre."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in grid.shape), indexing="ij"), -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def ramp_on(grid: Grid) -> Volume:
    """Intensity 3 x - 2 y + 0.5 z + 10 of the place in mm."""
    return Volume(millimetres(grid) @ torch.tensor([3.0, -2.0, 0.5]).double() + 10, grid.affine)


def corners(grid: Grid) -> torch.Tensor:
    """The eight outer corners, mm."""
    index = torch.tensor(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape)))).double()
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def numbered(shape=SHAPE) -> torch.Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize(("order", "signs"), STORAGE)
def test_all_48_storage_orders_become_ras_and_back(order, signs):
    columns = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        columns[world, axis] = sign * (1.0, 2.0, 3.0)[axis]
    volume = Volume(numbered(), affine_of(columns))
    canonical, storage = canonicalise(volume)
    linear = canonical.affine[:3, :3]
    assert torch.equal(linear, torch.diag(torch.diagonal(linear))) and bool((torch.diagonal(linear) > 0).all())
    place = {
        float(v): p for v, p in zip(volume.data_XYZ.flatten(), millimetres(volume.grid).reshape(-1, 3), strict=True)
    }
    moved = millimetres(canonical.grid).reshape(-1, 3)
    assert_close(torch.stack([place[float(v)] for v in canonical.data_XYZ.flatten()]), moved)
    back = storage.undo(canonical)
    assert torch.equal(back.data_XYZ, volume.data_XYZ)
    assert_close(back.affine, volume.affine)


angles = st.lists(st.floats(-180, 180), min_size=3, max_size=3)
spacings = st.lists(st.floats(0.3, 8), min_size=3, max_size=3)


@given(angles, spacings, st.sampled_from([-1.0, 1.0]))
def test_oblique_scans_are_canonicalised_and_undone(turn, spacing, hand):
    affine = oblique(turn, (spacing[0] * hand, spacing[1], spacing[2]))
    volume = Volume(numbered(), affine)
    canonical, storage = canonicalise(volume)
    assert ras_axes(canonical.affine) == ((0, 1, 2), (False, False, False))
    assert float(torch.cdist(corners(canonical.grid), corners(volume.grid)).amin(1).max()) < 1e-4  # the same box
    back = storage.undo(canonical)
    assert torch.equal(back.data_XYZ, volume.data_XYZ)
    assert_close(back.affine, affine)


def test_undo_accepts_a_finer_grid_of_the_same_directions():
    volume = Volume(numbered(), affine_of(np.array([[0, 0, -2.0], [1.0, 0, 0], [0, -3.0, 0]])))
    canonical, storage = canonicalise(volume)
    fine = ramp_on(with_spacing(canonical.grid, (1.0, 0.5, 0.5)))
    back = storage.undo(fine)
    assert_close(back.data_XYZ, ramp_on(back.grid).data_XYZ)
    assert_close(corners(back.grid), corners(volume.grid))


def test_ras_axes_known_answers():
    assert ras_axes(torch.diag(torch.tensor([-1.0, -1, 1, 1]))) == ((0, 1, 2), (True, True, False))  # LPS
    sagittal = affine_of(np.array([[0, 0, -1.0], [1.0, 0, 0], [0, 1.0, 0]]))  # axes run A, S, L
    assert ras_axes(sagittal) == ((2, 0, 1), (True, False, False))


@given(angles, spacings, spacings)
def test_with_spacing_keeps_the_first_outer_corner_and_the_directions(turn, old, new):
    grid = Grid((20, 21, 22), oblique(turn, old))
    other = with_spacing(grid, new)
    assert other.spacing_mm == pytest.approx(new)
    assert_close(corners(other)[0], corners(grid)[0])
    half_voxel = torch.tensor(new) / 2
    extent = (torch.tensor(other.shape) * torch.tensor(new) - torch.tensor(grid.shape) * torch.tensor(old)).abs()
    assert bool((extent <= half_voxel * (1 + 1e-5)).all() | (torch.tensor(other.shape) == 1).any())


def test_with_spacing_keeps_every_corner_where_voxels_fit():
    grid = Grid((20, 21, 22), oblique((10, 20, 30), (1.0, 1.2, 5.0)))
    other = with_spacing(grid, (0.5, 3.6, 1.0))
    assert other.shape == (40, 7, 110)
    assert_close(corners(other), corners(grid))


SPACINGS = {
    (1.0, 1.0, 5.0): (1.0, 1.0, 1.0),
    (0.5, 0.5, 3.0): (0.5, 0.5, 1.0),
    (2.0, 2.0, 2.0): (1.0, 1.0, 1.0),
    (1.0, 1.0, 1.0): (0.5, 0.5, 0.5),
    (1.2, 1.0, 0.8): (0.6, 0.5, 0.4),
    (1.2000000477, 1.0, 1.0): (0.6, 0.5, 0.5),  # 1.2 as a file's float32 affine holds it
    (1.21, 1.0, 0.8): (1.0, 1.0, 0.8),
}


@pytest.mark.parametrize(("spacing", "expected"), SPACINGS.items())
def test_default_spacing_table(spacing, expected):
    assert default_spacing(spacing) == pytest.approx(expected)


def test_axis_positions_known_answers():
    source = Grid((10, 10, 10), affine_of(np.diag([1.0, 2.0, 3.0]), (0, 0, 0)))
    target = Grid((3, 2, 4), affine_of(np.diag([2.0, 2.0, 1.0]), (1, -4, 4.5)))
    x, y, z = axis_positions(source, target)
    assert x == pytest.approx((1, 3, 5)) and y == pytest.approx((-2, -1))
    assert z == pytest.approx((1.5, 1.5 + 1 / 3, 1.5 + 2 / 3, 2.5))


def test_axis_positions_of_halved_voxels():
    source = Grid((2, 2, 2), oblique((12, -7, 33), (2.0, 2.0, 4.0)))
    for at in axis_positions(source, with_spacing(source, (1.0, 1.0, 2.0))):
        assert at == pytest.approx((-0.25, 0.25, 0.75, 1.25))


def test_axis_positions_need_parallel_axes_of_the_same_direction():
    source = Grid((50, 50, 50), affine_of(np.eye(3)))
    assert axis_positions(source, Grid((50, 50, 50), oblique((0, 0, 5)))) is None
    assert axis_positions(source, Grid((50, 50, 50), oblique((0, 0, 0.05)))) is None
    assert axis_positions(source, Grid((50, 50, 50), affine_of(np.diag([-1.0, 1, 1])))) is None
    assert axis_positions(source, Grid((50, 50, 50), affine_of(np.eye(3)[[1, 0, 2]]))) is None
    assert axis_positions(source, Grid((50, 50, 50), oblique((0, 0, 0.001)))) is not None


@given(angles, angles, spacings, spacings)
def test_drift_is_the_same_both_ways_and_of_any_number_of_voxels(turn, more, size, other_size):
    first = Grid((40, 44, 30), oblique(turn, size))
    second = Grid((9, 60, 25), oblique([a + b / 1e5 for a, b in zip(turn, more, strict=True)], other_size))
    assert drift_vox(first, second) == drift_vox(second, first)
    assert are_parallel(first, second) == (axis_positions(second, first) is not None)
    finer = with_spacing(second, [min(other_size) / 2] * 3)
    assert drift_vox(first, finer) / 2 == pytest.approx(
        drift_vox(first, second) * min(*size, *other_size) / min(*size, min(other_size) / 2) / 2, rel=0.1
    )


def test_drift_known_answers():
    source, part = Grid((100, 50, 20), affine_of(np.eye(3))), Grid((4, 4, 4), oblique((0, 0, 0.01)))
    assert drift_vox(source, part) == pytest.approx(math.radians(0.01) * math.hypot(100, 50), rel=1e-4)
    assert are_parallel(source, part) and not are_parallel(source, Grid((4, 4, 4), oblique((0, 0, 0.03))))
    sheared = affine_of(np.eye(3) + np.outer((1e-4, 0, 0), (0, 0, 1)))  # positions of slices rounded to 0.01 mm
    assert drift_vox(Grid((100, 100, 150), affine_of(np.eye(3))), Grid((9, 9, 9), sheared)) == pytest.approx(0.015)
    mirrored = Grid((1, 1, 1), affine_of(np.diag([-1.0, 1, 1])))
    assert drift_vox(mirrored, Grid((1, 1, 1), affine_of(np.eye(3)))) > 1 > PARALLEL_VOX


def test_a_grid_turned_onto_the_axes_of_another_keeps_its_first_voxel_and_its_sizes():
    source = Grid((30, 31, 32), oblique((4, -9, 20), (1.0, 2.0, 5.0)))
    target = Grid((20, 21, 22), oblique((4, -9, 20.004), (0.7, 0.8, 0.9)))
    straight = along_axes_of(target, source)
    assert straight.shape == target.shape and straight.spacing_mm == pytest.approx(target.spacing_mm)
    assert torch.equal(straight.affine[:, 3], target.affine[:, 3])
    assert drift_vox(source, straight) < 1e-9 < 1e-3 < drift_vox(source, target)


def test_the_gap_of_corners_known_answers():
    grid = Grid((10, 20, 40), affine_of(np.diag([1.0, 2.0, 3.0])))
    longer = affine_of(np.diag([1.0, 2.0, 3.01]))
    assert corner_gap_mm(grid, grid) == 0
    assert corner_gap_mm(grid, Grid(grid.shape, longer)) == pytest.approx(39.5 * 0.01)


@pytest.mark.parametrize("kernel", ["linear", "cubic", "spline5"])
@given(turn=angles, step=st.lists(st.floats(0.3, 2.5), min_size=3, max_size=3), seed=st.integers(0, 9))
def test_a_ramp_in_mm_is_exact_inside_on_any_parallel_grid(kernel, turn, step, seed):
    source = Grid((32, 33, 34), oblique(turn, (1.0, 1.5, 2.0)))
    margin = 8  # the splines' mirror at the edge decays by 0.43 a voxel at worst
    shift = torch.rand(3, generator=torch.Generator().manual_seed(seed)).double() + margin
    affine = source.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ shift
    affine[:3, :3] *= torch.tensor(step)
    x, y, z = (max(1, int((n - 2 * margin - 2) / s)) for n, s in zip(source.shape, step, strict=True))
    target = Grid((x, y, z), affine)
    atol = {"linear": 1e-3, "cubic": 0.02, "spline5": 0.2}[kernel]  # of a ramp that spans hundreds
    result = resample(ramp_on(source), target, kernel)
    assert_close(result.affine, target.affine)
    assert_close(result.data_XYZ, ramp_on(target).data_XYZ, atol=atol, rtol=1e-6)


def blob(grid: Grid, centre: torch.Tensor, width_mm: float) -> Volume:
    return Volume(torch.exp(-((millimetres(grid) - centre) ** 2).sum(-1) / (2 * width_mm**2)).float(), grid.affine)


def centre_of_mass(volume: Volume) -> torch.Tensor:
    weight = volume.data_XYZ.double()[..., None]
    return (weight * millimetres(volume.grid)).sum((0, 1, 2)) / weight.sum()


@pytest.mark.parametrize("turn", [(15, 0, 0), (0, 25, -40), (33, 12, 71), (5, 175, 2)])
def test_an_oblique_read_keeps_the_centre_of_mass(turn):
    source = Grid((40, 40, 20), oblique((20, -10, 5), (1.0, 1.0, 2.0), (-20.0, -20.0, -20.0)))
    centre = (corners(source).mean(0) + torch.tensor([1.3, -0.7, 0.4])).double()
    volume = blob(source, centre, 3.5)
    target = oblique(turn, (1.2, 0.9, 1.1), (0.0, 0.0, 0.0))
    target[:3, 3] = centre - target[:3, :3] @ torch.tensor([19.2, 24.6, 20.4]).double()
    grid = Grid((40, 50, 42), target)
    assert axis_positions(source, grid) is None
    result = resample(volume, grid)
    assert_close(centre_of_mass(result), centre, atol=0.01, rtol=0)
    assert_close(result.data_XYZ, blob(grid, centre, 3.5).data_XYZ, atol=0.03, rtol=0)


def test_resample_on_its_own_grid_changes_nothing():
    volume = Volume(torch.rand(7, 8, 9, generator=torch.Generator().manual_seed(0)), oblique((3, 4, 5)))
    assert_close(resample(volume, volume.grid).data_XYZ, volume.data_XYZ, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.0, 5.0)])
@pytest.mark.parametrize(("order", "signs"), STORAGE)
def test_a_scan_stored_with_other_axes_is_the_same_scan(order, signs, spacing, stored):
    noise = torch.rand(7, 8, 9, generator=torch.Generator().manual_seed(0))
    volume = Volume(noise, oblique((3, 4, 5), spacing))
    other = stored(volume, order, tuple(axis for axis, sign in enumerate(signs) if sign < 0))
    assert_close(resample(volume, other.grid).data_XYZ, other.data_XYZ, atol=1e-5, rtol=0)
    finer = with_spacing(other.grid, [s / 2 for s in other.spacing_mm])
    assert_close(resample(volume, finer).data_XYZ, resample(other, finer).data_XYZ, atol=1e-5, rtol=0)


def test_crop_keeps_voxels_at_their_position():
    grid = Grid((9, 10, 11), oblique((10, 40, -70), (1.0, 2.0, 3.0)))
    part = crop(ramp_on(grid), (2, 0, 4), (3, 10, 7))
    assert part.shape == (3, 10, 7)
    assert_close(part.data_XYZ, ramp_on(part.grid).data_XYZ)
    assert torch.equal(part.data_XYZ, ramp_on(grid).data_XYZ[2:5, :, 4:])


@pytest.mark.parametrize(("start", "shape"), [((-1, 0, 0), (2, 2, 2)), ((0, 0, 5), (4, 5, 2)), ((0, 3, 0), (4, 3, 1))])
def test_a_box_outside_is_refused(start, shape):
    with pytest.raises(GeometryError, match="leaves the volume of shape"):
        crop(Volume(numbered(), torch.eye(4)), start, shape)


def test_unknown_kernels_are_refused():
    volume = Volume(numbered(), torch.eye(4))
    with pytest.raises(GeometryError, match="no interpolation called"):
        resample(volume, volume.grid, "nearest")


def test_the_central_cube_fits_the_volume_and_keeps_its_position():
    volume = Volume(torch.arange(10 * 6 * 3).reshape(10, 6, 3).float(), torch.eye(4, dtype=torch.float64))
    part = centre_crop(volume, 4)
    assert torch.equal(part.data_XYZ, volume.data_XYZ[3:7, 1:5]) and part.affine[:3, 3].tolist() == [3, 1, 0]
