"""Short trainings for comparisons: so many seconds of processor time; the rate rises, then falls to zero."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from moediff.model.denoiser import Denoiser
from moediff.training.muon import Muon
from moediff.training.patches import Batch

WARMUP = 50  # steps
DECAY = 0.95  # of the average of the weights


def descend(
    denoiser: Denoiser,
    draw: Callable[[int], Batch],
    loss_of: Callable[[Denoiser, Batch], Tensor],
    *,
    seconds: float,
    rate: float,
) -> tuple[Denoiser, int]:
    """Train; returns the averaged network and the number of steps.

    Drawing a batch is not counted: it is the same for all networks.
    """
    mean = torch.optim.swa_utils.AveragedModel(denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY))
    optimiser = Muon(denoiser.parameters(), lr=rate, weight_decay=1e-3)
    used, step = 0.0, 0
    while used < seconds:
        batch = draw(step)
        start = time.process_time()
        for group in optimiser.param_groups:
            risen = min(1.0, (step + 1) / WARMUP)
            group["lr"] = rate * risen * 0.5 * (1 + math.cos(math.pi * min(1.0, used / seconds)))
        loss = loss_of(denoiser, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
        mean.update_parameters(denoiser)
        used, step = used + time.process_time() - start, step + 1
    return mean.module, step  # type: ignore[return-value]
