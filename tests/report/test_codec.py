"""Packed volumes come back as they were; the decoder here is written from the format's description, voxel by voxel."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from moediff.report.codec import LEFT, MOST_LEVEL, Packed, neighbours, pack


def unpacked(packed: Packed) -> np.ndarray:
    """What the page's script does."""
    x, y, z = packed.shape
    blocks = [unpacked_block(packed, text) for text in packed.text.split(" ")]
    return np.concatenate(blocks).reshape((x, y, z), order="F")


def unpacked_block(packed: Packed, text: str) -> np.ndarray:
    stored = zlib.decompress(base64.b64decode(text))
    count, plane = len(stored) // 2, packed.shape[0] * packed.shape[1]
    levels = [0] * count
    for i in range(count):
        before = [levels[i - back] if 0 < back <= i else 0 for back in neighbours(packed.shape)]
        weights = packed.first_weights if i < plane else packed.weights
        total = sum(weight * level for weight, level in zip(weights, before, strict=True))
        folded = stored[i] + 256 * stored[count + i]
        difference = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        levels[i] = min(max((total + 128) // 256, 0), MOST_LEVEL) + difference
    return np.array(levels)


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 4, 3), (2, 1, 1), (1, 1, 1), (9, 2, 5), (4, 3, 37)])
@pytest.mark.parametrize("most", [1, 255, MOST_LEVEL])
def test_every_level_comes_back_whatever_the_shape(shape, most):
    levels = np.random.default_rng(3).integers(0, most + 1, shape)
    levels.flat[0], levels.flat[-1] = most, 0
    assert np.array_equal(unpacked(pack(levels)), levels)
    assert np.array_equal(unpacked(pack(levels, LEFT)), levels)


def test_a_smooth_scan_packs_into_less_than_half_of_zlib_alone():
    x, y, z = np.meshgrid(*(np.linspace(0, 3, 40),) * 3, indexing="ij")
    levels = np.rint(500 + 400 * np.sin(x) * np.cos(y) * np.sin(z + x)).astype(np.int32)
    plain = len(base64.b64encode(zlib.compress(levels.astype("<u2").tobytes(order="F"), 9)))
    assert len(pack(levels).text) < 0.5 * plain


def test_labels_that_run_on_take_hardly_any_room():
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[20:40, 10:50, 5:55] = 3
    assert len(pack(labels, LEFT).text) < 0.05 * labels.size
