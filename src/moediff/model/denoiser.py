"""The denoiser D(x, sigma, condition): preconditioning, shared trunk, experts, gate-weighted sum.

Axes: B batch, X Y Z voxels (multiples of 16), xyz cells or tokens, C channels, D token width, E experts, G vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.core.errors import ConfigError
from moediff.model.encoder import Encoder, EncoderConfig
from moediff.model.experts import MAX_LAYERS, Experts, ExpertsConfig
from moediff.model.gate import CELL, Gate, GateConfig, cell_logits, shifted_logits, smoothed, sparsify
from moediff.model.layers import ResBlock, from_lattice, in_slabs, local_mean, slabs, to_lattice, unit_size
from moediff.model.uncertainty_head import ErrorHead

Tables = tuple[Tensor, Tensor, Tensor]
SEEN = 5  # what each voxel brings: noisy residual, interpolated scan, its fine structure, the slices before and after
TABLE_FEATURES = 6  # per voxel of a site: cosine and sine of its place between samples; log ratio; ratio is one
VECTOR_FEATURES = 6  # log sigma, log noise, noise over sigma_data, three log ratios


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The shared convolutional trunk: residual blocks on cells and on tokens (2x2x2 cells)."""

    width: int = 32
    deep_width: int = 96
    blocks_before: int = 2
    blocks_deep: int = 4
    blocks_after: int = 2

    def __post_init__(self) -> None:
        if min(self.width, self.deep_width) < 8:
            raise ConfigError(f"trunk widths {self.width}, {self.deep_width} must be at least 8")
        blocks = self.blocks_before, self.blocks_deep, self.blocks_after
        if min(blocks) < 0 or max(blocks) > MAX_LAYERS:
            raise ConfigError(f"a trunk has 0 to {MAX_LAYERS} blocks of a kind, found {blocks}")

    @property
    def reach_voxels(self) -> int:
        """How far a cell's features look, in voxels."""
        fine = self.blocks_before + self.blocks_after  # blocks on cells
        return 2 * fine + 4 * self.blocks_deep + 4


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Everything that shapes the network.

    Args:
        sigma_data: standard deviation of the residual, scaled intensities (EDM's sigma_data).
        vector: width of the modulation vector.
        error_width: width of the head that foretells the error.
    """

    sigma_data: float = 0.05
    vector: int = 64
    error_width: int = 64
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)

    def __post_init__(self) -> None:
        if len(self.experts.views) != self.gate.experts:
            raise ConfigError(f"gate.experts={self.gate.experts} but {len(self.experts.views)} experts.views are named")
        if not self.sigma_data > 0:
            raise ConfigError(f"sigma_data={self.sigma_data} must be positive")
        if min(self.vector, self.error_width) < 1:
            raise ConfigError(f"vector={self.vector} and error_width={self.error_width} must be at least 1")

    @property
    def reach_voxels(self) -> int:
        """How far an output voxel looks, in voxels; the halo that makes tiles equal to the whole."""
        return self.trunk.reach_voxels + CELL * self.experts.reach_cells


@dataclass(frozen=True)
class Condition:
    """What the denoiser knows besides x and sigma; fixed over diffusion steps.

    Args:
        interpolated_BXYZ: interpolated scan, scaled.
        neighbours_BNXYZ: measured samples before and after each voxel along the last axis, scaled; N = 2.
        tables: per axis [B, n, 6] on cells: where the voxels of a cell fall between the measured samples.
        acquisition_BG: log noise, noise over sigma_data, three log ratios.
        token_BxyzD: fine tokens from the encoder.
        weight_BxyzE: gate weights on cells.
    """

    interpolated_BXYZ: Tensor
    neighbours_BNXYZ: Tensor
    tables: Tables
    acquisition_BG: Tensor
    token_BxyzD: Tensor
    weight_BxyzE: Tensor


def position_tables(positions_Bn: Tensor, ratio_B: Tensor) -> Tensor:
    """[B, n] source positions of an axis's voxels -> cell table [B, n/2, 6]."""
    angle = 2 * torch.pi * positions_Bn.unflatten(1, (-1, 2))
    on = (ratio_B > 1.001).to(angle.dtype)[:, None]
    log_ratio = ratio_B.log()[:, None].expand(-1, angle.shape[1])
    wave = torch.cat([angle.cos(), angle.sin()], -1) * on[..., None]
    return torch.cat([wave, log_ratio[..., None], on[..., None].expand(-1, angle.shape[1], -1)], -1)


def deep_table(table_BnF: Tensor) -> Tensor:
    """Cell table -> token table [B, n/2, 12]: the two cells of a token side by side."""
    return table_BnF.unflatten(1, (-1, 2)).flatten(2)


class Trunk(nn.Module):
    """Convolutions on cells and, half as fine, on tokens, where the encoder's tokens join."""

    def __init__(self, config: TrunkConfig, vector: int, token_width: int) -> None:
        super().__init__()
        c, d = config.width, config.deep_width
        self.enter = nn.Linear(8 * SEEN, c)
        # Of the input's scale, unlike a convolution over 27 cells: what a cell brings itself reaches the end unmixed.
        nn.init.normal_(self.enter.weight, std=(2 / self.enter.in_features) ** 0.5)
        nn.init.zeros_(self.enter.bias)
        self.before = nn.ModuleList(ResBlock(c, vector, TABLE_FEATURES) for _ in range(config.blocks_before))
        self.down = nn.Linear(8 * c, d)
        self.token = nn.Linear(token_width, d)
        self.deep = nn.ModuleList(
            ResBlock(d, vector, 2 * TABLE_FEATURES, normed=True) for _ in range(config.blocks_deep)
        )
        self.up = nn.Linear(d, 8 * c)
        self.after = nn.ModuleList(ResBlock(c, vector, TABLE_FEATURES) for _ in range(config.blocks_after))

    def forward(self, cell_BxyzC: Tensor, vector_BG: Tensor, condition: Condition) -> Tensor:
        """Input cells -> features [B, x, y, z, C]."""
        h = self.enter(cell_BxyzC)
        for block in self.before:
            h = block(h, vector_BG, condition.tables)
        tables = tuple(deep_table(t) for t in condition.tables)
        deep = in_slabs(lambda slab: self.down(to_lattice(h[:, slab])), h, 2)
        deep = deep + self.token(condition.token_BxyzD)
        for block in self.deep:
            deep = block(deep, vector_BG, tables)
        h = self._joined(h, deep)
        for block in self.after:
            h = block(h, vector_BG, condition.tables)
        return h

    def _joined(self, h_BxyzC: Tensor, deep_BxyzD: Tensor) -> Tensor:
        """Cells plus what was found on tokens; without gradients written over the cells."""
        if torch.is_grad_enabled():
            return from_lattice(self.up(F.relu(unit_size(deep_BxyzD)))).add_(h_BxyzC)
        for slab in slabs(h_BxyzC, 2):
            part = deep_BxyzD[:, slab.start // 2 : slab.stop // 2]
            h_BxyzC[:, slab].add_(from_lattice(self.up(F.relu(unit_size(part)))))
        return h_BxyzC


class Denoiser(nn.Module):
    """K complete denoisers behind one gate; `forward` is the only way the weights are used."""

    def __init__(self, config: DenoiserConfig, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.gate = Gate(config.gate, config.encoder.width)
        self.vector = nn.Sequential(
            nn.Linear(VECTOR_FEATURES, config.vector), nn.SiLU(), nn.Linear(config.vector, config.vector), nn.SiLU()
        )
        self.trunk = trunk or Trunk(config.trunk, config.vector, config.encoder.width)
        self.experts = Experts(config.experts, config.trunk.width, config.vector)
        self.error = ErrorHead(config.trunk.width, config.vector, config.error_width)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile the residual blocks, where most of the work is; those of one shape share what is compiled."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                module.compile(dynamic=False, fullgraph=True, backend=backend)

    def gate_logits(self, interpolated_BXYZ: Tensor) -> tuple[Tensor, Tensor]:
        """Read the scan once: fine tokens [B, x, y, z, D] and gate logits [B, x, y, z, E]."""
        token_BxyzD = self.encoder(interpolated_BXYZ)
        return token_BxyzD, self.gate(token_BxyzD)

    def routing(self, interpolated_BXYZ: Tensor) -> tuple[Tensor, Tensor]:
        """Fine tokens [B, x, y, z, D], and gate weights on cells from every lattice that inference reads."""
        token_BxyzD, first = self.gate_logits(interpolated_BXYZ)
        logit_BxyzE, lattices = cell_logits(first), self.config.gate.lattices
        for offset in lattices[1:]:
            logit_BxyzE += shifted_logits(lambda base: self.gate_logits(base)[1], interpolated_BXYZ, offset)
        return token_BxyzD, smoothed(logit_BxyzE.div_(len(lattices)), self.config.gate.smooth).softmax(-1)

    def forward(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """Posterior mean of the residual given x = residual + sigma noise; [B, X, Y, Z]."""
        feature, vector = self.features(x_BXYZ, sigma_B, condition)
        return self.precondition(x_BXYZ, sigma_B, self.experts.blend(feature, vector, condition.weight_BxyzE))

    def with_error(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """`forward`, and the absolute error to expect of it at sigma_max: [2, B, X, Y, Z]."""
        feature, vector = self.features(x_BXYZ, sigma_B, condition)
        blended = self.precondition(x_BXYZ, sigma_B, self.experts.blend(feature, vector, condition.weight_BxyzE))
        return torch.stack([blended, self._log_error(feature, vector).exp() * self.config.sigma_data])

    def with_experts(
        self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition, probed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All that training judges, from one trunk pass.

        Returns:
            `forward`; each expert alone on the first `probed` examples [E, probed, X, Y, Z]; log of the error to
            expect, in units of sigma_data, whose gradient stays in its own head [B, X, Y, Z].
        """
        feature, vector = self.features(x_BXYZ, sigma_B, condition)
        blended = self.precondition(x_BXYZ, sigma_B, self.experts.blend(feature, vector, condition.weight_BxyzE))
        log_error = self._log_error(feature.detach(), vector.detach())
        if not probed:
            return blended, blended[None, :0], log_error
        raw, x, sigma = self.experts.dense(feature[:probed], vector[:probed]), x_BXYZ[:probed], sigma_B[:probed]
        each = torch.stack([self.precondition(x, sigma, raw[..., e, :]) for e in range(raw.shape[-2])])
        return blended, each, log_error

    def _log_error(self, feature_BxyzC: Tensor, vector_BG: Tensor) -> Tensor:
        return from_lattice(self.error(feature_BxyzC, vector_BG))[..., 0]

    def every_expert(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """Each expert alone over the whole volume: [E, B, X, Y, Z]."""
        feature, vector = self.features(x_BXYZ, sigma_B, condition)
        raw = self.experts.dense(feature, vector)
        return torch.stack([self.precondition(x_BXYZ, sigma_B, raw[..., e, :]) for e in range(raw.shape[-2])])

    def features(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Trunk features [B, x, y, z, C] and the modulation vector [B, G]."""
        data = self.config.sigma_data
        # The Wiener estimate of the residual, in units of sigma_data, instead of Karras' c_in x: it fades as sigma
        # grows, so at sigma_max the network is not shaken by pure noise and one evaluation is deterministic.
        wiener = data / (sigma_B**2 + data**2)
        base = condition.interpolated_BXYZ
        # Fine structure on its own, in the residual's unit: the network need not learn to cancel the mean first.
        detail = (base - local_mean(base[..., None], 1)[..., 0]) / data
        before, after = ((condition.neighbours_BNXYZ[:, side] - base) / data for side in (0, 1))
        seen = to_lattice(torch.stack([x_BXYZ * wiener[:, None, None, None], base, detail, before, after], -1))
        del detail, before, after  # a tile's peak memory lies in the trunk
        level = (sigma_B / data).log()[:, None] / 4  # c_noise; Karras 2022, Table 1
        vector_BG = self.vector(torch.cat([level, condition.acquisition_BG], -1))
        return self.trunk(seen, vector_BG, condition), vector_BG

    def precondition(self, x_BXYZ: Tensor, sigma_B: Tensor, raw_BxyzV: Tensor) -> Tensor:
        """c_skip x + c_out F; Karras 2022, Table 1."""
        data = self.config.sigma_data
        total = sigma_B**2 + data**2
        skip, out = (data**2 / total)[:, None, None, None], (sigma_B * data * total**-0.5)[:, None, None, None]
        return skip * x_BXYZ + out * from_lattice(raw_BxyzV)[..., 0]


def make_condition(
    denoiser: Denoiser, scan: tuple[Tensor, Tensor], positions: Tables, noise_B: Tensor, *, sparse: bool = True
) -> Condition:
    """Everything that is computed once per scan.

    Args:
        scan: interpolated scan [B, X, Y, Z], sides multiples of 16, and the measured slices around every voxel along
            the last axis [B, 2, X, Y, Z]; scaled.
        positions: per axis [B, n], where voxels lie in source voxels.
        noise_B: estimated noise sigma, scaled.
        sparse: keep only the experts that the gate's top_k and threshold allow.
    """
    token, weight = denoiser.routing(scan[0])
    return condition_from(denoiser.config, scan, positions, noise_B, token, weight, sparse=sparse)


def condition_from(  # noqa: PLR0913
    config: DenoiserConfig,
    scan: tuple[Tensor, Tensor],
    positions: Tables,
    noise_B: Tensor,
    token: Tensor,
    weight: Tensor,
    *,
    sparse: bool,
) -> Condition:
    """`make_condition` for tokens and gate weights on cells that were computed before."""
    ratios = [1 / (p[:, 1] - p[:, 0]).clamp_min(1e-3) for p in positions]
    x, y, z = (position_tables(p, r) for p, r in zip(positions, ratios, strict=True))
    acquisition = [(noise_B + 1e-4).log() / 4 + 1, noise_B / config.sigma_data, *(r.log() for r in ratios)]
    if sparse:
        gate, dense = config.gate, weight
        weight = in_slabs(lambda slab: sparsify(dense[:, slab], gate.top_k, gate.threshold), dense)
    return Condition(*scan, (x, y, z), torch.stack(acquisition, -1), token, weight)
