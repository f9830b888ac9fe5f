"""Lossless packing of volumes: prediction from eight neighbours, then a zlib stream, which every browser can undo.

Each voxel is predicted from voxels that come before it in NIfTI order (x fastest); the weights are fitted to the volume
by least squares, so smooth and noisy scans both pack well. Differences are folded (0, -1, 1, -2, 2, ... become 0, 1, 2,
3, 4, ...), their low bytes are stored first and their high bytes after them. `templates/viewer/codec.js` undoes it.

Axes: X Y Z voxels, V voxels in NIfTI order, N neighbours.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_LEVEL = 32_767  # folded differences have to fit into 16 bits
UNIT = 256  # weights are stored as integers of 1/256
ROUNDING = UNIT // 2
FITTED_ON = 200_000  # voxels
LEFT = (UNIT, 0, 0, 0, 0, 0, 0, 0)  # predict the voxel before: labels run on, they do not grow
LEVEL, STRATEGY = 1, zlib.Z_RLE  # of zlib: differences hold no longer repeats to look for


@dataclass(frozen=True)
class Packed:
    """A volume as text.

    Args:
        text: base64 of the zlib stream.
        shape: voxels along X, Y, Z.
        weights: of the eight neighbours, in 1/256.
    """

    text: str
    shape: tuple[int, int, int]
    weights: tuple[int, ...]


def neighbours(shape: Sequence[int]) -> tuple[int, ...]:
    """How many voxels back each neighbour lies, in NIfTI order."""
    x, y, _ = shape
    plane = x * y
    return (1, x, plane, x + 1, x - 1, plane + 1, plane + x, plane + x + 1)


def pack(levels_XYZ: np.ndarray, weights: tuple[int, ...] | None = None) -> Packed:
    """Pack whole numbers of 0..32767.

    Args:
        weights: of the eight neighbours, in 1/256; None fits them.
    """
    x, y, z = levels_XYZ.shape
    levels_V = levels_XYZ.ravel(order="F").astype(np.int32)
    offsets = neighbours((x, y, z))
    weights = weights or _fitted(levels_V, offsets)
    folded_V = _folded(levels_V - _predicted(levels_V, offsets, weights))
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1, STRATEGY)
    parts = [
        packer.compress((folded_V & 255).astype(np.uint8).data),
        packer.compress((folded_V >> 8).astype(np.uint8).data),
    ]
    text = base64.b64encode(b"".join([*parts, packer.flush()])).decode("ascii")
    return Packed(text, (x, y, z), weights)


def _before(levels_V: np.ndarray, offset: int) -> np.ndarray:
    """The voxel so many places before each; 0 where there is none."""
    if offset == 0:  # a volume one voxel wide has no neighbour ahead
        return np.zeros_like(levels_V)
    return np.concatenate([np.zeros(min(offset, len(levels_V)), levels_V.dtype), levels_V[:-offset]])


def _fitted(levels_V: np.ndarray, offsets: Sequence[int]) -> tuple[int, ...]:
    step = max(1, len(levels_V) // FITTED_ON) | 1  # odd: else only every other column would count
    known_VN = np.stack([_before(levels_V, offset)[::step] for offset in offsets], axis=1).astype(np.float64)
    weights_N, *_ = np.linalg.lstsq(known_VN, levels_V[::step].astype(np.float64), rcond=None)
    return tuple(int(weight) for weight in np.rint(np.clip(weights_N, -4, 4) * UNIT))


def _predicted(levels_V: np.ndarray, offsets: Sequence[int], weights: Sequence[int]) -> np.ndarray:
    total_V = np.full(len(levels_V), ROUNDING, np.int32)
    for offset, weight in zip(offsets, weights, strict=True):
        if offset and weight:
            total_V[offset:] += weight * levels_V[: max(0, len(levels_V) - offset)]
    return np.clip(total_V >> 8, 0, MOST_LEVEL)


def _folded(difference_V: np.ndarray) -> np.ndarray:
    return np.where(difference_V < 0, -2 * difference_V - 1, 2 * difference_V)
