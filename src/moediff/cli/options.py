"""Options of the commands as tables: groups, defaults in the help, and former names that still work."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Command -> former name -> present name. Former names are read for one release; a warning names the present one.
RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "enhance": {
        "--mirrors": "--tta",
        "--even-slices": "--correct-slice-intensity",
        "--each-expert": "--single-experts",
        "--no-consistency": "--no-data-consistency",
    },
    "evaluate": {"--no-fit": "--no-intensity-fit"},
    "benchmark": {"--no-fit": "--no-intensity-fit", "--behaviour-only": "--exclude-from-means"},
}


@dataclass(frozen=True)
class Option:
    """One row of a table: names, and the settings of `add_argument`."""

    names: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class OneOf:
    """Rows of which exactly one has to be given."""

    options: tuple[Option, ...]


def option(*names: str, **settings: Any) -> Option:
    """A row; a default that says something is added to its help."""
    default = settings.get("default")
    if default is not None and default is not False and "default" not in settings["help"]:
        settings["help"] += " (default %(default)s)"
    return Option(names, settings)


def add_options(parser: argparse.ArgumentParser, groups: Mapping[str, Sequence[Option | OneOf]]) -> None:
    """Declare a table of options, each group under its title."""
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for row in options:
            if isinstance(row, OneOf):
                exclusive = group.add_mutually_exclusive_group(required=True)
                for one in row.options:
                    exclusive.add_argument(*one.names, **one.settings)
            else:
                group.add_argument(*row.names, **row.settings)


def with_present_names(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line with former names of options replaced, and a sentence for each of them."""
    command = next((word for word in words if not word.startswith("-")), "")
    renamed, result, notes = RENAMED_OPTIONS.get(command, {}), list[str](), list[str]()
    options = True
    for word in words:
        options = options and word != "--"  # what follows are names of files
        name, equals, value = word.partition("=")
        if options and name in renamed:
            notes.append(f"{name} is now {renamed[name]}; the former name works for one more release")
            word = renamed[name] + equals + value
        result.append(word)
    return result, notes
