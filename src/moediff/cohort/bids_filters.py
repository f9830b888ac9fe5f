"""Filter files of BIDS Apps: which scans are wanted, by entities, as in fMRIPrep and pybids.

    {"t1w": {"acquisition": "mprage", "run": [1, 2]}, "flair": {"session": "pre", "reconstruction": null}}

Each group is a filter of its own; a scan has to match one. null: the entity must be absent; "*": it must be there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from moediff.cohort.bids_names import ENTITIES, BidsName
from moediff.core.errors import ConfigError, InputMissing, prefix_errors, printable

Value: TypeAlias = str | int | None
Filter: TypeAlias = Mapping[str, tuple[Value, ...]]  # short name of an entity, or "suffix" -> values allowed

SHORT = {long: short for short, long in ENTITIES.items()} | {short: short for short in ENTITIES}
OTHERS = ("suffix", "datatype", "extension")
ANY = "*"
GROUPS = {suffix.lower(): suffix for suffix in ("T1w", "T2w", "FLAIR", "PDw", "T2starw")}


def read_filters(path: Path) -> tuple[Filter, ...]:
    """The filters of a file.

    Raises:
        InputMissing: it cannot be read.
        ConfigError: it is no JSON of this form, or names an entity that BIDS does not know.
    """
    with prefix_errors(printable(path)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputMissing(f"the filter file cannot be read ({error.strerror}): check its name") from error
        except ValueError as error:
            raise ConfigError(
                f"the filter file is not JSON ({error}): see docs/howto/study.md for an example"
            ) from error
        if not isinstance(content, dict) or not content:
            raise ConfigError('expected an object such as {"t1w": {"acquisition": "mprage"}} in the filter file')
        if all(isinstance(group, dict) for group in content.values()):
            return tuple(_filter(group, name) for name, group in content.items())
        return (_filter(content, ""),)


def _filter(group: Mapping[str, object], name: str) -> Filter:
    result: dict[str, tuple[Value, ...]] = {}
    for key, wanted in group.items():
        if key not in SHORT and key not in OTHERS:
            raise ConfigError(f"{key!r} is no entity of BIDS: expected suffix, {', '.join(ENTITIES.values())}")
        given: list[object] = wanted if isinstance(wanted, list) else [wanted]
        values = [value for value in given if value is None or isinstance(value, str | int)]
        if not values or len(values) < len(given):
            raise ConfigError(f"{key}: expected a text, a number, null or a list of such, got {wanted!r}")
        result[SHORT.get(key, key)] = tuple(values)
    if "suffix" not in result and name.lower() in GROUPS:
        result["suffix"] = (GROUPS[name.lower()],)
    return result


def matches(name: BidsName, chosen: Filter, suffixes: Sequence[str]) -> bool:
    """Whether a scan matches a filter; without a suffix in it, one of `suffixes` is wanted."""
    own: dict[str, str | None] = {key: name.get(key) for key in chosen if key not in OTHERS}
    own |= {"suffix": name.suffix, "datatype": "anat", "extension": name.extension}
    if not all(any(_same(own[key], value) for value in values) for key, values in chosen.items()):
        return False
    return "suffix" in chosen or name.suffix in suffixes


def _same(own: str | None, wanted: Value) -> bool:
    if own is None or wanted is None:
        return own is wanted
    if wanted == ANY or own == str(wanted):
        return True
    numbers = own.isdecimal() and str(wanted).isdecimal()  # run-01 and 1
    return numbers and int(own) == int(wanted)
