"""What is done to the truth together with its input: no two training patches look alike.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from moediff.acquisition.degrade import bias_field
from moediff.core.errors import ConfigError
from moediff.core.random import log_uniform, uniform
from moediff.core.windows import gaussian_blur
from moediff.training.synthetic_lesions import LesionConfig, with_lesions

LEAST_BLUR = 0.05  # voxels; less leaves a scan as it is


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of what is done to the truth together with its input.

    Args:
        amplitude: intensity factor range, log-uniform.
        gamma: contrast exponent range.
        bias: largest peak of a smooth log-gain.
        blur_vox: largest Gaussian sigma; high-resolution scans differ in their own sharpness.
        blur_probability: that a patch is blurred.
        sharpen_probability: that a patch gets an unsharp mask.
        synthetic_lesions: lesions put into patches.

    Raises:
        ConfigError: a range that is not one, or a share that is none.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "blur_share": "blur_probability",
        "sharpen_share": "sharpen_probability",
        "planted": "synthetic_lesions",
    }

    amplitude: tuple[float, float] = (0.6, 1.6)
    gamma: tuple[float, float] = (0.8, 1.25)
    bias: float = 0.3
    blur_vox: float = 0.6
    blur_probability: float = 0.35
    sharpen_probability: float = 0.15
    synthetic_lesions: LesionConfig = field(default_factory=LesionConfig)

    def __post_init__(self) -> None:
        for name in ("amplitude", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ConfigError(f"augment.{name}={[low, high]}: give a rising range above 0")
        if not (0 <= self.bias <= 1 and 0 <= self.blur_vox <= 10):
            raise ConfigError(f"augment.bias={self.bias} must lie in 0..1 and blur_vox={self.blur_vox} in 0..10")
        blurred, sharpened = self.blur_probability, self.sharpen_probability
        if min(blurred, sharpened) < 0 or blurred + sharpened > 1:
            raise ConfigError(
                f"augment.blur_probability={blurred} and sharpen_probability={sharpened} must be 0 or more, "
                "1 at most together"
            )


class Sharpness(NamedTuple):
    """How sharp the truth is made.

    Args:
        blur_vox: Gaussian sigma; 0 leaves it as it is.
        unsharp: share of what the blur takes away that is added instead; None keeps the blurred scan.
    """

    blur_vox: float = 0.0
    unsharp: float | None = None

    def apply(self, data_XYZ: Tensor) -> Tensor:
        """The scan as sharp as that."""
        if self.blur_vox == 0:
            return data_XYZ
        reach = max(1, math.ceil(3 * self.blur_vox))
        soft = data_XYZ if self.blur_vox < LEAST_BLUR else gaussian_blur(data_XYZ, self.blur_vox, reach)
        return soft if self.unsharp is None else (data_XYZ + self.unsharp * (data_XYZ - soft)).clamp_min(0)


class Augmented(NamedTuple):
    """The truth as the network shall give it back.

    Args:
        data_XYZ: intensities.
        lesion_XYZ: how much of each voxel is a planted lesion's, 0..1.
        gain: of intensities.
        sharpness: that it was given.
    """

    data_XYZ: Tensor
    lesion_XYZ: Tensor
    gain: float
    sharpness: Sharpness = Sharpness()


def augmented(data_XYZ: Tensor, config: AugmentConfig, rng: torch.Generator) -> Augmented:
    """Lesions, amplitude, contrast, bias field and sharpness of the truth are drawn."""

    low, high = config.amplitude
    gain = log_uniform(rng, low, high)
    gamma = uniform(rng, *config.gamma)
    data, lesion = with_lesions(data_XYZ.clamp_min(0), config.synthetic_lesions, rng)
    data = gain * data if abs(gamma - 1) < 0.02 else gain * 0.5 * (data / 0.5) ** gamma
    x, y, z = data.shape
    data = data * bias_field((x, y, z), uniform(rng, 0, config.bias), rng, data.device)
    kind, strength = uniform(rng), uniform(rng, 0.2, 1)
    sharpness = Sharpness()
    if kind < config.blur_probability + config.sharpen_probability:
        sharpness = Sharpness(config.blur_vox * strength, None if kind < config.blur_probability else 0.6 * strength)
    return Augmented(sharpness.apply(data), lesion, gain, sharpness)
