"""Keys for randomness, and reading settings into the dataclasses that each part owns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import torch

from moediff.core.errors import ConfigError

T = TypeVar("T")


def rng_for(seed: int, *ids: object) -> torch.Generator:
    """A CPU generator keyed by what it is for, e.g. rng_for(0, "sub-01", "noise"); order of calls never matters."""
    digest = hashlib.sha256(repr((seed, *ids)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def parse_as(kind: type[T], values: Mapping[str, Any]) -> T:
    """Plain values (from JSON or TOML) -> a settings dataclass, nested ones included.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or range; the message names the key.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(values, Mapping):  # whatever a file held
        raise ConfigError(f"{kind.__name__}: expected a table of settings; found {type(values).__name__}")
    try:
        result = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise ConfigError(f"{where}: {first['msg']}; found {first['input']!r}") from error
    unknown = sorted(_unknown(values, asdict(result)))  # type: ignore[call-overload]
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]!r}; {kind.__name__} knows {', '.join(asdict(result))}")  # type: ignore[call-overload]
    return result


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in given.items():
        if key not in known:
            found.append(prefix + key)
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping):
            found += _unknown(value, known[key], f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for item, parsed in zip(value, known[key], strict=True):
                found += _unknown(item, parsed, f"{prefix}{key}.")
    return found
