"""Learning curve: gain against the logarithm of training time, from recorded measurements.

    python scripts/learning_curve.py [benchmarks/learning_curve.csv] [--plot SVG] [--document MD]

The measurements are those of LOG.md, "The stages of today's weights"; the file names the source of each. A
straight line in log2(minutes) is fitted by least squares to ends of stages (`in_fit`), for whole heads. The interval of
its slope is Student's t at 90 %, as if residuals were independent; the line is turned about its middle for
the interval of the time that a target would take. Prints a table; writes it into a document (docs/aims.md) between its
markers.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student

from moediff.benchmark.markdown_tables import filled

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("thick5", "low1.5", "iso2")
TARGETS = {"thick5": 3.0, "low1.5": 2.5, "iso2": 0.5}
WHERE = {"heads": "whole heads", "crops": "80^3 crops"}
HASH = "moediff"  # of the picture's identifiers, so that equal results give equal files
YEAR = 365.25 * 24 * 60  # minutes
LONGEST = 100 * YEAR  # longer times are not printed


@dataclass(frozen=True)
class Line:
    """gain = middle + slope (log2 minutes - centre), and the half width of the slope's 90 % interval."""

    middle: float
    slope: float
    half: float
    centre: float

    def minutes(self, gain: float, slope: float) -> float:
        """Training time at which a line of this slope through the middle reaches a gain."""
        doublings = (gain - self.middle) / slope if slope > 0 else math.inf
        return 2 ** (self.centre + doublings) if doublings < 200 else math.inf


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement: gain (dB) by recipe after so many minutes of training, on whole heads or crops."""

    minutes: float
    where: str
    in_fit: bool
    gain: dict[str, float]


def read(path: Path) -> list[Measured]:
    """The recorded measurements."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Measured(
                minutes=float(row["minutes"]),
                where=row["where"],
                in_fit=row["in_fit"] == "yes",
                gain={recipe: float(row[recipe]) for recipe in RECIPES},
            )
            for row in csv.DictReader(file)
        ]


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """Least squares on (minutes, gain).

    Raises:
        ValueError: fewer than three points, which leave nothing to judge the line by.
    """
    if len(points) < 3:
        raise ValueError(f"{len(points)} points are too few for a line with an interval; record three or more")
    x, y = [math.log2(minutes) for minutes, _ in points], [gain for _, gain in points]
    centre, middle = sum(x) / len(x), sum(y) / len(y)
    square = sum((a - centre) ** 2 for a in x)
    slope = sum((a - centre) * (b - middle) for a, b in zip(x, y, strict=True)) / square
    rest = sum((b - middle - slope * (a - centre)) ** 2 for a, b in zip(x, y, strict=True))
    freedom = len(points) - 2
    return Line(middle, slope, float(student.ppf(0.95, freedom)) * math.sqrt(rest / freedom / square), centre)


def duration(minutes: float) -> str:
    """As text, two digits."""
    if minutes > LONGEST:
        return "over 100 years"
    for unit, size in (("years", YEAR), ("days", 1440.0), ("hours", 60.0)):
        if minutes >= 2 * size:
            return f"{float(f'{minutes / size:.2g}'):g} {unit}"
    return f"{minutes:.0f} minutes"


def points(rows: Sequence[Measured], where: str, recipe: str, *, in_fit: bool = True) -> list[tuple[float, float]]:
    """Minutes and gain at ends of stages, or in the middle of them."""
    return [(row.minutes, row.gain[recipe]) for row in rows if row.where == where and row.in_fit is in_fit]


def table(rows: Sequence[Measured]) -> str:
    """Markdown: gain of a doubling, and when a target would be reached if nothing else changed."""
    lines = [
        "| recipe | judged on | last point, dB (minutes) | a doubling of training time, dB (90 % interval) "
        "| target, dB | training time for it, two cores (interval) |",
        "|---" * 6 + "|",
    ]
    for recipe in RECIPES:
        for where, title in WHERE.items():
            own = points(rows, where, recipe)
            line, (minutes, last) = fitted(own), own[-1]
            low, high = line.slope - line.half, line.slope + line.half
            if where == "crops":  # targets are of whole heads
                target, when = "", ""
            elif last >= TARGETS[recipe]:
                target, when = f"{TARGETS[recipe]:+.1f}", "reached"
            else:
                target = f"{TARGETS[recipe]:+.1f}"
                best, soon, late = (duration(line.minutes(TARGETS[recipe], s)) for s in (line.slope, high, low))
                when = f"{best} ({soon} to {late})" if low > 0 else f"{best} ({soon} to never)"
            lines.append(
                f"| {recipe} | {title} | {last:+.2f} ({minutes:.0f}) | {line.slope:+.3f} ({low:+.3f} to {high:+.3f}) "
                f"| {target} | {when} |"
            )
    return "\n".join(lines)


def draw(rows: Sequence[Measured], path: Path) -> None:
    """A panel per recipe: measurements, lines, targets."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": HASH, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(2.8 * len(RECIPES) + 0.6, 2.8))
        panels = figure.subplots(1, len(RECIPES), sharey=True)
        figure.set_layout_engine("constrained")
        ahead = [2 ** (4.5 + 0.25 * k) for k in range(45)]  # 23 minutes to a month
        for panel, recipe in zip(panels, RECIPES, strict=True):
            for where, colour in (("heads", "C0"), ("crops", "C1")):
                own = points(rows, where, recipe)
                line = fitted(own)
                gain = [line.middle + line.slope * (math.log2(m) - line.centre) for m in ahead]
                half = [abs(line.half * (math.log2(m) - line.centre)) for m in ahead]
                panel.plot(*zip(*own, strict=True), "o", color=colour, markersize=4, label=WHERE[where])
                panel.plot(ahead, gain, color=colour, linewidth=0.9)
                if where == "heads":
                    bounds = [[g + side * h for g, h in zip(gain, half, strict=True)] for side in (-1, 1)]
                    panel.fill_between(ahead, *bounds, color=colour, alpha=0.15, linewidth=0)
                within = points(rows, where, recipe, in_fit=False)
                panel.plot([x for x, _ in within], [y for _, y in within], "o", c=colour, ms=4, fillstyle="none")
            panel.axhline(TARGETS[recipe], color="0.3", linewidth=0.8, linestyle="--")
            panel.annotate(
                f"target {TARGETS[recipe]:+.1f} dB",
                (ahead[0], TARGETS[recipe]),
                xytext=(2, 3 if TARGETS[recipe] > 1 else -9),
                textcoords="offset points",
            )
            panel.set(xscale="log", title=recipe, xlabel="training time on two cores", ylim=(0, 3.3))
            panel.set_xticks([30, 120, 480, 1440, 10080, 43200], ["30 min", "2 h", "8 h", "1 d", "1 w", "1 m"])
            panel.minorticks_off()
        panels[0].set_ylabel("gain over interpolation, PSNR (dB)")
        panels[0].legend(loc="lower right", frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Print the table, write it into a document, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="?", default=ROOT / "benchmarks" / "learning_curve.csv")
    parser.add_argument("--plot", type=Path, metavar="SVG", default=ROOT / "docs" / "images" / "learning_curve.svg")
    parser.add_argument("--document", type=Path, metavar="MD", default=ROOT / "docs" / "aims.md")
    args = parser.parse_args()
    rows = read(args.measured)
    print(table(rows))
    text = args.document.read_text(encoding="utf-8")
    args.document.write_text(filled(text, {"learning": table(rows)}), encoding="utf-8")
    draw(rows, args.plot)


if __name__ == "__main__":
    main()
