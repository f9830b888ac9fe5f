"""Training: draw patches, minimise the loss, average the weights, save, validate through the saved bundle.

Randomness is keyed by (seed, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
import warnings
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core.config import rng_for
from moediff.core.device import has_fast_bfloat16, parse_device
from moediff.core.errors import ConfigError, MoeDiffWarning
from moediff.model.bundle import PARAMETER_PARTS, load_bundle, save_bundle
from moediff.model.denoiser import Denoiser
from moediff.model.execution import compile_blocks
from moediff.model.layers import ResBlock
from moediff.model.warm_start import begin_from
from moediff.training.checkpoint import State, claim, has_checkpoint, load_checkpoint, save_checkpoint
from moediff.training.config import FOLDERS, TrainConfig
from moediff.training.distributed import agreed, average_gradients, run_together
from moediff.training.gate_step import routing_loss
from moediff.training.log import Log
from moediff.training.muon import Muon
from moediff.training.patches import Batch, PatchSource
from moediff.training.preemption import Pause
from moediff.training.prefetch import Ahead
from moediff.training.sources import load_heads
from moediff.training.step import Draws, batch_loss
from moediff.training.validate import validate

MAX_BAD_STEPS = 20  # steps in a row with a loss that is not finite before training gives up
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def train(
    config: TrainConfig,
    *,
    processes: int = 0,
    resume: bool = False,
    progress: bool = True,
    slice_minutes: float | None = None,
    threads: int | None = None,
) -> Path:
    """Train to the end; returns the bundle's folder.

    Args:
        slice_minutes: stop after that long, ready to be resumed.
        processes: that share every batch; 0 chooses as many as there are GPUs, or CPU cores where there is no GPU, as
            far as `batch` can be shared out.
        threads: CPU threads that all processes share; None takes all cores.

    Raises:
        ConfigError: the folder already holds a run and resume is False, the batch cannot be shared out, no scans are
            listed, or the loss stays not finite.
        InputMissing: a scan to learn from or to validate on is not there.
        TryAgain: the slice is over before the run is.
    """
    if processes < 0:
        raise ConfigError(f"{processes} processes cannot train, expected 1 or more, or 0: choose one of these")
    if odd := [phase.batch for phase in config.parts() if processes and phase.batch % processes]:
        raise ConfigError(f"batch={odd[0]} must be a multiple of the {processes} processes")
    if not config.scans:
        raise ConfigError("no training scans are listed; name at least one under [[scans]]")
    config.validation.check(Path(config.data))
    work = partial(_train_here, config, resume, progress, slice_minutes)
    run_together(work, processes or _processes_for(config, threads), threads)
    return Path(config.out) / "bundle"


def _train_here(config: TrainConfig, resume: bool, progress: bool, slice_minutes: float | None) -> None:
    Trainer(config, Pause(slice_minutes)).run(resume=resume, progress=progress)


def _processes_for(config: TrainConfig, threads: int | None = None) -> int:
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    cores = os.cpu_count() or 1
    most = min(threads or cores, cores) if on_cpu else torch.cuda.device_count()
    batches = [phase.batch for phase in config.parts()]
    return max(n for n in range(1, max(most, 1) + 1) if all(batch % n == 0 for batch in batches))


class Trainer:
    """Runs one configuration; `run` may be called again with resume=True after any interruption."""

    def __init__(self, config: TrainConfig, pause: Pause | None = None) -> None:
        from accelerate import Accelerator

        self.config, self.pause = config, pause or Pause()
        self.out = Path(config.out)
        self.origin: dict[str, Any] = {}
        on_cpu = parse_device(config.device).type == "cpu"
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")  # one setting a process: ours is `autocast`
        self.half = _in_half(config.precision, self.accelerator.device)
        torch.manual_seed(config.seed)  # initial weights only; everything later is keyed by step
        device = self.accelerator.device
        denoiser, average = (Denoiser(config.model.denoiser).to(device) for _ in range(2))
        if config.start:
            begin_from(denoiser, self._start(config.start))
        average.load_state_dict(denoiser.state_dict())
        self.before = deepcopy(denoiser.encoder) if config.loss.feature_distillation else denoiser.encoder
        _freeze_but(denoiser, config.only)
        optimiser = Muon(
            (p for p in denoiser.parameters() if p.requires_grad),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        for phase in config.parts():
            if phase.batch % self.processes:
                raise ConfigError(f"batch={phase.batch} must be a multiple of the {self.processes} processes")
        self.state = State(denoiser, average, optimiser)
        if config.compile and device.type == "cuda":
            compile_blocks(denoiser, ResBlock)

    def _start(self, path: str) -> Denoiser:
        bundle = load_bundle(path)
        told = {key: bundle.provenance[key] for key in ("name", "steps", "hours") if key in bundle.provenance}
        self.origin = {"started_from": {**told, "sha256": bundle.sha256}}
        return bundle.denoiser

    def run(self, *, resume: bool = False, progress: bool = True) -> Path:
        """Train to the end; returns the bundle's folder.

        Raises:
            ConfigError: the folder holds a run and resume is False, or else what would be replaced; loss not finite.
            InputMissing: a scan is not there.
        """
        claim(self.out)
        if has_checkpoint(self.out / "checkpoint"):
            if not resume:
                raise ConfigError(f"{self.out} holds a run already; add --resume or choose another `out`")
            self._restore()
        config, device = self.config, self.accelerator.device
        keep = None if config.cache is None else Path(config.cache)
        there = device if config.examples == "device" else torch.device("cpu")
        heads = [head.to(there) for head in load_heads(config.scans, Path(config.data), config.seed, keep)]
        source = PatchSource(
            heads=heads,
            patch=config.patch,
            seed=config.seed,
            settings=config.model.prepare,
            ranges=config.recipes,
            augment=config.augment,
            largest=max(phase.batch for phase in config.parts()),
            rank=self.rank,
            of=self.processes,
        )
        workers = 0 if device.type == "cpu" else max(1, (os.cpu_count() or 1) // 2)
        log = Log(self.out, quiet=not progress, since=self.state.step) if self.rank == 0 else nullcontext()
        with self.pause, log as told:
            while self.progress() < 1:
                phase = config.phase_at(self.progress())
                with Ahead(replace(source, patch=phase.patch), phase.batch, workers, device) as ahead:
                    self._loop(ahead, told, phase.until)
        return self.out / "bundle"

    def _loop(self, source: Ahead, log: Log | None, until: float = 1.0) -> None:
        """Steps until this share is done; only the process that has the log saves and validates."""
        state, config, bad = self.state, self.config, 0
        now = CLOCKS[config.clock]
        while self.progress() < until:
            start = now()
            parts = self.step(source.batch(state.step))
            bad = 0 if math.isfinite(parts["loss"]) else bad + 1
            if bad >= MAX_BAD_STEPS:
                raise ConfigError(f"the loss was not finite for {bad} steps; lower `rate` or check the scans")
            state.step += 1
            state.seconds += agreed(now() - start)
            if log is not None:
                log.step(state.step, self.progress(), parts, state.seconds)
                if state.step % config.save_every == 0 or self.progress() >= 1:
                    self._save(log)
            if self.progress() < 1 and self.pause.due():
                if log is not None:
                    self._save()
                self.pause.leave(state.step, self.progress())

    def autocast(self) -> torch.autocast:
        """The precision that the configuration asks for, for the forward pass."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.half)

    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        share = self.state.step / self.config.steps
        if self.config.minutes:
            share = max(share, self.state.seconds / (60 * self.config.minutes))
        return min(share, 1.0)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; a loss or gradient that is not finite changes nothing."""
        state, config = self.state, self.config
        rate = config.learning_rate * min(1.0, (state.step + 1) / max(config.warmup_steps, 1))
        rate *= 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        batch = batch.to(self.accelerator.device)
        rng = rng_for(config.seed, "step", state.step)
        with self.autocast():
            loss, parts = self._loss(batch, rng)
        state.optimiser.zero_grad()
        loss.backward()
        average_gradients(state.denoiser.parameters())
        norm = torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.gradient_clip)
        told = _read({**parts, "norm": norm})
        finite = math.isfinite(told.pop("norm"))
        told["loss"] = agreed(told["loss"])
        if math.isfinite(told["loss"]) and finite:
            state.optimiser.step()
            self._average()
        else:
            told["loss"] = math.nan
        return told

    def _loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """What this step minimises, and its parts."""
        config, denoiser = self.config, self.state.denoiser
        if not config.loss.aggregate:
            return routing_loss(denoiser, self.before, batch, config.loss, rng)
        draws = Draws(config.model.diffusion, rng, self.rank, self.processes)
        return batch_loss(denoiser, batch, draws, config.loss, probe=config.loss.probes(self.state.step))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        means: list[Tensor] = list(self.state.average.parameters())
        lives: list[Tensor] = list(self.state.denoiser.parameters())
        torch._foreach_lerp_(means, lives, 1 - decay)

    def _save(self, log: Log | None = None) -> None:
        """Bundle first, then the checkpoint that continues from it; each is moved in whole.

        With a log the bundle is validated then, so that nothing is lost where that fails, and kept as "best" too while
        none was better.
        """
        done = {"steps": self.state.step, "hours": round(self.state.seconds / 3600, 2), "hardware": self._hardware()}
        done |= {"commit": _commit()}
        training = json.loads(json.dumps(asdict(self.config)))
        training |= dict.fromkeys(FOLDERS, "")  # no folder of ours travels with the weights
        provenance = {**self.config.provenance, **self.origin, **done, "training": training}
        self._save_bundle("bundle", provenance)
        save_checkpoint(self.out / "checkpoint", self.state)
        gains = validate(self.out / "bundle", self.config.validation, Path(self.config.data)) if log else {}
        if log is not None:
            log.validation(self.state.step, gains)
        mean = [gain for name, gain in gains.items() if name.startswith("mean/")]
        if mean and sum(mean) / len(mean) > self.state.best:
            self.state.best = sum(mean) / len(mean)
            rounded = {name: round(gain, 3) for name, gain in gains.items() if name.startswith("mean/")}
            self._save_bundle("best", {**provenance, "validation_gain_db": rounded})
            save_checkpoint(self.out / "checkpoint", self.state)

    def _save_bundle(self, name: str, provenance: dict[str, Any]) -> None:
        save_bundle(self.out / name, self.config.model, self.state.average.state_dict(), provenance)

    def _hardware(self) -> str:
        device = self.accelerator.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        return f"{self.processes} x {name}, {os.cpu_count()} CPU cores, torch {torch.__version__}"

    def _restore(self) -> None:
        load_checkpoint(self.out / "checkpoint", self.state)


def _commit() -> str:
    """The commit of the source tree that trains; "unknown" outside a repository."""
    tree = Path(__file__).resolve().parents[3]
    try:
        command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "unknown"
    return told.stdout.strip() or "unknown"


def _in_half(precision: str, device: torch.device) -> bool:
    if precision == "fast":
        return has_fast_bfloat16(device)
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def _read(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars of a device as numbers, in one go: the only time that a step waits for a GPU."""
    return dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist(), strict=True))


def _freeze_but(denoiser: Denoiser, parts: tuple[str, ...]) -> None:
    """Leave only these parts of the network to learn; none leaves all.

    Raises:
        ConfigError: the network has no such part.
    """
    own = [name for name, _ in denoiser.named_children()]
    if former := [part for part in parts if part in PARAMETER_PARTS and part not in own]:
        present = [PARAMETER_PARTS[part] for part in former]
        words = f"only={former} is now only={present}; old names are read for one more release"
        warnings.warn(words, MoeDiffWarning, stacklevel=2)
        parts = tuple(PARAMETER_PARTS.get(part, part) for part in parts)
    if unknown := [part for part in parts if part not in own]:
        raise ConfigError(f"only={unknown}: the network has the parts {', '.join(own)}")
    for name, child in denoiser.named_children():
        child.requires_grad_(not parts or name in parts)
