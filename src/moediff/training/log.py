"""Log of a training: CSV for machines, TensorBoard for curves, progress for people."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff.io.atomic import write_text
from moediff.training.provenance import duration

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LINE_S = 60.0  # between two lines where there is no terminal


@dataclass(frozen=True)
class StagePosition:
    """Where a run stands in a recipe, for the progress that people see.

    Args:
        name: of the stage; empty for a run of its own.
        number, of: the stage's position among all.
        minutes_after: of the stages that follow, as far as they are known.
    """

    name: str = ""
    number: int = 1
    of: int = 1
    minutes_after: float = 0.0

    @property
    def title(self) -> str:
        """The stage in a few words."""
        return f"{self.name or 'training'} ({self.number}/{self.of})" if self.of > 1 else self.name or "training"


class Progress:
    """Progress of one stage: a bar on a terminal, a line a minute without one.

    Args:
        position: of the stage in its recipe.
        quiet: say nothing.
        share: of the stage that was done before.
    """

    def __init__(self, position: StagePosition, *, quiet: bool = False, share: float = 0.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.position, self.begun, self.share_begun = position, time.monotonic(), share
        self.gain = ""
        console = Console(stderr=True)
        self.lines = not quiet and not console.is_terminal
        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}")
        self.bar = Bar(*columns, console=console, disable=quiet or self.lines)
        self.task = self.bar.add_task(position.title, total=1.0, left="")
        self.next_line = self.begun + LINE_S

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def left(self, share: float) -> str:
        """Time left, in the stage and with the stages after it; empty while nothing is known."""
        done = share - self.share_begun
        if done <= 0:
            return ""
        seconds = (time.monotonic() - self.begun) / done * (1 - share)
        after = (
            f", {duration(seconds + 60 * self.position.minutes_after)} in all" if self.position.minutes_after else ""
        )
        return f"{duration(seconds)} left{after}"

    def update(self, share: float | None, words: str) -> None:
        """Show this share of the stage, where it is known, and what was reached."""
        text, left = f"{words}{self.gain}", "" if share is None else self.left(share)
        self.bar.update(self.task, completed=share, description=f"{self.position.title} {text}", left=left)
        if self.lines and time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_S
            title = self.position.title if share is None else f"{self.position.title} {share:.0%}"
            parts = title, text, left
            with suppress(OSError, ValueError):  # nobody is listening
                print("; ".join(part for part in parts if part), file=sys.stderr, flush=True)


class Log:
    """CSV, TensorBoard and progress.

    Args:
        out: the run's folder.
        quiet: no progress.
        since: the step that the run goes on from; rows after it, of a run that was killed, are dropped.
        position: of the run in its recipe.
        share: of the run that is done.
        tensorboard: write its curves too, which needs the package.
    """

    def __init__(
        self,
        out: Path,
        *,
        quiet: bool,
        since: int | None = None,
        position: StagePosition | None = None,
        share: float = 0.0,
        tensorboard: bool = True,
    ) -> None:
        if since is not None:
            for name in ("losses.csv", "validation.csv"):
                _forget(out / name, since)
        self.out, self.board = out, _board(out) if tensorboard else None
        self.progress = Progress(position or StagePosition(), quiet=quiet, share=share)

    def __enter__(self) -> Log:
        self.progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.__exit__()
        if self.board is not None:
            self.board.close()

    def step(self, step: int, progress: float, parts: Mapping[str, float], seconds: float) -> None:
        """Record one step's losses."""
        self._row(
            "losses.csv", {"step": step, "seconds": round(seconds, 2)} | {k: round(v, 5) for k, v in parts.items()}
        )
        for name, value in parts.items():
            self._curve(f"loss/{name}", value, step)
        self.progress.update(progress, f"step {step} loss {parts['loss']:.3f}")

    def validation(self, step: int, gains: Mapping[str, float]) -> None:
        """Record PSNR gains over interpolation by scan and recipe."""
        for name, value in gains.items():
            self._row("validation.csv", {"step": step, "case": name, "gain_db": round(value, 3)})
            self._curve(f"gain_db/{name}", value, step)
        means = [f"{name[5:]} {value:+.2f}" for name, value in gains.items() if name.startswith("mean/")]
        self.progress.gain = f", gain {', '.join(means)} dB" if means else ""

    def _curve(self, name: str, value: float, step: int) -> None:
        if self.board is not None:
            self.board.add_scalar(name, value, step)

    def _row(self, name: str, values: Mapping[str, Any]) -> None:
        path = self.out / name
        known = sorted(values) if name == "losses.csv" else list(values)
        columns = _columns(path, known)
        with path.open("a", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, columns)
            if handle.tell() == 0:
                writer.writeheader()
            writer.writerow(dict(values))


def _board(out: Path) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tensorboard"))


def _forget(path: Path, since: int) -> None:
    """Drop the rows of steps that will be taken again, and one that a killed run left cut short."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        columns, rows = list(reader.fieldnames or []), list(reader)
    rest = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= since]
    if len(rest) < len(rows):
        _replace(path, columns, rest)


def _replace(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(text.getvalue(), path, overwrite=True)


def _columns(path: Path, known: Sequence[str]) -> list[str]:
    """Columns to write to; a run that was resumed with other terms of the loss gets its file widened first."""
    if not path.is_file():
        return list(known)
    with path.open(newline="", encoding="utf-8") as handle:
        there = next(csv.reader(handle), [])
        if set(known) <= set(there):
            return there
        handle.seek(0)
        rows = list(csv.DictReader(handle))
    columns = sorted({*there, *known})
    _replace(path, columns, rows)
    return columns
