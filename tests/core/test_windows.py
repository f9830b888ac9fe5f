"""Windows against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.core.resample import apply_axes
from moediff.core.windows import gaussian_blur, gaussian_matrix, moments, tap_matrix, tiles


@pytest.mark.parametrize("n", [3, 9, 20])
def test_taps_mirror_like_scipy(n):
    line = torch.rand(n, generator=rng_for(0, n))
    taps = torch.tensor([0.5, -1.0, 2.0, 0.25, 3.0])
    expected = ndimage.correlate1d(line.numpy(), taps.numpy(), mode="reflect")
    assert_close(tap_matrix(n, taps, -2) @ line, torch.from_numpy(expected))


def test_gaussian_windows_equal_scipy():
    data = torch.rand((12, 13, 14), generator=rng_for(0))
    ours = apply_axes(data, [gaussian_matrix(n, 1.5, 5) for n in data.shape])
    theirs = ndimage.gaussian_filter(data.numpy(), 1.5, radius=5, mode="reflect")
    assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=0)


def test_tiles_together_equal_the_whole(monkeypatch):
    monkeypatch.setattr("moediff.core.windows.TILE_VOX", 9)
    data = torch.rand((25, 9, 14), generator=rng_for(0))
    mask = torch.ones(data.shape, dtype=torch.bool)
    mask[8:16] = False  # the second layer of tiles holds nothing
    whole = apply_axes(data, [gaussian_matrix(n, 1.5, 5) for n in data.shape])
    seen = torch.zeros(data.shape, dtype=torch.int32)
    for tile in tiles(mask, 1.5, 5):
        assert max(data[tile.inner].shape) <= 9
        assert_close(apply_axes(data[tile.outer], tile.windows), whole[tile.inner], atol=1e-5, rtol=0)
        seen[tile.inner] += 1
    assert torch.equal(seen, mask.int())  # every voxel once, and none in vain


def test_moments_of_a_scaled_copy():
    x = torch.rand((12, 12, 12), generator=rng_for(0))
    m = moments(x, 3 * x + 2, [gaussian_matrix(12, 1.5, 5)] * 3)
    assert_close(m.mean_y, 3 * m.mean_x + 2)
    assert_close(m.variance_y, 9 * m.variance_x, atol=2e-5, rtol=0)
    assert_close(m.covariance, 3 * m.variance_x, atol=1e-5, rtol=0)
    assert np.all(m.variance_x.numpy() > 0)


def test_a_blur_keeps_constants_and_sums_and_has_a_gaussian_ratio():
    assert torch.allclose(gaussian_blur(torch.full((6, 7, 8), 2.5), 0.6, 2), torch.full((6, 7, 8), 2.5))
    impulse = torch.zeros(9, 9, 9)
    impulse[4, 4, 4] = 1
    blurred = gaussian_blur(impulse, 0.7, 2)
    assert float(blurred.sum()) == pytest.approx(1)
    for axis in range(3):
        line = blurred.movedim(axis, 0)[:, 4, 4]
        assert float(line[5] / line[4]) == pytest.approx(2.718281828 ** (-0.5 / 0.49), rel=1e-4)
        assert float(line[3]) == pytest.approx(float(line[5])) and float(line[7]) == 0


def test_a_blur_equals_scipy_with_repeated_edges():
    data = torch.rand((9, 8, 7), generator=rng_for(1))
    expected = ndimage.gaussian_filter(data.numpy(), 1.1, radius=4, mode="nearest")
    assert_close(gaussian_blur(data, 1.1, 4), torch.from_numpy(expected), atol=1e-6, rtol=0)
