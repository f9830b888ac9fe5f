"""Provenance of a training: what a bundle says about every stage that made its weights."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from moediff.core.config import parse_as
from moediff.core.errors import ConfigError
from moediff.training.config import FOLDERS, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Where a run went on from its bundle, because its checkpoint was lost; its optimiser warmed up again there."""

    step: int
    seconds: float
    from_sha256: str


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a run computed with from one step on, until the next session.

    Args:
        step: steps that were done before.
        commit, torch, hardware: as in `StageRecord`.
        precision: of what layers computed, "float32" or "bfloat16".
    """

    step: int
    commit: str
    torch: str
    hardware: str
    precision: str


def with_session(sessions: tuple[Session, ...], latest: Session) -> tuple[Session, ...]:
    """These and the latest, where anything but the step differs from the one before."""
    same = bool(sessions) and replace(latest, step=sessions[-1].step) == sessions[-1]
    return sessions if same else (*sessions, latest)


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage of a training.

    Args:
        name, kind: as in the recipe.
        finished: False for weights saved on the way.
        steps, seconds: of the optimiser; seconds of work for other kinds.
        seed: of everything random.
        parent_sha256: of the bundles that it began with.
        commit: of the source tree at the last session, "unknown" outside a repository.
        torch, hardware: what its last session ran on.
        sessions: wherever one of these or the precision changed; before the first one, that is not known.
        restarts: where a lost checkpoint was replaced by the bundle.
        rounded_from: SHA-256 of the weights that these were rounded from to take less room; later stages may name
            either as what they began with.
        result: what the stage measured, by its kind.
    """

    name: str
    kind: str = "train"
    finished: bool = True
    steps: int = 0
    seconds: float = 0.0
    seed: int = 0
    parent_sha256: tuple[str, ...] = ()
    commit: str = "unknown"
    torch: str = ""
    hardware: str = ""
    sessions: tuple[Session, ...] = ()
    restarts: tuple[Restart, ...] = ()
    rounded_from: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON; what is empty is left out."""
        return {key: value for key, value in asdict(self).items() if key in ("name", "kind", "finished") or value}


def stage_records(provenance: Mapping[str, Any]) -> tuple[StageRecord, ...]:
    """The stages that a bundle names; none for bundles of before."""
    try:
        return tuple(parse_as(StageRecord, record, warn=False) for record in provenance.get("stages", ()))
    except ConfigError:
        return ()


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds of what took less than a minute."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if seconds >= 60 else f"{seconds:.0f} s"


def stages_table(records: Sequence[StageRecord]) -> str:
    """The stages as lines of text, columns aligned."""
    if not records:
        return ""
    rows = [("", "stage", "kind", "steps", "time", "began with", "commit", "torch")]
    for number, record in enumerate(records, 1):
        parents = ", ".join(sha[:8] for sha in record.parent_sha256)
        remarks = f", {len(record.restarts)} restarts" * bool(record.restarts)
        remarks += f", {len(record.sessions)} sessions" * (len(record.sessions) > 1)
        remarks += ", unfinished" * (not record.finished)
        words = (
            str(number),
            record.name,
            f"{record.kind}{remarks}",
            str(record.steps or ""),
            duration(record.seconds),
        )
        rows.append((*words, parents, record.commit[:8] + "+" * record.commit.endswith("-dirty"), record.torch))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + f"\n{duration(sum(record.seconds for record in records))} in all"


@cache
def commit() -> str:
    """The commit of the source tree that trains; "unknown" outside a repository."""
    tree = Path(__file__).resolve().parents[3]
    try:
        command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "unknown"
    return result.stdout.strip() or "unknown"


def hardware(device: torch.device, processes: int = 1) -> str:
    """What a run computes on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{processes} x {name}, {os.cpu_count()} CPU cores, torch {torch.__version__}"


def session_here(step: int, device: torch.device, processes: int, precision: str) -> Session:
    """The session that begins here and now."""
    return Session(
        step=step,
        commit=commit(),
        torch=torch.__version__,
        hardware=hardware(device, processes),
        precision=precision,
    )


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """Settings for JSON; no folder of ours travels with the weights."""
    import json

    settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return settings | dict.fromkeys(FOLDERS, "")
