"""Data consistency: a scan whose acquisition is known is met again, and contradictions shrink."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from moediff.acquisition.data_consistency import ConsistencySummary, correct, discrepancy, error_variance
from moediff.acquisition.degrade import degrade
from moediff.acquisition.normalisation import Scaling
from moediff.acquisition.operators import assumed_acquisition
from moediff.acquisition.prepare import Prepared, PrepareSettings, prepare
from moediff.acquisition.recipe import AxisRecipe, Recipe, thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import crop
from moediff.core.statistics import quantile
from moediff.core.volume import Volume

SHAPE, SPACING = (48, 56, 44), (4.0, 4.0, 4.0)
TRUNCATE, NONE, THICK = (AxisRecipe(method="truncate", factor=2), AxisRecipe(), AxisRecipe(method="gaussian", factor=4))
RECIPES = {
    "thick_z": (thick_slices(4, 0, "z"), ["none", "none", "gaussian slice profile"]),
    "thick_x": (thick_slices(3, 0, "x", axis=0), ["gaussian slice profile", "none", "none"]),
    "truncated": (Recipe(axes=(TRUNCATE, TRUNCATE, TRUNCATE)), ["k-space truncation"] * 3),
    "mixed": (Recipe(axes=(NONE, TRUNCATE, THICK)), ["none", "k-space truncation", "gaussian slice profile"]),
}


def prepared_from(truth: Volume, recipe: Recipe, kernel: str = "cubic") -> tuple[Prepared, torch.Tensor]:
    """The degraded scan brought back to the truth's grid, and the truth in the same scale."""
    low = degrade(truth, recipe, rng_for(0))
    prepared = prepare(low, truth.grid, PrepareSettings(kernel=kernel))
    return prepared, prepared.scaling.apply(truth.data_XYZ)


@pytest.fixture(scope="module")
def truth(make_phantom) -> Volume:
    return make_phantom(SHAPE, SPACING)


@pytest.mark.parametrize(("recipe", "names"), RECIPES.values(), ids=RECIPES.keys())
def test_the_acquisition_is_recognised_by_its_spacing(recipe, names, truth):
    prepared, _ = prepared_from(truth, recipe)
    assert list(prepared.acquisition.names) == names


@pytest.mark.parametrize("name", ["thick_z", "thick_x", "truncated"])
def test_the_truth_acquired_again_is_the_measurement(name, truth):
    recipe = RECIPES[name][0]
    if name == "truncated":  # magnitude: a truncated head would ring below zero
        truth = truth.with_data(truth.data_XYZ + 500)
    low = degrade(truth, recipe, rng_for(0))
    prepared = prepare(low, truth.grid, PrepareSettings(kernel="cubic"))
    gap = discrepancy(prepared.scaling.apply(truth.data_XYZ), prepared).gap_XYZ
    assert gap.shape == low.shape
    assert float(gap.abs().max()) < 1e-4


def test_a_constant_offset_is_the_discrepancy_itself(truth):
    prepared, sharp = prepared_from(truth, RECIPES["thick_z"][0])
    found = discrepancy(sharp + 0.25, prepared)
    assert_close(found.gap_XYZ, torch.full_like(found.gap_XYZ, -0.25), atol=1e-4, rtol=0)
    residual = found.residual()
    assert_close(residual.data_XYZ, torch.full_like(residual.data_XYZ, 0.25 * prepared.scaling.scale), atol=0.1, rtol=0)
    assert torch.equal(residual.affine, prepared.source.affine)
    top = quantile(prepared.source.data_XYZ, 0.999)
    assert found.summary() == ConsistencySummary(
        rms_over_range=pytest.approx(0.25 / top, abs=1e-4),
        noise_over_range=pytest.approx(prepared.noise / top, abs=1e-5),
        assumed=("none", "none", "gaussian slice profile"),
    )
    assert discrepancy(sharp, prepared).summary().rms_over_range < 1e-4


@pytest.mark.parametrize("name", RECIPES)
def test_one_correction_brings_a_wrong_result_nearer_to_the_measurement(name, truth):
    prepared, sharp = prepared_from(truth, RECIPES[name][0])
    prepared = replace(prepared, noise_sigma=torch.tensor(0.0))
    x = torch.linspace(0, 3, SHAPE[0])[:, None, None].sin() * torch.linspace(0, 2, SHAPE[2]).cos()
    wrong = sharp + 0.2 * x * prepared.mask_XYZ
    gaps = (discrepancy(data, prepared).gap_XYZ for data in (wrong, correct(wrong, prepared)))
    inner = (slice(8, -8), slice(8, -8)) if name == "thick_z" else ()
    before, after = (gap[inner].square().mean().sqrt() for gap in gaps)
    assert float(after) < 0.5 * float(before)


@pytest.mark.parametrize(("noise", "followed", "remains"), [(0.01, 1.0, 0.01), (0.05, 0.15, 0.9)])
def test_in_strong_noise_only_what_many_voxels_share_is_followed(noise, followed, remains, truth):
    """How far the truth moves towards a noisy measurement, and what remains of an error as large as the noise."""
    prepared, sharp = prepared_from(truth, RECIPES["thick_z"][0])
    measured, mask = prepared.source.data_XYZ, prepared.mask_XYZ
    noisy = prepared.source.with_data(measured + noise * torch.randn(measured.shape, generator=rng_for(0)))
    prepared = replace(prepared, noise_sigma=torch.tensor(noise), source=noisy)
    moved = (correct(sharp, prepared) - sharp)[mask]
    assert float(moved.square().mean().sqrt()) < followed * noise
    left = (correct(sharp + noise * mask, prepared) - sharp)[mask]
    assert abs(float(left.mean())) < remains * noise


def test_the_noisier_the_scan_the_less_it_is_followed(truth):
    prepared, sharp = prepared_from(truth, RECIPES["thick_z"][0])
    wrong = sharp.clone()
    wrong[20:28, 20:28, 12:20] += 0.2
    scans = [replace(prepared, noise_sigma=torch.tensor(noise)) for noise in (0.02, 0.04, 0.08, 0.16)]
    errors = [correct(wrong, scan) - sharp for scan in scans]
    left = [abs(float(error[23:25, 23:25, 15:17].mean())) for error in errors]
    assert 0 <= left[0] < left[1] < left[2] < left[3] < 0.2


def test_a_smooth_head_follows_noise_less_than_a_lively_one(truth):
    """What stands out of a smooth head is more likely to be noise."""
    prepared, sharp = prepared_from(truth, RECIPES["thick_z"][0])
    prepared, mask = replace(prepared, noise_sigma=torch.tensor(0.02)), prepared.mask_XYZ
    noise = 0.02 * torch.randn(prepared.source.shape, generator=rng_for(0))

    def moved(true_XYZ: Tensor) -> tuple[float, float]:
        scan = replace(prepared, source=prepared.source.with_data(prepared.acquisition.apply(true_XYZ) + noise))
        followed = (correct(true_XYZ, scan) - true_XYZ)[mask]
        return error_variance(scan), float(followed.square().mean().sqrt())

    smooth = moved(sharp)
    lively = moved(sharp + 0.2 * torch.randn(sharp.shape, generator=rng_for(1)) * mask)
    assert lively[0] > 2 * smooth[0]
    assert lively[1] > 1.2 * smooth[1]


@pytest.mark.parametrize("name", ["thick_z", "truncated"])
def test_samples_that_a_small_grid_does_not_reach_correct_nothing(name, truth):
    """A part of the target grid: measured samples beside it must not leak in from its edge."""
    low = degrade(truth, RECIPES[name][0], rng_for(0))
    low = low.with_data(assumed_acquisition(truth.grid, low.grid).apply(truth.data_XYZ))  # with the sign of ringing
    part = crop(truth, (0, 0, 20), (48, 56, 24))
    whole, cut = (prepare(low, grid, PrepareSettings()) for grid in (truth.grid, part.grid))
    moved = [(correct(p.interpolated_XYZ.clone(), p) - p.interpolated_XYZ).abs() for p in (whole, cut)]
    assert float(moved[1].max()) < 0.05  # at the cut, which a margin keeps away from results
    assert float((moved[1] - moved[0][:, :, 20:44])[:, :, 8:].abs().max()) < 0.005
    gap = discrepancy(cut.interpolated_XYZ, cut)
    assert float(gap.gap_XYZ[:, :, : 5 if name == "thick_z" else 10].abs().max()) == 0
    assert gap.summary().rms_over_range < 0.05


def test_air_is_never_corrected(truth):
    prepared, sharp = prepared_from(truth, RECIPES["thick_z"][0])
    prepared = replace(prepared, noise_sigma=torch.tensor(0.0))
    wrong = sharp + 0.3
    changed = correct(wrong, prepared) != wrong
    assert bool(changed[prepared.mask_XYZ].any()) and not bool(changed[~prepared.mask_XYZ].any())


def test_ringing_whose_sign_a_magnitude_scan_has_lost_is_no_contradiction():
    """A bright block in air, truncated: its magnitude explains it as well, though that never goes below zero."""
    truth_XYZ = torch.zeros(32, 32, 32)
    truth_XYZ[8:22, 9:23, 8:22] = 1.0
    truth = Volume(truth_XYZ, torch.eye(4, dtype=torch.float64))
    magnitude = degrade(truth, Recipe(axes=(TRUNCATE,) * 3), rng_for(0), reference=1.0)
    signed_XYZ = assumed_acquisition(truth.grid, magnitude.grid).apply(truth_XYZ)
    assert float(signed_XYZ.min()) < -0.02
    for scan in (magnitude, magnitude.with_data(signed_XYZ)):
        ready = prepare(scan, truth.grid, PrepareSettings(), scaling=Scaling(), mask=False)
        assert float(discrepancy(truth_XYZ, ready).gap_XYZ.abs().max()) < 1e-5


def test_the_residual_says_where_a_result_rings_too_strongly(truth):
    """Re-acquired -0.05 against a measured magnitude of 0.02: too strong by 0.03, not too dark by 0.03."""
    prepared, sharp = prepared_from(truth, RECIPES["thick_z"][0])
    measured = torch.full_like(prepared.source.data_XYZ, 0.02)
    prepared = replace(prepared, source=prepared.source.with_data(measured), scaling=Scaling(scale=100.0))
    for result, expected in ((-0.05, 0.03), (-0.01, -0.01), (0.05, 0.03), (0.01, -0.01)):
        residual = discrepancy(torch.full_like(sharp, result), prepared).residual().data_XYZ
        assert_close(residual, torch.full_like(residual, 100 * expected), atol=1e-3, rtol=0)
