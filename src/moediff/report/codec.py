"""Lossless packing of volumes: prediction from eight neighbours, then zlib streams, which every browser can undo.

A volume is cut into blocks of axial planes, each packed by itself, so that a page can show the middle of a head before
the rest is unpacked. Each voxel is predicted from voxels that come before it in NIfTI order (x fastest); the weights
are fitted to the volume by least squares, so smooth and noisy scans both pack well. The first plane of a block has none
before it and weights of its own. Differences are folded (0, -1, 1, -2, 2, ... become 0, 1, 2, 3, 4, ...), their low
bytes are stored first and their high bytes after them. `templates/viewer/codec.js` undoes it.

Axes: X Y Z voxels, V voxels in NIfTI order, N neighbours.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MOST_LEVEL = 32_767  # folded differences have to fit into 16 bits
BLOCK_PLANES = 16
UNIT = 256  # weights are stored as integers of 1/256
ROUNDING = UNIT // 2
FITTED_ON = 200_000  # voxels
IN_PLANE = (0, 1, 3, 4)  # neighbours that lie in the voxel's own plane
LEFT = (UNIT, 0, 0, 0, 0, 0, 0, 0)  # predict the voxel before: labels run on, they do not grow
LEVEL, STRATEGY = 1, zlib.Z_RLE  # of zlib: differences hold no longer repeats to look for

Weights = tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A volume as text.

    Args:
        blocks: base64 of each block's zlib stream.
        shape: voxels along X, Y, Z.
        weights: of the eight neighbours, in 1/256.
        first_weights: the same for the first plane of a block.
    """

    blocks: tuple[str, ...]
    shape: tuple[int, int, int]
    weights: Weights
    first_weights: Weights

    @cached_property
    def text(self) -> str:
        """All blocks, with a space between two."""
        return " ".join(self.blocks)


def neighbours(shape: Sequence[int]) -> tuple[int, ...]:
    """How many voxels back each neighbour lies, in NIfTI order."""
    x, y, _ = shape
    plane = x * y
    return (1, x, plane, x + 1, x - 1, plane + 1, plane + x, plane + x + 1)


def pack(levels_XYZ: np.ndarray, weights: Weights | None = None) -> Packed:
    """Pack whole numbers of 0..32767.

    Args:
        weights: of the eight neighbours, in 1/256; None fits them.
    """
    x, y, z = levels_XYZ.shape
    offsets, first_weights = neighbours((x, y, z)), weights
    if weights is None or first_weights is None:
        weights, first_weights = _fitted(levels_XYZ, range(8)), _fitted(levels_XYZ, IN_PLANE)
    blocks = tuple(
        _packed_block(levels_XYZ[..., start : start + BLOCK_PLANES], offsets, (first_weights, weights))
        for start in range(0, z, BLOCK_PLANES)
    )
    return Packed(blocks, (x, y, z), weights, first_weights)


def _packed_block(block_XYZ: np.ndarray, offsets: Sequence[int], weights: tuple[Weights, Weights]) -> str:
    levels_V = block_XYZ.ravel(order="F").astype(np.int32)
    plane = block_XYZ.shape[0] * block_XYZ.shape[1]
    folded_V = _folded(
        np.concatenate(
            [
                levels_V[:plane] - _predicted(levels_V[:plane], offsets, weights[0]),
                (levels_V - _predicted(levels_V, offsets, weights[1]))[plane:],
            ]
        )
    )
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1, STRATEGY)
    parts = [
        packer.compress((folded_V & 255).astype(np.uint8).data),
        packer.compress((folded_V >> 8).astype(np.uint8).data),
    ]
    return base64.b64encode(b"".join([*parts, packer.flush()])).decode("ascii")


def _before(levels_V: np.ndarray, offset: int) -> np.ndarray:
    """The voxel so many places before each; 0 where there is none."""
    if offset == 0:  # a volume one voxel wide has no neighbour ahead
        return np.zeros_like(levels_V)
    return np.concatenate([np.zeros(min(offset, len(levels_V)), levels_V.dtype), levels_V[:-offset]])


def _fitted(levels_XYZ: np.ndarray, used: Sequence[int]) -> Weights:
    """Weights of least squared differences; 0 for neighbours that are not used."""
    levels_V, offsets = levels_XYZ.ravel(order="F"), neighbours(levels_XYZ.shape)
    step = max(1, len(levels_V) // FITTED_ON) | 1  # odd: else only every other column would count
    known_VN = np.stack([_before(levels_V, offsets[n])[::step] for n in used], axis=1).astype(np.float64)
    weights_N = np.zeros(len(offsets))
    weights_N[list(used)] = np.linalg.lstsq(known_VN, levels_V[::step].astype(np.float64), rcond=None)[0]
    return tuple(int(weight) for weight in np.rint(np.clip(weights_N, -4, 4) * UNIT))


def _predicted(levels_V: np.ndarray, offsets: Sequence[int], weights: Weights) -> np.ndarray:
    total_V = np.full(len(levels_V), ROUNDING, np.int32)
    for offset, weight in zip(offsets, weights, strict=True):
        if offset and weight:
            total_V[offset:] += weight * levels_V[: max(0, len(levels_V) - offset)]
    return np.clip(total_V >> 8, 0, MOST_LEVEL)


def _folded(difference_V: np.ndarray) -> np.ndarray:
    return np.where(difference_V < 0, -2 * difference_V - 1, 2 * difference_V)
