"""Training's log: CSV for machines, TensorBoard for curves, a progress line for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moediff.io.atomic import write_text


class Log:
    """CSV, TensorBoard and a progress line.

    Args:
        out: the run's folder.
        quiet: no progress line.
        since: the step that the run goes on from; rows after it, of a run that was killed, are dropped.
    """

    def __init__(self, out: Path, *, quiet: bool, since: int | None = None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from torch.utils.tensorboard import SummaryWriter

        if since is not None:
            for name in ("losses.csv", "validation.csv"):
                _forget(out / name, since)
        self.out, self.board = out, SummaryWriter(str(out / "tensorboard"))
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, disable=quiet)
        self.task = self.bar.add_task("training", total=1.0)

    def __enter__(self) -> Log:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.board.close()

    def step(self, step: int, progress: float, parts: Mapping[str, float], seconds: float) -> None:
        """Record one step's losses."""
        self._row(
            "losses.csv", {"step": step, "seconds": round(seconds, 2)} | {k: round(v, 5) for k, v in parts.items()}
        )
        for name, value in parts.items():
            self.board.add_scalar(f"loss/{name}", value, step)
        self.bar.update(self.task, completed=progress, description=f"step {step} loss {parts['loss']:.3f}")

    def validation(self, step: int, gains: Mapping[str, float]) -> None:
        """Record PSNR gains over interpolation by scan and recipe."""
        for name, value in gains.items():
            self._row("validation.csv", {"step": step, "case": name, "gain_db": round(value, 3)})
            self.board.add_scalar(f"gain_db/{name}", value, step)

    def _row(self, name: str, values: Mapping[str, Any]) -> None:
        path = self.out / name
        known = sorted(values) if name == "losses.csv" else list(values)
        columns = _columns(path, known)
        with path.open("a", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, columns)
            if handle.tell() == 0:
                writer.writeheader()
            writer.writerow(dict(values))


def _forget(path: Path, since: int) -> None:
    """Drop the rows of steps that will be taken again, and one that a killed run left cut short."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        columns, rows = list(reader.fieldnames or []), list(reader)
    kept = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= since]
    if len(kept) < len(rows):
        _replace(path, columns, kept)


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
