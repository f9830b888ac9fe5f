"""Several scans of one head on a page: each as registered, which one decided where, and what the result leaves of each.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moediff.core.volume import Grid
from moediff.inference.result import ScanShare
from moediff.report.layers import EXPERT_COLOURS, DisplayBox, Layer, Scan, measured_scan, nearest, quantiles, to_bytes
from moediff.report.sanitise import number, one_line

LARGEST = "each place has the colour of the scan whose weight is the largest there"
TOP_QUANTILE = 0.995  # of all residuals; larger ones look like this one
MIN_WEIGHT = 0.05  # of all scans together, below which none measured


@dataclass(frozen=True)
class ScanRow:
    """One scan in the table.

    Args:
        name: of its file, fit to be shown.
        moved: how far registration moved it, in words; empty for the first.
        weight: its mean share in the head, 0..1; None where it was left out.
        residual, noise: over its intensity range; None where not known.
        note: why it was left out, or which slices count less; empty else.
    """

    name: str
    moved: str
    weight: float | None
    residual: float | None
    noise: float | None
    note: str


def scan_rows(record: Mapping[str, Any]) -> tuple[ScanRow, ...]:
    """The table, from a sidecar's plain values, which may be foreign."""
    scans = record.get("scans")
    if not isinstance(scans, list):
        return ()
    return tuple(_row(scan, index) for index, scan in enumerate(scans) if isinstance(scan, dict))


def _row(scan: Mapping[str, Any], index: int) -> ScanRow:
    distance, angle = number(scan.get("displacement_mm")), number(scan.get("rotation_deg"))
    moved = f"{distance:.1f} mm, {angle:.1f}°" if index and distance is not None and angle is not None else ""
    slices = scan.get("doubted_slices")
    note = f"left out: {one_line(scan['left_out'])}" if scan.get("left_out") else ""
    if not note and isinstance(slices, list) and slices:
        note = f"slices {', '.join(one_line(n) for n in slices[:8])} count less"
    return ScanRow(
        name=one_line(scan.get("name", "")),
        moved=moved,
        weight=None if scan.get("left_out") else number(scan.get("weight")),
        residual=number(scan.get("residual_over_range")),
        noise=number(scan.get("noise_over_range")),
        note=note,
    )


def registered_scans(shares: Sequence[ScanShare], grid: Grid) -> list[Scan]:
    """Every scan but the first, as registered to it, to be looked at beside it or in turn with it."""
    return [
        measured_scan(f"scan{index}", f"scan {index}: {one_line(share.name)}", share.scan, grid)
        for index, share in enumerate(shares[1:], 2)
    ]


def scan_layers(shares: Sequence[ScanShare], box: DisplayBox, grid: Grid) -> list[Layer]:
    """Which scan decided where, each scan's weight, and what the result leaves of each, all in one scale."""
    taken = [(index, share) for index, share in enumerate(shares, 1) if share.weight_XYZ is not None]
    if len(taken) < 2:
        return []
    weights = [box.crop_data(share.weight_XYZ).float() for _, share in taken if share.weight_XYZ is not None]
    names = [f"scan {index}: {one_line(share.name)}" for index, share in taken]
    colours = [EXPERT_COLOURS[i % len(EXPERT_COLOURS)] for i in range(len(names))]
    labelled = tuple(zip(names, colours, strict=True))
    result = [Layer("scans", "scan of the largest weight", _largest(weights), 0, len(names), labelled, note=LARGEST)]
    for (index, _), name, weight in zip(taken, names, weights, strict=True):
        result.append(Layer(f"weight{index}", f"weight of {name}", to_bytes(weight, 0, 1), 0, 1))
    gaps = [nearest(share.residual, grid, outside=0.0).float() for _, share in taken if share.residual is not None]
    top = max((quantiles(gap.abs(), TOP_QUANTILE)[0] for gap in gaps), default=0.0)
    for (index, _), name, gap in zip(taken, names, gaps, strict=True):
        scaled = (gap * (127 / max(top, 1e-12))).round().clamp(-127, 127) + 128
        result.append(Layer(f"gap{index}", f"disagreement with {name}", scaled.to(torch.uint8), -top, top, signed=True))
    return result


def _largest(weights: Sequence[Tensor]) -> Tensor:
    """The number of the scan of the largest weight from 1, 0 where none measured; uint8."""
    together = torch.stack(list(weights))
    return (together.argmax(0) + 1).to(torch.uint8) * (together.sum(0) > MIN_WEIGHT)
