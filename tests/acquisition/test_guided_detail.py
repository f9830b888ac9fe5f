"""Detail from a guide: what P lets through, and what agreement of edges does, against answers by hand."""

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.guided_detail import STRENGTH, SharedEdges, guided_detail, row_space, unmeasured
from moediff.acquisition.operators import recipe_acquisition
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.acquisition.recipe import thick_slices
from moediff.core.geometry import resample, with_spacing
from moediff.core.volume import Volume

SHAPE = (20, 18, 25)
INSIDE = torch.ones(SHAPE, dtype=torch.bool)


def noise(seed: int = 0) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_what_slices_average_stays_as_it_was_measured():
    matrices = recipe_acquisition(SHAPE, thick_slices(5, 0.0, "x", axis=2).axes)[0].matrices
    change = noise()
    left = unmeasured(change, matrices)
    measured = recipe_acquisition(SHAPE, thick_slices(5, 0.0, "x", axis=2).axes)[0]
    assert float(measured.apply(left).abs().max()) < 0.02 * float(measured.apply(change).abs().max())
    assert float(left.square().mean()) > 0.5 * float((change - change.mean()).square().mean())
    assert_close(unmeasured(left, matrices), left, atol=0.02, rtol=0)  # a projection


def test_of_two_coarse_axes_only_what_both_lose_or_either_loses_is_left():
    axes = list(thick_slices(5, 0.0, "x", axis=2).axes)
    axes[0] = thick_slices(2, 0.0, "x", axis=0).axes[0]
    matrices = recipe_acquisition(SHAPE, axes)[0].matrices
    basis = torch.linalg.qr(torch.kron(matrices[0].T.contiguous(), matrices[2].T.contiguous()))[0]  # columns span rows
    plane = noise()[:, 0]
    expected = plane.flatten() - basis @ (basis.T @ plane.flatten())
    result = unmeasured(plane[:, None].expand(SHAPE).contiguous(), [matrices[0], None, matrices[2]])
    assert_close(result[:, 3].flatten(), expected, atol=0.02, rtol=0)


def test_a_row_space_is_the_identity_where_nothing_is_lost():
    assert_close(row_space(torch.eye(6)), torch.eye(6), atol=2e-3, rtol=0)


def test_slope_and_agreement_of_an_inverted_copy():
    second = noise()
    edges = SharedEdges.of(3 - 2 * second, second, INSIDE)
    assert_close(edges.slope_XYZ, torch.full(SHAPE, -2.0), atol=0.3, rtol=0)
    assert float(edges.agreement_XYZ.min()) > 0.8
    unrelated = SharedEdges.of(noise(1), second, INSIDE)
    assert float(unrelated.agreement_XYZ.mean()) < 0.1


@pytest.fixture(scope="module")
def thick(make_phantom):
    sharp = make_phantom((40, 44, 40), (4.0, 4.0, 4.0))
    grid = with_spacing(sharp.grid, (4, 4, 16))
    low = Volume(torch.nn.functional.avg_pool3d(sharp.data_XYZ[None], (1, 1, 4))[0], grid.affine)
    return sharp, prepare(low, sharp.grid, PrepareSettings())


def test_a_guide_of_the_same_edges_brings_the_detail_back_and_others_change_nothing(thick):
    sharp, prepared = thick
    everywhere = torch.ones(sharp.shape, dtype=torch.bool)
    again = resample(prepared.source, sharp.grid).data_XYZ
    enhanced = 1 - again  # another contrast of the same head
    lost = again - prepared.scaling.apply(sharp.data_XYZ)
    change = guided_detail(enhanced, sharp.data_XYZ, prepared.scaling.undo(again), prepared, everywhere)
    inside = prepared.mask_XYZ
    left = (change - lost)[inside].square().mean() / lost[inside].square().mean()
    assert float(left) < 0.25 < STRENGTH
    nothing = guided_detail(enhanced, sharp.data_XYZ, prepared.scaling.undo(again), prepared, ~everywhere)
    assert float(nothing.abs().max()) == 0
    flat = guided_detail(torch.zeros_like(again), sharp.data_XYZ, prepared.scaling.undo(again), prepared, everywhere)
    assert float(flat.abs().max()) < 1e-6
