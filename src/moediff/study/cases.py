"""Cases of a reader study: which files belong to one head, from folders of results or from a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moediff.core.errors import ConfigError, DataError, InputMissing, printable
from moediff.io.missing import is_apple_double, why_missing
from moediff.io.naming import stem_of, suffix_of
from moediff.study.records import INPUT, LESIONS, REFERENCE

ROLES = (INPUT, REFERENCE, LESIONS)
LEAST_METHODS = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """One head: results by method, and optional files.

    Args:
        name: unique in the study.
        results: method -> file.
        others: input, reference, lesions -> file, those that exist.
    """

    name: str
    results: dict[str, Path]
    others: dict[str, Path]


def case_name(path: Path) -> str:
    """What files of one head have in common: the name without suffix and without the BIDS entities of results."""
    return re.sub(r"_(?:desc|res)-[A-Za-z0-9+]+", "", stem_of(path))


def cases_from_options(results: Sequence[str], others: Mapping[str, Sequence[Path]]) -> list[Case]:
    """Cases from `METHOD=PATH` words (files and folders; one method may come several times) and files by role.

    Raises:
        ConfigError: a word has no `=`, or a method's name cannot be used.
        DataError: the methods do not cover the same cases, two files stand for one, or one belongs to none.
        InputMissing: a path does not exist.
    """
    paths: dict[str, list[Path]] = {}
    for word in results:
        method, equals, path = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"--results {printable(word)}: expected METHOD=FOLDER or METHOD=FILE")
        paths.setdefault(method.strip(), []).append(Path(path))
    by_method = {method: _by_case(some) for method, some in paths.items()}
    extra = {role: _by_case(some) for role, some in others.items() if some}
    names = sorted(set().union(*by_method.values()))
    for method, files in by_method.items():
        missing = [name for name in names if name not in files]
        if missing:
            raise DataError(f"{method} has no result of {', '.join(missing[:5])}: every method needs every case")
    for role, files in extra.items():
        _refuse_unused(role, files, names, others[role])
    return checked(
        [
            Case(
                name=name,
                results={method: files[name] for method, files in by_method.items()},
                others={role: files[name] for role, files in extra.items() if name in files},
            )
            for name in names
        ]
    )


def _refuse_unused(role: str, files: Mapping[str, Path], names: Sequence[str], given: Sequence[Path]) -> None:
    """Refuse a file of no case where it was named itself, or outlines lesions that some case may lack.

    Other folders may hold more than the study needs.
    """
    lacking = [name for name in names if name not in files]
    for name, file in files.items():
        if name not in names and (file in given or (role == LESIONS and lacking)):
            raise DataError(
                f"{printable(file)} would be of the case {name}, expected one of {', '.join((lacking or names)[:5])}: "
                "rename it, or use a table (--cases)"
            )


def cases_from_table(path: Path) -> list[Case]:
    """Cases from a CSV file: columns `case`, `input`, `reference`, `lesions` and one a method; paths relative to it.

    Raises:
        InputMissing: the file or one that it names does not exist.
        DataError: a column or cell is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputMissing(f"{printable(path)}: this table cannot be read ({error})") from error
    cases = []
    for row in rows:
        cells = {column: (cell or "").strip() for column, cell in row.items() if column}
        name = cells.pop("case", "")
        results = {column: cell for column, cell in cells.items() if column not in ROLES}
        if not name or not all(results.values()):
            raise DataError(f"{printable(path)}: a row lacks its case or a result: {row}")
        others = {role: path.parent / cells[role] for role in ROLES if cells.get(role)}
        cases.append(Case(name=name, results={m: path.parent / cell for m, cell in results.items()}, others=others))
    return checked(cases)


def checked(cases: list[Case]) -> list[Case]:
    """The same cases, if a study can be made of them.

    Raises:
        ConfigError: fewer than two methods, or a name that cannot be used.
        DataError: no case, or two of one name.
        InputMissing: a file does not exist.
    """
    if not cases:
        raise DataError("no case was found: name files or folders of scans")
    methods = list(cases[0].results)
    bad = [method for method in methods if not method or method in ROLES or len(method) > 60]
    if bad or len(methods) < LEAST_METHODS:
        raise ConfigError(
            f"found the methods {', '.join(map(repr, methods))}: expected two or more names, none of them "
            f"{', '.join(ROLES)} or longer than 60 characters"
        )
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"two cases are called {sorted(twice)[0]}: give each its own name")
    for case in cases:
        for path in (*case.results.values(), *case.others.values()):
            if not path.exists():
                raise InputMissing(f"{printable(path)} (case {printable(case.name)}): {why_missing(path)}")
    return cases


def _by_case(paths: Sequence[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in paths:
        inside = (
            sorted(one for one in path.iterdir() if suffix_of(one) and not is_apple_double(one))
            if path.is_dir()
            else [path]
        )
        for file in inside:
            if not file.exists():
                raise InputMissing(f"{printable(file)}: {why_missing(file, 'file or folder')}")
            name = case_name(file)
            if name in files:
                raise DataError(
                    f"{printable(files[name])} and {printable(file)} would both be the case {name}: "
                    "name single files, or use a table (--cases)"
                )
            files[name] = file
    return files
