"""Every metric has one job, and jobs side by side give what they give alone."""

from __future__ import annotations

import pytest
import torch

from moediff.core.errors import ConfigError, DataError
from moediff.evaluation.metrics.registry import JOBS, METRICS, MetricInput, compute, metric_names


@pytest.fixture(scope="module")
def judged(head, blurred) -> MetricInput:
    mask = torch.zeros(head.shape, dtype=torch.bool)
    mask[6:-6, 6:-6, 6:-6] = True
    return MetricInput(blurred, head.data_XYZ, mask, 1000.0, head.spacing_mm)


def test_every_metric_has_one_job():
    assert sorted(name for group in JOBS for name in group) == sorted(METRICS)


def test_the_order_of_names_and_threads_change_nothing(judged):
    names = ("noise", "psnr", "haarpsi_med", "ssim_all", "gmsd")
    together = compute(judged, names)
    assert tuple(together) == names
    assert {name: compute(judged, [name])[name] for name in names} == pytest.approx(together, rel=1e-6)


def test_threads_are_as_before_even_after_a_failure(judged):
    before = torch.get_num_threads()
    compute(judged, METRICS[:4])
    with pytest.raises(DataError):
        compute(MetricInput(*judged.pair, -1.0, judged.spacing_mm), ("psnr", "vif"))
    assert torch.get_num_threads() == before


def test_what_a_pair_has_no_value_of_is_named_and_stops_nothing_else(judged):
    flat = torch.full_like(judged.truth_XYZ, 500.0)
    missing: dict[str, str] = {}
    result = compute(MetricInput(judged.pred_XYZ, flat, judged.mask_XYZ, 1000.0, judged.spacing_mm), METRICS, missing)
    assert {"psnr", "ssim", "gmsd"} <= result.keys()
    assert missing.keys() == {"hf_ratio", "spectral_distance_db", "sharpness_ref"}
    assert all(missing.values())
    assert result.keys() | missing.keys() == set(METRICS)


def test_ssim_alone_looks_inside_the_mask_only_and_finds_the_same(judged):
    both = compute(judged, ["ssim", "ssim_all"])
    assert compute(judged, ["ssim"])["ssim"] == pytest.approx(both["ssim"], abs=1e-6)


def test_names_with_commas():
    assert metric_names(None) == METRICS and metric_names("psnr, vif") == ("psnr", "vif")
    with pytest.raises(ConfigError, match=r"'lpips' .*--perceptual FILE.*; choose from psnr"):
        metric_names("psnr,lpips")
