"""Diffusion schedule: noise levels of training and sampling for the residual, which is truth minus interpolated scan.

EDM; Karras et al. 2022, arXiv 2206.00364.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moediff.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Noise levels, in units of sigma_data.

    Args:
        sigma_max, sigma_min: ends of the schedule.
        probability_sigma_max: share of training examples at sigma_max, where one evaluation is the posterior mean.
        log_mean, log_std: of the log-normal that the others are drawn from.
        rho: curvature of the sampling schedule (Karras 2022, eq. 5).
    """

    RENAMED: ClassVar[Mapping[str, str | None]] = {"share_at_max": "probability_sigma_max"}

    sigma_max: float = 20.0
    sigma_min: float = 0.05
    probability_sigma_max: float = 0.6
    log_mean: float = -0.3
    log_std: float = 1.0
    rho: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ConfigError(f"sigma_min={self.sigma_min} must lie between 0 and sigma_max={self.sigma_max}")
        if not 0 < self.rho < math.inf:
            raise ConfigError(f"rho={self.rho} must be a positive number")
        if not 0 <= self.probability_sigma_max <= 1:
            raise ConfigError(f"probability_sigma_max={self.probability_sigma_max} must lie in 0..1")


def draw_sigma(count: int, sigma_data: float, config: DiffusionConfig, rng: torch.Generator) -> Tensor:
    """Training noise levels [B], scaled intensities."""
    log = config.log_mean + config.log_std * torch.randn(count, generator=rng)
    at_max = torch.rand(count, generator=rng) < config.probability_sigma_max
    sigma = log.exp().clamp(config.sigma_min, config.sigma_max)
    return torch.where(at_max, torch.full_like(sigma, config.sigma_max), sigma) * sigma_data


def loss_weight(sigma_B: Tensor, sigma_data: float) -> Tensor:
    """1 / c_out^2 = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2: unit effective weight; Karras 2022, Table 1."""
    return (sigma_B**2 + sigma_data**2) / (sigma_B * sigma_data) ** 2


def schedule(steps: int, sigma_data: float, config: DiffusionConfig) -> list[float]:
    """steps + 1 falling noise levels from sigma_max to 0; Karras 2022, eq. 5.

    Raises:
        ConfigError: steps is not in 1..64.
    """
    if not 1 <= steps <= 64:
        raise ConfigError(f"steps={steps} must lie in 1..64")
    if steps == 1:
        return [config.sigma_max * sigma_data, 0.0]
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
    return [*((high + ramp * (low - high)) ** config.rho * sigma_data).tolist(), 0.0]
