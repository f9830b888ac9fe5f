"""How unlike its training scans a scan looks to the encoder: a score beside the plain signs of `checks`.

The encoder's tokens inside the head have a mean and a standard deviation per channel. A bundle may say what these are
over real training scans, and how much they differ from scan to scan; the score is the root mean square of a scan's
distances in that unit: about 1 for the training scans themselves.

Axes: N tokens inside the head, D token width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.inference.tiling import Frame
from moediff.model.bundle import OutOfDistributionStatistics
from moediff.model.encoder import FINE

STRANGE = 1.7  # whole real heads that the encoder never saw have 0.7 to 1.6; docs/failure-modes.md


@torch.no_grad()
def statistics(head: Frame) -> Tensor:
    """Mean and standard deviation of every channel of the tokens inside the head: [2 D]."""
    inside = F.avg_pool3d(head.inside_BXYZ[:, None].float(), FINE)[:, 0] > 0.5
    token_ND = head.condition.token_BxyzD[inside].float()
    if len(token_ND) < 2:
        return token_ND.new_full((2 * head.condition.token_BxyzD.shape[-1],), math.nan).cpu()
    return torch.cat([token_ND.mean(0), token_ND.std(0)]).cpu()


def strangeness(head: Frame, known: OutOfDistributionStatistics | None) -> float | None:
    """The score; None where the bundle knows of no training scans, or the head is too small."""
    if known is None:
        return None
    gap = (statistics(head) - torch.tensor(known.mean)) / torch.tensor(known.std)
    score = float(gap.square().mean().sqrt())
    return round(score, 2) if math.isfinite(score) else None


def strange(score: float | None) -> list[str]:
    """A warning, where the score asks for one."""
    if score is None or score <= STRANGE:
        return []
    return [
        f"to the network this scan looks unlike its training scans (score {score:.1f}; other heads reach 1.6): "
        "not a whole head, an unusual contrast, or damaged; do not trust what was added"
    ]
