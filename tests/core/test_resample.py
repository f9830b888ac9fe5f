"""Axis matrices against scipy's splines, the Fourier transform, and constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.core.errors import GeometryError
from moediff.core.resample import (
    KERNELS,
    antialiased_matrix,
    apply_axes,
    interpolation_matrix,
    low_pass,
    low_pass_matrix,
    sample_positions,
    transposed,
)

ORDERS = {"linear": 1, "cubic": 3, "spline5": 5}
LINE = np.random.default_rng(0).normal(size=23)


def truncation(n: int, kept: int) -> torch.Tensor:
    """k-space truncation from n to `kept` samples over the same field of view."""
    return low_pass_matrix(n, sample_positions(kept, n / kept, (n / kept - 1) / 2), float(kept))


def read(line: np.ndarray, at: np.ndarray, kernel: str) -> np.ndarray:
    return interpolation_matrix(len(line), tuple(at.tolist()), kernel).double().numpy() @ line


def wave(n: int, harmonic: int, at: np.ndarray) -> np.ndarray:
    """A cosine that is even about both outer faces of n samples; the basis of the mirrored line."""
    return np.cos(np.pi * harmonic * (at + 0.5) / n)


@pytest.mark.parametrize(("kernel", "order"), ORDERS.items(), ids=ORDERS.keys())
def test_splines_equal_scipy_with_mirrored_ends(kernel, order):
    at = np.linspace(0, len(LINE) - 1, 97)
    if order > 1:
        at = np.concatenate([[-0.5, -0.25], at, [len(LINE) - 0.6, len(LINE) - 0.5]])
    expected = ndimage.map_coordinates(LINE, at[None], order=order, mode="mirror")
    np.testing.assert_allclose(read(LINE, at, kernel), expected, atol=2e-6)


@given(st.integers(2, 40), st.floats(0.05, 0.95), st.sampled_from(["cubic", "spline5"]), st.integers(0, 99))
def test_splines_equal_scipy_for_any_length(n, part, kernel, seed):
    line = np.random.default_rng(seed).normal(size=n)
    at = np.append(np.arange(n - 1) + part, n - 1.0)
    expected = ndimage.map_coordinates(line, at[None], order=ORDERS[kernel], mode="mirror")
    np.testing.assert_allclose(read(line, at, kernel), expected, atol=1e-5)


def test_cubic_zoom_of_a_volume_equals_scipy():
    data = np.random.default_rng(1).normal(size=(6, 7, 8))
    expected = ndimage.zoom(data, 3, order=3, mode="mirror")  # scipy puts the first and last samples in place
    matrices = [interpolation_matrix(n, tuple(np.linspace(0, n - 1, 3 * n).tolist()), "cubic") for n in data.shape]
    np.testing.assert_allclose(apply_axes(torch.from_numpy(data), matrices).numpy(), expected, atol=1e-5)


def test_outside_the_field_of_view_the_edge_value_continues():
    far = np.array([-0.5, -3.0, -40.0])
    for kernel in ("cubic", "spline5", "lanczos"):
        found = read(LINE, far, kernel)
        np.testing.assert_allclose(found[1:], found[0], atol=1e-9)
        assert abs(found[0] - LINE[0]) < abs(LINE[0] - LINE[1])  # near the first sample, by no means zero
    np.testing.assert_allclose(read(LINE, np.array([-0.5, -9.0, 30.0]), "linear"), LINE[[0, 0, -1]], atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@given(n=st.integers(1, 48), step=st.floats(0.1, 3), start=st.floats(-0.4, 2))
def test_rows_sum_to_one(kernel, n, step, start):
    count = max(1, int((n - 1 - start) / step))
    matrix = interpolation_matrix(n, sample_positions(count, step, start), kernel)
    assert matrix.shape == (count, n)
    assert_close(matrix.double().sum(1), torch.ones(count, dtype=torch.float64), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_measured_samples_are_kept(kernel):
    assert_close(interpolation_matrix(19, sample_positions(19, 1.0, 0.0), kernel), torch.eye(19), atol=1e-6, rtol=0)


@pytest.mark.parametrize("harmonic", [0, 1, 5, 13, 19])
def test_zero_fill_reproduces_a_band_limited_cosine(harmonic):
    at = np.linspace(-0.5, 19.5, 77)
    np.testing.assert_allclose(
        read(wave(20, harmonic, np.arange(20)), at, "zero-fill"), wave(20, harmonic, at), atol=2e-6
    )


@given(st.integers(2, 30), st.integers(2, 6), st.integers(0, 99))
def test_zero_fill_equals_fft_zero_filling_of_the_mirrored_line(n, factor, seed):
    line = np.random.default_rng(seed).normal(size=n)
    spectrum = np.fft.rfft(np.concatenate([line, line[::-1]]))
    spectrum[-1] = 0  # a mirrored line holds nothing at its Nyquist frequency
    filled = np.fft.irfft(spectrum, 2 * n * factor) * factor
    found = read(line, np.arange((n - 1) * factor + 1) / factor, "zero-fill")
    np.testing.assert_allclose(found, filled[: (n - 1) * factor + 1], atol=1e-5)


@given(st.integers(8, 60), st.data())
def test_truncation_then_zero_fill_keeps_the_band_and_drops_the_rest(n, data):
    kept = data.draw(st.integers(2, n - 2))
    low, high = data.draw(st.integers(0, kept - 1)), data.draw(st.integers(kept + 1, n - 1))
    back = interpolation_matrix(kept, sample_positions(n, kept / n, (kept / n - 1) / 2), "zero-fill").double()
    both = (back @ truncation(n, kept).double()).numpy()
    at = np.arange(n)
    np.testing.assert_allclose(both @ wave(n, low, at), wave(n, low, at), atol=1e-5)
    np.testing.assert_allclose(both @ wave(n, high, at), 0, atol=1e-5)


def test_truncation_samples_lie_at_the_centres_of_their_voxels():
    found = truncation(24, 8).double().numpy() @ wave(24, 3, np.arange(24))
    np.testing.assert_allclose(found, wave(8, 3, np.arange(8)), atol=1e-6)


def test_a_harmonic_on_the_kept_nyquist_counts_half():
    matrix = low_pass_matrix(24, sample_positions(24, 1.0, 0.0), 8.0).double().numpy()
    np.testing.assert_allclose(matrix @ wave(24, 8, np.arange(24)), wave(24, 8, np.arange(24)) / 2, atol=1e-6)


def test_apply_axes_equals_einsum_and_leaves_out_none():
    rng = np.random.default_rng(2)
    data = torch.from_numpy(rng.normal(size=(5, 6, 7)))
    a, b, c = (torch.from_numpy(rng.normal(size=s)) for s in ((9, 5), (2, 6), (7, 7)))
    assert_close(apply_axes(data, (a, b, c)), torch.einsum("xyz,ax,by,cz->abc", data, a, b, c))
    assert_close(apply_axes(data, (None, b, None)), torch.einsum("xyz,by->xbz", data, b))
    assert torch.equal(apply_axes(data, (None, None, None)), data)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.bool])
def test_whole_numbers_are_weighed_as_float32(dtype):
    data = torch.randint(0, 2 if dtype == torch.bool else 100, (4, 5, 6), generator=rng_for(0)).to(dtype)
    weights = [torch.full((3, n), 0.25) for n in data.shape]
    assert torch.equal(apply_axes(data, weights), apply_axes(data.float(), weights))
    assert float(apply_axes(data, weights).mean()) > 0


def test_low_pass_is_its_sum_of_cosines():
    gap = np.linspace(-3, 39.5, 300)
    for kept in (5.0, 7.3, 20.0, 0.4):
        waves = [(0.5 if k == kept else 1) * np.cos(np.pi * k * gap / 20) for k in range(1, int(kept) + 1)]
        np.testing.assert_allclose(low_pass(gap, kept, 40), 1 + 2 * sum(waves), atol=1e-10)
    assert low_pass(np.zeros(1), 8.0, 40)[0] == 16 and low_pass(np.array([40.0]), 8.5, 40)[0] == 17


def test_transposed_matrices_are_the_adjoint():
    matrices = [torch.rand(3, 5, generator=rng_for(1)), None, torch.rand(9, 7, generator=rng_for(2))]
    x, y = torch.rand(5, 6, 7, generator=rng_for(3)), torch.rand(3, 6, 9, generator=rng_for(4))
    assert_close((apply_axes(x, matrices) * y).sum(), (x * apply_axes(y, transposed(matrices))).sum())


def test_apply_axes_takes_leading_batch_axes():
    rng = np.random.default_rng(3)
    data = torch.from_numpy(rng.normal(size=(2, 3, 4, 5, 6)))
    a, b, c = (torch.from_numpy(rng.normal(size=s)) for s in ((3, 4), (8, 5), (2, 6)))
    assert_close(apply_axes(data, (a, b, c)), torch.einsum("ijxyz,ax,by,cz->ijabc", data, a, b, c))


def test_sample_positions_known_answer():
    assert sample_positions(4, 0.5, -0.25) == (-0.25, 0.25, 0.75, 1.25)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(GeometryError, match="'sinc'; choose from linear, cubic, spline5, lanczos, zero-fill"):
        interpolation_matrix(5, (0.0,), "sinc")


def test_reading_is_interpolation_unless_the_target_is_coarser():
    for step in (0.3, 1.0):
        at = sample_positions(20, step, 0.1)
        assert antialiased_matrix(23, at, "cubic") is interpolation_matrix(23, at, "cubic")
    coarse = sample_positions(8, 3.0, 1.0)
    assert torch.equal(antialiased_matrix(24, coarse, "cubic"), truncation(24, 8))
    beyond = antialiased_matrix(24, sample_positions(12, 3.0, -5.0), "cubic")
    assert torch.equal(beyond[0], beyond[1]) and torch.equal(beyond[-1], beyond[-2])


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_no_weight_is_so_small_that_processors_slow_down(kernel):
    matrix = interpolation_matrix(300, sample_positions(600, 0.5, -0.25), kernel)
    assert not bool(((matrix != 0) & (matrix.abs() < torch.finfo(torch.float32).tiny)).any())
    assert_close(matrix.sum(1), torch.ones(600))
