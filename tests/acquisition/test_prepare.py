"""The one way in: what goes in comes back, whatever the storage order."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.normalisation import Scaling, brain_scaling, foreground
from moediff.acquisition.prepare import PrepareSettings, anisotropy_ratio, flipped, network_order, prepare
from moediff.acquisition.wiener import wiener
from moediff.core.config import parse_as
from moediff.core.errors import DataError, GeometryError, MoeDiffWarning
from moediff.core.geometry import axis_positions, crop, resample, with_spacing
from moediff.core.resample import KERNELS
from moediff.core.volume import Grid, Volume

CUBIC = PrepareSettings(kernel="cubic")


@pytest.fixture
def thick(make_phantom) -> Volume:
    return make_phantom((48, 56, 22), (4.0, 4.0, 8.0))


def test_on_its_own_grid_a_scan_comes_back(thick):
    prepared = prepare(thick, thick.grid, CUBIC)
    back = prepared.undo(prepared.interpolated_XYZ)
    assert_close(back.data_XYZ, thick.data_XYZ, atol=0.01, rtol=1e-5)
    assert torch.equal(back.affine, thick.affine)


def test_a_scan_that_is_not_ras_is_refused(thick, stored):
    other = stored(thick, (2, 0, 1), (0, 2))
    with pytest.raises(GeometryError, match=r"expected RAS\+: read it with moediff.load"):
        prepare(other, other.grid, CUBIC)


def test_the_anisotropy_ratio_is_that_of_the_slices_over_the_plane(thick):
    known = {(4, 4, 4): 2, (2, 2, 2): 2, (4, 4, 8): 1, (4, 4, 2): 4, (2, 4, 8): 2, (2, 2, 8): 2**0.5}
    for spacing, expected in known.items():
        assert anisotropy_ratio(prepare(thick, with_spacing(thick.grid, spacing), CUBIC)) == pytest.approx(
            expected, rel=0.02
        )


def test_fields_agree_with_the_steps_they_come_from(thick):
    goal = with_spacing(thick.grid, (4, 4, 4))
    prepared = prepare(thick, goal, CUBIC)
    inside = foreground(thick.data_XYZ, thick.spacing_mm)
    assert prepared.scaling == brain_scaling(thick.data_XYZ, inside, thick.spacing_mm)
    assert_close(prepared.source.data_XYZ, thick.data_XYZ / prepared.scaling.scale)
    assert prepared.positions == axis_positions(thick.grid, goal)
    assert torch.equal(prepared.mask_XYZ, inside.repeat_interleave(2, dim=2))


def test_intensity_factors_leave_the_scaled_scan_alone(thick):
    goal = with_spacing(thick.grid, (4, 4, 4))
    plain, bright = (prepare(thick.with_data(thick.data_XYZ * f), goal, PrepareSettings()) for f in (1, 50))
    assert_close(bright.interpolated_XYZ, plain.interpolated_XYZ, atol=1e-4, rtol=0)
    assert_close(
        bright.undo(bright.interpolated_XYZ).data_XYZ,
        50 * plain.undo(plain.interpolated_XYZ).data_XYZ,
        atol=1,
        rtol=1e-4,
    )


def test_a_known_scaling_and_no_mask_are_taken_as_given(thick):
    prepared = prepare(thick, thick.grid, CUBIC, scaling=Scaling(100.0, 200.0), mask=False)
    assert bool(prepared.mask_XYZ.all()) and prepared.mask_XYZ.shape == thick.shape
    assert_close(prepared.interpolated_XYZ, (thick.data_XYZ - 100) / 200, atol=1e-4, rtol=0)
    assert prepared.scaling == Scaling(100.0, 200.0)


def test_integer_voxels_are_read_as_numbers(thick):
    whole = thick.data_XYZ.round()
    scaling = Scaling(0.0, 7.0)
    found = prepare(thick.with_data(whole.short()), thick.grid, CUBIC, scaling=scaling, mask=False).interpolated_XYZ
    assert_close(found, whole / 7, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_settings_choose_the_kernel(kernel, thick):
    goal = with_spacing(thick.grid, (4, 4, 4))
    prepared = prepare(thick, goal, PrepareSettings(kernel=kernel), scaling=Scaling(), mask=False)
    assert_close(prepared.interpolated_XYZ, resample(thick, goal, kernel).data_XYZ, atol=0.01, rtol=1e-5)


def test_the_default_kernel_is_wiener_with_the_measured_noise(thick):
    goal = with_spacing(thick.grid, (4, 4, 4))
    prepared = prepare(thick, goal, PrepareSettings())
    assert_close(prepared.interpolated_XYZ, wiener(prepared.source.data_XYZ, prepared.positions, prepared.noise))
    assert float((prepared.interpolated_XYZ - prepare(thick, goal, CUBIC).interpolated_XYZ).abs().max()) > 0.01


def test_unknown_kernels_are_refused(thick):
    with pytest.raises(GeometryError, match="no interpolation called 'magic'"):
        prepare(thick, thick.grid, PrepareSettings(kernel="magic"))


def test_an_oblique_target_is_refused(thick):
    c, s = math.cos(0.1), math.sin(0.1)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    affine = thick.affine.clone()
    affine[:3, :3] = turn @ affine[:3, :3]
    with pytest.raises(GeometryError, match="oblique to the scan"):
        prepare(thick, Grid(thick.shape, affine), CUBIC)


def test_air_is_refused():
    with pytest.raises(DataError, match="no head found"):
        prepare(Volume(torch.zeros(20, 20, 20), torch.eye(4)), Grid((20, 20, 20), torch.eye(4)), CUBIC)


ORDERS = {
    (1.0, 1.0, 5.0): [0, 1, 2],
    (5.0, 1.0, 1.0): [1, 2, 0],
    (1.0, 5.0, 1.0): [0, 2, 1],
    (3.0, 2.0, 1.0): [2, 1, 0],
    (1.0, 1.0, 1.0): [0, 1, 2],
    (1.0001, 1.0, 1.0): [0, 1, 2],
}


@pytest.mark.parametrize(("spacing", "expected"), ORDERS.items())
def test_the_network_meets_axes_from_fine_to_coarse(spacing, expected):
    source = Grid((8, 8, 8), torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))
    assert network_order(axis_positions(source, with_spacing(source, (1, 1, 1)))) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_voxel_brings_the_two_slices_it_lies_between(axis):
    shape = [32, 32, 32]
    shape[axis] = 8
    number = torch.arange(8.0).reshape([-1 if a == axis else 1 for a in range(3)])
    spacing = torch.ones(4, dtype=torch.float64)
    spacing[axis] = 4
    scan = Volume((1 + number).expand(shape).clone(), torch.diag(spacing))
    prepared = prepare(scan, with_spacing(scan.grid, (1, 1, 1)), PrepareSettings(), scaling=Scaling(), mask=False)
    before, after = prepared.neighbours().movedim(axis + 1, 1)[:, :, 5, 5]
    # Fine voxel i lies at (i - 1.5) / 4 slices: 0.125 and 0.375 past a slice, or as much short of the next one.
    assert before.tolist() == [1, 1, *(1.0 + i for i in range(7) for _ in range(4)), 8, 8]
    assert after.tolist() == [1, 1, *(2.0 + i for i in range(7) for _ in range(4)), 8, 8]


def test_nothing_outside_the_field_of_view_is_foreground(thick):
    affine = thick.affine.clone()
    affine[:3, 3] -= affine[:3, :3] @ torch.tensor([3.0, 0.0, 2.0], dtype=torch.float64)
    larger = Volume(torch.ones(60, 56, 30), affine)
    full = Volume(torch.rand(thick.shape) + 1, thick.affine)
    scan = full.with_data(full.data_XYZ * (thick.data_XYZ > 0))
    whole = prepare(scan, scan.grid, CUBIC).mask_XYZ
    inside = prepare(scan, larger.grid, CUBIC).mask_XYZ
    assert torch.equal(inside[3:51, :, 2:24], whole) and int(inside.sum()) == int(whole.sum())


def test_a_coarser_grid_holds_no_alias():
    x = torch.arange(64.0)[:, None, None]
    scan = Volume((100 + 50 * torch.cos(2.6 * x)).expand(64, 32, 8).clone(), torch.diag(torch.tensor([1.0, 1, 4, 1])))
    for kernel in ("cubic", "wiener"):
        grid = with_spacing(scan.grid, (2, 1, 1))
        base = prepare(scan, grid, PrepareSettings(kernel=kernel), scaling=Scaling(), mask=False).interpolated_XYZ[4:-4]
        assert_close(base, torch.full_like(base, 100.0), atol=6.0, rtol=0)


def test_the_head_is_known_beyond_the_grid_and_when_flipped(thick):
    whole, part = (prepare(thick, crop(thick, start, shape).grid, CUBIC) for start, shape in PARTS)
    assert part.foreground_bounds == whole.foreground_bounds and whole.reached == tuple(
        slice(0, n) for n in thick.shape
    )
    assert part.reached == (slice(10, 30), slice(0, 56), slice(5, 22))
    turned = flipped(part, (0, 2))
    assert turned.reached == (slice(18, 38), slice(0, 56), slice(0, 17))
    first, last = part.foreground_bounds[0]
    assert (
        turned.foreground_bounds[0] == (47 - last, 47 - first)
        and turned.foreground_bounds[1] == part.foreground_bounds[1]
    )


PARTS = (((0, 0, 0), (48, 56, 22)), ((10, 0, 5), (20, 56, 17)))


def test_former_settings_are_read_with_a_warning():
    former = {"kernel": "cubic", "clip": 6.0, "noise": "quiet"}
    with pytest.warns(MoeDiffWarning, match="clip has no effect; noise is now noise_estimator"):
        found = parse_as(PrepareSettings, former)
    assert found == PrepareSettings(kernel="cubic", noise_estimator="quiet")
