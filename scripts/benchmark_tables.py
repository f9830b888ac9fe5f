"""Write a benchmark's tables into documents, so that no number in them is typed by hand.

    python scripts/benchmark_tables.py benchmark/results.json docs/benchmarks.md README.md \
        [--times times/results.json] [--plot docs/images/quality_against_time.svg]

Replaces what stands between `<!-- benchmark NAME -->` and `<!-- end -->`;
`moediff.benchmark.markdown_tables` has the names.
--times names a run whose processor times and operations stand for all, for instance of one scan with --flops.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moediff.benchmark.aggregate import means, with_gains
from moediff.benchmark.markdown_tables import filled, tables, time_table

HASH = "moediff"  # of the picture's identifiers, so that equal results give equal files
ACROSS = 3  # panels in a row
MARKS = [m * 10**e for e in range(-2, 5) for m in (1, 2, 5)]  # seconds
SAME_DB, SAME_TIME = 0.3, 1.5  # dots of methods with less between them share a text

Row = dict[str, Any]


def _seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Mean processor time of every method, wall time where that is not known."""
    found = means([row | {"recipe": "all"} for row in rows])
    times = {row["method"]: row["cpu_s"] if row["cpu_s"] is not None else row["seconds"] for row in found}
    return {method: seconds for method, seconds in times.items() if seconds is not None}


def draw(rows: Sequence[Row], seconds: Mapping[str, float], path: Path) -> None:
    """Gain against seconds, a dot per method, a panel per recipe."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    found = [row for row in means(rows) if row["gain_psnr"] is not None and row["method"] in seconds]
    recipes = list(dict.fromkeys(row["recipe"] for row in found))
    if not recipes:
        raise SystemExit("no row has a gain and a time; nothing to draw")
    with rc_context({"svg.hashsalt": HASH, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(2.8 * min(len(recipes), ACROSS) + 0.6, 2.6 * -(-len(recipes) // ACROSS)))
        panels = figure.subplots(-(-len(recipes) // ACROSS), min(len(recipes), ACROSS), sharey=True, squeeze=False)
        figure.set_layout_engine("constrained")
        for panel in panels.flat[len(recipes) :]:
            panel.set_axis_off()
        for panel, recipe in zip(panels.flat, recipes, strict=False):
            panel.axhline(0, color="0.7", linewidth=0.8)
            for row in (row for row in found if row["recipe"] == recipe):
                panel.plot(seconds[row["method"]], row["gain_psnr"], "o", markersize=4)
            _name(panel, {r["method"]: (seconds[r["method"]], r["gain_psnr"]) for r in found if r["recipe"] == recipe})
            panel.set(xscale="log", title=recipe, xlabel="processor time, seconds")
            limits = min(seconds.values()) / 1.5, max(seconds.values()) * 4  # room for names
            shown = [mark for mark in MARKS if limits[0] < mark < limits[1]]
            panel.set_xlim(*limits)
            panel.set_xticks(shown, [f"{mark:g}" for mark in shown])
            panel.minorticks_off()
            panel.margins(y=0.1)
        panels[0, 0].set_ylabel("gain over interpolation, PSNR (dB)")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _name(panel: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write every method beside its dot; dots that nearly coincide share a text."""
    groups: list[list[str]] = []
    for method in sorted(points, key=lambda name: points[name][1]):
        seconds, gain = points[method]
        near = [
            group
            for group in groups
            if gain - points[group[-1]][1] < SAME_DB and 1 / SAME_TIME < seconds / points[group[-1]][0] < SAME_TIME
        ]
        if near:
            near[0].append(method)
        else:
            groups.append([method])
    for group in groups:
        place = max(points[method] for method in group)
        panel.annotate(", ".join(group), place, xytext=(4, 3), textcoords="offset points")


def main() -> None:
    """Fill every document and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("documents", type=Path, nargs="*")
    parser.add_argument("--times", type=Path, metavar="JSON")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    args = parser.parse_args()
    record = json.loads(args.results.read_text(encoding="utf-8"))
    rows = with_gains(record["rows"])
    timed = with_gains(json.loads(args.times.read_text(encoding="utf-8"))["rows"]) if args.times else rows
    blocks = tables(rows, record["focus"], record["about"]) | {"time": time_table(timed)}
    for document in args.documents:
        document.write_text(filled(document.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    if args.plot:
        draw(rows, _seconds(timed), args.plot)


if __name__ == "__main__":
    main()
