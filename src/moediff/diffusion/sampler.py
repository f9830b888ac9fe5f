"""From noise to a sample: Heun-free Euler steps of the probability-flow ODE, as a function of any denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]


def sample(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Integrate dx/dsigma = (x - D(x, sigma)) / sigma from sigmas[0] down to sigmas[-1].

    Args:
        denoise: D(x, sigma), the posterior mean of the clean signal.
        x: the start, clean signal plus noise of standard deviation sigmas[0].
        sigmas: falling noise levels; the last is 0 for a clean sample. Karras 2022, algorithm 1 with first-order steps.
    """
    for sigma, sigma_next in pairwise(sigmas):
        clean = denoise(x, sigma)
        x = clean + (sigma_next / sigma) * (x - clean)
    return x
