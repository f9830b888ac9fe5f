"""Compare trunks of the denoiser: same data, same CPU time of training, PSNR gain on held-out persons.

    python benchmarks/designs.py --data ../shared/data --minutes 4 --seed 0 [--only thin,flat]

The losing designs live here, not in the package. Every design keeps the encoder, gate, experts and losses.
Axes: B batch, xyz cells, C channels, R rows, E experts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from short_runs import descend
from torch import Tensor, nn

from moediff.acquisition.prepare import PrepareSettings
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.diffusion.schedule import ProcessConfig
from moediff.model.denoiser import (
    SEEN,
    TABLE_FEATURES,
    Condition,
    Denoiser,
    DenoiserConfig,
    Trunk,
    TrunkConfig,
    make_condition,
)
from moediff.model.layers import FULL, Conv, Modulation, ResBlock, from_lattice, to_lattice
from moediff.training.cache import ScanSource
from moediff.training.losses import LossConfig
from moediff.training.patches import Batch, PatchSource
from moediff.training.sources import load_heads
from moediff.training.step import Draws, batch_loss

TRAIN = ("M2208_T2w", "cstar_stroke_FLAIR", "cstar_stroke_T1", "forrest_T1w", "mrgd_T1c", "pysynthsr_FLAIR")
HELD_OUT = ("M2307_T2w", "fsf_T1w", "ljms07_FLAIR")


class Routed(nn.Module):
    """Pointwise layers of which each cell uses the one of its first expert."""

    def __init__(self, width: int, expand: int, experts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.ModuleList(nn.Linear(width, expand * width) for _ in range(experts))
        self.down = nn.ModuleList(nn.Linear(expand * width, width) for _ in range(experts))

    def forward(self, h_BxyzC: Tensor, weight_BxyzE: Tensor) -> Tensor:
        rows, weight = self.norm(h_BxyzC).flatten(0, 3), weight_BxyzE.flatten(0, 3)
        best, first = weight.max(-1)
        out = torch.zeros_like(rows)
        for index, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            for part in ((first == index).nonzero()[:, 0],):
                mixed = down(F.relu(up(rows.index_select(0, part))))
                out = out.index_add(0, part, mixed * best.index_select(0, part)[:, None])
        return h_BxyzC + out.view_as(h_BxyzC)


class Mixer(nn.Module):
    """A trunk of spatial mixers followed by routed pointwise layers."""

    def __init__(self, width: int, depth: int, spatial: str) -> None:
        super().__init__()
        self.enter = entry(width)
        self.token = nn.Linear(64, width)
        self.modulate = nn.ModuleList(Modulation(64, TABLE_FEATURES, width) for _ in range(depth))
        make = {
            "depthwise": lambda: nn.Conv3d(width, width, 5, padding=2, groups=width),
            "window": lambda: Window(width),
        }
        self.spatial = nn.ModuleList(make[spatial]() for _ in range(depth))
        self.routed = nn.ModuleList(Routed(width, 4, 4) for _ in range(depth))

    def forward(self, cell: Tensor, vector: Tensor, condition: Condition) -> Tensor:
        token = self.token(condition.token_BxyzD).permute(0, 4, 1, 2, 3)
        h = self.enter(cell) + F.interpolate(token, scale_factor=2.0).permute(0, 2, 3, 4, 1)
        for index, (modulate, spatial, routed) in enumerate(zip(self.modulate, self.spatial, self.routed, strict=True)):
            u = modulate(h, vector, condition.tables)
            if isinstance(spatial, Window):
                h = h + spatial(u, shift=2 * (index % 2))
            else:
                h = h + spatial(u.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
            h = routed(h, condition.weight_BxyzE)
        return h


class Window(nn.Module):
    """Multi-head attention in 4x4x4 windows of cells, every second layer shifted by half a window."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.place = nn.Parameter(torch.zeros(heads, 64, 64))

    def forward(self, h: Tensor, shift: int) -> Tensor:
        moved = h.roll((shift,) * 3, (1, 2, 3))
        windows = to_lattice(self.qkv(moved), 4)
        q, k, v = windows.reshape(-1, 64, 3, self.heads, self.out.in_features // self.heads).permute(2, 0, 3, 1, 4)
        mixed = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=self.place)
            .transpose(1, 2)
            .reshape(*windows.shape[:4], -1)
        )
        return self.out(from_lattice(mixed, 4)).roll((-shift,) * 3, (1, 2, 3))


class Flat(nn.Module):
    """Full 3x3x3 convolutions on cells only."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.enter, self.token = entry(width), nn.Linear(64, width)
        self.blocks = nn.ModuleList(ResBlock(width, 64, TABLE_FEATURES, (FULL, FULL)) for _ in range(depth))

    def forward(self, cell: Tensor, vector: Tensor, condition: Condition) -> Tensor:
        token = self.token(condition.token_BxyzD).permute(0, 4, 1, 2, 3)
        h = self.enter(cell) + F.interpolate(token, scale_factor=2.0).permute(0, 2, 3, 4, 1)
        for block in self.blocks:
            h = block(h, vector, condition.tables)
        return h


def entry(width: int) -> nn.Linear:
    """The way in that all designs but "full-entry" share."""
    return Trunk(TrunkConfig(width=width), 64, 64).enter


def full(width: int, *, mixed_entry: bool) -> Trunk:
    """The package's trunk with two 3x3x3 convolutions a block and half as many blocks."""
    config = TrunkConfig(width=width, blocks_before=1, blocks_deep=2, blocks_after=1)
    trunk = Trunk(config, 64, 64)
    trunk.before[0] = ResBlock(width, 64, TABLE_FEATURES, (FULL, FULL))
    trunk.after[0] = ResBlock(width, 64, TABLE_FEATURES, (FULL, FULL))
    for index in range(config.blocks_deep):
        trunk.deep[index] = ResBlock(config.deep_width, 64, 2 * TABLE_FEATURES, (FULL, FULL))
    if mixed_entry:
        trunk.enter = Conv(8 * SEEN, width)  # type: ignore[assignment]
    return trunk


def design(width: int, trunk: nn.Module | None = None, deep: int = 96) -> Denoiser:
    return Denoiser(DenoiserConfig(trunk=TrunkConfig(width=width, deep_width=deep)), trunk)


def unnormed(width: int) -> Trunk:
    """The package's trunk without the normalisation in its deep blocks."""
    trunk = Trunk(TrunkConfig(width=width), 64, 64)
    for block in trunk.deep:
        block.normed = False  # type: ignore[assignment]
    return trunk


DESIGNS = {
    "thin": lambda: design(32),
    "thin-64": lambda: design(64, deep=128),
    "unnormed": lambda: design(32, unnormed(32)),
    "full": lambda: design(32, full(32, mixed_entry=False)),
    "full-entry": lambda: design(32, full(32, mixed_entry=True)),
    "flat": lambda: design(32, Flat(32, 4)),
    "depthwise": lambda: design(48, Mixer(48, 4, "depthwise")),
    "window": lambda: design(48, Mixer(48, 4, "window")),
}


def sources(folder: str, names: tuple[str, ...]) -> list[ScanSource]:
    spacing = {"forrest_T1w": (0.7, 0.85, 1.0)}
    return [ScanSource(path=f"{folder}/{n}.nii.gz", spacing_mm=spacing.get(n, ())) for n in names]


def gains(denoiser: Denoiser, batches: dict[str, list[Batch]]) -> dict[str, float]:
    """Mean PSNR gain over the network's starting point, per recipe."""
    result = {}
    for name, items in batches.items():
        values = []
        for batch in items:
            condition = make_condition(denoiser, (batch.base_BXYZ, batch.slices_BNXYZ), batch.positions, batch.noise_B)
            x = torch.zeros_like(batch.base_BXYZ)
            sigma = torch.full((len(x),), 20.0 * denoiser.config.sigma_data)
            residual = batch.truth_BXYZ - batch.base_BXYZ
            left = (residual - denoiser(x, sigma, condition)).square().mean((1, 2, 3))
            values += (10 * torch.log10(residual.square().mean((1, 2, 3)) / left)).tolist()
        result[name] = sum(values) / len(values)
    return result


def train(name: str, data: PatchSource, seconds: float, seed: int, rate: float) -> tuple[Denoiser, int]:
    torch.manual_seed(seed)
    denoiser = DESIGNS[name]()
    rng = rng_for(seed, "train")

    def loss_of(network: Denoiser, batch: Batch) -> Tensor:
        return batch_loss(network, batch, Draws(ProcessConfig(), rng), LossConfig())[0]

    return descend(denoiser, lambda step: data.batch(step, 4), loss_of, seconds=seconds, rate=rate)


@torch.no_grad()
def nanoseconds_a_voxel(denoiser: Denoiser) -> float:
    """CPU time of one evaluation, encoder and gate included, at its best of five."""
    base, times = torch.rand(1, 96, 96, 96), []
    x, y, z = (torch.linspace(0, 95 / ratio, 96)[None] for ratio in (1, 1, 5))
    for _ in range(5):
        start = time.process_time()
        condition = make_condition(denoiser, (base, torch.stack([base, base], 1)), (x, y, z), torch.tensor([0.01]))
        denoiser(torch.zeros_like(base), torch.tensor([1.0]), condition)
        times.append(time.process_time() - start)
    return min(times) / base.numel() * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=8e-3)
    parser.add_argument("--threads", type=int, default=1, help="1 makes CPU time the time it takes alone")
    parser.add_argument("--only", default=",".join(DESIGNS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = PatchSource(
        heads=load_heads(sources("train", TRAIN), args.data, args.seed),
        patch=32,
        seed=args.seed,
        settings=PrepareSettings(),
    )
    held = load_heads(sources("val", HELD_OUT), args.data, 0)
    checks = {}
    for recipe in ("thick5", "low1.5", "iso2"):
        source = PatchSource(
            heads=held, patch=48, seed=1, settings=PrepareSettings(), augment=None, recipe=NAMED[recipe]
        )
        checks[recipe] = [source.batch(i, 4) for i in range(6)]
    for name in args.only.split(","):
        denoiser, steps = train(name, data, 60 * args.minutes, args.seed, args.rate)
        denoiser.eval()
        with torch.no_grad():
            row = gains(denoiser, checks)
        row |= {
            "ns_a_voxel": nanoseconds_a_voxel(denoiser),
            "steps": steps,
            "parameters": sum(p.numel() for p in denoiser.parameters()),
            "seed": args.seed,
        }
        print(json.dumps({"design": name} | row), flush=True)


if __name__ == "__main__":
    main()
