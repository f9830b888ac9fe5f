"""What a report says in words and numbers; a field that the sidecar lacks is left out, never guessed.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moediff.evaluation.metrics import head_mask, score
from moediff.report.canvas import EXPERT_COLOURS
from moediff.report.layers import quantiles
from moediff.report.maps import MIN_WEIGHT
from moediff.report.scans import ReportScans

WORDS = 200  # longest text taken from a sidecar
THIN = 2  # voxels
RANGE = (0.0, 0.999)  # quantiles between which the scan's intensity range lies
MODES = {"faithful": "faithful (the most likely scan, one evaluation)", "detail": "detail (one plausible sample)"}


@dataclass(frozen=True)
class Expert:
    """What one expert did.

    Args:
        name, colour: as everywhere on the page.
        share: of the enhanced voxels, by weight; 0..1.
        changed: mean change where it weighed most, over the scan's intensity range; None without the input.
        unsure: mean standard deviation there, likewise; None without an uncertainty.
    """

    name: str
    colour: str
    share: float
    changed: float | None = None
    unsure: float | None = None


@dataclass(frozen=True)
class Facts:
    """Rows of (what, value), each in plain words."""

    done: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[str, str], ...]
    experts: tuple[Expert, ...]
    warnings: tuple[str, ...]


def one_line(value: object) -> str:
    """Foreign text as at most 200 printable characters."""
    return "".join(c if c.isprintable() else " " for c in str(value))[:WORDS]


def number(value: object) -> float | None:
    """A sidecar's value if it is a finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type]


def _triple(value: object, unit: str) -> str:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return ""
    numbers = [number(v) for v in value]
    return "" if None in numbers else " x ".join(f"{n:g}" for n in numbers) + unit


def _grid(record: Mapping[str, Any], which: str) -> str:
    parts = (_triple(record.get(f"{which}_shape"), " voxels"), _triple(record.get(f"{which}_spacing_mm"), " mm"))
    return " of ".join(part for part in parts if part)


def _done(scans: ReportScans) -> list[tuple[str, str]]:
    record = scans.record
    timings = record.get("timings")
    seconds = [number(s) for s in timings.values()] if isinstance(timings, dict) else []
    rows = [
        ("Scan", scans.name), ("Input grid", _grid(record, "input")), ("Enhanced grid", _grid(record, "output")),
        ("Mode", MODES.get(str(record.get("mode")), record.get("mode", ""))), ("Model", record.get("bundle_name", "")),
        ("Model's sha256", record.get("bundle_sha256", "")), ("Evaluations of the network", record.get("steps", "")),
        ("Samples", record.get("samples", "")), ("Seed", record.get("seed", "")),
        ("Corrected towards the measurement", {True: "yes", False: "no"}.get(record.get("consistency", ""), "")),
        ("Time", f"{sum(s or 0.0 for s in seconds):.1f} s" if seconds else ""), ("Device", record.get("device", "")),
        ("Software", record.get("software", "")),
    ]  # fmt: skip
    return [(what, one_line(value)) for what, value in rows if value != ""]


def _numbers(scans: ReportScans) -> list[tuple[str, str]]:
    rows = []
    found = scans.record.get("data_consistency")
    gap, noise = (
        number(found.get(k)) if isinstance(found, dict) else None for k in ("rms_over_range", "noise_over_range")
    )
    if gap is not None:
        rows.append(("Disagreement with the measured scan", f"{100 * gap:.2f} % of its intensity range"))
    if noise is not None:
        rows.append(("Noise in the measured scan", f"{100 * noise:.2f} % of its intensity range"))
    if scans.uncertainty_XYZ is not None:
        spread = scans.uncertainty_XYZ[scans.uncertainty_XYZ > 0]  # zero where the network did not work
        if len(spread):
            told = {"mean standard deviation in the head": spread.mean(), "greatest": spread.max()}
            rows += [(f"Uncertainty, {what}", f"{float(u):.4g} of the scan's own units") for what, u in told.items()]
    if scans.truth is not None:
        judged = head_mask(scans.truth.data_XYZ.float())
        named = {"enhanced": scans.enhanced, "interpolated": scans.interpolated}
        for name, volume in named.items():
            if volume is not None:
                scores = score(volume.data_XYZ.float(), scans.truth.data_XYZ.float(), judged)
                rows.append((f"Against the truth, {name}", f"PSNR {scores.psnr:.2f} dB, SSIM {scores.ssim:.4f}"))
    return rows


def _thin(data: Tensor) -> Tensor:
    """Every second voxel along each axis: means of millions of voxels need no more."""
    return data[::THIN, ::THIN, ::THIN].float()


def _experts(scans: ReportScans) -> list[Expert]:
    """Shares, and what happened where each expert weighed most."""
    if scans.gate_XYZE is None:
        return []
    gate_XYZE, shown = _thin(scans.gate_XYZE), _thin(scans.enhanced.data_XYZ)
    inside = gate_XYZE.sum(-1) > MIN_WEIGHT
    gate_NE = gate_XYZE[inside]
    share_E = gate_NE.sum(0) / gate_NE.sum().clamp_min(1e-12)
    low, high = quantiles(shown, *RANGE)
    told: dict[str, Tensor] = {}
    if scans.interpolated is not None:
        told["changed"] = (shown - _thin(scans.interpolated.data_XYZ)).abs()[inside]
    if scans.uncertainty_XYZ is not None:
        told["unsure"] = _thin(scans.uncertainty_XYZ)[inside].nan_to_num(0.0)
    best_N = gate_NE.argmax(-1)
    count_E = torch.bincount(best_N, minlength=len(share_E)).clamp_min(1)
    means = {
        what: torch.bincount(best_N, values, minlength=len(share_E)) / count_E / max(high - low, 1e-12)
        for what, values in told.items()
    }
    return [
        Expert(
            one_line(name), EXPERT_COLOURS[i % len(EXPERT_COLOURS)], float(share_E[i]),
            **{what: float(mean_E[i]) for what, mean_E in means.items()},
        )
        for i, name in enumerate(scans.expert_names[: len(share_E)])
    ]  # fmt: skip


def facts(scans: ReportScans) -> Facts:
    """All rows of a page.

    Raises:
        DataError, GeometryError: the truth cannot be compared with the result.
    """
    warnings = scans.record.get("warnings")
    told = [one_line(w) for w in warnings] if isinstance(warnings, list) else []
    return Facts(tuple(_done(scans)), tuple(_numbers(scans)), tuple(_experts(scans)), tuple(told))
