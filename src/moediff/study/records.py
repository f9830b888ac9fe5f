"""Records of a reader study: the blinded study that readers see, and the key that says what each image is.

The two lie in two files. The study's folder holds nothing that could unblind; the key lies beside it, and the study
holds the key's sha256, so that neither can be changed after the first answer without being noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from moediff.core.errors import DataError, InputMissing, prefix_errors, printable
from moediff.core.schema import record_from
from moediff.io.atomic import write_text

SCHEMA = 1
STUDY_FILE, IMAGE_FOLDER, ANSWER_FILE = "study.json", "images", "answers.sqlite"
CHOICE, SCORES, SEARCH = TASKS = ("choice", "scores", "search")
SCALES = ("sharpness", "noise", "artefacts", "grey-white contrast", "confidence")  # of 5-point scores
TRAINING, MAIN, REPEAT, IDENTICAL, MIRRORED = "training", "main", "repeat", "identical", "mirrored"
INPUT, REFERENCE, LESIONS = "input", "reference", "lesions"  # roles of a case's images beside the methods' names

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Slices of one blinded image.

    Args:
        slices: number of PNG files.
        width, height: pixels of each.
        width_mm, height_mm: size of each.
        gap_mm: distance from slice to slice.
    """

    slices: int
    width: int
    height: int
    width_mm: float
    height_mm: float
    gap_mm: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One question to one reader.

    Args:
        number: from 1, in the order of reading.
        session: from 1.
        task: one of `TASKS`.
        training: not analysed.
        images: the images judged: left and right, or a single one.
        context: images shown beside them by role: input, reference.
    """

    number: int
    session: int
    task: str
    training: bool
    images: tuple[str, ...]
    context: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Display:
    """How images are shown.

    Args:
        plane: axial, coronal or sagittal, in radiological convention.
        window: "locked" or "free" (brightness and contrast of all images together).
        ties: whether "no difference" is an answer of the forced choice.
    """

    plane: str
    window: str
    ties: bool


@dataclass(frozen=True, kw_only=True)
class Study:
    """The blinded study, `study.json`; nothing in it tells methods or cases.

    Args:
        name: random, so that answers of another study are refused.
        title: shown to readers.
        washout_days: shown between two sessions.
        least_gap: trials between a trial and its repetition, at least.
        stacks: by image.
        readers: their trials in order.
        key_sha256: of the key file.
    """

    schema: int = SCHEMA
    name: str
    title: str
    tasks: tuple[str, ...]
    display: Display
    washout_days: int
    least_gap: int
    stacks: dict[str, Stack]
    readers: dict[str, tuple[Trial, ...]]
    key_sha256: str
    software: str


@dataclass(frozen=True, kw_only=True)
class TrialKey:
    """What a trial is about.

    Args:
        number: of the trial.
        kind: training, main, repeat, identical or mirrored.
        case: its name.
        methods: of the images, in the same order.
        of: number of the trial that this one repeats.
    """

    number: int
    kind: str
    case: str
    methods: tuple[str, ...]
    of: int | None = None


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """An outlined lesion as runs of pixels: slice, row, first column, column after the last."""

    runs: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class CaseKey:
    """A case: its name, files by role and method, intensity window, lesions on the slices shown, and doubts.

    Args:
        hidden_lesions: outlined lesions that no slice shows.
    """

    name: str
    files: dict[str, str]
    images: dict[str, str]
    window: tuple[float, float]
    lesions: tuple[Lesion, ...] | None
    hidden_lesions: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StudyKey:
    """The key file. `salt` is random: nobody can find the key by trying hashes."""

    schema: int = SCHEMA
    study: str
    salt: str = field(repr=False)
    seed: int
    methods: tuple[str, ...]
    cases: tuple[CaseKey, ...]
    readers: dict[str, tuple[TrialKey, ...]]


def key_beside(folder: Path) -> Path:
    """Where the key of a study lies unless another place was named: beside the folder, not in it."""
    folder = folder.resolve()
    return folder.with_name(f"{folder.name}.key.json")


def to_json(record: Study | StudyKey) -> str:
    """The text of a record's file."""
    return json.dumps(asdict(record), indent=1) + "\n"


def read_study(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        InputMissing: there is none.
        DataError: the file is damaged.
    """
    return _read(Study, folder / STUDY_FILE, "a study: make one with `moediff study create`")[0]


def read_key(path: Path, study: Study) -> StudyKey:
    """The key of this study, unchanged since the study was made.

    Raises:
        InputMissing: there is no such file.
        DataError: the file is damaged, was changed, or belongs to another study.
    """
    key, digest = _read(StudyKey, path, "the study's key: name it with --key")
    if digest != study.key_sha256:
        raise DataError(
            f"{printable(path)}: the key's sha256 is {digest[:12]}…, the study holds {study.key_sha256[:12]}…: "
            "restore the key that was written with this study"
        )
    return key


def write_record(record: Study | StudyKey, path: Path) -> str:
    """Write a record; returns the sha256 of its file."""
    text = to_json(record)
    write_text(text, path)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(kind: type[T], path: Path, expected: str) -> tuple[T, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputMissing(f"{printable(path)}: {error.strerror}; expected {expected}") from error
    with prefix_errors(path):
        return record_from(kind, _json_object(content)), hashlib.sha256(content).hexdigest()


def _json_object(content: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise DataError(f"this is no JSON ({error}): restore the file from a copy") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise DataError(f"expected a record of schema {SCHEMA}: was it made by another version?")
    return values
