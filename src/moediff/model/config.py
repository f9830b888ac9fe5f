"""Settings of the network, part by part, each checked when it is made; a bundle stores them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from moediff.core.errors import ConfigError
from moediff.model.encoder import COARSE
from moediff.model.expert_table import BRANCHED, EXPERTS

CELL = 2  # voxels
MAX_LAYERS = 64  # a config from elsewhere must not keep us building


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Width of tokens and number of attention heads."""

    RENAMED: ClassVar[Mapping[str, str | None]] = {"heads": "attention_heads"}

    width: int = 64
    attention_heads: int = 4

    def __post_init__(self) -> None:
        width, attention = f"encoder.width={self.width}", f"encoder.attention_heads={self.attention_heads}"
        if min(self.width, self.attention_heads) < 1:
            raise ConfigError(f"{width} and {attention} must be at least 1")
        if self.width % self.attention_heads:
            raise ConfigError(f"{width} must be a multiple of {attention}")


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """How tokens choose experts.

    Args:
        experts: number of experts, 1..16.
        top_k: experts a cell may use at inference, 1..experts.
        threshold: weights below this are dropped before the rest are renormalised, 0..0.5.
        patch_offsets: where the lattices of patches begin that are read at inference, voxels: even numbers in 0..14,
            the first is 0. Their logits are averaged, so that an expert's border follows tissue and not patches.
        smoothing_passes: how often logits are averaged over 3x3x3 cells at inference, 0..8, so that a border does not
            depend on one cell.
    """

    RENAMED: ClassVar[Mapping[str, str | None]] = {"lattices": "patch_offsets", "smooth": "smoothing_passes"}

    experts: int = 4
    top_k: int = 2
    threshold: float = 0.1
    patch_offsets: tuple[int, ...] = (0,)
    smoothing_passes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts <= 16:
            raise ConfigError(f"gate.top_k={self.top_k} must lie in 1..gate.experts={self.experts}, at most 16")
        if not 0 <= self.threshold <= 0.5:
            raise ConfigError(f"gate.threshold={self.threshold} must lie in 0..0.5")
        if not 0 <= self.smoothing_passes <= 8:
            raise ConfigError(f"gate.smoothing_passes={self.smoothing_passes} must lie in 0..8")
        offsets = self.patch_offsets
        if offsets[:1] != (0,) or not set(offsets) <= set(range(0, COARSE, CELL)):
            raise ConfigError(f"gate.patch_offsets={list(offsets)} must be even numbers in 0..14, the first of them 0")


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Which experts there are (names in `EXPERTS`, in any order), the width and number of their pointwise layers."""

    RENAMED: ClassVar[Mapping[str, str | None]] = {"views": "branches"}

    branches: tuple[str, ...] = BRANCHED
    width: int = 96
    layers: int = 2

    def __post_init__(self) -> None:
        unknown = [name for name in self.branches if name not in EXPERTS]
        if unknown or not self.branches:
            raise ConfigError(f"experts.branches={list(self.branches)}: choose from {', '.join(EXPERTS)}")
        if self.layers > MAX_LAYERS or len(self.branches) > MAX_LAYERS:
            raise ConfigError(f"there are at most {MAX_LAYERS} experts and layers")

    @property
    def regions(self) -> tuple[str, ...]:
        """Each expert's region, in the order of the experts."""
        return tuple(EXPERTS[name].region for name in self.branches)

    @property
    def reach_cells(self) -> int:
        """How far the branch that looks furthest looks."""
        return max(EXPERTS[name].reach_cells for name in self.branches)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The shared convolutional backbone: residual blocks on cells and, in its bottleneck, on tokens (2x2x2 cells)."""

    RENAMED: ClassVar[Mapping[str, str | None]] = {"deep_width": "bottleneck_width", "blocks_deep": "blocks_bottleneck"}

    width: int = 32
    bottleneck_width: int = 96
    blocks_before: int = 2
    blocks_bottleneck: int = 4
    blocks_after: int = 2

    def __post_init__(self) -> None:
        if min(self.width, self.bottleneck_width) < 8:
            raise ConfigError(f"backbone widths {self.width}, {self.bottleneck_width} must be at least 8")
        blocks = self.blocks_before, self.blocks_bottleneck, self.blocks_after
        if min(blocks) < 0 or max(blocks) > MAX_LAYERS:
            raise ConfigError(f"a backbone has 0 to {MAX_LAYERS} blocks of a kind, found {blocks}")

    @property
    def reach_voxels(self) -> int:
        """How far a cell's features look, in voxels."""
        return 2 * (self.blocks_before + self.blocks_after) + 4 * self.blocks_bottleneck + 4


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Everything that shapes the network.

    Args:
        sigma_data: standard deviation of the residual, scaled intensities (EDM's sigma_data).
        embedding_width: width of the conditioning embedding.
        uncertainty_width: width of the uncertainty head.
        reads_sampling: the conditioning embedding also holds how every axis was sampled (its point spread).
    """

    RENAMED: ClassVar[Mapping[str, str | None]] = {
        "vector": "embedding_width",
        "error_width": "uncertainty_width",
        "trunk": "backbone",
    }

    sigma_data: float = 0.05
    embedding_width: int = 64
    uncertainty_width: int = 64
    reads_sampling: bool = False
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)

    def __post_init__(self) -> None:
        named = len(self.experts.branches)
        if named != self.gate.experts:
            raise ConfigError(f"gate.experts={self.gate.experts} but {named} experts.branches are named")
        if not 0 < self.sigma_data < math.inf:
            raise ConfigError(f"sigma_data={self.sigma_data} must be a positive number")
        widths = self.embedding_width, self.uncertainty_width
        if min(widths) < 1:
            raise ConfigError(f"embedding_width={widths[0]} and uncertainty_width={widths[1]} must be at least 1")

    @property
    def reach_voxels(self) -> int:
        """How far an output voxel looks, in voxels; the halo that makes tiles equal to the whole."""
        return self.backbone.reach_voxels + CELL * self.experts.reach_cells
