"""Settings: plain values read into the dataclasses that each part owns; generators keyed by what they are for."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import torch

from moediff.core.errors import ConfigError, MoeDiffWarning

T = TypeVar("T")


def rng_for(seed: int, *ids: object) -> torch.Generator:
    """A CPU generator keyed by what it is for, e.g. rng_for(0, "sub-01", "noise"); order of calls never matters."""
    digest = hashlib.sha256(repr((seed, *ids)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def parse_as(kind: type[T], values: Mapping[str, Any], *, warn: bool = True) -> T:
    """Plain values (from JSON or TOML) -> a settings dataclass, nested ones included.

    A dataclass may name its former keys in `RENAMED: ClassVar[Mapping[str, str | None]]` (old key -> present key, or
    None for a setting that is gone): they are read as the present ones.

    Args:
        warn: one `MoeDiffWarning` lists the old keys that were found; False reads them without a word (files that
            their reader cannot change, such as a bundle's).

    Raises:
        ConfigError: a key is unknown or given under both of its names, or a value has the wrong type or range; the
            message names the key.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(values, Mapping):  # whatever a file held
        raise ConfigError(f"{kind.__name__}: expected a table of settings; found {type(values).__name__}")
    values, notes = with_present_keys(kind, values)
    if notes and warn:
        warnings.warn(f"old settings, read for one more release: {'; '.join(notes)}", MoeDiffWarning, stacklevel=2)
    try:
        result = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise ConfigError(f"{where}: {first['msg']}; found {first['input']!r}") from error
    unknown = sorted(_unknown(values, asdict(result)))  # type: ignore[call-overload]
    if unknown:
        table = _kind_at(kind, unknown[0].split(".")[:-1])
        raise ConfigError(
            f"unknown setting {unknown[0]!r}; {table.__name__} knows {', '.join(field.name for field in fields(table))}"
        )
    return result


def with_present_keys(kind: type, values: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """`values` with the former keys of `kind` and of the settings nested in it renamed, and a note for each.

    Raises:
        ConfigError: a setting is given under both of its names.
    """
    renamed: Mapping[str, str | None] = getattr(kind, "RENAMED", {})
    nested, result, notes = _nested_settings(kind), dict[str, Any](), list[str]()
    for key, value in values.items():
        present = renamed.get(key, key) if isinstance(key, str) else key
        if present != key:
            notes.append(f"{prefix}{key} is now {prefix}{present}" if present else f"{prefix}{key} has no effect")
        if present is None:
            continue
        if present in result or (present != key and present in values):
            raise ConfigError(f"{prefix}{key} is the former name of {prefix}{present}: give that one alone")
        result[present], more = _present(nested.get(present), value, f"{prefix}{present}.")
        notes += more
    return result, notes


def _present(kind: type | None, value: Any, prefix: str) -> tuple[Any, list[str]]:
    if kind is None:
        return value, []
    if isinstance(value, Mapping):
        return with_present_keys(kind, value, prefix)
    if isinstance(value, list | tuple):
        items = [_present(kind, item, prefix) for item in value]
        return [item for item, _ in items], list(dict.fromkeys(note for _, notes in items for note in notes))
    return value, []


def _nested_settings(kind: type) -> dict[str, type]:
    """Fields that hold settings of their own: `Part`, `Part | None` or `tuple[Part, ...]`."""
    nested = {}
    for name, hint in get_type_hints(kind).items():
        parts = [part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)]
        if parts:
            nested[name] = parts[0]
    return nested


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> list[str]:
    unknown = []
    for key, value in given.items():
        if key not in known:
            unknown.append(prefix + key)
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping):
            unknown += _unknown(value, known[key], f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for item, parsed in zip(value, known[key], strict=True):
                unknown += _unknown(item, parsed, f"{prefix}{key}.")
    return unknown


def _kind_at(kind: type, keys: Sequence[str]) -> Any:
    """The settings that a nested key belongs to; the last known ones where it lies in something else."""
    for key in keys:
        nested = _nested_settings(kind)
        if key not in nested:
            break
        kind = nested[key]
    return kind
