"""Samplers: from noise to a sample of the probability-flow ODE, each a function of any denoiser, in one table.

A sampler takes the denoiser D(x, sigma) (the posterior mean of the clean signal), the start x (clean signal plus noise
of standard deviation sigmas[0]) and falling noise levels, all positive but for the last, which is 0 for a clean sample.
It integrates dx/dsigma = (x - D(x, sigma)) / sigma from sigmas[0] down to sigmas[-1]. To add one, write the function
and its row in `SAMPLERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
Sampler = Callable[[Denoise, Tensor, Sequence[float]], Tensor]


def dpm_solver(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Second order at one evaluation a step: the clean signal is extrapolated from this step's and the last one's.

    Lu et al. 2022 (arXiv 2211.01095), algorithm 2 (2M), with alpha = 1.
    """
    last: tuple[Tensor, float] | None = None
    for sigma, sigma_next in pairwise(sigmas):
        clean = denoise(x, sigma)
        if sigma_next == 0:
            return clean
        step = math.log(sigma / sigma_next)
        ahead = clean if last is None else clean + (step / (2 * last[1])) * (clean - last[0])
        x = ahead + (sigma_next / sigma) * (x - ahead)
        last = clean, step
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Second order at two evaluations a step; Karras et al. 2022, algorithm 1. The step to sigma = 0 is Euler's."""
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope = (slope + (x_next - denoise(x_next, sigma_next)) / sigma_next) / 2
            x_next = x + (sigma_next - sigma) * slope
        x = x_next
    return x


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """First order; Karras et al. 2022, algorithm 1 without its correction."""
    for sigma, sigma_next in pairwise(sigmas):
        clean = denoise(x, sigma)
        x = clean + (sigma_next / sigma) * (x - clean)
    return x


DEFAULT_SAMPLER = "dpm-solver++"  # chosen by measurement (benchmarks/samplers.py, docs/design.md)
SAMPLERS: dict[str, Sampler] = {DEFAULT_SAMPLER: dpm_solver, "heun": heun, "euler": euler}


def evaluations(sampler: Sampler, sigmas: Sequence[float]) -> int:
    """How often a sampler calls the denoiser for one sample."""
    calls: list[float] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        calls.append(sigma)
        return x

    sampler(denoise, torch.zeros(()), sigmas)
    return len(calls)
