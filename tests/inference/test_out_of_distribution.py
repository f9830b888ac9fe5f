"""Out-of-distribution score: the distance in standard deviations, and none without statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import aligned_grid, target_grid
from moediff.inference.options import EnhanceOptions
from moediff.inference.out_of_distribution import WARN_ABOVE, score, score_warnings, statistics
from moediff.inference.tiling import encode
from moediff.model.bundle import BundleConfig, OutOfDistributionStatistics, load_bundle, save_bundle


@pytest.fixture(scope="module")
def context(bundle, make_phantom):
    scan = make_phantom((48, 56, 44), (4.0, 4.0, 4.0))
    return encode(load_bundle(bundle).denoiser, prepare(scan, scan.grid, PrepareSettings()))


def known(context, shift: float) -> OutOfDistributionStatistics:
    """As if training scans lay this many spreads away in every value."""
    values = statistics(context).double()
    return OutOfDistributionStatistics(mean=tuple((values + 0.5 * shift).tolist()), std=(0.5,) * len(values))


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_the_score_is_the_distance_in_spreads(shift, context):
    assert score(context, known(context, shift)) == pytest.approx(shift, abs=0.01)


def test_air_around_the_head_does_not_count(context):
    token = context.condition.token_BxyzD.clone()
    outside = torch.nn.functional.avg_pool3d(context.crop.foreground_BXYZ[:, None].float(), 4)[:, 0] == 0
    token[outside] = 1e3
    loud = replace(context, condition=replace(context.condition, token_BxyzD=token))
    assert torch.equal(statistics(loud), statistics(context))


def test_without_statistics_there_is_no_score_and_no_warning(context):
    assert score(context, None) is None and score_warnings(None) == []


def test_a_head_of_no_tokens_has_no_score(context):
    crop = replace(context.crop, foreground_BXYZ=torch.zeros_like(context.crop.foreground_BXYZ))
    nothing = replace(context, crop=crop)
    assert score(nothing, known(context, 0.0)) is None


def test_only_a_high_score_is_warned_of():
    assert score_warnings(WARN_ABOVE) == []
    (said,) = score_warnings(2.34)
    assert "unlike its training scans (score 2.3;" in said


@pytest.mark.parametrize(
    ("mean", "spread", "said"),
    [
        ((0.0,) * 4, (1.0,) * 3, "of one length"),
        ((0.0,), (0.0,), "standard deviations positive"),
        ((0.0,), (float("nan"),), "standard deviations positive"),
        ((0.0,), (1.0,), "out_of_distribution holds 1 values, expected 128"),
    ],
)
def test_impossible_statistics_are_refused(mean, spread, said):
    with pytest.raises(ConfigError, match=said):
        BundleConfig(out_of_distribution=OutOfDistributionStatistics(mean=mean, std=spread))


def test_a_bundle_stores_the_statistics_and_the_sidecar_the_score(context, bundle, make_phantom, tmp_path):
    plain = load_bundle(bundle)
    config = replace(plain.config, out_of_distribution=known(context, 5.0))
    save_bundle(tmp_path / "bundle", config, plain.denoiser.state_dict(), plain.provenance)
    enhancer = Enhancer(tmp_path / "bundle")
    assert enhancer.bundle.config == config
    scan = make_phantom((48, 56, 22), (4.0, 4.0, 8.0))
    record = enhancer(scan, EnhanceOptions(voxel_size=(4.0,))).sidecar
    assert record.out_of_distribution_score > WARN_ABOVE and any(
        "unlike its training scans" in w for w in record.warnings
    )
    assert Enhancer(plain)(scan, EnhanceOptions(voxel_size=(4.0,))).sidecar.out_of_distribution_score is None


@pytest.mark.fault(41)
def test_the_embedded_bundle_tells_a_head_from_cubes(mni_scan):
    """The MNI152 context, and a ball of cubes of random brightness; both with 5 mm slices."""
    bundle = load_bundle(None)
    lines = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in mni_scan.shape], indexing="ij")
    cells = torch.rand([-(-n // 12) for n in mni_scan.shape], generator=rng_for(0)) * 900 + 100
    for axis, n in enumerate(mni_scan.shape):
        cells = cells.repeat_interleave(12, axis).narrow(axis, 0, n)
    cubes = mni_scan.with_data(torch.where(torch.stack(lines).square().sum(0) < 0.64, cells, 0.0))
    target, scores = EnhanceOptions(voxel_size=(1.5,)), []  # a third as many voxels as by default
    for truth in (mni_scan, cubes):
        low = degrade(truth, NAMED["thick5"], rng_for(0))
        ready = prepare(low, aligned_grid(low.grid, target_grid(low.grid, target)), bundle.config.prepare)
        with torch.no_grad():
            scores.append(score(encode(bundle.denoiser, ready), bundle.config.out_of_distribution))
    assert scores[0] < WARN_ABOVE < scores[1]
