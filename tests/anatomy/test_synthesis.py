"""Synthetic scans follow their labels."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from moediff.anatomy.synthesis import SynthesisSettings, synthesise
from moediff.core.config import rng_for

PLAIN = {"texture": 0.0, "lesions": 0}  # nothing but label means and the bias field


def head(n: int = 24) -> Tensor:
    """Nested boxes in air: skull (165), fluid (24), cortex, white matter in two halves, a deep nucleus."""
    labels = torch.zeros(n, n, n, dtype=torch.int32)
    for edge, number in ((4, 165), (5, 24), (6, 3), (8, 2)):
        labels[edge : n - edge, edge : n - edge, edge : n - edge] = number
    labels[n // 2 : n - 8, 8 : n - 8, 8 : n - 8] = 41
    labels[n // 2 : n - 6, 6 : n - 6, 6 : n - 6][labels[n // 2 : n - 6, 6 : n - 6, 6 : n - 6] == 3] = 42
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_synthetic_scans_are_finite_non_negative_and_scaled(seed):
    labels = head()
    scan = synthesise(labels, rng_for(seed))
    assert scan.dtype == torch.float32 and scan.shape == labels.shape
    assert torch.isfinite(scan).all() and float(scan.min()) >= 0
    brain = torch.isin(labels, torch.tensor([2, 3, 41, 42]))
    assert float(scan[brain].median()) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_air_is_zero_beyond_partial_volume(seed):
    """Softening has 5 taps an axis, so labels reach 2 voxels into air and no further."""
    labels = head()
    reach = ndimage.binary_dilation((labels > 0).numpy(), structure=torch.ones(5, 5, 5).numpy())
    scan = synthesise(labels, rng_for(seed), SynthesisSettings(stripped=0.0))
    assert float(scan[~torch.from_numpy(reach)].abs().max()) == 0
    assert float(scan[labels > 0].median()) > 0


def test_the_same_generator_gives_the_same_scan():
    labels = head()
    assert torch.equal(synthesise(labels, rng_for(1)), synthesise(labels, rng_for(1)))
    assert not torch.equal(synthesise(labels, rng_for(1)), synthesise(labels, rng_for(2)))


def test_labels_are_left_alone():
    labels = head()
    synthesise(labels, rng_for(0), SynthesisSettings(lesions=6))
    assert torch.equal(labels, head())


def levels(seed: int, **settings: float) -> dict[int, float]:
    """Median of every label of a scan without texture and lesions."""
    labels = head()
    scan = synthesise(labels, rng_for(seed), SynthesisSettings(**(PLAIN | settings)))
    return {number: float(scan[labels == number].median()) for number in (2, 3, 24, 41, 165)}


def test_random_contrasts_tell_labels_apart_in_either_order():
    found = [levels(seed, plausible=0.0, stripped=0.0) for seed in range(12)]
    ratios = torch.tensor([[scan[2] / scan[3], scan[2] / scan[165], scan[3] / scan[24]] for scan in found])
    assert (ratios > 1.1).any(0).all() and (ratios < 0.9).any(0).all()
    assert float(ratios.log().abs().median()) > 0.3


def test_plausible_contrasts_have_fluid_darkest_or_brightest_and_both_orders_of_white_and_grey():
    found = [levels(seed, plausible=1.0) for seed in range(12)]
    darkest = [scan[24] < min(scan[2], scan[3]) for scan in found]
    assert all(dark or scan[24] > max(scan[2], scan[3]) for dark, scan in zip(darkest, found, strict=True))
    assert any(darkest) and not all(darkest)  # T1w and FLAIR against T2w
    white_first = [scan[2] > scan[3] for scan in found]
    assert any(white_first) and not all(white_first)


def test_both_hemispheres_have_one_intensity():
    """Across the border of left and right white matter only the bias field may change."""
    for seed in range(8):
        scan = synthesise(head(), rng_for(seed), SynthesisSettings(plausible=0.0, **PLAIN))
        across = scan[11:13, 11:13, 11:13].mean((1, 2))
        assert float(across[1] / across[0]) == pytest.approx(1, abs=0.08)  # 0.25 peak over 23/3 voxels


@pytest.mark.parametrize(("stripped", "empty"), [(1.0, True), (0.0, False)])
def test_a_stripped_scan_has_nothing_outside_the_brain(stripped, empty):
    labels = torch.zeros(24, 16, 16, dtype=torch.int32)
    labels[2:10, 2:14, 2:14], labels[12:22, 2:14, 2:14] = 2, 165
    scan = synthesise(labels, rng_for(0), SynthesisSettings(stripped=stripped))
    assert (float(scan[15:].max()) == 0) is empty
    assert float(scan[4:8, 4:12, 4:12].median()) == pytest.approx(0.5, abs=0.1)


def roughness(seed: int, **settings: float) -> float:
    """Largest relative step between neighbours deep inside one block of white matter."""
    labels = torch.zeros(32, 32, 32, dtype=torch.int32)
    labels[4:28, 4:28, 4:28] = 2
    inner = synthesise(labels, rng_for(seed), SynthesisSettings(**settings))[8:24, 8:24, 8:24]  # type: ignore[arg-type]
    return max(float(inner.diff(dim=axis).abs().max()) for axis in range(3)) / float(inner.median())


@pytest.mark.parametrize("seed", range(4))
def test_a_small_structure_looks_like_the_larger_one_and_changes_nothing_else(seed, monkeypatch):
    """Vessels in the putamen, without skull: before, black holes. All else stays as it was drawn."""
    labels = head()
    labels[9:13, 9:13, 9:13] = 12
    labels[10:12, 10:12, 10:12] = 30
    draw = lambda: synthesise(labels, rng_for(seed), SynthesisSettings(stripped=1.0, **PLAIN))  # noqa: E731
    now = draw()
    monkeypatch.setattr("moediff.anatomy.synthesis.SMALL_PARTS", {})
    before = draw()
    far = ~torch.from_numpy(ndimage.binary_dilation((labels == 30).numpy(), iterations=6))
    torch.testing.assert_close(now[far], before[far], rtol=0.02, atol=1e-4)  # but for the median it is scaled by
    around, inside = now[9, 9:13, 9:13].mean(), now[10:12, 10:12, 10:12].mean()
    assert float(inside / around) == pytest.approx(1, abs=0.2)
    assert float(before[10:12, 10:12, 10:12].mean()) < 0.6 * float(inside)


def test_texture_and_lesions_roughen_white_matter():
    seeds = range(6)
    bias = max(roughness(seed, texture=0.0, lesions=0) for seed in seeds)
    assert bias < 0.06  # 2 x 0.25 over 31/3 voxels
    assert max(roughness(seed, texture=0.05, lesions=0) for seed in seeds) > 0.1
    assert max(roughness(seed, texture=0.0, lesions=6) for seed in seeds) > 0.1


def test_without_brain_labels_there_is_still_a_scan():
    labels = torch.zeros(12, 12, 12, dtype=torch.int32)
    labels[3:9, 3:9, 3:9] = 165
    scan = synthesise(labels, rng_for(0), SynthesisSettings(stripped=0.0))
    assert torch.isfinite(scan).all() and float(scan[5:7, 5:7, 5:7].min()) > 0
