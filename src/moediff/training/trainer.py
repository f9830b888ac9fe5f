"""Training: draw patches, minimise the loss, average the weights, save, validate through the saved bundle.

Randomness is keyed by (seed, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from moediff.config import parse_as, rng_for
from moediff.errors import ConfigError, InputMissing, MoeDiffError
from moediff.model.branch import begin_from
from moediff.model.bundle import BundleConfig, load_bundle, save_bundle
from moediff.model.denoiser import Denoiser
from moediff.simulate.recipe import RecipeRanges
from moediff.training.ahead import Ahead
from moediff.training.augment import AugmentConfig
from moediff.training.checkpoint import State, load_checkpoint, save_checkpoint
from moediff.training.dataset import Batch, PatchSource
from moediff.training.heads import ScanSource, load_heads
from moediff.training.log import Log
from moediff.training.losses import LossConfig
from moediff.training.optimiser import Muon
from moediff.training.step import Draws, batch_loss
from moediff.training.team import agreed, average_gradients, run_together
from moediff.training.validate import Validation, validate

MAX_BAD_STEPS = 20  # steps in a row with a loss that is not finite before training gives up


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; a TOML file holds these.

    Args:
        out: folder for checkpoints, logs and the bundle.
        data: folder that scan paths are relative to.
        scans: what to learn from.
        validation: scans and recipes to judge by; none skips validation.
        steps: optimiser steps of the whole run; the learning rate falls to zero at the end.
        minutes: optional wall-clock budget; the schedule then follows the clock where that is further along.
        batch, patch: examples a step and their side in voxels.
        start: optional bundle whose weights the run begins with; a uniform one is branched into experts.
        rate, warmup, weight_decay, clip: the optimiser's learning rate, its rise in steps, decay, gradient-norm bound.
        ema: decay of the weight average that is saved.
        save_every: steps between checkpoints (and validation).
        provenance: who and what, copied into the bundle.
    """

    out: str
    data: str = "."
    scans: tuple[ScanSource, ...] = ()
    validation: Validation = field(default_factory=Validation)
    model: BundleConfig = field(default_factory=BundleConfig)
    recipes: RecipeRanges = field(default_factory=RecipeRanges)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    steps: int = 1000
    minutes: float | None = None
    start: str | None = None
    batch: int = 4
    patch: int = 48
    rate: float = 5e-3
    warmup: int = 100
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.998
    save_every: int = 500
    seed: int = 0
    device: str = "auto"
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema={self.ema} must lie in 0..1")


def load_config(path: Path) -> TrainConfig:
    """Read a TOML training configuration.

    Relative `out`, `data` and `start` are taken from the file's folder; `like` names another configuration whose
    settings hold unless this one says otherwise.

    Raises:
        InputMissing: no such file.
        ConfigError: not TOML, or unknown or impossible settings.
    """
    try:
        return parse_as(TrainConfig, _read_settings(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_settings(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    import tomllib

    if path.resolve() in above:
        raise ConfigError(f"like: {path} builds on itself; remove one `like`")
    if not path.is_file():
        raise InputMissing(f"{path}: no such training configuration")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # TOMLDecodeError, or bytes that are not UTF-8
        raise ConfigError(f"not TOML ({error})") from error
    for key in ("out", "data", "start"):
        if isinstance(values.get(key), str):  # anything else is refused by its type later
            values[key] = str(path.parent / values[key])
    like = values.pop("like", "")
    if not isinstance(like, str):
        raise ConfigError(f"like: expected the path of another configuration; found {like!r}")
    if like:
        values = _over(_read_settings(path.parent / like, (*above, path.resolve())), values)
    return {"out": str(path.parent), "data": str(path.parent), **values}


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the settings of `above` put over it, tables merged."""
    both = {key: _over(below[key], above[key]) for key in above if isinstance(below.get(key), dict)}
    return {**below, **above, **both}


def train(config: TrainConfig, *, processes: int = 0, resume: bool = False, progress: bool = True) -> Path:
    """Train to the end; returns the bundle's folder.

    Args:
        processes: that share every batch; 0 chooses as many as there are GPUs, or CPU cores where there is no GPU, as
            far as `batch` can be shared out.

    Raises:
        ConfigError: the folder already holds a run and resume is False, or the batch cannot be shared out.
        MoeDiffError: the loss stays not finite.
    """
    run_together(partial(_train_here, config, resume, progress), processes or _processes_for(config))
    return Path(config.out) / "bundle"


def _train_here(config: TrainConfig, resume: bool, progress: bool) -> None:
    Trainer(config).run(resume=resume, progress=progress)


def _processes_for(config: TrainConfig) -> int:
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    most = (os.cpu_count() or 1) if on_cpu else torch.cuda.device_count()
    return max(n for n in range(1, max(most, 1) + 1) if config.batch % n == 0)


class Trainer:
    """Runs one configuration; `run` may be called again with resume=True after any interruption."""

    def __init__(self, config: TrainConfig) -> None:
        from accelerate import Accelerator

        self.config = config
        self.out = Path(config.out)
        self.origin: dict[str, Any] = {}
        on_cpu = config.device == "cpu" or not torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no" if on_cpu else "bf16")
        torch.manual_seed(config.seed)  # initial weights only; everything later is keyed by step
        denoiser, average = Denoiser(config.model.denoiser), Denoiser(config.model.denoiser)
        if config.start:
            begin_from(denoiser, self._start(config.start))
        average.load_state_dict(denoiser.state_dict())
        optimiser = Muon(denoiser.parameters(), lr=config.rate, weight_decay=config.weight_decay)
        device = self.accelerator.device
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        if config.batch % self.processes:
            raise ConfigError(f"batch={config.batch} must be a multiple of the {self.processes} processes")
        self.state = State(denoiser.to(device), average.to(device), optimiser)

    def _start(self, path: str) -> Denoiser:
        bundle = load_bundle(path)
        told = {key: bundle.provenance[key] for key in ("name", "steps", "hours") if key in bundle.provenance}
        self.origin = {"started_from": {**told, "sha256": bundle.sha256}}
        return bundle.denoiser

    def run(self, *, resume: bool = False, progress: bool = True) -> Path:
        """Train to the end; returns the bundle's folder.

        Raises:
            ConfigError: the folder already holds a run and resume is False.
            MoeDiffError: the loss stays not finite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "checkpoint").exists():
            if not resume:
                raise ConfigError(f"{self.out} holds a run already; add --resume or choose another `out`")
            self._restore()
        config = self.config
        heads = load_heads(config.scans, Path(config.data), config.seed)
        source = PatchSource(
            heads=heads, patch=config.patch, seed=config.seed, settings=config.model.prepare,
            ranges=config.recipes, augment=config.augment, rank=self.rank, of=self.processes,
        )  # fmt: skip
        workers = 0 if self.accelerator.device.type == "cpu" else max(1, (os.cpu_count() or 1) // 2)
        log = Log(self.out, quiet=not progress) if self.rank == 0 else nullcontext()
        with log as told, Ahead(source, config.batch, workers) as ahead:
            self._loop(ahead, told)
        return self.out / "bundle"

    def _loop(self, source: Ahead, log: Log | None) -> None:
        """Steps to the end; only the process that has the log saves and validates."""
        state, config, bad = self.state, self.config, 0
        while self.progress() < 1:
            start = time.perf_counter()
            parts = self.step(source.batch(state.step))
            bad = 0 if math.isfinite(parts["loss"]) else bad + 1
            if bad >= MAX_BAD_STEPS:
                raise MoeDiffError(f"the loss was not finite for {bad} steps; lower `rate` or check the scans")
            state.step += 1
            state.seconds += agreed(time.perf_counter() - start)
            if log is None:
                continue
            log.step(state.step, self.progress(), parts, state.seconds)
            if state.step % config.save_every == 0 or self.progress() >= 1:
                self._save()
                log.validation(state.step, validate(self.out / "bundle", config.validation, Path(config.data)))

    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        share = self.state.step / self.config.steps
        if self.config.minutes:
            share = max(share, self.state.seconds / (60 * self.config.minutes))
        return min(share, 1.0)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; a loss or gradient that is not finite changes nothing."""
        state, config = self.state, self.config
        rate = config.rate * min(1.0, (state.step + 1) / max(config.warmup, 1))
        rate *= 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        batch = batch.to(self.accelerator.device)
        rng = rng_for(config.seed, "step", state.step)
        with self.accelerator.autocast():
            draws = Draws(config.model.process, rng, self.rank, self.processes)
            loss, parts = batch_loss(state.denoiser, batch, draws, config.loss)
        state.optimiser.zero_grad()
        loss.backward()
        average_gradients(state.denoiser.parameters())
        parts["loss"] = agreed(parts["loss"])
        norm = torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.clip)
        if math.isfinite(parts["loss"]) and bool(torch.isfinite(norm)):
            state.optimiser.step()
            self._average()
        else:
            parts["loss"] = math.nan
        return parts

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.state.step) / (10 + self.state.step))
        pairs = zip(self.state.average.parameters(), self.state.denoiser.parameters(), strict=True)
        for mean, live in pairs:
            mean.lerp_(live, 1 - decay)

    def _save(self) -> None:
        """Bundle first, then the checkpoint that continues from it; each is moved in whole."""
        done = {"steps": self.state.step, "hours": round(self.state.seconds / 3600, 2)}
        training = json.loads(json.dumps(asdict(self.config)))
        training |= {"out": "", "data": "", "start": ""}  # no folder of ours travels with the weights
        provenance = {**self.config.provenance, **self.origin, **done, "training": training}
        save_bundle(self.out / "bundle", self.config.model, self.state.average.state_dict(), provenance)
        save_checkpoint(self.out / "checkpoint", self.state)

    def _restore(self) -> None:
        load_checkpoint(self.out / "checkpoint", self.state)
