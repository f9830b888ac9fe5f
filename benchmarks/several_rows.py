"""Rows of the benchmark of several scans: what is stored of every person, and the tables over persons."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from common import markdown, mean

from moediff import registration
from moediff.core.config import parse_as
from moediff.evaluation.lesions import LesionScores
from moediff.inference.several import DOUBTFUL_MM

ENOUGH_MM = 0.3  # registration error that costs little


@dataclass(frozen=True)
class RegistrationRow:
    """One random motion."""

    scan: str
    design: str
    seed: int
    error_mm: float
    uncertain_mm: float
    mismatch: float
    misfit: str | None

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies a row."""
        return self.scan, self.design, self.seed

    @property
    def noticed(self) -> bool:
        """Whether a user is warned, or the scan left out."""
        return self.misfit is not None or self.uncertain_mm > DOUBTFUL_MM


@dataclass(frozen=True)
class LesionCounts:
    """Synthetic lesions in one result: false negatives (`lost`), false positives (`invented`), and how many there are.

    Names are those of the stored rows.
    """

    lost: int
    invented: int
    count: int

    @classmethod
    def of(cls, scores: LesionScores) -> LesionCounts:
        """The counts."""
        return cls(scores.false_negatives, scores.false_positives, scores.count)


@dataclass(frozen=True)
class QualityRow:
    """One person and design: PSNR of every scan alone and of all together, and how the result was made.

    Args:
        alone_db, alone_coverage, alone_lesions: of every scan by itself.
        together_db, coverage, lesions: of the result; coverage is the share of voxels in the 90 % interval.
        least_squares_db, least_squares_lesions: without a network, but with the true motion.
    """

    scan: str
    design: str
    side: int
    alone_db: tuple[float, ...]
    together_db: float
    least_squares_db: float
    alone_coverage: tuple[float, ...]
    coverage: float
    alone_lesions: tuple[LesionCounts, ...]
    lesions: LesionCounts
    least_squares_lesions: LesionCounts
    registration_mm: tuple[float, ...]
    warnings: tuple[str, ...]
    cpu_seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies a row."""
        return self.scan, self.design, self.side

    @property
    def best(self) -> int:
        """Number of the scan that is best alone."""
        return max(range(len(self.alone_db)), key=lambda index: self.alone_db[index])

    @property
    def gain_db(self) -> float:
        """Over the best scan alone."""
        return self.together_db - self.alone_db[self.best]

    @property
    def over_least_squares_db(self) -> float:
        """Over least squares that know the motion."""
        return self.together_db - self.least_squares_db


def registration_code() -> str:
    """Checksum of the modules that register scans, comments and all."""
    files = sorted(Path(registration.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


Row = TypeVar("Row", RegistrationRow, QualityRow)


class Stored(Generic[Row]):
    """Rows of a run that may be stopped and goes on where it was; written after every one.

    Args:
        path: JSON file; None stores nothing.
        kind: of the rows.
        weights: checksum of the bundle's weights and settings that they depend on; empty for none.

    Rows of other weights, or of other code of registration, are dropped.
    """

    def __init__(self, path: Path | None, kind: type[Row], weights: str = "") -> None:
        self.path, self.depends = path, {"weights": weights, "registration": registration_code()}
        known = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
        rows = known["rows"] if all(known.get(key) == value for key, value in self.depends.items()) else []
        self.rows: list[Row] = [parse_as(kind, values) for values in rows]

    def add(self, key: tuple[str, str, int], make: Callable[[], Row]) -> None:
        """One more row, unless it is known."""
        if any(row.key == key for row in self.rows):
            return
        self.rows.append(make())
        if self.path is not None:
            content = {**self.depends, "rows": [asdict(row) for row in self.rows]}
            self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(self.rows[-1], file=sys.stderr, flush=True)


def motion_table(rows: Sequence[RegistrationRow]) -> str:
    """How far registration was off, by design, and what became of larger errors."""
    header = ["design", "motions", "below 0.3 mm", "median, mm", "worst, mm", "larger, unnoticed", "smaller, warned of"]
    designs = list(dict.fromkeys(row.design for row in rows))
    lines = []
    for name, own in [(d, [r for r in rows if r.design == d]) for d in designs] + [("all", list(rows))]:
        errors = sorted(row.error_mm for row in own)
        unnoticed = sum(row.error_mm >= ENOUGH_MM and not row.noticed for row in own)
        needless = sum(row.error_mm < ENOUGH_MM and row.noticed for row in own)
        below = sum(error < ENOUGH_MM for error in errors)
        middle, worst = f"{errors[len(errors) // 2]:.3f}", f"{errors[-1]:.3f}"
        lines.append([name, str(len(own)), str(below), middle, worst, str(unnoticed), str(needless)])
    return markdown(header, lines)


def quality_tables(rows: Sequence[QualityRow]) -> str:
    """Means over persons by design, and every person."""
    header = ["design", "persons", "best alone", "together", "gain (least)", "over least squares (least)", "in 90 %"]
    header += [
        "false-negative lesions alone; together",
        "false-positive lesions alone; together",
        "worst registration, mm",
    ]
    designs = list(dict.fromkeys(row.design for row in rows))
    means = [_mean_line(design, [row for row in rows if row.design == design]) for design in designs]
    persons = [
        [
            row.design,
            row.scan,
            *(f"{db:.2f}" for db in (row.alone_db[row.best], row.least_squares_db, row.together_db)),
            f"{row.coverage:.3f}",
            ", ".join(f"{mm:.2f}" for mm in row.registration_mm),
        ]
        for row in rows
    ]
    each = ["design", "person", "best alone", "least squares", "together", "in 90 %", "registration, mm"]
    return f"{markdown(header, means)}\n\n{markdown(each, persons)}"


def _mean_line(design: str, rows: Sequence[QualityRow]) -> list[str]:
    gains, over = [row.gain_db for row in rows], [row.over_least_squares_db for row in rows]
    single, together = [row.alone_lesions[row.best] for row in rows], [row.lesions for row in rows]
    missed = [sum(one.lost for one in part) for part in (single, together)]
    false = [sum(one.invented for one in part) for part in (single, together)]
    return [
        design,
        str(len(rows)),
        f"{mean([row.alone_db[row.best] for row in rows]):.2f}",
        f"{mean([row.together_db for row in rows]):.2f}",
        f"{mean(gains):+.2f} ({min(gains):+.2f})",
        f"{mean(over):+.2f} ({min(over):+.2f})",
        f"{mean([row.coverage for row in rows]):.3f}",
        f"{missed[0]}; {missed[1]} of {sum(one.count for one in together)}",
        f"{false[0]}; {false[1]}",
        f"{max(max(row.registration_mm) for row in rows):.2f}",
    ]
