"""From noise to a sample: DPM-Solver++ (2M) on the probability-flow ODE, as a function of any denoiser.

Chosen over Euler, Heun and churn by measurement (benchmarks/samplers.py, docs/design.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]


def sample(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Integrate dx/dsigma = (x - D(x, sigma)) / sigma from sigmas[0] down to sigmas[-1].

    Second order at one evaluation a step: the clean signal is extrapolated from this step's and the last one's
    (Lu et al. 2022, arXiv 2211.01095, algorithm 2, with alpha = 1).

    Args:
        denoise: D(x, sigma), the posterior mean of the clean signal.
        x: the start, clean signal plus noise of standard deviation sigmas[0].
        sigmas: falling noise levels, all positive but for the last, which is 0 for a clean sample.
    """
    last: tuple[Tensor, float] | None = None
    for sigma, after in pairwise(sigmas):
        clean = denoise(x, sigma)
        if after == 0:
            return clean
        step = math.log(sigma / after)
        ahead = clean if last is None else clean + (step / (2 * last[1])) * (clean - last[0])
        x = ahead + (after / sigma) * (x - ahead)
        last = clean, step
    return x
