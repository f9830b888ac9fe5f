"""Answers of readers, in an SQLite database that survives a killed process, and what a valid answer is.

Write-ahead log with full synchronisation: an answer is on disk before the reader sees the next trial. Nothing is ever
deleted: an answer taken back keeps its row, with the time when that happened.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moediff.core.errors import DataError, InputMissing, OutputFailed, printable
from moediff.study.records import ANSWER_FILE, CHOICE, SCALES, SCORES, Study, Trial

LEFT, RIGHT, SAME = "left", "right", "same"
GRADES = 5  # of scores and of confidence
MOST_MARKS = 100
MOST_SECONDS = 1e6
WAIT_SECONDS = 10.0  # for another process that writes

_TABLES = """
CREATE TABLE IF NOT EXISTS study (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, reader TEXT NOT NULL, trial INTEGER NOT NULL, value TEXT NOT NULL,
    seconds REAL NOT NULL, answered_at TEXT NOT NULL, ticket TEXT NOT NULL, undone_at TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS one_answer ON answers (reader, trial) WHERE undone_at IS NULL;
CREATE TABLE IF NOT EXISTS links (
    digest TEXT PRIMARY KEY, reader TEXT NOT NULL, kind TEXT NOT NULL, made_at TEXT NOT NULL, ended_at TEXT);
"""


class StaleTrial(Exception):
    """The trial is not the one that this reader has to answer now: it was answered in another tab, or undone."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    Args:
        value: see `check_value`.
        seconds: from the display of the trial to the answer.
        answered_at: UTC, ISO 8601.
        ticket: random word of the page that sent it; the same answer sent twice counts once.
    """

    reader: str
    trial: int
    value: Mapping[str, Any]
    seconds: float
    answered_at: str
    ticket: str = ""


def check_value(study: Study, trial: Trial, value: object) -> dict[str, Any]:
    """The parts of an answer that belong to this trial's task, checked.

    Forced choice: {"choice": left, right or same}; scores: {"scores": {scale: 1..5}}; search: {"marks": [{"slice",
    "x", "y", "confidence"}]}, x and y as shares of the picture. Where the window is free, its setting comes along:
    {"window": [brightness, contrast]}.

    Raises:
        DataError: something is missing or out of range.
    """
    if not isinstance(value, dict):
        raise DataError("the answer is no table of values")
    result = _TASKS.get(trial.task, _marks)(study, trial, value)
    if study.display.window == "free" and "window" in value:
        pair = value["window"]
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError("window: expected brightness and contrast")
        result["window"] = [_number("window", number, 0.0, 10.0) for number in pair]
    return result


def _choice(study: Study, trial: Trial, value: Mapping[str, Any]) -> dict[str, Any]:
    allowed = (LEFT, RIGHT, SAME) if study.display.ties else (LEFT, RIGHT)
    if value.get("choice") not in allowed:
        raise DataError(f"choice: expected {', '.join(allowed)}")
    return {"choice": value["choice"]}


def _scores(study: Study, trial: Trial, value: Mapping[str, Any]) -> dict[str, Any]:
    scores = value.get("scores")
    if not isinstance(scores, dict) or set(scores) != set(SCALES):
        raise DataError(f"scores: expected {', '.join(SCALES)}")
    return {"scores": {scale: _grade(scale, scores[scale]) for scale in SCALES}}


def _marks(study: Study, trial: Trial, value: Mapping[str, Any]) -> dict[str, Any]:
    marks = value.get("marks")
    if not isinstance(marks, list) or len(marks) > MOST_MARKS or not all(isinstance(mark, dict) for mark in marks):
        raise DataError(f"marks: expected a list of at most {MOST_MARKS}")
    slices = study.stacks[trial.images[0]].slices
    return {
        "marks": [
            {
                "slice": int(_number("slice", mark.get("slice"), 0, slices - 1)),
                "x": _number("x", mark.get("x"), 0, 1),
                "y": _number("y", mark.get("y"), 0, 1),
                "confidence": _grade("confidence", mark.get("confidence")),
            }
            for mark in marks
        ]
    }


_TASKS = {CHOICE: _choice, SCORES: _scores}


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name}: expected a number")
    if not low <= value <= high:
        raise DataError(f"{name}={value}: expected {low} to {high}")
    return value


def _grade(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= GRADES:
        raise DataError(f"{name}: expected a whole number from 1 to {GRADES}")
    return value


def now() -> str:
    """The time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class AnswerStore:
    """The database of one study; several processes may use it at once."""

    def __init__(self, folder: Path, study: Study) -> None:
        """Open or create it.

        Raises:
            DataError: the file is damaged, or belongs to another study.
            OutputFailed: it cannot be written.
        """
        self.study = study
        self.path = folder / ANSWER_FILE
        try:
            self.connection = sqlite3.connect(
                self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(_TABLES)
            self.connection.execute("INSERT OR IGNORE INTO study VALUES (?)", (study.name,))
            names = [name for (name,) in self.connection.execute("SELECT name FROM study")]
        except sqlite3.DatabaseError as error:
            kind = OutputFailed if isinstance(error, sqlite3.OperationalError) else DataError
            raise kind(f"{printable(self.path)}: {error}; expected the answers of this study") from error
        if names != [study.name]:
            raise DataError(f"{printable(self.path)}: these are answers of another study: restore the right file")

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(self, *fault: object) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and nobody else writes meanwhile."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def trials(self, reader: str) -> tuple[Trial, ...]:
        """The plan of a reader.

        Raises:
            InputMissing: there is no such reader.
        """
        if reader not in self.study.readers:
            raise InputMissing(
                f"{printable(reader)}: no reader of this study; expected {', '.join(self.study.readers)}"
            )
        return self.study.readers[reader]

    def done(self, reader: str) -> int:
        """Number of trials that this reader has answered; the next one has this number plus one."""
        query = "SELECT COUNT(*) FROM answers WHERE reader = ? AND undone_at IS NULL"
        return int(self.connection.execute(query, (reader,)).fetchone()[0])

    def add(self, answer: Answer) -> None:
        """Store the answer to the reader's next trial; one that was stored already (same ticket) is passed over.

        Raises:
            StaleTrial: another trial is the next one.
            DataError: the value does not fit the trial.
        """
        trials = self.trials(answer.reader)
        if not 1 <= answer.trial <= len(trials):
            raise DataError(f"trial {answer.trial}: expected 1 to {len(trials)}")
        value = check_value(self.study, trials[answer.trial - 1], dict(answer.value))
        seconds = _number("seconds", answer.seconds, 0, MOST_SECONDS)
        row = (answer.reader, answer.trial, json.dumps(value), seconds, answer.answered_at, answer.ticket)
        with self.transaction() as connection:
            if answer.ticket and self._has_ticket(answer):
                return
            if self.done(answer.reader) + 1 != answer.trial:
                raise StaleTrial(f"trial {answer.trial} is not the next one")
            connection.execute(
                "INSERT INTO answers (reader, trial, value, seconds, answered_at, ticket) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )

    def _has_ticket(self, answer: Answer) -> bool:
        query = "SELECT 1 FROM answers WHERE reader = ? AND trial = ? AND ticket = ? AND undone_at IS NULL"
        return self.connection.execute(query, (answer.reader, answer.trial, answer.ticket)).fetchone() is not None

    def undo(self, reader: str, trial: int) -> None:
        """Take the last answer back; `trial` says which one that is, so that two tabs do not undo two.

        Raises:
            StaleTrial: this was not the last answer, or the one after it was taken back just before.
        """
        with self.transaction() as connection:
            if self.done(reader) != trial or not self.can_undo(reader):
                raise StaleTrial(f"trial {trial} is not the last one answered")
            connection.execute(
                "UPDATE answers SET undone_at = ? WHERE reader = ? AND trial = ? AND undone_at IS NULL",
                (now(), reader, trial),
            )

    def can_undo(self, reader: str) -> bool:
        """Whether the last answer can be taken back: there is one, and the one after it was not taken back before."""
        query = "SELECT 1 FROM answers WHERE reader = ? AND trial = ? AND undone_at IS NOT NULL"
        done = self.done(reader)
        return done > 0 and self.connection.execute(query, (reader, done + 1)).fetchone() is None

    def answers(self) -> list[Answer]:
        """All answers that stand, by reader and trial."""
        query = (
            "SELECT reader, trial, value, seconds, answered_at, ticket FROM answers WHERE undone_at IS NULL "
            "ORDER BY reader, trial"
        )
        return [
            Answer(reader=r, trial=t, value=json.loads(v), seconds=s, answered_at=a, ticket=k)
            for r, t, v, s, a, k in self.connection.execute(query)
        ]

    def unfinished(self) -> dict[str, int]:
        """Readers who have trials left, and how many."""
        left = {reader: len(trials) - self.done(reader) for reader, trials in self.study.readers.items()}
        return {reader: number for reader, number in left.items() if number}
