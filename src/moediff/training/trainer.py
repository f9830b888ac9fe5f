"""Training: draw patches, minimise the loss, average the weights, save, validate through the saved bundle.

Randomness is keyed by (seed, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core.config import rng_for
from moediff.core.device import has_fast_bfloat16, parse_device
from moediff.core.errors import BundleError, ConfigError, MoeDiffWarning, printable
from moediff.model.bundle import PARAMETER_PARTS, load_bundle, read_manifest, save_bundle
from moediff.model.denoiser import Denoiser
from moediff.model.execution import compile_blocks
from moediff.model.layers import ResBlock
from moediff.model.warm_start import begin_from
from moediff.training.checkpoint import (
    FOLDER,
    OTHER_NETWORK,
    State,
    claim,
    has_checkpoint,
    load_checkpoint,
    run_lock,
    save_checkpoint,
    saved_place,
)
from moediff.training.config import TrainConfig
from moediff.training.distributed import agreed, agreed_means, average_gradients, join_group, run_together
from moediff.training.gate_step import routing_loss
from moediff.training.log import Log, StagePosition
from moediff.training.manifest import check_checksums
from moediff.training.muon import Muon
from moediff.training.patches import Batch, PatchSource
from moediff.training.preemption import Preemption
from moediff.training.prefetch import Prefetcher
from moediff.training.provenance import (
    Restart,
    Session,
    StageRecord,
    plain_settings,
    session_here,
    stage_records,
    with_session,
)
from moediff.training.sources import load_training_scans
from moediff.training.step import Draws, batch_loss
from moediff.training.validate import validate

MAX_BAD_STEPS = 20  # steps in a row with a loss that is not finite before training gives up
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is done here and now; none of it changes what is learned, but for the rounding of sums.

    Args:
        processes: that share every batch; 0 chooses as many as there are GPUs, or CPU cores where there is no GPU, as
            far as `batch` can be shared out.
        threads: CPU threads that all processes share; None takes all cores.
        resume: go on where an earlier run stopped.
        progress: show progress on standard error.
        slice_minutes: stop after that long, ready to be resumed.
        tensorboard: write its curves too, which needs the package.
    """

    processes: int = 0
    threads: int | None = None
    resume: bool = False
    progress: bool = True
    slice_minutes: float | None = None
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class RecipePart:
    """Which stage of a recipe a run is: its position, and the whole recipe for the provenance."""

    position: StagePosition = field(default_factory=StagePosition)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def train(config: TrainConfig, options: RunOptions | None = None, part: RecipePart | None = None) -> Path:
    """Train to the end; returns the bundle's folder.

    Raises:
        ConfigError: the folder already holds a run and `resume` is False, the batch cannot be shared out, no scans are
            listed, or the loss stays not finite.
        InputMissing: a scan to learn from or to validate on is not there.
        TryAgain: the slice is over before the run is, or another one works in the folder.
    """
    options = options or RunOptions()
    processes = options.processes
    check_processes(config, processes)
    if not config.scans:
        raise ConfigError("no training scans are listed; name at least one under [[scans]]")
    check_checksums(config)
    config.validation.check(Path(config.data))
    work = partial(_train_here, config, options, part)
    with run_lock(Path(config.out)):
        run_together(work, processes or _processes_for(config, options.threads), options.threads)
    return Path(config.out) / "bundle"


def _train_here(config: TrainConfig, options: RunOptions, part: RecipePart | None) -> None:
    Trainer(config, options, part).run()


def check_processes(config: TrainConfig, processes: int) -> None:
    """Can that many processes share every batch?

    Raises:
        ConfigError: they cannot.
    """
    if processes < 0:
        raise ConfigError(f"{processes} processes cannot train, expected 1 or more, or 0: choose one of these")
    if odd := [phase.batch for phase in config.parts() if processes and phase.batch % processes]:
        raise ConfigError(f"batch={odd[0]} must be a multiple of the {processes} processes")
    if processes > 1 and ":" in config.device:
        raise ConfigError(
            f"device={config.device!r} is one GPU, which {processes} processes cannot share: choose one process, or "
            "'cuda' with CUDA_VISIBLE_DEVICES naming as many GPUs"
        )
    if processes and config.shares % processes:
        raise ConfigError(f"the {processes} processes must divide shares={config.shares}: choose another number")


def _processes_for(config: TrainConfig, threads: int | None = None) -> int:
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    cores = os.cpu_count() or 1
    gpus = 1 if ":" in config.device else torch.cuda.device_count()
    most = min(threads or cores, cores) if on_cpu else gpus
    batches = [phase.batch for phase in config.parts()]
    shared = [config.shares] if config.shares else batches
    return max(n for n in range(1, max(most, 1) + 1) if all(count % n == 0 for count in shared))


class Trainer:
    """Runs one configuration; a later one with `resume` goes on after any interruption."""

    def __init__(self, config: TrainConfig, options: RunOptions | None = None, part: RecipePart | None = None) -> None:
        self.config, self.options, self.part = config, options or RunOptions(), part or RecipePart()
        self.pause = Preemption(self.options.slice_minutes)
        self.out = Path(config.out)
        self.origin: dict[str, Any] = {}
        self.records_before: tuple[StageRecord, ...] = ()
        self.parents: tuple[str, ...] = ()
        self.member = join_group(parse_device(config.device))
        device = self.member.device
        self.half = _in_half(config.precision, device)
        torch.manual_seed(config.seed)  # initial weights only; everything later is keyed by step
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
            half=self.half,
        )
        self.rank, self.processes = self.member.rank, self.member.processes
        check_processes(config, self.processes)
        self.shares = max(config.shares // self.processes, 1)  # of every batch that this process works through
        self.state = State(denoiser, average, optimiser)
        if config.compile and device.type == "cuda":
            compile_blocks(denoiser, ResBlock)

    def _start(self, path: str) -> Denoiser:
        bundle = load_bundle(path)
        known = {key: bundle.provenance[key] for key in ("name", "steps", "hours") if key in bundle.provenance}
        self.origin = {"started_from": {**known, "sha256": bundle.sha256}}
        self.records_before, self.parents = stage_records(bundle.provenance), (bundle.sha256,)
        return bundle.denoiser

    @property
    def name(self) -> str:
        """Of the run among the stages of its weights."""
        return self.part.position.name or self.config.name

    def run(self) -> Path:
        """Train to the end; returns the bundle's folder.

        Raises:
            ConfigError: the folder holds a run and `resume` is False, or else what would be replaced; loss not finite.
            InputMissing: a scan is not there.
        """
        self._begin()
        self.state.sessions = with_session(self.state.sessions, self._session())
        config, device = self.config, self.member.device
        keep = None if config.cache is None else Path(config.cache)
        device_of_patches = device if config.examples == "device" else torch.device("cpu")
        scans = [
            scan.to(device_of_patches)
            for scan in load_training_scans(config.scans, Path(config.data), config.seed, keep)
        ]
        source = PatchSource(
            scans=scans,
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
        with self.pause, self._log() as log:  # all processes leave it together
            while self.progress() < 1:
                phase = config.phase_at(self.progress())
                with Prefetcher(replace(source, patch=phase.patch), phase.batch, workers, device) as ahead:
                    self._loop(ahead, log, phase.until)
        return self.out / "bundle"

    def _begin(self) -> None:
        """Make the folder this run's, and go on where an earlier session stopped.

        Raises:
            ConfigError: see `run`.
        """
        checkpoint, bundle = self.out / FOLDER, saved_bundle(self.out, self.name)
        if self.options.resume and bundle is not None and _is_further(bundle, checkpoint):
            checkpoint.mkdir(exist_ok=True)
            self._restart(bundle)
            return
        claim(self.out)
        if not has_checkpoint(checkpoint):
            return
        if not self.options.resume:
            raise ConfigError(f"{self.out} holds a run already; add --resume or choose another `out`")
        self._restore()
        if bundle is not None and self.config.start is None:  # what it began with may be lost
            self._inherit(read_manifest(bundle)["provenance"])

    def _log(self) -> AbstractContextManager[Log | None]:
        if self.rank > 0:
            return nullcontext()
        return Log(
            self.out,
            quiet=not self.options.progress,
            since=self.state.step,
            position=self.part.position,
            share=self.progress(),
            tensorboard=self.options.tensorboard,
        )

    def _loop(self, source: Prefetcher, log: Log | None, until: float = 1.0) -> None:
        """Steps until this share is done; only the process that has the log saves and validates.

        Lines that end with "together" wait for all processes: each must come there equally often, so what they stand
        under may depend on nothing but what all have agreed on.
        """
        state, config, bad = self.state, self.config, 0
        now = CLOCKS[config.clock]
        while self.progress() < until:
            start = now()
            parts = self.step(source.batch(state.step))  # together
            bad = 0 if math.isfinite(parts["loss"]) else bad + 1
            if bad >= MAX_BAD_STEPS:
                raise ConfigError(f"the loss was not finite for {bad} steps; lower `learning_rate` or check the scans")
            state.step += 1
            state.seconds += agreed(now() - start)  # together
            if log is not None:
                log.step(state.step, self.progress(), parts, state.seconds)
                if state.step % config.save_every == 0 or self.progress() >= 1:
                    self._save(log)
            if self.progress() < 1 and self.pause.due():  # together
                if log is not None:
                    self._save()
                self.pause.stop(f"step {state.step}, {self.progress():.0%} done")  # together

    def autocast(self) -> torch.autocast:
        """The precision that the configuration asks for, for the forward pass."""
        return torch.autocast(self.member.device.type, torch.bfloat16, enabled=self.half)

    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        share = self.state.step / self.config.steps
        if self.config.minutes:
            share = max(share, self.state.seconds / (60 * self.config.minutes))
        return min(share, 1.0)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; a loss or gradient that is not finite changes nothing."""
        state, config = self.state, self.config
        for group in state.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        state.optimiser.zero_grad()
        shares = batch.to(self.member.device).parts(self.shares)
        parts = _means([self._backward(share, number) for number, share in enumerate(shares)])
        average_gradients(state.denoiser.parameters())  # together
        norm = torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.gradient_clip)
        losses = _read({**parts, "norm": norm})
        finite, loss = math.isfinite(losses.pop("norm")), agreed(losses["loss"])  # together
        losses = {**agreed_means(losses), "loss": loss}  # together
        if math.isfinite(losses["loss"]) and finite:
            state.optimiser.step()
            self._average()
        else:
            losses["loss"] = math.nan
        return losses

    def learning_rate(self) -> float:
        """Of this step: a rise at the start and after a restart, then its part of the fall."""
        config, step = self.config, self.state.step
        since = self.state.restarts[-1].step if self.state.restarts else 0
        rise = min(1.0, (step - since + 1) / max(config.warmup_steps, 1))
        first, last = config.cosine
        return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * (first + (last - first) * self.progress())))

    def _backward(self, share: Batch, number: int) -> dict[str, Tensor]:
        """Add this share's part of the gradient; returns its parts of the loss."""
        with self.autocast():
            loss, parts = self._loss(share, number)
        (loss / self.shares).backward()
        return parts

    def _loss(self, batch: Batch, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What this step minimises of one of this process's shares, and its parts."""
        config, denoiser = self.config, self.state.denoiser
        rng = rng_for(config.seed, "step", self.state.step)
        if not config.loss.aggregate:
            return routing_loss(denoiser, self.before, batch, config.loss, rng)
        draws = Draws(config.model.diffusion, rng, self.rank * self.shares + number, self.processes * self.shares)
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
        provenance = self._provenance()
        self._save_bundle("bundle", provenance)
        save_checkpoint(self.out / FOLDER, self.state)
        gains = validate(self.out / "bundle", self.config.validation, Path(self.config.data)) if log else {}
        if log is not None:
            log.validation(self.state.step, gains)
        mean = [gain for name, gain in gains.items() if name.startswith("mean/")]
        if mean and sum(mean) / len(mean) > self.state.best:
            self.state.best = sum(mean) / len(mean)
            rounded = {name: round(gain, 3) for name, gain in gains.items() if name.startswith("mean/")}
            self._save_bundle("best", {**provenance, "validation_gain_db": rounded})
            save_checkpoint(self.out / FOLDER, self.state)

    def _save_bundle(self, name: str, provenance: dict[str, Any]) -> None:
        save_bundle(self.out / name, self.config.model, self.state.average.state_dict(), provenance)

    def _provenance(self) -> dict[str, Any]:
        state, now = self.state, self._session()
        record = StageRecord(
            name=self.name,
            finished=self.progress() >= 1,
            steps=state.step,
            seconds=round(state.seconds, 2),
            seed=self.config.seed,
            parent_sha256=self.parents,
            commit=now.commit,
            torch=now.torch,
            hardware=now.hardware,
            sessions=state.sessions,
            restarts=state.restarts,
        )
        records = [*self.records_before, record]
        own = [record] if not self.part.recipe else records  # a run of its own counts its own steps alone
        done: dict[str, Any] = {
            "steps": sum(r.steps for r in own),
            "hours": round(sum(r.seconds for r in own) / 3600, 2),
        }
        done |= {"hardware": record.hardware, "commit": record.commit}
        recipe = {"recipe": self.part.recipe} if self.part.recipe else {"training": plain_settings(self.config)}
        return {**self.config.provenance, **self.origin, **done, **recipe, "stages": [r.plain() for r in records]}

    def _session(self) -> Session:
        precision = "bfloat16" if self.half else "float32"
        return session_here(self.state.step, self.member.device, self.processes, precision)

    def _restore(self) -> None:
        load_checkpoint(self.out / FOLDER, self.state)

    def _restart(self, path: Path) -> None:
        """Go on from a bundle at its place in the schedule; the optimiser, which it does not hold, warms up again."""
        bundle, state = load_bundle(path), self.state
        if bundle.config.denoiser != self.config.model.denoiser:
            raise ConfigError(OTHER_NETWORK.format(folder=printable(self.out)))
        record = self._inherit(bundle.provenance)
        for network in (state.denoiser, state.average):
            network.load_state_dict(bundle.denoiser.state_dict())
        state.step, state.seconds, state.best = record.steps, record.seconds, best_gain(self.out)
        state.sessions = record.sessions
        state.restarts = (
            *record.restarts,
            Restart(step=record.steps, seconds=record.seconds, from_sha256=bundle.sha256),
        )

    def _inherit(self, provenance: Mapping[str, Any]) -> StageRecord:
        """Take over what a bundle of this run says about its beginning; returns the run's own record."""
        *before, record = stage_records(provenance)
        self.records_before, self.parents = tuple(before), record.parent_sha256
        self.origin = {key: provenance[key] for key in ("started_from",) if key in provenance}
        return record


def best_gain(out: Path) -> float:
    """Mean validation gain of the best bundle of a run; minus infinity where there is none."""
    try:
        gains = read_manifest(out / "best")["provenance"].get("validation_gain_db", {})
    except BundleError:
        return -math.inf
    return sum(gains.values()) / len(gains) if gains else -math.inf


def saved_bundle(out: Path, name: str) -> Path | None:
    """The folder of the bundle that a run of this name saved last, finished or not; None where there is none."""
    try:
        records = stage_records(read_manifest(out / "bundle")["provenance"])
    except BundleError:
        return None
    return out / "bundle" if records and records[-1].name == name else None


def _is_further(bundle: Path, checkpoint: Path) -> bool:
    """Whether a run goes on from its bundle: there is no checkpoint, or the bundle is a later one, made elsewhere.

    A kill between the saves of both leaves a later bundle too; then the checkpoint goes on exactly.
    """
    if not has_checkpoint(checkpoint):
        return True
    step, restarts = saved_place(checkpoint)
    record = stage_records(read_manifest(bundle)["provenance"])[-1]
    return record.steps > step and (bool(record.rounded_from) or record.restarts != restarts)


def _means(shares: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over the shares of a batch: of a part over those that have it, of the loss itself over all."""
    several = {name: torch.stack([share[name] for share in shares]) for name in shares[0]}
    return {name: value.mean() if name == "loss" else value.nanmean() for name, value in several.items()}


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
