"""Label maps, masks and probability maps: refused as scans, because fractional labels mean nothing.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from moediff.core.errors import DataError, prefix_errors, printable
from moediff.core.volume import Volume
from moediff.io.scans import LoadedScan, load
from moediff.io.voxels import without_outliers

INTENTS = {  # NIfTI's intent_code
    **dict.fromkeys(range(2, 25), "a statistical map"),
    1002: "a label map",
    1006: "a displacement field",
    1007: "a vector field",
}
SAMPLE_VOXELS = 1 << 20
# Distinct values at most, and how often neighbours inside the foreground are equal at least. Real 8-bit scans reach
# 0.17 (130 to 255 values), label maps 0.7 to 1; scans enlarged twofold by repeated voxels 0.5, threefold 0.8.
LABELS = ((48, 0.4), (512, 0.85))
SATURATED = 0.3  # of the foreground at its maximum: real 8-bit scans stay below 0.05, probability maps reach 0.5
REMEDY = (
    "enhance the scan it belongs to and bring it to the result's grid by nearest neighbour, or give "
    "`--trust-intensities` if these are intensities"
)


def kind_of_map(scan: LoadedScan) -> str:
    """What a file holds instead of intensities, by its header or by the look of its values; empty if nothing else."""
    if scan.intent in INTENTS:
        return f"{INTENTS[scan.intent]} (the header's intent_code is {scan.intent})"
    sample_XYZ = _sample(scan.volume.data_XYZ)
    if (share := share_at_maximum(sample_XYZ)) >= SATURATED:
        return f"a mask or a probability map ({share:.0%} of its foreground has one value, the largest)"
    count, equal = flatness(sample_XYZ)
    if any(count <= most and equal >= least for most, least in LABELS):
        return f"labels or a map of steps ({count} different values, {equal:.0%} of neighbours equal)"
    return ""


def require_intensities(scan: LoadedScan, remedy: str = REMEDY) -> None:
    """Refuse a file that says it holds no intensities, or looks like it.

    Args:
        remedy: what to do instead; ends the message.

    Raises:
        DataError: it is a label map, a mask or another map.
    """
    if kind := kind_of_map(scan):
        raise DataError(f"expected a scan, found {kind}: {remedy}")


def load_intensities(path: Path, remedy: str, *, trust: bool = False) -> LoadedScan:
    """`load` of a file that must hold intensities; with `trust` whatever it looks like.

    Raises:
        MoeDiffError: see `load` and `require_intensities`.
    """
    scan = load(path)
    if not trust:
        with prefix_errors(printable(path)):
            require_intensities(scan, remedy)
    return scan


def load_truth(path: Path, remedy: str) -> Volume:
    """A scan that acquisitions are simulated from: intensities, outliers replaced by the median of their neighbours.

    Raises:
        MoeDiffError: see `load_intensities`.
    """
    volume = load_intensities(path, remedy).volume
    return volume.with_data(without_outliers(volume.data_XYZ))


def _sample(data_XYZ: Tensor) -> Tensor:
    step = max(1, data_XYZ.numel() // SAMPLE_VOXELS)
    return data_XYZ[:, :, step // 2 :: step] if step < data_XYZ.shape[2] else data_XYZ[:, :, ::8]


def share_at_maximum(sample_XYZ: Tensor) -> float:
    """Which share of the voxels that are not 0 has the largest value."""
    inside = int((sample_XYZ != 0).sum())
    return float((sample_XYZ == sample_XYZ.max()).sum()) / inside if inside and float(sample_XYZ.max()) != 0 else 0.0


def flatness(sample_XYZ: Tensor) -> tuple[int, float]:
    """How many values slices hold, and the share of equal neighbours inside their foreground.

    Of the first two axes the one counts along which fewer are equal: stripes are no labels.
    """
    count = len(torch.unique(sample_XYZ))
    if count > LABELS[-1][0]:
        return count, 0.0
    shares = []
    for axis in range(2):
        ahead = sample_XYZ.narrow(axis, 1, sample_XYZ.shape[axis] - 1)
        behind = sample_XYZ.narrow(axis, 0, sample_XYZ.shape[axis] - 1)
        inside = (ahead != 0) & (behind != 0)
        shares.append(float(((ahead == behind) & inside).sum()) / max(int(inside.sum()), 1))
    return count, min(shares)
