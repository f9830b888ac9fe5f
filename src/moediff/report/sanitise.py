"""Sanitised text and numbers: foreign values of a sidecar, safe to show."""

from __future__ import annotations

import math

WORDS = 200  # longest text taken from a sidecar


def one_line(value: object) -> str:
    """Foreign text as at most 200 printable characters."""
    return "".join(c if c.isprintable() else " " for c in str(value))[:WORDS]


def number(value: object) -> float | None:
    """A sidecar's value if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        converted = float(value)
    except OverflowError:  # JSON's whole numbers know no limit
        return None
    return converted if math.isfinite(converted) else None
