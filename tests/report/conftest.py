"""A hostile report: everything that a stranger can name tries to become markup."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import resample
from moediff.report.data import ReportScans

HOSTILE = "</script><script>window.harmed=1</script><img src=x onerror='window.harmed=1'>\"&\n{{ 7 * 7 }}"
RECORD = {
    "software": "moediff-sr 0.1.0",
    "schema": 2,
    "weights": {"name": HOSTILE, "sha256": "ab" * 32},
    "settings": {"mode": HOSTILE, "steps": 1, "samples": 4, "seed": 0, "data_consistency": True, "device": "cpu"},
    "input": {"shape": [48, 56, 15], "spacing_mm": [4, 4, 12.0]},
    "output": {"shape": [48, 56, 44], "spacing_mm": [4, 4, 4]},
    "warnings": [HOSTILE],
    "timings": {"prepare_s": 1.5, "network_s": 2.5},
    "data_consistency": {"rms_over_range": 0.0123, "noise_over_range": 0.011},
    "patient": "Nobody^Known",
}


@pytest.fixture
def hostile_text() -> str:
    """Markup that would set window.harmed."""
    return HOSTILE


@pytest.fixture
def scans(phantom) -> ReportScans:
    """All views and maps of a 4 mm phantom; four experts share it by quarters."""
    low = degrade(phantom, thick_slices(3, 0.01, "thick"), rng_for(0, "report"))
    cubic = resample(low, phantom.grid)
    head = phantom.data_XYZ > 30
    gate_XYZE = torch.zeros(*phantom.shape, 4)
    for expert in range(4):
        gate_XYZE[:, :, expert * 11 : (expert + 1) * 11, expert] = head[:, :, expert * 11 : (expert + 1) * 11].float()
    return ReportScans(
        enhanced=phantom.with_data((cubic.data_XYZ + phantom.data_XYZ) / 2),
        name=HOSTILE,
        record=RECORD,
        source=low,
        interpolated=cubic,
        truth=phantom,
        uncertainty_XYZ=(cubic.data_XYZ - phantom.data_XYZ).abs(),
        gate_XYZE=gate_XYZE,
        expert_names=("deep", HOSTILE, "junction", "rest"),
    )


@pytest.fixture
def full_scans(scans, phantom) -> ReportScans:
    """The same with every other map."""
    lesions = torch.zeros(phantom.shape)
    lesions[18:30, 22:34, 16:28] = 1
    change = scans.enhanced.data_XYZ - scans.interpolated.data_XYZ
    return replace(
        scans,
        changed_XYZE=torch.stack([change * (e + 1) for e in range(4)], -1),
        lesions=phantom.with_data(lesions),
        residual=scans.source.with_data(scans.source.data_XYZ * 0.1),
    )
