"""Estimate of a scan's sampling from its spectrum: does an axis show a scanner's filter or zero-filling?

Heads have much the same power spectrum along a line, up to a factor and a slope. A window over k-space lowers its upper
end far below that, and zero-filling leaves nothing there but noise. Both show in every head that was tried;
averaging over voxels (box, bicubic, Gaussian) does not: it changes the spectrum by less than heads differ
(benchmarks/sampling_estimate.py; LOG.md, 2026-11-30).

Axes: X Y Z voxels, F bands of frequency, N lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from moediff.acquisition.operators import assumed_sampling
from moediff.acquisition.point_spread import PROFILES, WINDOWS, Sampling, Samplings
from moediff.core.resample import Positions

BANDS = 16  # of equal width, up to the Nyquist frequency
# Natural logarithm of the mean power in each, of seven training heads cut to 2 mm by k-space truncation; its zero is
# the mean of bands 1 to 4.
LOG_POWER = (
    1.8, 0.81, 0.14, -0.29, -0.66, -0.98, -1.29, -1.58, -1.83, -2.08, -2.32, -2.52, -2.71, -2.9, -3.05, -3.29,
)  # fmt: skip
BEYOND = -3.0  # power of frequency that the spectrum falls by above the Nyquist frequency, which is aliased back
SLOPES = tuple(np.arange(-1.0, 1.01, 0.25).tolist())  # powers of frequency by which a head may differ from LOG_POWER
NOISE_SHARES = (0.0, 0.003, 0.03, 0.1, 0.3, 0.6, 1.0)  # of the estimated noise power, which structure may have raised
LOW = slice(1, 6)  # bands that fix the factor
FLOOR = 3e-5  # of the power of band 1: below it nothing counts
LARGEST = 3.0  # difference of logarithms that counts
WORST_FIT, LEAST_ADVANTAGE = 0.5, 0.75  # RMS of a window's fit; RMS over that of the best fit without a window
EXPLAINED = 0.14  # RMS of a fit without a window that leaves nothing to explain
MINIMUM_SAMPLES, MINIMUM_LINES = 32, 100
TISSUE, INSIDE = 0.2, 0.3  # scaled intensity; share of a line that is tissue
PLAIN = (*(Sampling(name, w) for name in PROFILES for w in (0.8, 1.0, 1.3)), Sampling("truncate"))
WIDTHS = tuple(round(1 + 0.1 * k, 2) for k in range(9))
WINDOWED = tuple(Sampling(name, w) for name in WINDOWS for w in WIDTHS if name != "truncate" or w > 1)


@dataclass(frozen=True)
class Fit:
    """How well a sampling explains a spectrum: RMS difference of logarithms."""

    rms: float
    sampling: Sampling


def line_power(scaled_XYZ: Tensor, axis: int) -> np.ndarray | None:
    """Mean power [F] of lines along an axis inside the head, under a Hann window; white noise has its variance.

    Returns:
        None where lines are too short or too few.
    """
    n = scaled_XYZ.shape[axis]
    lines_XYn = scaled_XYZ.movedim(axis, -1).float()
    share_XY = (lines_XYn > TISSUE).float().mean(-1)
    lines_Nn = lines_XYn[share_XY >= INSIDE]
    if n < MINIMUM_SAMPLES or len(lines_Nn) < MINIMUM_LINES:
        return None
    window = torch.hann_window(n, periodic=False, device=lines_Nn.device)
    lines_Nn = (lines_Nn - lines_Nn.mean(-1, keepdim=True)) * window
    power = (torch.fft.rfft(lines_Nn).abs().square().mean(0) / window.square().sum()).double().cpu().numpy()
    band = np.ceil(np.fft.rfftfreq(n) * 2 * BANDS - 1e-9).astype(int) - 1  # frequency 0 belongs to none
    return np.array([power[band == f].mean() for f in range(BANDS)])


@lru_cache(maxsize=128)
def _expected(sampling: Sampling) -> np.ndarray:
    """Power spectra [slopes, F] of heads under a sampling, without noise."""
    cycles_F = (np.arange(BANDS) + 0.5) / (2 * BANDS)
    mirror_F = 1 - cycles_F
    above_F = LOG_POWER[-1] + BEYOND * np.log(mirror_F / cycles_F[-1])
    slope = np.asarray(SLOPES)[:, None]
    own = np.exp(np.asarray(LOG_POWER) + slope * np.log(cycles_F / cycles_F[3])) * sampling.transfer(cycles_F) ** 2
    if sampling.method in WINDOWS:
        return own
    aliased = np.exp(above_F + slope * np.log(mirror_F / cycles_F[3])) * sampling.transfer(mirror_F) ** 2
    return own + aliased


def fit(power_F: np.ndarray, noise: float, sampling: Sampling) -> Fit:
    """How well this sampling explains a spectrum, with the slope and the noise that suit it best."""
    least, floor = 9.0, FLOOR * power_F[1]
    for noise_power in (*(share * noise**2 for share in NOISE_SHARES), float(power_F.min())):
        signal = np.log(np.maximum(power_F[LOW] - noise_power, 1e-3 * power_F[LOW]))
        for expected_F in _expected(sampling):
            factor = np.exp((signal - np.log(expected_F[LOW] + 1e-30)).mean())
            gap = np.log(factor * expected_F + noise_power + floor) - np.log(power_F + floor)
            least = min(least, float(np.sqrt(np.square(gap[1:].clip(-LARGEST, LARGEST)).mean())))
    return Fit(least, sampling)


def estimate_axis(power_F: np.ndarray, noise: float) -> Sampling | None:
    """The window that an axis's spectrum shows; None where one without a window explains it as well."""
    plain = min((fit(power_F, noise, one) for one in PLAIN), key=lambda one: one.rms)
    if plain.rms < EXPLAINED:
        return None
    windowed = min((fit(power_F, noise, one) for one in WINDOWED), key=lambda one: one.rms)
    clear = windowed.rms < WORST_FIT and windowed.rms < LEAST_ADVANTAGE * plain.rms
    return windowed.sampling if clear else None


def estimated_sampling(
    scaled_XYZ: Tensor,
    positions: tuple[Positions, Positions, Positions],
    noise: float,
    spacing_mm: Sequence[float] | None = None,
) -> Samplings | None:
    """How every axis was sampled, where a coarse axis in the plane shows a window; None where none does.

    Args:
        scaled_XYZ: the scan, the brain's median at 0.5.
        positions: per axis, where target voxels lie in measured voxels.
        noise: its noise sigma, scaled.
        spacing_mm: its voxel size, as in `assumed_sampling`.
    """
    sampling = list(assumed_sampling(positions, spacing_mm))
    windows = {}
    for axis, assumed in enumerate(sampling):
        if assumed.method == "truncate" and (power_F := line_power(scaled_XYZ, axis)) is not None:
            windows[axis] = estimate_axis(power_F, noise)
    if not any(windows.values()):
        return None
    x, y, z = (windows.get(axis) or assumed for axis, assumed in enumerate(sampling))
    return x, y, z
