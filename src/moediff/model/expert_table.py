"""Table of experts: name, feature branch, region of the brain and reach of each kind. A new row is a new kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from moediff.anatomy.regions import REGIONS
from moediff.core.errors import ConfigError
from moediff.model.feature_branches import Detail, Smooth, WindowAttention


@dataclass(frozen=True)
class ExpertSpec:
    """Everything that tells one kind of expert from the others.

    Args:
        branch: makes its feature branch for so many channels, [B, x, y, z, C] -> same shape; buffers are persistent.
            None: its layers read the shared features alone.
        region: its region of the brain, one of `REGIONS`: what it is trained on and what reports call it.
        reach_cells: how far its branch looks along every axis; 0 for windows of whole WINDOW cells.
    """

    branch: Callable[[int], nn.Module] | None
    region: str
    reach_cells: int = 0

    def __post_init__(self) -> None:
        if self.region not in REGIONS or self.reach_cells < 0:
            raise ConfigError(f"expert of region {self.region!r}, reach {self.reach_cells}: choose from {REGIONS}, 0..")


EXPERTS = {
    "smooth": ExpertSpec(lambda channels: Smooth(), region="deep white matter", reach_cells=3),
    "detail": ExpertSpec(Detail, region="cortex", reach_cells=1),
    "window": ExpertSpec(WindowAttention, region="junction", reach_cells=0),
    "plain": ExpertSpec(nn.Identity, region="rest", reach_cells=0),
    "white-matter": ExpertSpec(None, region="deep white matter"),
    "cortex": ExpertSpec(None, region="cortex"),
    "junction": ExpertSpec(None, region="junction"),
    "rest": ExpertSpec(None, region="rest"),
}
BRANCHED = ("smooth", "detail", "window", "plain")  # those of the first recipes
UNIFORM = ("plain", "rest")  # read the features as they are, so that one of them alone is a denoiser for everything
