"""Wiener interpolation against a Gaussian-process posterior mean built densely, and its known limits.

Axes: I measured samples, F fine samples of one axis or (as Kronecker products) of the whole tiny volume.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch.testing import assert_close

from moediff.acquisition.operators import assumed_sampling
from moediff.acquisition.wiener import (
    CORRELATION_VOX,
    NOISE_FLOOR,
    VARIANCE,
    axis_model,
    detail_variance,
    wiener,
)
from moediff.core.config import rng_for
from moediff.core.resample import apply_axes, interpolation_matrix, low_pass_matrix, sample_positions


def positions_of(n_in: int, factor: float, n_out: int | None = None):
    """Target voxels that cut the field of view into voxels `factor` times finer, first outer faces together."""
    return sample_positions(n_out or round(n_in * factor), 1 / factor, (1 / factor - 1) / 2)


def dense_axis(n_in: int, positions, profile: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prior covariance [F, F], acquisition [I, F] and rows [O] of the target among the fine samples."""
    step = positions[1] - positions[0]
    lattice = positions[0] + step * np.arange(-400, 400)
    fine = lattice[(lattice >= -0.5 - 1e-9) & (lattice <= n_in - 0.5 + 1e-9)]
    measured = np.arange(n_in)
    prior, acquire = np.zeros((len(fine), len(fine))), np.zeros((n_in, len(fine)))
    for f, at in enumerate(fine):
        for image in (at, -1 - at, 2 * n_in - 1 - at):  # the line is mirrored about both outer faces
            prior[:, f] += np.exp(-np.abs(fine - image) / (CORRELATION_VOX * step))
            if profile == "gaussian":
                acquire[:, f] += np.exp(-4 * np.log(2) * (measured - image) ** 2)
        if profile != "gaussian":  # keep the cosines below the Nyquist frequency of the measured line
            waves = (
                np.cos(np.pi * k * (measured + 0.5) / n_in) * np.cos(np.pi * k * (at + 0.5) / n_in)
                for k in range(1, n_in)
            )
            acquire[:, f] = 1 + 2 * sum(waves)
    acquire /= acquire.sum(1, keepdims=True)
    return prior, acquire, np.array([int(np.argmin(np.abs(fine - p))) for p in positions])


def dense_posterior_mean(data: np.ndarray, positions, profiles, noise: float) -> np.ndarray:
    """x = C A' (A C A' + noise^2 I)^-1 y over all voxels at once."""
    axes = [dense_axis(n, p, kind) for n, p, kind in zip(data.shape, positions, profiles, strict=True)]
    prior, acquire = (
        VARIANCE * np.kron(np.kron(axes[0][0], axes[1][0]), axes[2][0]),
        np.kron(np.kron(axes[0][1], axes[1][1]), axes[2][1]),
    )
    cross = prior @ acquire.T
    seen = acquire @ cross + noise**2 * np.eye(data.size)
    fine = (cross @ np.linalg.solve(seen, data.ravel())).reshape([len(a[0]) for a in axes])
    return fine[np.ix_(*(a[2] for a in axes))]


CASES = {
    "thick_slices": ((4, 3, 4), (1, 1, 3), ("none", "none", "gaussian")),
    "truncated": ((4, 5, 3), (1.5, 1.5, 1.5), ("truncate", "truncate", "truncate")),
    "mixed": ((3, 4, 3), (1.25, 1, 3), ("truncate", "none", "gaussian")),
    "two_coarse_axes": ((3, 2, 3), (2.5, 1, 3), ("truncate", "none", "truncate")),
}


@pytest.mark.parametrize("noise", [0.005, 0.1])
@pytest.mark.parametrize(("shape", "factors", "profiles"), CASES.values(), ids=CASES.keys())
def test_wiener_is_the_posterior_mean_of_a_gaussian_field(shape, factors, profiles, noise):
    data = np.random.default_rng(1).normal(0.5, 0.3, shape)
    positions = tuple(positions_of(n, f) for n, f in zip(shape, factors, strict=True))
    assert tuple(axis.method for axis in assumed_sampling(positions)) == profiles
    found = wiener(torch.from_numpy(data).float(), positions, noise)
    np.testing.assert_allclose(found.numpy(), dense_posterior_mean(data, positions, profiles, noise), atol=2e-3)


def test_noise_below_the_floor_counts_as_the_floor():
    data = torch.rand(4, 4, 4, generator=rng_for(0))
    positions = (positions_of(4, 2),) * 3
    assert torch.equal(wiener(data, positions, 0.0), wiener(data, positions, NOISE_FLOOR))


def test_without_noise_a_native_grid_returns_the_data():
    data = torch.rand(9, 8, 7, generator=rng_for(1))
    own = tuple(positions_of(n, 1) for n in data.shape)
    assert_close(wiener(data, own, 0.0), data, atol=2e-3, rtol=0)


def test_without_noise_the_measurement_is_met_again():
    """A (posterior mean) = y where the noise vanishes: slice-averaging the result gives the slices back."""
    data = torch.rand(6, 6, 5, generator=rng_for(2))
    positions = (positions_of(6, 1), positions_of(6, 1), positions_of(5, 4))
    fine = wiener(data, positions, 0.0)
    acquire = torch.from_numpy(dense_axis(5, positions[2], "gaussian")[1]).float()
    assert_close(fine @ acquire.T, data, atol=0.01, rtol=0)


@pytest.mark.parametrize("factors", [(1, 1, 4), (2, 2, 2), (1.3, 1, 5)])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_constant_stays_constant(factors, noise):
    positions = tuple(positions_of(20, f) for f in factors)
    found = wiener(torch.full((20, 20, 20), 0.7), positions, noise)
    assert_close(found, torch.full([len(p) for p in positions], 0.7), atol=0.007, rtol=0)  # 1 %


def test_more_noise_smooths_more():
    data = torch.randn(16, 16, 8, generator=rng_for(3))
    positions = (positions_of(16, 1), positions_of(16, 1), positions_of(8, 3))
    energy = [float(wiener(data, positions, noise).square().mean()) for noise in (0.0, 0.05, 0.1, 0.2, 0.4)]
    assert all(more < less for less, more in itertools.pairwise(energy))
    assert energy[-1] < 0.5 * energy[0]


@pytest.mark.parametrize("seed", range(4))
def test_it_comes_nearer_to_a_smooth_field_behind_thick_slices_than_cubic(seed):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(24, 24, 48)), 1.2, mode="reflect")
    field = 0.5 + 0.2 * field / field.std()
    seen = ndimage.gaussian_filter1d(field, 4 / 2.3548, axis=2, mode="reflect")
    # slice centres lie between fine samples: average the two neighbours
    low = (seen[..., 1::4] + seen[..., 2::4]) / 2 + rng.normal(0, 0.005, (24, 24, 12))
    positions = (positions_of(24, 1), positions_of(24, 1), positions_of(12, 4))
    data, truth = torch.from_numpy(low).float(), torch.from_numpy(field).float()
    cubic = apply_axes(data, [None, None, interpolation_matrix(12, positions[2], "cubic")])
    errors = [float((x - truth).square().mean().sqrt()) for x in (wiener(data, positions, 0.005), cubic)]
    assert errors[0] < 0.97 * errors[1]


def test_a_coarser_target_is_read_below_its_own_nyquist():
    """Nothing to undo; interpolation alone would alias."""
    data = torch.rand(12, 12, 12, generator=rng_for(4))
    shares = (0.5, 0.75, 0.6)
    positions = tuple(positions_of(12, f) for f in shares)
    expected = apply_axes(data, [low_pass_matrix(12, p, 12 * f) for p, f in zip(positions, shares, strict=True)])
    assert_close(wiener(data, positions, 0.0), expected, atol=1e-4, rtol=0)


def test_a_single_slice_is_repeated():
    data = torch.rand(8, 8, 1, generator=rng_for(5))
    own = positions_of(8, 1)
    found = wiener(data, (own, own, (-0.25, 0.25)), 0.0)
    assert_close(found, data.expand(-1, -1, 2), atol=2e-3, rtol=0)


@given(st.data())
def test_a_sub_box_of_the_target_is_cut_from_the_whole(data):
    shape, factors = (6, 7, 5), (1.5, 1.0, 3.0)
    scan = torch.rand(shape, generator=rng_for(6))
    whole = tuple(positions_of(n, f) for n, f in zip(shape, factors, strict=True))
    box = []
    for p in whole:
        start = data.draw(st.integers(0, len(p) - 2))
        box.append(slice(start, data.draw(st.integers(start + 2, len(p)))))
    part = tuple(p[s] for p, s in zip(whole, box, strict=True))
    assert_close(wiener(scan, part, 0.02), wiener(scan, whole, 0.02)[tuple(box)], atol=1e-4, rtol=0)


def test_mirrored_data_give_the_mirrored_result():
    data = torch.rand(6, 6, 5, generator=rng_for(7))
    positions = (positions_of(6, 1), positions_of(6, 2), positions_of(5, 3))
    assert_close(wiener(data.flip(1, 2), positions, 0.02), wiener(data, positions, 0.02).flip(1, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_detail_of_a_draw_from_the_prior_is_the_priors_variance(noise):
    positions = (positions_of(40, 1), positions_of(40, 1), positions_of(8, 5))
    sampling = assumed_sampling(positions)
    models = [axis_model(n, p, axis) for n, p, axis in zip((40, 40, 8), positions, sampling, strict=True)]
    x, y, z = (model.power_P for model in models)
    drawn = torch.randn(40, 40, 8, generator=rng_for(8)) * (VARIANCE * x[:, None, None] * y[:, None] * z).sqrt()
    scan = apply_axes(drawn, [model.into.T.contiguous() for model in models])
    grain = noise * torch.randn(scan.shape, generator=rng_for(9))
    assert detail_variance(scan + grain, positions, noise) == pytest.approx(VARIANCE, rel=0.05)
    assert abs(detail_variance(grain, positions, noise)) < 0.05 * VARIANCE
