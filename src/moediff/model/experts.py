"""The experts: each turns the shared features into a complete denoised result, each in its own way.

An expert owns a view of the features (its inductive bias) and pointwise layers; pointwise layers run on gathered rows,
so a cell costs only the experts that it needs, and sparse execution equals masked dense execution to rounding.

Axes: B batch, xyz cells, C channels, E experts, R rows (cells), V voxels of a cell (8), G modulation vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.anatomy.regions import REGIONS
from moediff.core.errors import ConfigError
from moediff.model.execution import side_by_side
from moediff.model.layers import attended, from_lattice, in_slabs, local_mean, to_lattice

WINDOW = 4  # cells; the reach of the junction expert's attention
CHUNK_ROWS = 8192  # rows of one matrix product: activations stay in cache
VOXELS = 8


class Smooth(nn.Module):
    """Mean over 7x7x7 cells, the middle ones counting more: a large, smooth receptive field for deep white matter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, h_BxyzC: Tensor) -> Tensor:
        """Same shape in and out."""
        return local_mean(local_mean(h_BxyzC, 1), 2)


class Detail(nn.Module):
    """Features minus their local mean, gated by their own strength: high-frequency attention for cortex."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, channels)

    def forward(self, h_BxyzC: Tensor) -> Tensor:
        """Same shape in and out."""
        high = h_BxyzC - local_mean(h_BxyzC, 1)
        return high * torch.sigmoid(self.score(high.abs()))


class WindowAttention(nn.Module):
    """Attention among the 64 cells of a 4x4x4 window: non-local context for the grey-white junction."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * width)
        self.out = nn.Linear(width, channels)

    def forward(self, h_BxyzC: Tensor) -> Tensor:
        """Same shape in and out; lattice sides are multiples of 4."""
        windows = to_lattice(self.qkv(h_BxyzC), WINDOW)
        lattice = windows.shape[:4]
        q, k, v = windows.reshape(-1, 1, WINDOW**3, 3, self.out.in_features).unbind(-2)
        mixed = attended(q, k, v)
        return self.out(from_lattice(mixed.reshape(*lattice, -1), WINDOW))


class Plain(nn.Module):
    """The features as they are, for everything else."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, h_BxyzC: Tensor) -> Tensor:
        """Same shape in and out."""
        return h_BxyzC


@dataclass(frozen=True)
class ExpertSpec:
    """Everything that tells one kind of expert from the others.

    Args:
        branch: makes its feature branch for so many channels: [B, x, y, z, C] -> the same shape.
        region: its region of the brain, one of `REGIONS`: what it is trained on and what reports call it.
        reach_cells: how far its branch looks along every axis; 0 for windows of whole WINDOW cells.
    """

    branch: Callable[[int], nn.Module]
    region: str
    reach_cells: int

    def __post_init__(self) -> None:
        if self.region not in REGIONS or self.reach_cells < 0:
            raise ConfigError(f"expert of region {self.region!r}, reach {self.reach_cells}: choose from {REGIONS}, 0..")


EXPERTS = {
    "smooth": ExpertSpec(Smooth, region="deep white matter", reach_cells=3),
    "detail": ExpertSpec(Detail, region="cortex", reach_cells=1),
    "window": ExpertSpec(WindowAttention, region="junction", reach_cells=0),
    "plain": ExpertSpec(Plain, region="rest", reach_cells=0),
}
MAX_LAYERS = 64  # a config from elsewhere must not keep us building


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Which experts there are (rows of `EXPERTS`, in any order) and the width of their pointwise layers."""

    views: tuple[str, ...] = tuple(EXPERTS)
    width: int = 96
    layers: int = 2

    def __post_init__(self) -> None:
        unknown = [view for view in self.views if view not in EXPERTS]
        if unknown or not self.views:
            raise ConfigError(f"experts.views={list(self.views)}: choose from {', '.join(EXPERTS)}")
        if self.layers > MAX_LAYERS or len(self.views) > MAX_LAYERS:
            raise ConfigError(f"there are at most {MAX_LAYERS} experts and layers")

    @property
    def regions(self) -> tuple[str, ...]:
        """Each expert's region, in the order of the experts."""
        return tuple(EXPERTS[view].region for view in self.views)

    @property
    def reach_cells(self) -> int:
        """How far the branch that looks furthest looks."""
        return max(EXPERTS[view].reach_cells for view in self.views)


class Expert(nn.Module):
    """One denoiser's own part: its view, pointwise residual layers, and a head that writes a cell's 8 voxels."""

    def __init__(self, view: str, config: ExpertsConfig, channels: int, vector: int) -> None:
        super().__init__()
        self.view, self.reach_cells = EXPERTS[view].branch(channels), EXPERTS[view].reach_cells
        self.enter = nn.Linear(channels, config.width)
        self.enter_view = nn.Linear(channels, config.width, bias=False)
        self.modulate = nn.Linear(vector, config.width)
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))
        self.head = nn.Linear(config.width, VOXELS)
        nn.init.normal_(self.head.weight, std=0.1 * config.width**-0.5)
        nn.init.zeros_(self.head.bias)
        for layer in (self.enter, self.enter_view, *self.layers):
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)

    def rows(self, feature_RC: Tensor, view_RC: Tensor, shift_RW: Tensor) -> Tensor:
        """Pointwise part on gathered cells: [R, C], [R, C] -> [R, 8]."""
        u = self.enter(feature_RC) + self.enter_view(view_RC) + shift_RW
        for layer in self.layers:
            u = u + F.relu(layer(F.relu(u)))
        return self.head(F.relu(u))


class Experts(nn.Module):
    """All experts, run on the cells that ask for them."""

    def __init__(self, config: ExpertsConfig, channels: int, vector: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(Expert(view, config, channels, vector) for view in config.views)

    def dense(self, h_BxyzC: Tensor, vector_BG: Tensor) -> Tensor:
        """Every expert everywhere: [B, x, y, z, E, 8]."""
        results = []
        for expert in self.each:
            shift = expert.modulate(vector_BG)[:, None, None, None]  # type: ignore[operator]
            results.append(expert.rows(h_BxyzC, expert.view(h_BxyzC), shift))  # type: ignore[operator]
        return torch.stack(results, -2)

    def blend(self, h_BxyzC: Tensor, vector_BG: Tensor, weight_BxyzE: Tensor) -> Tensor:
        """Gate-weighted sum [B, x, y, z, 8]; an expert runs only on cells where its weight is not zero."""
        shift_EBW = [expert.modulate(vector_BG) for expert in self.each]  # type: ignore[operator]
        return in_slabs(lambda slab: self._blended(h_BxyzC, weight_BxyzE, shift_EBW, slab), h_BxyzC, WINDOW)

    def _blended(self, h_BxyzC: Tensor, weight_BxyzE: Tensor, shift_EBW: list[Tensor], slab: slice) -> Tensor:
        feature_RC, weight_RE = h_BxyzC[:, slab].flatten(0, 3), weight_BxyzE[:, slab].flatten(0, 3)
        lattice = weight_BxyzE[:, slab].shape[:4]
        owner_R = torch.arange(lattice[0], device=h_BxyzC.device).repeat_interleave(len(feature_RC) // lattice[0])
        total_RV = weight_RE.new_zeros(len(feature_RC), VOXELS)  # float32, also where features are bfloat16

        def work(expert: Expert, shift_BW: Tensor, weight_R: Tensor, chosen: Tensor) -> Tensor:
            view_RC = _seen(expert, h_BxyzC, slab).flatten(0, 3)
            made = []
            for part in _chunks(chosen):
                shift = shift_BW.index_select(0, owner_R.index_select(0, part))
                rows = feature_RC.index_select(0, part), view_RC.index_select(0, part), shift
                made.append((expert.rows(*rows) * weight_R.index_select(0, part)[:, None]).to(total_RV.dtype))
            return made[0] if len(made) == 1 else torch.cat(made)

        asked = _rows_of_each(weight_RE)
        needed = [e for e, rows in enumerate(asked) if len(rows)]
        works = [partial(work, cast(Expert, self.each[e]), shift_EBW[e], weight_RE[:, e], asked[e]) for e in needed]
        for e, result in zip(needed, side_by_side(works, h_BxyzC.device), strict=True):
            total_RV = total_RV.index_add(0, asked[e], result)
        return total_RV.reshape(*lattice, VOXELS)


def _rows_of_each(weight_RE: Tensor) -> list[Tensor]:
    """For every expert the rows that ask for it; a GPU is waited for before any expert begins, not between them."""
    expert_N, row_N = weight_RE.T.nonzero().unbind(1)
    counts = torch.bincount(expert_N, minlength=weight_RE.shape[1]).tolist()
    return list(row_N.split(counts))


def _chunks(chosen: Tensor) -> tuple[Tensor, ...]:
    """A CPU's caches hold the activations of a chunk; with gradients each would cost a full-size zero tensor."""
    return (chosen,) if torch.is_grad_enabled() or chosen.is_cuda else chosen.split(CHUNK_ROWS)


def _seen(expert: Expert, h_BxyzC: Tensor, slab: slice) -> Tensor:
    """An expert's view of a slab, from as much of its surroundings as the view reaches."""
    first = max(slab.start - expert.reach_cells, 0)
    seen_BxyzC = expert.view(h_BxyzC[:, first : slab.stop + expert.reach_cells])
    return seen_BxyzC[:, slab.start - first : slab.stop - first]
