"""Foreign values as words and numbers that are safe to show."""

from __future__ import annotations

import math

WORDS = 200  # longest text taken from a sidecar


def one_line(value: object) -> str:
    """Foreign text as at most 200 printable characters."""
    return "".join(c if c.isprintable() else " " for c in str(value))[:WORDS]


def number(value: object) -> float | None:
    """A sidecar's value if it is a finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type]
