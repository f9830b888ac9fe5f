"""Out-of-distribution score: how far a scan lies from the training scans, as the encoder reads it.

The encoder's tokens in the foreground have a mean and a standard deviation per channel. A bundle may hold
their mean over real training scans and their spread from scan to scan; the score is the root mean square of a scan's
distances in that unit: about 1 for the training scans themselves.

Axes: N tokens of the foreground, D token width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.inference.tiling import TileContext
from moediff.model.bundle import OutOfDistributionStatistics
from moediff.model.encoder import FINE

WARN_ABOVE = 1.7  # whole real heads that the encoder never saw have 0.7 to 1.6; docs/failure-modes.md


@torch.no_grad()
def statistics(context: TileContext) -> Tensor:
    """Mean and standard deviation of every channel of the foreground's tokens: [2 D]."""
    inside = F.avg_pool3d(context.crop.foreground_BXYZ[:, None].float(), FINE)[:, 0] > 0.5
    token_ND = context.condition.token_BxyzD[inside].float()
    if len(token_ND) < 2:
        return token_ND.new_full((2 * context.condition.token_BxyzD.shape[-1],), math.nan).cpu()
    return torch.cat([token_ND.mean(0), token_ND.std(0)]).cpu()


def score(context: TileContext, reference: OutOfDistributionStatistics | None) -> float | None:
    """The score; None where the bundle has no statistics of training scans, or the foreground is too small."""
    if reference is None:
        return None
    gap = (statistics(context) - torch.tensor(reference.mean)) / torch.tensor(reference.std)
    value = float(gap.square().mean().sqrt())
    return round(value, 2) if math.isfinite(value) else None


def score_warnings(value: float | None) -> list[str]:
    """A warning where the score is above what other heads reach."""
    if value is None or value <= WARN_ABOVE:
        return []
    return [
        f"to the network this scan looks unlike its training scans (score {value:.1f}; other heads reach 1.6): "
        "not a whole head, an unusual contrast, or damaged; do not trust what was added"
    ]
