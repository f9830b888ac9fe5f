"""Volumes as text inside a page, within a size budget.

Differences between neighbouring voxels are compressed instead of the voxels: they are small, so they pack about twice
as well. Where a page would still be too large, scans are shown in fewer grey levels; the page says so.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moediff.report.display import Layer

STEPS = (1, 2, 4, 8)  # merged grey levels; 8 leaves 32, still smooth to the eye
MAP_STEP = 4
LEVEL = 6  # of zlib; 9 takes three times as long for 2 %


@dataclass(frozen=True)
class Embedded:
    """Layers as base64 text, in order, and in how many grey levels the scans are shown."""

    texts: tuple[str, ...]
    grey_levels: int


def pack(layer: Layer, step: int) -> str:
    """Zlib-compressed differences of the voxels in NIfTI order (x fastest), as base64."""
    voxels = layer.data_XYZ.numpy().ravel(order="F")
    if layer.key != "experts":  # labels are names, not levels
        voxels = voxels // step * step
    change = np.diff(voxels, prepend=np.uint8(0))  # modulo 256; a running sum brings the voxels back
    return base64.b64encode(zlib.compress(change.tobytes(), LEVEL)).decode("ascii")


def embed(scans: Sequence[Layer], maps: Sequence[Layer], budget: int) -> Embedded:
    """Pack all layers into at most `budget` characters if any allowed number of grey levels can."""
    packed_maps = [pack(layer, MAP_STEP) for layer in maps]
    left = budget - sum(map(len, packed_maps))
    for step in STEPS:
        texts = [pack(layer, step) for layer in scans]
        if sum(map(len, texts)) <= left:
            break
    return Embedded((*texts, *packed_maps), 256 // step)
