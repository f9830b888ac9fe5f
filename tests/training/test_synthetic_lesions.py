"""Planted lesions: as often, as large and as strong as told, in tissue only, and nothing drawn when there are none."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.training.augment import AugmentConfig, augmented
from moediff.training.synthetic_lesions import LesionConfig, with_lesions

ALWAYS = LesionConfig(probability=1.0)
FLAT = torch.full((64, 64, 64), 0.5)


def test_without_a_share_nothing_is_drawn_nor_changed():
    rng, other = rng_for(0), rng_for(0)
    assert with_lesions(FLAT, LesionConfig(), rng)[0] is FLAT
    assert torch.equal(torch.rand(4, generator=rng), torch.rand(4, generator=other))


def test_the_share_of_patches_with_lesions_is_as_told():
    often = replace(ALWAYS, probability=0.3)
    changed = [with_lesions(FLAT, often, rng_for(0, number))[0] is not FLAT for number in range(200)]
    assert sum(changed) == pytest.approx(60, abs=20)  # 3 standard deviations


def test_the_density_is_as_told():
    """Hard little balls far apart: their volume tells their number."""
    small = LesionConfig(
        probability=1.0, density=20.0, radius=(2.0, 2.0), contrast=(0.5, 0.5), edge=(0.01, 0.01), bumps=0.0
    )
    inside = [float((with_lesions(FLAT, small, rng_for(1, number))[0] != FLAT).float().mean()) for number in range(30)]
    stretch = (1.5 - 1 / 1.5) / (2 * math.log(1.5))  # mean of 1.5^(2u - 1), u uniform; once for each axis
    expected = 20e-6 * 4 / 3 * math.pi * 2**3 * stretch**3
    assert sum(inside) / 30 == pytest.approx(expected, rel=0.3)


def test_contrast_is_a_share_of_what_is_there_and_of_both_signs():
    told = replace(ALWAYS, contrast=(0.4, 0.4), radius=(3.0, 3.0), edge=(0.2, 0.2), density=4.0)  # few that overlap
    found = torch.stack([with_lesions(FLAT, told, rng_for(2, number))[0] / FLAT for number in range(12)])
    most, least = found.amax((1, 2, 3)), found.amin((1, 2, 3))
    brighter, darker = most[most > 1.02].median(), least[least < 0.98].median()
    assert_close(brighter, torch.tensor(1.4), atol=0.02, rtol=0)
    assert_close(darker, torch.tensor(0.6), atol=0.02, rtol=0)


def test_air_stays_air_and_nothing_becomes_negative():
    half = FLAT.clone()
    half[:32] = 0
    strong = replace(ALWAYS, contrast=(3.0, 3.0), density=300.0)
    found, lesion = with_lesions(half, strong, rng_for(3))
    assert torch.equal(found[:32], half[:32]) and not torch.equal(found, half)
    assert float(found.min()) >= 0
    assert torch.equal(half[32:], FLAT[32:])  # the scan itself is left alone
    assert float(lesion[:32].max()) == 0


def test_where_lesions_are_is_told_and_nowhere_else():
    """A hard lesion of one contrast: what it changed is that share of the intensity, at every voxel of it."""
    told = replace(ALWAYS, contrast=(0.4, 0.4), edge=(0.5, 0.5), density=4.0)
    for number in range(12):
        found, lesion = with_lesions(FLAT, told, rng_for(6, number))
        assert float(lesion.min()) >= 0 and float(lesion.max()) <= 1
        assert_close((found - FLAT).abs(), 0.4 * FLAT * lesion, atol=1e-5, rtol=0)
    assert with_lesions(FLAT, LesionConfig(), rng_for(6))[1].count_nonzero() == 0


def test_a_lesion_fades_into_what_is_around_it():
    """A soft edge has voxels between the lesion's level and the surroundings', a hard one hardly any."""
    hard = replace(ALWAYS, contrast=(0.5, 0.5), radius=(3.5, 3.5), edge=(0.02, 0.02), bumps=0.0)

    def between(config: LesionConfig) -> float:
        change = torch.cat([(with_lesions(FLAT, config, rng_for(4, n))[0] / 0.5 - 1).abs().flatten() for n in range(4)])
        touched = change[change > 0.02]
        return float((touched < 0.45).float().mean())

    assert between(replace(hard, edge=(2.0, 2.0))) > between(hard) + 0.2


def test_examples_repeat_and_the_truth_is_what_was_planted():
    config = AugmentConfig(
        amplitude=(1.0, 1.0),
        gamma=(1.0, 1.0),
        bias=0.0,
        blur_probability=0,
        sharpen_probability=0,
        synthetic_lesions=ALWAYS,
    )
    (one, lesion, *_), (other, *_) = (augmented(FLAT, config, rng_for(5)) for _ in range(2))
    assert torch.equal(one, other) and not torch.equal(one, FLAT)
    expected, inside = with_lesions(FLAT, ALWAYS, _after(rng_for(5)))
    assert_close(one, expected)
    assert torch.equal(lesion, inside) and float(inside.max()) > 0.5


def _after(rng: torch.Generator) -> torch.Generator:
    """Amplitude and contrast are drawn first."""
    torch.rand((), generator=rng), torch.rand((), generator=rng)
    return rng


@pytest.mark.parametrize(
    "wrong",
    [
        {"probability": 1.5},
        {"density": -1.0},
        {"bumps": 1.0},
        {"radius": (3.0, 1.0)},
        {"contrast": (0.0, 1.0)},
        {"edge": (1.0, 9.0)},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=f"synthetic_lesions.*{next(iter(wrong))}"):
        LesionConfig(**wrong)
