"""Charts as plain coordinates; the page's template draws them as SVG, so every text is escaped in one place.

All plots are horizontal: one line per method, values along x. Lengths are in SVG user units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, LEFT, RIGHT = 720.0, 175.0, 20.0
TOP, LINE, FOOT = 10.0, 26.0, 40.0
SCATTER_HEIGHT = 300.0
COLOURS = 7  # that the page's style defines; more scans share them
TICKS = 6
NAME = 20  # characters of a method's name that fit
TEXT_WIDTH, TEXT_HEIGHT = 130.0, 15.0  # of such a name


@dataclass(frozen=True)
class Mark:
    """A dot (filled), a ring (not in means) or a mean, at x, y; `title` shows on hover."""

    kind: str
    x: float
    y: float
    title: str
    colour: int = 0


@dataclass(frozen=True)
class Bar:
    """A horizontal line from x to x2, an interval."""

    x: float
    x2: float
    y: float


@dataclass(frozen=True)
class Label:
    """A text; `anchor` as in SVG."""

    x: float
    y: float
    text: str
    anchor: str = "end"


@dataclass(frozen=True)
class Plot:
    """Everything that one SVG shows; grid lines are (x, text), `zero` is the line of no difference."""

    height: float
    axis: str
    grid: tuple[tuple[float, str], ...]
    labels: tuple[Label, ...]
    marks: tuple[Mark, ...]
    bars: tuple[Bar, ...] = ()
    zero: float | None = None
    width: float = WIDTH

    @property
    def middle(self) -> float:
        """Where the name of the axis stands."""
        return (LEFT + self.width - RIGHT) / 2


def ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """Round values from at or below `low` to at or above `high`, about `count` of them."""
    span = high - low or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Scale:
    """Values to user units between two ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def _across(values: Sequence[float]) -> tuple[_Scale, tuple[tuple[float, str], ...]]:
    """A scale along x that holds all values and zero, and its grid lines."""
    marks = ticks(min([0.0, *values]), max([0.0, *values]))
    scale = _Scale(marks[0], marks[-1], LEFT, WIDTH - RIGHT)
    return scale, tuple((scale(v), f"{v:g}" if v else "0") for v in (round(m, 10) for m in marks))


def _height(lines: int) -> float:
    return TOP + lines * LINE + FOOT


def _middle(line: int) -> float:
    return TOP + (line + 0.5) * LINE


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def dots(
    values: Mapping[str, Mapping[str, float]],
    means: Mapping[str, float | None],
    scans: Sequence[str],
    rings: Sequence[str],
    axis: str,
) -> Plot:
    """One line per method, one dot per scan, a bar at the mean over persons.

    Args:
        values: method -> scan -> value; finite.
        means: method -> mean; one that is None or infinite is not drawn.
        scans: all scans; their position decides the colour.
        rings: scans drawn hollow, which means leave out.
        axis: name of the value.
    """
    scale, grid = _across([v for one in values.values() for v in one.values()])
    marks, labels = [], []
    for line, (method, by_scan) in enumerate(values.items()):
        y = _middle(line)
        labels.append(Label(LEFT - 10, y, _short(method)))
        mean = means.get(method)
        if mean is not None and math.isfinite(mean):
            marks.append(Mark("mean", scale(mean), y, f"{method}, mean {mean:+.3f}"))
        for scan, value in by_scan.items():
            kind = "ring" if scan in rings else "dot"
            title = f"{method}, {scan}: {value:+.3f}"
            marks.append(Mark(kind, scale(value), y, title, scans.index(scan) % COLOURS))
    return Plot(_height(len(values)), axis, grid, tuple(labels), tuple(marks), zero=scale(0))


def intervals(values: Mapping[str, tuple[float, float, float]], axis: str) -> Plot:
    """One line per method: a mean and its interval.

    Args:
        values: method -> (mean, low, high); finite.
        axis: name of the value.
    """
    scale, grid = _across([v for one in values.values() for v in one])
    lines = list(enumerate(values.items()))
    return Plot(
        _height(len(values)),
        axis,
        grid,
        tuple(Label(LEFT - 10, _middle(i), _short(method)) for i, (method, _) in lines),
        tuple(
            Mark("dot", scale(m), _middle(i), f"{method}: {m:+.4f} ({a:+.4f} to {b:+.4f})")
            for i, (method, (m, a, b)) in lines
        ),
        tuple(Bar(scale(a), scale(b), _middle(i)) for i, (_, (_, a, b)) in lines),
        zero=scale(0),
    )


def _apart(at: Sequence[tuple[float, float]]) -> list[float]:
    """Heights of texts that start at x, y, pushed down where one would lie on another."""
    placed: list[tuple[float, float]] = []
    heights = [0.0] * len(at)
    for i in sorted(range(len(at)), key=lambda i: at[i][1]):
        x, y = at[i]
        for other_x, other_y in placed:  # from the top down
            if abs(other_x - x) < TEXT_WIDTH and abs(y - other_y) < TEXT_HEIGHT:
                y = other_y + TEXT_HEIGHT
        placed = sorted([*placed, (x, y)], key=lambda position: position[1])
        heights[i] = round(y, 2)
    return heights


def quality_against_time(points: Mapping[str, tuple[float, float]]) -> Plot:
    """Seconds along x (logarithmic), mean gain in dB upwards, one dot per method.

    Args:
        points: method -> (seconds above 0, gain).
    """
    exponents = {method: math.log10(max(seconds, 1e-3)) for method, (seconds, _) in points.items()}
    first, last = (math.floor(min(exponents.values())), math.ceil(max(exponents.values()))) if points else (0, 1)
    x = _Scale(first, max(last, first + 1), LEFT, WIDTH - RIGHT - 130)
    gains = [gain for _, gain in points.values()]
    up = ticks(min([0.0, *gains]), max([0.0, *gains]))
    y = _Scale(up[0], up[-1], TOP + SCATTER_HEIGHT, TOP)
    marks, labels = [], [Label(LEFT - 10, y(v), f"{round(v, 10):g} dB") for v in up]
    positions = [(x(exponents[method]), y(gain)) for method, (_, gain) in points.items()]
    for (method, (seconds, gain)), at, height in zip(points.items(), positions, _apart(positions), strict=True):
        marks.append(Mark("dot", *at, f"{method}: {seconds:.1f} s, {gain:+.2f} dB"))
        labels.append(Label(at[0] + 8, height, _short(method), "start"))
    grid = tuple((x(e), f"{10.0**e:g}") for e in range(int(x.low), int(x.high) + 1))
    return Plot(TOP + SCATTER_HEIGHT + FOOT, "whole process, seconds", grid, tuple(labels), tuple(marks))
