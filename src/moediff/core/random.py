"""Random numbers drawn from a generator: uniform and log-uniform."""

from __future__ import annotations

import torch


def uniform(rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A number between low and high; one draw of a generator on the CPU."""
    return low + (high - low) * float(torch.rand((), generator=rng))


def log_uniform(rng: torch.Generator, low: float, high: float) -> float:
    """A number between low and high, both above 0, whose logarithm is uniform; one draw."""
    return low * (high / low) ** uniform(rng)
