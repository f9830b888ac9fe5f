"""Configuration of a training run: one TOML file, which may build on others."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from moediff.acquisition.recipe import RecipeRanges
from moediff.core.config import parse_as, with_present_keys
from moediff.core.errors import ConfigError, InputMissing, MoeDiffWarning, prefix_errors, printable
from moediff.model.bundle import MANIFEST, BundleConfig, read_manifest
from moediff.training.augment import AugmentConfig
from moediff.training.cache import ScanSource
from moediff.training.gate_step import ROUTING
from moediff.training.losses import LossConfig
from moediff.training.manifest import resolve_manifest
from moediff.training.patches import check_patch
from moediff.training.validate import Validation

FOLDERS = ("out", "data", "cache", "start")
STAGES = "stages"
OF_NETWORK = ("prepare", "denoiser", "diffusion")  # settings of a bundle that its weights learned with


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run with patches and batches of its own: small patches first, large ones late.

    Args:
        until: share of the run at which it ends, 0..1.
        batch, patch: examples a step and their side in voxels.
    """

    until: float
    batch: int
    patch: int

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1 or self.batch < 1:
            raise ConfigError(f"phases: until={self.until} must lie in 0..1 and batch={self.batch} be at least 1")
        check_patch(self.patch, "phases: patch")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; a TOML file holds these.

    Args:
        out: folder for checkpoints, logs and the bundle.
        data: folder that scan paths are relative to.
        scans: what to learn from.
        checksums: SHA-256 of files under `data`, by path; checked before anything is learned. A manifest brings them.
        cache: folder for prepared scans, shared by runs and read again by a resumed one; none prepares them each time.
        validation: scans and recipes to judge by; none skips validation.
        steps: optimiser steps of the whole run; the learning rate falls to zero at the end.
        minutes: optional budget; the schedule then follows the clock where that is further along.
        clock: what minutes are counted by: "wall", or "cpu", the process's own time, for comparisons beside other work.
        batch, patch: examples a step and their side in voxels.
        shares: equal parts of every batch that are worked through apart, by a process each or in turn, so that the
            number of processes changes nothing but rounding; 0 takes as many as there are processes.
        phases: instead of one `batch` and `patch`, several in turn; the last must end at 1.
        compile: compile the residual blocks where the run has a CUDA device.
        examples: where patches are degraded: "device" (that of the run) or "cpu".
        precision: of what layers compute; "auto" takes bfloat16 on CUDA and float32 on a CPU, "fast" bfloat16 wherever
            the device has instructions for it. Weights stay float32.
        start: optional bundle whose weights the run begins with; a uniform one is branched into experts. What `model`
            in a file does not say of the network is the bundle's.
        only: names of parts that learn ("error", "gate", ...); none lets all learn.
        learning_rate: at its highest.
        warmup_steps: steps in which the learning rate rises.
        seed: of everything random.
        cosine: which part of one fall of the learning rate, along half a cosine, this run is, as shares 0..1: stages
            that follow each other can share one long fall.
        weight_decay, gradient_clip: of the optimiser; the bound of the gradient's norm.
        ema_decay: of the exponential moving average of the weights, which is what is saved.
        device: "auto", "cpu", "cuda", or "cuda:N", one GPU of several, for a single process.
        save_every: steps between checkpoints (and validation).
        provenance: who and what, copied into the bundle.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "heads": "cache",
        "rate": "learning_rate",
        "warmup": "warmup_steps",
        "clip": "gradient_clip",
        "ema": "ema_decay",
    }

    out: str
    data: str = "."
    scans: tuple[ScanSource, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    cache: str | None = None
    validation: Validation = field(default_factory=Validation)
    model: BundleConfig = field(default_factory=BundleConfig)
    recipes: RecipeRanges = field(default_factory=RecipeRanges)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    steps: int = 1000
    minutes: float | None = None
    clock: Literal["wall", "cpu"] = "wall"
    start: str | None = None
    only: tuple[str, ...] = ()
    batch: int = 4
    patch: int = 48
    shares: int = 0
    phases: tuple[Phase, ...] = ()
    compile: bool = False
    examples: str = "device"
    precision: Literal["auto", "fast", "float32", "bfloat16"] = "auto"
    learning_rate: float = 5e-3
    cosine: tuple[float, float] = (0.0, 1.0)
    warmup_steps: int = 100
    weight_decay: float = 1e-3
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    save_every: int = 500
    seed: int = 0
    device: str = "auto"
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "gradient_clip", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}={value} must be a positive number")
        if not 0 <= self.weight_decay < math.inf or self.warmup_steps < 0:
            raise ConfigError(
                f"weight_decay={self.weight_decay} and warmup_steps={self.warmup_steps} must be 0 or more"
            )
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device={self.device!r} must be 'auto', 'cpu', 'cuda' or 'cuda:N': choose one of these")
        check_patch(self.patch)
        self._check_shares()
        self._check_seed()
        self._check_only()
        self._check_phases()
        if self.examples not in ("device", "cpu"):
            raise ConfigError(f"examples={self.examples!r} must be 'device' or 'cpu'")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay={self.ema_decay} must lie in 0..1")

    def _check_phases(self) -> None:
        ends = [phase.until for phase in self.phases]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise ConfigError(f"phases end at {ends}; expected rising shares of the run, the last of them 1")
        if not 0 <= self.cosine[0] < self.cosine[1] <= 1:
            raise ConfigError(f"cosine={list(self.cosine)}: expected two rising shares of one fall in 0..1")

    def _check_shares(self) -> None:
        odd = [phase.batch for phase in self.parts() if self.shares and phase.batch % self.shares]
        if self.shares < 0 or odd:
            raise ConfigError(f"shares={self.shares} must divide every batch{f', found {odd[0]}' if odd else ''}")

    def _check_seed(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed} must lie in 0..2^63 - 1")

    def _check_only(self) -> None:
        if not self.loss.aggregate and not (self.only and set(self.only) <= set(ROUTING)):
            raise ConfigError(
                f"loss.aggregate=0 teaches encoder and gate alone, found only={list(self.only)}: name these parts there"
            )

    @property
    def name(self) -> str:
        """What the run is called among the stages of its weights."""
        return self.provenance.get("name", "training")

    def parts(self) -> tuple[Phase, ...]:
        """The phases, or the one that a run without any is."""
        return self.phases or (Phase(until=1, batch=self.batch, patch=self.patch),)

    def phase_at(self, progress: float) -> Phase:
        """What is drawn when this share of the run is done."""
        return next((phase for phase in self.parts() if progress < phase.until), self.parts()[-1])


def load_config(path: Path) -> TrainConfig:
    """Read a TOML training configuration; of a recipe with stages, the settings that they share.

    Relative `out`, `data`, `cache`, `manifest` and `start` are taken from the file's folder; `like` names another
    configuration whose settings hold unless this one says otherwise.

    Raises:
        InputMissing: no such file.
        ConfigError: not TOML, or unknown or impossible settings.
    """
    try:
        settings = {key: value for key, value in read_settings(path).items() if key != STAGES}
        return parse_as(TrainConfig, resolve_manifest(with_network_of_start(settings)))
    except ConfigError as error:
        raise ConfigError(f"{printable(path)}: {error}") from error


def with_network_of_start(values: dict[str, Any]) -> dict[str, Any]:
    """Settings whose network, and what it reads, are those of the bundle to begin with unless they say otherwise.

    Args:
        values: with `start` as a path, if any; where there is no bundle, whoever loads it says so.

    Raises:
        BundleError: the bundle's settings cannot be read.
    """
    start, own = values.get("start"), values.get("model", {})
    if not isinstance(start, str) or not isinstance(own, dict) or not (Path(start) / MANIFEST).is_file():
        return values
    with prefix_errors(printable(start)):
        config = asdict(parse_as(BundleConfig, read_manifest(Path(start))["config"], warn=False))
    return {**values, "model": over({key: config[key] for key in OF_NETWORK}, own)}


def read_settings(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a TOML file under their present names, over those of the files that it builds on.

    Raises:
        InputMissing: a file is not there, or cannot be read.
        ConfigError: not TOML, or files that build on each other.
    """
    if path.resolve() in above:
        raise ConfigError(f"like: {path} builds on itself; remove one `like`")
    values, notes = with_present_keys(TrainConfig, _toml(path))
    stages = values.get(STAGES)
    if isinstance(stages, list):
        renamed = [with_present_keys(TrainConfig, t) if isinstance(t, dict) else (t, []) for t in stages]
        values[STAGES] = [table for table, _ in renamed]
        notes += [note for _, more in renamed for note in more if note not in notes]
    if notes:
        text = f"{printable(path)}: old settings, read for one more release: {'; '.join(notes)}"
        warnings.warn(text, MoeDiffWarning, stacklevel=2)
    _count_from(path.parent, values, (*FOLDERS, "manifest"))
    for table in _stages_in(values.get(STAGES)):
        _count_from(path.parent, table, ("data", "cache", "manifest"))  # `start` may name another stage
    like = values.pop("like", "")
    if not isinstance(like, str):
        raise ConfigError(f"like: expected the path of another configuration; found {like!r}")
    if like:
        values = _built_on(read_settings(path.parent / like, (*above, path.resolve())), values)
    return {"out": str(path.parent), "data": str(path.parent), **values}


def _stages_in(stages: Any) -> list[dict[str, Any]]:
    """Stages that are tables; anything else is refused later."""
    return [table for table in stages if isinstance(table, dict)] if isinstance(stages, list) else []


def _count_from(folder: Path, values: dict[str, Any], keys: Sequence[str]) -> None:
    """Relative paths under these keys, taken from a folder."""
    for key in keys:
        if isinstance(values.get(key), str):  # anything else is refused by its type later
            values[key] = _plain(folder / values[key])


def _plain(path: Path) -> str:
    """The path without `..`, as messages print it; as it is where a link would make that another folder."""
    plain = os.path.normpath(path)
    return plain if os.path.realpath(plain) == os.path.realpath(path) else str(path)


def _built_on(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`: one list of scans replaces another, stages of the same name are merged, others follow.

    Rules for the files of a manifest, those of stages too, go with it.
    """
    if above.keys() & {"scans", "manifest"}:
        below = {key: value for key, value in below.items() if key not in ("scans", "manifest", "sources")}
        stages = below.get(STAGES, [])
        below |= (
            {STAGES: [{key: stage[key] for key in stage if key != "sources"} for stage in stages]} if stages else {}
        )
    stages = {STAGES: _merged(below[STAGES], above[STAGES])} if STAGES in below and STAGES in above else {}
    return over(below, above) | stages


def _merged(below: list[dict[str, Any]], above: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = {table.get("name"): table for table in above}
    known = {table.get("name") for table in below}
    merged = [over(table, own.get(table.get("name"), {})) for table in below]
    return [*merged, *(table for table in above if table.get("name") not in known)]


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    if not path.is_file():
        raise InputMissing(f"{printable(path)}: no such training configuration: check the name")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputMissing(f"{printable(path)}: it cannot be read ({error.strerror}): check permissions") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or bytes that are not UTF-8
        raise ConfigError(f"not TOML ({error}), expected settings like those in recipes/: correct it there") from error


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the settings of `above` put over it, tables merged, lists replaced.

    Nothing is taken away: it undoes `recipe.changed` where both sides have the same keys.
    """
    nested = [key for key in above if isinstance(below.get(key), dict) and isinstance(above[key], dict)]
    both = {key: over(below[key], above[key]) for key in nested}
    return {**below, **above, **both}
