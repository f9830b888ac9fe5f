"""Self-supervised fine-tuning of weights on thick-slice scans themselves, without a sharp scan.

Slices are thick in one direction only. A scan as enhanced so far is acquired again as if its slices had been stacked
along either axis of their plane; what is lost there was measured, so it can be learned. Networks trained on nothing
else are the self-supervised way to sharpen such scans (Zhao et al. 2021, SMORE); here trained weights learn what they
lack for one scan, or for all scans of one protocol. Gate, encoder and uncertainty head stay as they are.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from moediff._version import __version__
from moediff.core.config import rng_for
from moediff.core.device import parse_device
from moediff.core.errors import ConfigError, prefix_errors
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import GridPlan, plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import LoadedScan
from moediff.model.bundle import Bundle, load_bundle, save_bundle
from moediff.model.denoiser import Denoiser
from moediff.training.augment import AugmentConfig
from moediff.training.cache import ScanSource, TrainingScan, write_training_scans
from moediff.training.config import TrainConfig
from moediff.training.losses import LossConfig
from moediff.training.patches import PatchSource
from moediff.training.self_supervised import scan_from_slices, slices_of
from moediff.training.step import Draws, batch_loss
from moediff.training.trainer import RunOptions, check_processes, train

VALIDATION_BATCHES = 6  # that measure how much was learned
PARTS = ("embedding", "backbone", "experts")
NO_AUGMENTATION = AugmentConfig(
    amplitude=(1.0, 1.0), gamma=(1.0, 1.0), bias=0.0, blur_probability=0.0, sharpen_probability=0.0
)
LOSS = LossConfig(expert=0.0, region=0.0, agreement=0.0, balance=0.0, error=0.0, gradient=1.0)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """How weights learn on.

    Args:
        steps: optimiser steps, 1..100000, of `batch` patches; the learning rate falls to zero at the end.
        batch: examples a step.
        patch: their side in voxels, a multiple of 16, at least 32.
        rate: the learning rate at its highest.
        share: how far the weights go from where they began (0) to what they learned (1). What a scan's plane teaches
            makes them too sure between its slices; half the way keeps most of the gain (Wortsman et al. 2022).
        seed: of everything random.
        device: "auto", "cpu", "cuda", or "cuda:N" for a single process.
        processes: that share a batch; 0 chooses as `train` does.
        threads: CPU threads that they share; None takes all cores.

    Raises:
        ConfigError: a value is out of range.
    """

    steps: int = 100
    batch: int = 2
    patch: int = 48
    rate: float = 1e-3
    share: float = 0.5
    seed: int = 0
    device: str = "auto"
    processes: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100_000:
            raise ConfigError(f"steps is {self.steps}, expected 1 to 100000: choose one of these")
        if self.processes < 0 or (self.processes and self.batch % self.processes):
            raise ConfigError(
                f"processes is {self.processes}, which cannot share {self.batch} patches: choose 1, {self.batch} or 0"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}, expected 1 or more: choose about as many as cores")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}, expected 0 to 2^63 - 1: choose one of these")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}, expected more than 0, at most 1: choose one of these")


def adapt(
    scans: Sequence[LoadedScan],
    bundle: Bundle,
    options: AdaptOptions | None = None,
    *,
    plans: Sequence[GridPlan] | None = None,
    out: Path | None = None,
    progress: bool = False,
) -> Bundle:
    """Let a bundle's weights learn on from thick-slice scans, best all of one protocol and contrast.

    A script that calls it needs `if __name__ == "__main__":`, since several processes read the script again; with one
    process (see `AdaptOptions`) it does not.

    Args:
        scans: as `load` returns them, raw intensities, slices along any axis.
        bundle: the weights to begin with, on the device of the options.
        options: how; defaults suit one scan.
        plans: grid plans of the scans (see `plans_of`) for what they will be enhanced to; None: `enhance`'s default.
        out: folder to write the adapted bundle to, replaced whole where there is one; None writes nothing.
        progress: show a line about it.

    Returns:
        The adapted bundle as it is written; its provenance says from which weights, and from how many scans.

    Raises:
        DataError: a scan's slices are not thick, or too thick.
        ConfigError: there is no scan, or the options do not go together.
    """
    chosen = options or AdaptOptions()
    if not scans:
        raise ConfigError("there is no scan to learn from; name at least one")
    plans = plans or plans_of(scans, EnhanceOptions())
    with TemporaryDirectory(prefix="moediff-adapt-") as name:
        work = Path(name)
        config = _config(work, bundle, chosen)
        check_processes(config, chosen.processes)  # before minutes are spent on the scans
        learning_scans = _training_scans(scans, Enhancer(bundle, device=chosen.device), plans)
        write_training_scans(work / "scans.safetensors", learning_scans)
        save_bundle(work / "start", bundle.config, bundle.denoiser.state_dict(), {})
        how = RunOptions(processes=chosen.processes, threads=chosen.threads, progress=progress, tensorboard=False)
        run = train(config, how)
        learned = load_bundle(run)
        device = parse_device(chosen.device)
        denoiser = part_way(bundle.denoiser, learned.denoiser.to(device), chosen.share)
        left = [_error_left(one, bundle, learning_scans, chosen) for one in (bundle.denoiser, denoiser)]
        folder = work / "adapted" if out is None else out
        save_bundle(folder, bundle.config, denoiser.state_dict(), _provenance(bundle, learning_scans, chosen, left))
        return load_bundle(folder, device)


@torch.no_grad()
def part_way(start: Denoiser, learned: Denoiser, share: float) -> Denoiser:
    """Weights on the straight line from one network (share 0) to the other (share 1), which is overwritten."""
    for own, begun in zip(learned.parameters(), start.parameters(), strict=True):
        own.copy_(torch.lerp(begun, own, share))
    return learned.eval()


def plans_of(scans: Sequence[LoadedScan], options: EnhanceOptions) -> list[GridPlan]:
    """Grid plans of scans; errors name the scan.

    Raises:
        DataError: see `plan_grids`.
    """
    plans = []
    for scan in scans:
        with prefix_errors(scan.path) if scan.path is not None else nullcontext():
            plans.append(plan_grids(scan, options))
    return plans


def _training_scans(scans: Sequence[LoadedScan], enhancer: Enhancer, plans: Sequence[GridPlan]) -> list[TrainingScan]:
    known = []
    for scan, plan in zip(scans, plans, strict=True):  # all of them before the work on the first begins
        with prefix_errors(scan.path) if scan.path is not None else nullcontext():
            known.append(slices_of(plan))
    return [scan_from_slices(scan, stack, enhancer) for scan, stack in zip(scans, known, strict=True)]


def _config(work: Path, bundle: Bundle, options: AdaptOptions) -> TrainConfig:
    return TrainConfig(
        out=str(work / "run"),
        data=str(work),
        scans=(ScanSource(path="scans.safetensors", prepared=True),),
        start=str(work / "start"),
        only=PARTS,
        model=bundle.config,
        augment=NO_AUGMENTATION,
        loss=LOSS,
        steps=options.steps,
        batch=options.batch,
        patch=options.patch,
        learning_rate=options.rate,
        seed=options.seed,
        warmup_steps=10,
        weight_decay=0.0,
        ema_decay=0.95,
        save_every=options.steps,
        precision="fast",
        device=options.device,
    )


@torch.no_grad()
def _error_left(
    denoiser: Denoiser, bundle: Bundle, learning_scans: Sequence[TrainingScan], options: AdaptOptions
) -> float:
    """Squared error over that of interpolation, on patches of the learning_scans that were not learned from."""
    source = PatchSource(
        scans=learning_scans, patch=options.patch, seed=options.seed, settings=bundle.config.prepare, augment=None
    )
    process, parts = replace(bundle.config.diffusion, probability_sigma_max=1.0), []
    for number in range(VALIDATION_BATCHES):
        batch = source.batch(options.steps + number, options.batch).to(next(denoiser.parameters()).device)
        draws = Draws(process, rng_for(options.seed, "left", number))
        parts.append(batch_loss(denoiser, batch, draws, LOSS, probe=False)[1]["aggregate"])
    return float(torch.stack(parts).mean())


def _provenance(
    bundle: Bundle, learning_scans: Sequence[TrainingScan], options: AdaptOptions, left: Sequence[float]
) -> dict[str, Any]:
    """Provenance of the adapted bundle: its origin, and nothing that names a scan."""
    factors = [scan.stack.recipe.axes[2].factor for scan in learning_scans if scan.stack is not None]
    adapted = {
        "scans": len(learning_scans),
        "slice_factors": [round(factor, 2) for factor in factors],
        "steps": options.steps,
        "batch": options.batch,
        "patch": options.patch,
        "rate": options.rate,
        "share": options.share,
        "seed": options.seed,
        "error_over_interpolation": [round(error, 4) for error in left],  # of what was learned, before and after
        "from_sha256": bundle.sha256,
        "software": f"moediff-sr {__version__}",
    }
    name = str(bundle.provenance.get("name", "unnamed"))
    return {**bundle.provenance, "name": f"{name}, adapted", "adapted": adapted}
