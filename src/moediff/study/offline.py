"""Offline reading: one file for each reader that needs no server, and merging of the answers that it saves."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from moediff._version import RESEARCH_ONLY
from moediff.core.errors import DataError, InputMissing, prefix_errors, printable
from moediff.report.page import policy, script_json
from moediff.study.answers import Answer, AnswerStore, StaleTrial
from moediff.study.records import IMAGE_FOLDER, SCHEMA, Study
from moediff.study.views import panels, trial_view

MOST_BYTES = 1 << 26  # of a file of answers


def offline_page(folder: Path, study: Study, reader: str) -> str:
    """The whole study of one reader in one page, which saves answers in the browser and, at the end, to a file.

    Raises:
        InputMissing: a picture is missing.
    """
    script, style = (_static(name) for name in ("study.js", "study.css"))
    text = _static("study.html")
    start = text.index('<link rel="stylesheet"')
    text = text[:start] + f"<style>\n{style}</style>" + text[text.index("</head>", start) :]
    data = f'<script type="application/json" id="offline">{script_json(_data(folder, study, reader))}</script>'
    text = text.replace('<script src="/study.js"></script>', f"{data}\n<script>{script}</script>")
    rules = f'<meta http-equiv="Content-Security-Policy" content="{policy((script,))}">'
    text = text.replace('<meta name="csrf" content="[[csrf]]">', rules)
    for key, value in {"title": study.title, "notice": RESEARCH_ONLY}.items():
        text = text.replace(f"[[{key}]]", html.escape(value))
    return text


def _static(name: str) -> str:
    return files("moediff.study").joinpath("static", name).read_text(encoding="utf-8")


def _data(folder: Path, study: Study, reader: str) -> dict[str, Any]:
    """Everything that the page's script reads. Images have numbers in the order of the reader's own trials."""
    trials = study.readers[reader]
    displayed = [panels(trial) for trial in trials]
    numbers: dict[str, int] = {}
    for one in displayed:
        for image in one.values():
            numbers.setdefault(image, len(numbers))
    return {
        "study": study.name,
        "reader": reader,
        "reader_number": list(study.readers).index(reader) + 1,
        "views": [trial_view(study, reader, done) for done in range(len(trials))],
        "panels": [{name: numbers[image] for name, image in one.items()} for one in displayed],
        "images": [_slices(folder, image, study.stacks[image].slices) for image in numbers],
    }


def _slices(folder: Path, image: str, count: int) -> list[str]:
    try:
        contents = [(folder / IMAGE_FOLDER / image / f"{index}.png").read_bytes() for index in range(count)]
    except OSError as error:
        raise InputMissing(f"{printable(error.filename)}: {error.strerror}; restore the study's images") from error
    return [base64.b64encode(content).decode("ascii") for content in contents]


def merge(store: AnswerStore, path: Path) -> tuple[str, int]:
    """Store the answers of a file that an offline page saved; those that are there already are passed over.

    Returns:
        The reader, and how many answers were new.

    Raises:
        InputMissing: there is no such file.
        DataError: it belongs to another study, is damaged, or contradicts answers that were stored.
    """
    with prefix_errors(path):
        reader, answers = _read(path, store.study)
        known = {one.trial: one for one in store.answers() if one.reader == reader}
        new = 0
        for one in answers:
            before = known.get(one.trial)
            if before is not None:
                if before.ticket != one.ticket:
                    raise DataError(f"trial {one.trial} of {reader} has another answer already: the reader read twice")
                continue
            try:
                store.add(one)
            except StaleTrial as error:
                raise DataError(f"{error} of {reader}: answers before it are missing from this file") from error
            new += 1
    return reader, new


def _read(path: Path, study: Study) -> tuple[str, list[Answer]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError("the file is too long for answers: name the file that the page saved")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputMissing(f"{error.strerror}; expected a file of answers") from error
    except (ValueError, RecursionError) as error:
        raise DataError("this is no JSON: name the file that the page saved") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("answers"), list):
        raise DataError("expected the answers that an offline page saved")
    reader = content.get("reader")
    if content.get("study") != study.name or reader not in study.readers:
        raise DataError("these are answers of another study, or of a reader whom this one does not know")
    return str(reader), [_answer(reader, one) for one in content["answers"]]


def _answer(reader: str, one: object) -> Answer:
    kinds: dict[str, Any] = {"trial": int, "value": dict, "seconds": (int, float), "answered_at": str, "ticket": str}
    if not isinstance(one, dict) or not all(isinstance(one.get(name), kind) for name, kind in kinds.items()):
        raise DataError("an answer lacks its trial, value, seconds, time or ticket")
    return Answer(reader=reader, **{name: one[name] for name in kinds})


def file_name(study: Study, reader: str) -> str:
    """Name of a reader's page: the reader's number and a word of the study."""
    number = list(study.readers).index(reader) + 1
    return f"study-{hashlib.sha256(study.name.encode()).hexdigest()[:6]}-reader-{number}.html"
