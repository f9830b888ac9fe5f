"""Forward model of a scan at an angle to the common grid."""

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.placed import covered, placed_acquisition
from moediff.acquisition.point_spread import Sampling
from moediff.core.geometry import are_parallel, resample, with_spacing
from moediff.core.volume import Grid, Volume
from moediff.registration.rigid import Rigid, grid_centre_mm

COMMON = Grid((22, 26, 20), torch.eye(4, dtype=torch.float64))
THICK = with_spacing(COMMON, (1, 5, 1))
TURNED = Rigid.of((3, 4, -2), (1, 2, -1), grid_centre_mm(COMMON)).placed_grid(THICK)


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("scan", [THICK, TURNED], ids=["parallel", "turned"])
def test_the_transpose_is_exact(scan, refined):
    model = placed_acquisition(COMMON, scan, refined=refined)
    rng = torch.Generator().manual_seed(1)
    fine, measured = torch.randn(COMMON.shape, generator=rng), torch.randn(scan.shape, generator=rng)
    there = float((model.apply(fine).double() * measured.double()).sum())
    back = float((fine.double() * model.transpose(measured).double()).sum())
    assert there == pytest.approx(back, rel=1e-4, abs=1e-3)


def test_reading_is_resampling_where_both_are_defined():
    reading = placed_acquisition(COMMON, TURNED, refined=True).reading
    assert reading is not None
    rng = torch.Generator().manual_seed(2)
    smooth = torch.nn.functional.avg_pool3d(torch.randn((1, 1, *COMMON.shape), generator=rng), 3, 1, 1)[0, 0]
    inside = reading.apply(torch.ones(COMMON.shape)) > 0.999
    expected = resample(Volume(smooth, COMMON.affine), reading.lattice).data_XYZ
    assert inside.sum() > 2000
    assert_close(reading.apply(smooth)[inside], expected[inside], atol=2e-3, rtol=0)


def test_a_constant_is_acquired_as_itself_where_the_grid_reaches():
    model = placed_acquisition(COMMON, TURNED)
    reached = covered(model, TURNED)
    assert 0.3 < reached.float().mean() < 1
    assert_close(
        model.apply(torch.full(COMMON.shape, 3.0))[reached], torch.full((int(reached.sum()),), 3.0), atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("size_mm", [1, 2, 4])
def test_a_scan_at_any_small_angle_has_a_forward_model(size_mm):
    common = Grid((96, 112, 88), torch.eye(4, dtype=torch.float64))
    straight = with_spacing(common, (size_mm, size_mm, 4))
    for degrees in (0.001, 0.003, 0.004, 0.005, 0.008, 0.01, 0.02):
        scan = Rigid.of((0, 0, degrees), (0, 0, 0), grid_centre_mm(common)).placed_grid(straight)
        model = placed_acquisition(common, scan)
        assert (model.reading is None) == are_parallel(common, scan)
        assert model.apply(torch.ones(common.shape)).shape == scan.shape


def test_parallel_scans_beyond_the_grid_are_not_covered():
    wide = Grid((30, 26, 20), torch.eye(4, dtype=torch.float64))
    assert covered(placed_acquisition(COMMON, wide), wide).sum((1, 2)).tolist() == [26 * 20] * 22 + [0] * 8


SLICES = {  # offset of the first slice in mm, its thickness over the distance of 5 mm -> first and last one covered
    "faces together": (2.0, 1.0, (0, 7)),
    "faces together, overlapping": (2.0, 1.5, (0, 7)),
    "one sticks out at either end": (-0.4, 1.0, (1, 7)),
    "thin slices lie within": (1.0, 0.5, (0, 7)),
    "thin slices stick out": (0.5, 0.5, (1, 7)),
}


@pytest.mark.parametrize(("start_mm", "width", "ends"), SLICES.values(), ids=SLICES)
def test_slices_that_stick_out_of_the_grid_are_not_covered(start_mm, width, ends):
    """Where half a slice lies outside, the common grid does not know what it averages."""
    common = Grid((20, 20, 40), torch.eye(4, dtype=torch.float64))
    affine = torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float64))
    affine[2, 3] = start_mm
    scan = Grid((20, 20, 9), affine)
    model = placed_acquisition(common, scan, (Sampling(), Sampling(), Sampling("gaussian", width)))
    assert model.reading is None
    first, last = ends
    inside = [first <= slice_ <= last for slice_ in range(9)]
    assert covered(model, scan).any(0).any(0).tolist() == covered(model, scan).all(0).all(0).tolist() == inside


def test_turning_a_stack_by_a_degree_does_not_bring_slices_back():
    """At both ends fewer slices lie wholly inside a grid at an angle, never more."""
    common = Grid((20, 20, 40), torch.eye(4, dtype=torch.float64))
    affine = torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float64))
    affine[2, 3] = -10.4
    straight = Grid((20, 20, 12), affine)
    turned = Rigid.of((1, 0, 0), (0, 0, 0), grid_centre_mm(straight)).placed_grid(straight)
    reached = [covered(placed_acquisition(common, scan), scan)[10, 10] for scan in (straight, turned)]
    assert reached[0].tolist() == [3 <= slice_ <= 9 for slice_ in range(12)]
    assert not bool((reached[1] & ~reached[0]).any())
