"""Point spread of one axis: how a sampled value gathers what lies around it, by a profile or a window over k-space.

A profile is a weight by distance (a thick slice, the mean over a voxel, the kernel of a resampling tool). A window is a
weight by spatial frequency, and nothing above a cutoff (k-space truncation, a scanner's filters). Widths count in
measured voxels: that of a profile, or for a window the voxel that was acquired over the one that was reconstructed,
which zero-filling makes smaller (1: not zero-filled).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from moediff.core.errors import ConfigError

FWHM = 2.3548  # full width at half maximum of a Gaussian, in standard deviations
KEYS = -0.5  # slope of the bicubic kernel; Keys 1981
NARROWEST, WIDEST = 0.3, 2.0  # widths
FREQUENCIES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)  # cycles per measured voxel at which `attenuation` is read
INTEGRATION = 64  # samples a voxel of a profile whose transfer has no closed form


def gaussian_profile(gap_vox: np.ndarray, width_vox: float) -> np.ndarray:
    """A Gaussian slice profile whose full width at half maximum is `width_vox`."""
    return np.exp(-0.5 * (gap_vox * FWHM / width_vox) ** 2)


def box_profile(gap_vox: np.ndarray, width_vox: float) -> np.ndarray:
    """The share of a voxel that lies in a slice with sharp faces."""
    return np.clip(width_vox / 2 + 0.5 - gap_vox, 0, 1)


def bicubic_profile(gap_vox: np.ndarray, width_vox: float) -> np.ndarray:
    """The cubic convolution kernel stretched to `width_vox`, as tools resample images to fewer voxels (Keys 1981)."""
    gap = np.abs(gap_vox) / width_vox
    inner = (KEYS + 2) * gap**3 - (KEYS + 3) * gap**2 + 1
    outer = KEYS * (gap**3 - 5 * gap**2 + 8 * gap - 4)
    return np.where(gap <= 1, inner, np.where(gap < 2, outer, 0.0))


@dataclass(frozen=True)
class Profile:
    """Weights by distance, for a width in fine voxels, and how many widths they reach."""

    weight: Callable[[np.ndarray, float], np.ndarray]
    reach: float


PROFILES = {
    "gaussian": Profile(gaussian_profile, 1.5),
    "box": Profile(box_profile, 1.5),
    "bicubic": Profile(bicubic_profile, 2.0),
}


def _flat(share: np.ndarray) -> np.ndarray:
    return np.ones_like(share)


def _hamming(share: np.ndarray) -> np.ndarray:
    return 0.54 + 0.46 * np.cos(np.pi * share)


def _tukey(share: np.ndarray) -> np.ndarray:
    """Flat up to half of the cutoff, then half a cosine down to 0."""
    return 0.5 * (1 + np.cos(np.pi * (2 * share - 1).clip(0, 1)))


def _fermi(share: np.ndarray) -> np.ndarray:
    """Half at 0.85 of the cutoff, over a width of 0.08."""
    return 1 / (1 + np.exp((share - 0.85) / 0.08))


# Weights by the share of the cutoff frequency, 0..1; above 1 there is nothing.
WINDOWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "truncate": _flat,
    "hamming": _hamming,
    "tukey": _tukey,
    "fermi": _fermi,
}
NAMES = {
    "none": "none",
    "gaussian": "gaussian slice profile",
    "box": "box slice profile",
    "bicubic": "bicubic kernel",
    "truncate": "k-space truncation",
    "hamming": "k-space with a Hamming window",
    "tukey": "k-space with a Tukey window",
    "fermi": "k-space with a Fermi window",
}
METHODS = tuple(NAMES)


@dataclass(frozen=True)
class Sampling:
    """How one axis was sampled.

    Args:
        method: a key of NAMES.
        width: in measured voxels, NARROWEST..WIDEST; of a window at least 1 counts.

    Raises:
        ConfigError: a value is out of range.
    """

    method: str = "none"
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in NAMES:
            raise ConfigError(f"sampling {self.method!r} is unknown; choose from {', '.join(NAMES)}")
        if not NARROWEST <= self.width <= WIDEST:
            raise ConfigError(f"the width {self.width} of a sampling must lie in {NARROWEST}..{WIDEST} measured voxels")

    @property
    def words(self) -> str:
        """For records and people."""
        name = NAMES[self.method]
        if self.method == "none" or abs(self.width - 1) < 1e-6:
            return name
        return (
            f"{name}, {self.width:.2f} voxels wide"
            if self.method in PROFILES
            else f"{name}, zero-filled by {self.width:.2f}"
        )

    @property
    def code(self) -> str:
        """NAME:WIDTH, as `parse_sampling` reads it."""
        return f"{self.method}:{self.width:.6g}"

    def transfer(self, cycles: Sequence[float] | np.ndarray) -> np.ndarray:
        """Modulation transfer at these frequencies, in cycles per measured voxel; 1 at frequency 0."""
        f = np.abs(np.asarray(cycles, dtype=float))
        if self.method == "none":
            return np.ones_like(f)
        if self.method in WINDOWS:
            share = f * 2 * max(self.width, 1.0)
            return np.where(share <= 1, WINDOWS[self.method](share.clip(0, 1)), 0.0)
        if self.method == "gaussian":
            return np.exp(-2 * (np.pi * f * self.width / FWHM) ** 2)
        if self.method == "box":
            return np.sinc(f * self.width)
        reach = PROFILES[self.method].reach
        at = (np.arange(-reach * INTEGRATION, reach * INTEGRATION) + 0.5) / INTEGRATION
        weight = PROFILES[self.method].weight(np.abs(at), 1.0)
        return (weight * np.cos(2 * np.pi * f[..., None] * self.width * at)).sum(-1) / weight.sum()


def parse_sampling(text: str) -> Sampling:
    """A sampling from "NAME" or "NAME:WIDTH".

    Raises:
        ConfigError: no such name, no number, or a width out of range.
    """
    name, colon, width = text.strip().partition(":")
    try:
        return Sampling(name, float(width)) if colon else Sampling(name)
    except ValueError:
        raise ConfigError(f"{width!r} is no width in measured voxels: give NAME or NAME:WIDTH, as in box:1.2") from None


Samplings: TypeAlias = tuple[Sampling, Sampling, Sampling]


def attenuation(sampling: Sampling) -> tuple[float, ...]:
    """One minus the transfer at FREQUENCIES: 0 for an axis that was not resampled."""
    return tuple((1 - sampling.transfer(FREQUENCIES)).tolist())
