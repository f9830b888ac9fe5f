"""Forward model: slice profiles, k-space truncation, one A for degrading and undoing it, and its transpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.operators import (
    Acquisition,
    assumed_acquisition,
    assumed_sampling,
    mirrored_sampling,
    profile_matrix,
    recipe_acquisition,
    recipe_sampling,
    sampling_matrix,
    voxel_ratio,
)
from moediff.acquisition.point_spread import FREQUENCIES, NAMES, Sampling, attenuation
from moediff.acquisition.recipe import AxisRecipe, Recipe, thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, GeometryError
from moediff.core.geometry import positions_along, with_spacing
from moediff.core.resample import sample_positions
from moediff.core.volume import Grid, Volume

SHAPE = (30, 24, 36)
TRUNCATE, NONE, THICK = AxisRecipe(method="truncate", factor=2), AxisRecipe(), AxisRecipe(method="gaussian", factor=4)
RECIPES = {
    "thick_z": thick_slices(4, 0, "z"),
    "thick_x": thick_slices(3, 0, "x", axis=0),
    "truncated": Recipe(axes=(TRUNCATE, TRUNCATE, TRUNCATE)),
    "odd_truncated": Recipe(axes=(AxisRecipe(method="truncate", factor=1.7),) * 3),
    "mixed": Recipe(axes=(NONE, TRUNCATE, THICK)),
}
RESAMPLED = Recipe(
    axes=(
        AxisRecipe(method="bicubic", factor=2),
        AxisRecipe(method="hamming", factor=2, thickness=1.2),
        AxisRecipe(method="box", factor=3, thickness=0.9),
    )
)


def dense(acquisition: Acquisition) -> list[torch.Tensor]:
    """A matrix per axis, the identity where there is none."""
    return [torch.eye(n) if m is None else m for m, n in zip(acquisition.matrices, SHAPE, strict=True)]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_degrading_and_undoing_share_one_forward_model(recipe):
    truth = Volume(torch.rand(SHAPE, generator=rng_for(0)), torch.eye(4, dtype=torch.float64))
    simulated, ratios = recipe_acquisition(SHAPE, recipe.axes)
    low = degrade(truth, recipe, rng_for(0), reference=1.0)
    assumed = assumed_acquisition(truth.grid, low.grid)
    assert assumed.sampling == simulated.sampling
    assert low.spacing_mm == pytest.approx(ratios)
    for one, other in zip(dense(simulated), dense(assumed), strict=True):
        assert_close(one, other, atol=1e-6, rtol=0)
    assert_close(low.data_XYZ, assumed.apply(truth.data_XYZ), atol=1e-5, rtol=0)


def test_a_stated_sampling_is_the_recipes():
    truth = Volume(torch.rand(SHAPE, generator=rng_for(0)), torch.eye(4, dtype=torch.float64))
    low = degrade(truth, RESAMPLED, rng_for(0), reference=1.0)
    known = assumed_acquisition(truth.grid, low.grid, recipe_sampling(RESAMPLED.axes))
    assert_close(low.data_XYZ, known.apply(truth.data_XYZ), atol=1e-5, rtol=0)
    assert known.names == (
        "bicubic kernel",
        "k-space with a Hamming window, zero-filled by 1.20",
        "box slice profile, 0.90 voxels wide",
    )


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_the_transpose_is_the_adjoint(recipe):
    acquisition, _ = recipe_acquisition(SHAPE, recipe.axes)
    x = torch.randn(SHAPE, generator=rng_for(1), dtype=torch.float64)
    y = torch.randn(acquisition.apply(x).shape, generator=rng_for(2), dtype=torch.float64)
    assert_close((acquisition.apply(x) * y).sum(), (x * acquisition.transpose(y)).sum())


SAMPLINGS = [Sampling(method, width) for method in NAMES if method != "none" for width in (1.0, 1.5)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda one: one.words)
@pytest.mark.parametrize("cycles", [0.1, 0.3, 0.45])
def test_a_wave_is_weakened_by_its_transfer(sampling, cycles):
    """Of one frequency, far from the ends: the oracle is the wave itself, read where the samples lie."""
    ratio, n_out = 8, 60
    at = np.arange(n_out * ratio)
    k = round(2 * cycles * n_out)  # a whole number of half waves over the line, as k-space has
    wave = np.cos(np.pi * k * (at + 0.5) / len(at))
    positions = sample_positions(n_out, ratio, (ratio - 1) / 2)
    matrix = sampling_matrix(len(at), positions, sampling.method, float(ratio), sampling.width).double().numpy()
    expected = sampling.transfer([k / 2 / n_out])[0] * np.cos(np.pi * k * (np.asarray(positions) + 0.5) / len(at))
    np.testing.assert_allclose((matrix @ wave)[6:-6], expected[6:-6], atol=5e-3)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda one: one.words)
@pytest.mark.parametrize("ratio", [2, 3])
def test_on_a_mirrored_line_every_sampling_is_the_same_away_from_the_ends(sampling, ratio):
    n_out = 24
    fine = np.asarray(sample_positions(n_out * ratio, 1 / ratio, (1 / ratio - 1) / 2))
    measured = sample_positions(n_out, float(ratio), (ratio - 1) / 2)
    plain = sampling_matrix(n_out * ratio, measured, sampling.method, float(ratio), sampling.width)
    found = torch.from_numpy(mirrored_sampling(n_out, fine, sampling)).float()
    assert_close(found[5:-5], plain[5:-5], atol=2e-3, rtol=0)


def test_transfers_known_answers():
    assert Sampling("box").transfer([0.5])[0] == pytest.approx(2 / math.pi)
    assert Sampling("gaussian").transfer([math.log(2) * 2 / math.pi])[0] == pytest.approx(0.5, abs=1e-4)
    assert Sampling("hamming").transfer([0.25, 0.5, 0.51]).tolist() == pytest.approx([0.54, 0.08, 0])
    assert Sampling("truncate", 2.0).transfer([0.25, 0.26]).tolist() == [1, 0]
    assert Sampling("tukey").transfer([0.2, 0.375]).tolist() == pytest.approx([1, 0.5])
    assert Sampling("bicubic").transfer([0.0, 0.5, 1.0]).tolist() == pytest.approx(
        [1, 12 / math.pi**2 * (2 / math.pi) ** 2, 0], abs=1e-3
    )
    assert attenuation(Sampling()) == (0,) * len(FREQUENCIES)


@pytest.mark.parametrize("method", ["truncate", "hamming", "tukey", "fermi"])
@pytest.mark.parametrize("width", [1.0, 1.5])
def test_a_window_ends_where_the_fine_samples_do(method, width):
    """On a fine grid of larger voxels than the measured ones there is no higher frequency to read."""
    fine, measured = 12, sample_positions(36, 1 / 3, -1 / 3)
    matrix = sampling_matrix(fine, measured, method, 1 / 3, width)
    assert torch.equal(matrix, sampling_matrix(fine, measured, method, 1.0))
    assert float(matrix.abs().max()) < 1.25


@pytest.mark.parametrize(("method", "width"), [("bicubic", 0.1), ("gaussian", 0.01)])
def test_a_profile_too_narrow_for_any_sample_is_refused(method, width):
    with pytest.raises(ConfigError, match=f"so narrow that .* give a larger width, as in {method}:1"):
        profile_matrix(8, (0.5, 3.5), method, width)


def test_a_kernel_that_is_zero_at_every_sample_is_refused():
    with pytest.raises(ConfigError, match="bicubic kernel is so narrow that"):
        mirrored_sampling(8, np.arange(8) + 0.5, Sampling("bicubic", 0.5))


@pytest.mark.parametrize(("method", "width"), [("triangle", 1.0), ("box", 3.0), ("box", 0.1)])
def test_an_impossible_sampling_is_refused(method, width):
    with pytest.raises(ConfigError, match=r"unknown; choose from|must lie in 0\.3\.\.2\.0"):
        Sampling(method, width)


@pytest.mark.parametrize(("method", "ratio", "tolerance"), [("gaussian", 5, 2e-3), ("truncate", 2, 1e-6)])
def test_on_a_mirrored_line_the_model_is_the_same_away_from_the_ends(method, ratio, tolerance):
    n_out = 24
    fine = np.asarray(sample_positions(n_out * ratio, 1 / ratio, (1 / ratio - 1) / 2))
    measured = sample_positions(n_out, float(ratio), (ratio - 1) / 2)
    plain = sampling_matrix(n_out * ratio, measured, method, float(ratio))
    inner = slice(3, -3) if method == "gaussian" else slice(None)
    found = torch.from_numpy(mirrored_sampling(n_out, fine, Sampling(method))).float()
    assert_close(found[inner], plain[inner], atol=tolerance, rtol=0)
    assert_close(found.sum(1), torch.ones(n_out))


def test_oblique_grids_have_no_separable_model():
    tilted = torch.eye(4, dtype=torch.float64)
    tilted[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    grids = (Volume(torch.zeros(9, 9, 9), affine).grid for affine in (torch.eye(4, dtype=torch.float64), tilted))
    with pytest.raises(GeometryError, match="oblique"):
        assumed_acquisition(*grids)


def positions_of(n_in: int, factor: float):
    """Target voxels that cut the field of view into voxels `factor` times finer, first outer faces together."""
    return sample_positions(round(n_in * factor), 1 / factor, (1 / factor - 1) / 2)


METHODS = {
    (1, 1, 5): ("none", "none", "gaussian"),
    (5, 1, 1): ("gaussian", "none", "none"),
    (2, 2, 2): ("truncate", "truncate", "truncate"),
    (1.5, 1.5, 1.5): ("truncate", "truncate", "truncate"),
    (1.25, 1.25, 4): ("truncate", "truncate", "gaussian"),
    (1, 1, 1): ("none", "none", "none"),
    (1, 1, 1.7): ("none", "none", "truncate"),
    (3, 3, 4): ("truncate", "truncate", "truncate"),
    (3, 1, 3): ("truncate", "none", "truncate"),
    (2, 2, 1): ("truncate", "truncate", "none"),
    (1, 2.5, 5): ("none", "truncate", "gaussian"),
    (0.5, 1, 3): ("none", "none", "gaussian"),
}


@pytest.mark.parametrize(("ratios", "expected"), METHODS.items(), ids=str)
def test_assumed_sampling_table(ratios, expected):
    assert tuple(axis.method for axis in assumed_sampling(tuple(positions_of(12, r) for r in ratios))) == expected


TARGETS = {  # voxel sizes of a scan and of the target
    ((1, 1, 3), (1, 1, 1)): ("none", "none", "gaussian"),
    ((1, 1, 3), (1, 1, 1.5)): ("none", "none", "gaussian"),
    ((1, 1, 3), (1, 1, 2)): ("none", "none", "gaussian"),
    ((3, 1, 1), (2, 0.5, 0.5)): ("gaussian", "truncate", "truncate"),
    ((2, 2, 6), (2, 2, 3.5)): ("none", "none", "gaussian"),
    ((1, 1, 3), (1, 1, 2.8)): ("none", "none", "truncate"),
    ((1, 1, 3), (1, 1, 3)): ("none", "none", "none"),
    ((1, 1, 3), (2, 2, 4)): ("none", "none", "none"),
    ((2, 2, 1), (1, 1, 0.75)): ("truncate", "truncate", "truncate"),
    ((3, 3, 4), (3, 3, 2)): ("none", "none", "gaussian"),
}


@pytest.mark.parametrize(("sizes", "expected"), TARGETS.items(), ids=str)
def test_coarse_target_voxels_make_no_other_acquisition(sizes, expected):
    scan_mm, target_mm = sizes
    scan = Grid((24, 24, 24), torch.diag(torch.tensor([*scan_mm, 1.0], dtype=torch.float64)))
    assumed = assumed_sampling(positions_along(scan, with_spacing(scan, target_mm)), scan.spacing_mm)
    assert tuple(axis.method for axis in assumed) == expected


@pytest.mark.parametrize(("ratios", "expected"), METHODS.items(), ids=str)
def test_for_cubic_target_voxels_the_scans_own_say_no_more(ratios, expected):
    positions = tuple(positions_of(12, r) for r in ratios)
    assert tuple(axis.method for axis in assumed_sampling(positions, ratios)) == expected


def test_voxel_ratio_known_answers():
    assert voxel_ratio((0.0, 0.25, 0.5)) == 4 and voxel_ratio((1.0, 3.0)) == 0.5 and voxel_ratio((7.0,)) == 1


@pytest.mark.parametrize("profile", ["gaussian", "box"])
@given(n=st.integers(1, 60), thickness=st.floats(0.4, 8), step=st.floats(0.5, 5))
def test_profiles_average_a_constant_to_itself(profile, n, thickness, step):
    count = max(1, int(n / step))
    matrix = profile_matrix(n, sample_positions(count, step, (step - 1) / 2), profile, thickness)
    assert float(matrix.min()) >= 0
    assert_close(matrix.sum(1), torch.ones(count), atol=1e-6, rtol=0)


def test_a_gaussian_profile_has_its_full_width_at_half_maximum():
    row = profile_matrix(41, (20.0,), "gaussian", 6.0)[0].double()
    assert float(row[23] / row[20]) == pytest.approx(0.5, abs=1e-4)
    variance = float((row * (torch.arange(41) - 20) ** 2).sum())
    assert variance**0.5 == pytest.approx(6 / 2.3548, rel=0.01)


def test_a_box_profile_is_a_plain_mean():
    matrix = profile_matrix(12, (1.0, 4.0, 7.0, 10.0), "box", 3.0)
    expected = torch.zeros(4, 12)
    for row in range(4):
        expected[row, 3 * row : 3 * row + 3] = 1 / 3
    assert_close(matrix, expected)


def test_a_profile_keeps_a_ramp_inside_and_repeats_the_edge():
    ramp = torch.arange(40).float()
    positions = sample_positions(13, 3.0, 1.0)
    found = profile_matrix(40, positions, "gaussian", 3.0) @ ramp
    assert_close(found[2:-2], torch.tensor(positions)[2:-2], atol=1e-4, rtol=0)
    row = profile_matrix(9, (0.0,), "box", 5.0)[0]
    assert_close(row, torch.tensor([0.6, 0.2, 0.2, 0, 0, 0, 0, 0, 0]))


def test_unknown_profiles_are_refused_with_the_choices():
    with pytest.raises(GeometryError, match="'triangle'; choose from gaussian, box, bicubic"):
        profile_matrix(5, (0.0,), "triangle", 2.0)
