"""Learning curves of a training: error and validation gain of every stage against time, one after the other, as SVG.

"Error" is that of the aggregate over the interpolation's, squared, at the highest noise level, mean over steps nearby:
1 means nothing gained. A stage of encoder and gate alone has none.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path

from moediff.core.errors import InputMissing, printable
from moediff.io.atomic import write_text

Points = list[tuple[float, float]]  # minutes, value
COLUMNS = {"losses.csv": {"step", "seconds"}, "validation.csv": {"step", "case", "gain_db"}}
WINDOW = 50  # steps averaged
MOST_POINTS = 800  # of a drawn line
INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # colour-blind safe (Okabe & Ito)
WIDTH, PANEL, LEFT, RIGHT, TOP, GAP, BOTTOM = 860, 220, 64, 130, 34, 26, 46
TICKS = 5


@dataclass(frozen=True)
class StageCurves:
    """A stage's name, minutes, errors, and gains by recipe, all by minutes from its own start."""

    name: str
    minutes: float
    error: Points
    gains: dict[str, Points]


def _rows(path: Path) -> list[dict[str, str]]:
    """Whole rows of a log; none of a file with other columns, which is not ours."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if not COLUMNS[path.name] <= set(reader.fieldnames or ()):
            return []
        return [row for row in reader if all(row[name] for name in COLUMNS[path.name])]


def read_curves(folder: Path) -> StageCurves:
    """What a stage's log holds.

    Raises:
        InputMissing: no log with steps in it.
    """
    steps = _rows(folder / "losses.csv")
    if not steps:
        raise InputMissing(f"{printable(folder)}: no losses.csv with steps in it; name the folder of a training run")
    minute = {int(row["step"]): float(row["seconds"]) / 60 for row in steps}
    known = [(minute[int(row["step"])], float(row.get("aggregate") or "nan")) for row in steps]
    known = [(at, error) for at, error in known if math.isfinite(error)]
    gains: dict[str, Points] = {}
    for row in _rows(folder / "validation.csv"):
        if row["case"].startswith("mean/") and int(row["step"]) in minute:
            gains.setdefault(row["case"][5:], []).append((minute[int(row["step"])], float(row["gain_db"])))
    return StageCurves(folder.name, max(minute.values()), smoothed(known, WINDOW), gains)


def smoothed(points: Points, window: int) -> Points:
    """Mean over up to this many points that end at each."""
    means, total = [], 0.0
    for index, (at, value) in enumerate(points):
        total += value - (points[index - window][1] if index >= window else 0.0)
        means.append((at, total / min(index + 1, window)))
    return means


@dataclass(frozen=True)
class _Axis:
    """A range of values on a range of the picture's units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values within the range."""
        rough = (self.high - self.low) / TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 10) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _axis(values: Iterable[float], start: float, end: float) -> _Axis:
    known = sorted(value for value in values if math.isfinite(value)) or [0.0, 1.0]
    low, high = known[0], known[-1]
    margin = 0.05 * (high - low) or 0.5
    return _Axis(low - margin, high + margin, start, end)


def _line(points: Points, across: _Axis, up: _Axis, ink: str, *, dots: bool = False) -> str:
    """A line of at most so many points, and a dot at each where they are few."""
    some = points[:: max(1, len(points) // MOST_POINTS)]
    places = [(across(at), up(value)) for at, value in some]
    path = " ".join(f"{x:g},{y:g}" for x, y in places)
    circles = "".join(f'<circle cx="{x:g}" cy="{y:g}" r="2.5" fill="{ink}"/>' for x, y in places) if dots else ""
    return f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="1.4"/>{circles}'


def _words(x: float, y: float, text: str, *, anchor: str = "start", turn: bool = False) -> str:
    rotation = f' transform="rotate(-90 {x:g} {y:g})"' if turn else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{rotation}>{escape(text)}</text>'


def _panel(across: _Axis, up: _Axis, label: str) -> list[str]:
    """Grid lines, their values, and what the panel shows."""
    parts = [
        f'<rect x="{LEFT}" y="{up.end:g}" width="{across.end - LEFT:g}" height="{PANEL}" fill="none" stroke="#888"/>'
    ]
    for value in up.ticks():
        parts.append(f'<path d="M{LEFT} {up(value):g}H{across.end:g}" stroke="#ddd"/>')
        parts.append(_words(LEFT - 6, up(value) + 4, f"{value:g}", anchor="end"))
    return [*parts, _words(16, (up.start + up.end) / 2, label, anchor="middle", turn=True)]


def curves_svg(stages: Sequence[StageCurves]) -> str:
    """Two panels that share their minutes: error, and validation gain by recipe."""
    begins = [sum(stage.minutes for stage in stages[:k]) for k in range(len(stages))]
    across = _Axis(0.0, max(sum(stage.minutes for stage in stages), 1e-6), LEFT, WIDTH - RIGHT)
    top, bottom = TOP + PANEL, TOP + 2 * PANEL + GAP
    error = _axis((value for stage in stages for _, value in stage.error), top, TOP)
    gain = _axis((v for stage in stages for line in stage.gains.values() for _, v in line), bottom, top + GAP)
    names = sorted({name for stage in stages for name in stage.gains})
    ink = {name: INK[k % len(INK)] for k, name in enumerate(names)}
    parts = _panel(across, error, "error over interpolation's") + _panel(across, gain, "validation gain, dB PSNR")
    for number, (stage, begin) in enumerate(zip(stages, begins, strict=True)):
        parts.append(f'<path d="M{across(begin):g} {TOP}V{bottom}" stroke="#888" stroke-width="0.6"/>')
        parts.append(_words(across(begin) + 3, TOP - 6 - 13 * (number % 2), stage.name))  # short stages: two rows
        parts.append(_line([(begin + at, value) for at, value in stage.error], across, error, "black"))
        parts += [
            _line([(begin + at, value) for at, value in points], across, gain, ink[name], dots=True)
            for name, points in stage.gains.items()
        ]
    for value in across.ticks():
        parts.append(_words(across(value), bottom + 16, f"{value:g}", anchor="middle"))
    parts.append(_words((LEFT + WIDTH - RIGHT) / 2, bottom + 36, "minutes of training", anchor="middle"))
    for k, name in enumerate(names):
        y = top + GAP + 14 + 18 * k
        parts.append(f'<path d="M{WIDTH - RIGHT + 10} {y - 4}h18" stroke="{ink[name]}" stroke-width="2"/>')
        parts.append(_words(WIDTH - RIGHT + 34, y, name))
    size = f'width="{WIDTH}" height="{bottom + BOTTOM}" viewBox="0 0 {WIDTH} {bottom + BOTTOM}"'
    style = 'font-family="sans-serif" font-size="12" style="background:white"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def write_curves(folders: Sequence[Path], path: Path) -> None:
    """Draw the stages that have a log with steps in it, in this order; nothing is written where none has one."""
    stages = []
    for folder in folders:
        with suppress(InputMissing):
            stages.append(read_curves(folder))
    if stages:
        write_text(curves_svg(stages), path, overwrite=True)
