"""Tables of a benchmark in documents, so that no number in them is typed by hand.

    python scripts/benchmark_tables.py benchmark/results.json docs/benchmarks.md \
        [--times times/results.json] [--plot docs/images/quality_against_time.svg]
    python scripts/benchmark_tables.py benchmark/results.json --publish benchmarks/results/embedded.json

Replaces what stands between `<!-- benchmark NAME -->` and `<!-- end -->`;
`moediff.benchmark.markdown_tables` has the names.
--times names a run whose processor times and operations stand for all, for instance of one scan with --flops.
--publish writes the small file that is committed, from which the table of docs/persons.md follows without the scans:
baselines and focus method only, the metrics of gains, nothing about the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from moediff.benchmark.aggregate import means, recipes_of, with_gains
from moediff.benchmark.markdown_tables import blocks_of, filled, time_table
from moediff.benchmark.methods import BASELINES
from moediff.benchmark.records import SCHEMA, About, BenchmarkRow, Results, read_results
from moediff.evaluation.records import json_text

HASH = "moediff"  # of the picture's identifiers, so that equal results give equal files
ACROSS = 3  # panels in a row
MARKS = [m * 10**e for e in range(-2, 5) for m in (1, 2, 5)]  # seconds
SAME_DB, SAME_TIME = 0.3, 1.5  # dots of methods with less between them share a text
PUBLISHED_METRICS = ("psnr", "nrmse", "ssim")
Point = tuple[float, float]  # seconds and gain


def _seconds(rows: Sequence[BenchmarkRow]) -> dict[str, float]:
    """Mean processor time of every method, wall time where that is not known."""
    averages = means([replace(row, recipe="all") for row in rows])
    times = {mean.method: mean.cpu_s if mean.cpu_s is not None else mean.seconds for mean in averages}
    return {method: seconds for method, seconds in times.items() if seconds is not None}


def _points(rows: Sequence[BenchmarkRow], seconds: Mapping[str, float]) -> dict[str, dict[str, Point]]:
    """By recipe and method."""
    points: dict[str, dict[str, Point]] = {}
    for mean in means(rows):
        if mean.gain_psnr is not None and mean.method in seconds:
            points.setdefault(mean.recipe, {})[mean.method] = seconds[mean.method], mean.gain_psnr
    return points


def draw(rows: Sequence[BenchmarkRow], seconds: Mapping[str, float], path: Path) -> None:
    """Gain against seconds, a dot per method, a panel per recipe."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    by_recipe = _points(rows, seconds)
    recipes = [recipe for recipe in recipes_of(rows) if recipe in by_recipe]
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
            for point in by_recipe[recipe].values():
                panel.plot(*point, "o", markersize=4)
            _label_dots(panel, by_recipe[recipe])
            panel.set(xscale="log", title=recipe, xlabel="processor time, seconds")
            limits = min(seconds.values()) / 1.5, max(seconds.values()) * 4  # room for names
            visible = [mark for mark in MARKS if limits[0] < mark < limits[1]]
            panel.set_xlim(*limits)
            panel.set_xticks(visible, [f"{mark:g}" for mark in visible])
            panel.minorticks_off()
            panel.margins(y=0.1)
        panels[0, 0].set_ylabel("gain over interpolation, PSNR (dB)")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _label_dots(panel: Any, points: Mapping[str, Point]) -> None:
    """Write every method beside its dot; dots that nearly coincide share a text."""
    groups: list[list[str]] = []
    for method in sorted(points, key=lambda name: points[name][1]):
        seconds, gain = points[method]
        close = [
            group
            for group in groups
            if gain - points[group[-1]][1] < SAME_DB and 1 / SAME_TIME < seconds / points[group[-1]][0] < SAME_TIME
        ]
        if close:
            close[0].append(method)
        else:
            groups.append([method])
    for group in groups:
        corner = max(points[method] for method in group)
        panel.annotate(", ".join(group), corner, xytext=(4, 3), textcoords="offset points")


def published(results: Results) -> Results:
    """The rows that docs/persons.md needs, without gains and anything that depends on the machine."""
    rows = [
        BenchmarkRow(
            method=row.method,
            kind=row.kind,
            identity=row.identity if row.kind == "bundle" else None,
            scan=row.scan,
            recipe=row.recipe,
            seed=row.seed,
            in_means=row.in_means,
            metrics={name: row.metrics[name] for name in PUBLISHED_METRICS if name in row.metrics},
            error=row.error,
        )
        for row in results.rows
        if row.method in (*BASELINES, results.focus)
    ]
    own = results.about
    about = About(moediff=own.moediff, torch=own.torch, threads=own.threads, device=own.device, seeds=own.seeds)
    return Results(about=about, focus=results.focus, rows=tuple(rows))


def without_defaults(value: Any) -> Any:
    """Plain values of a record, less the fields that hold their default."""
    if isinstance(value, tuple | list):
        return [without_defaults(item) for item in value]
    if not is_dataclass(value):
        return value
    plain = {}
    for one in fields(value):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if getattr(value, one.name) != default:
            plain[one.name] = without_defaults(getattr(value, one.name))
    return plain


def main() -> None:
    """Fill every document, draw the plot, write the small file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("documents", type=Path, nargs="*")
    parser.add_argument("--times", type=Path, metavar="JSON")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    parser.add_argument("--publish", type=Path, metavar="JSON")
    args = parser.parse_args()
    results = read_results(args.results)
    rows = with_gains(results.rows)
    timed = with_gains(read_results(args.times).rows) if args.times else rows
    blocks = blocks_of(rows, results.focus, results.about) | {"time": time_table(timed)}
    for document in args.documents:
        document.write_text(filled(document.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    if args.plot:
        draw(rows, _seconds(timed), args.plot)
    if args.publish:
        args.publish.write_text(json_text({"schema": SCHEMA} | without_defaults(published(results))), encoding="utf-8")


if __name__ == "__main__":
    main()
