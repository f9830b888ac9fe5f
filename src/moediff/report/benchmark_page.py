"""Page of a benchmark: one HTML file that needs nothing else and makes no requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moediff.benchmark import aggregate
from moediff.benchmark.cases import MEASURED, Case
from moediff.benchmark.markdown_tables import COLUMNS, cell, columns_of, scan_note
from moediff.benchmark.records import About, BenchmarkRow, LesionSum, Loss
from moediff.core.extras import require_modules
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.evaluation.alignment import on_grid
from moediff.report.charts import Plot, dots, intervals, quality_against_time
from moediff.report.figure import comparison_figure
from moediff.report.slices import data_uri

TEMPLATE = "benchmark.html"
SOFT_HYPHEN = "\u00ad"
BREAKS = tuple(
    word.replace("-", SOFT_HYPHEN) for word in ("consis-tency", "com-pute", "Haar-PSI", "per-sons", "GF-LOP")
)
NEEDED = ("jinja2", "matplotlib")


def draw_case(row: BenchmarkRow, case: Case, scans: dict[str, Volume], path: Path) -> None:
    """A picture of one row: input, cubic, the method's result in the truth's intensities, truth and error.

    Raises:
        MoeDiffError: see `comparison_figure`.
    """
    panels, title = case_panels(row, scans)
    comparison_figure(panels, path, error_of=(title, "truth"))


def case_panels(row: BenchmarkRow, scans: dict[str, Volume]) -> tuple[dict[str, Volume], str]:
    """Scans of the picture by title, on the truth's grid but for the input, and the result's title.

    Args:
        row: of the result, with its method's name, which may be any.
        scans: input, result and truth.
    """
    truth = scans["truth"]
    pred, _ = on_grid(scans["result"], truth.grid, resample=True)  # as it was judged
    if row.fit is not None:
        pred = pred.with_data(pred.data_XYZ * row.fit.gain + row.fit.offset)
    title = row.method.replace("\n", " ").replace("$", " ")  # matplotlib reads $...$ as mathematics
    title = f"{title} (result)" if title in ("input", "truth") else title
    cubic = resample(scans["input"], truth.grid)
    return {"input": scans["input"], "cubic": cubic, title: pred, "truth": truth}, title


def page(rows: Sequence[BenchmarkRow], about: About, focus: str, pictures: Path) -> str:
    """HTML text.

    Args:
        rows: from `aggregate.with_gains`.
        about: what the numbers depend on.
        focus: the method that others are compared with.
        pictures: folder of KEY.png; absent ones are left out.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    require_modules(*NEEDED)
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("moediff.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scans = aggregate.scans_of(rows)
    rings = [scan for scan in scans if not all(row.in_means for row in rows if row.scan == scan)]
    return str(
        environment.get_template(TEMPLATE).render(
            about=about,
            what_was_run=what_was_run(rows),
            focus=focus,
            scans=scans,
            rings=rings,
            broken=broken,
            columns=[COLUMNS[key][0] for key in columns_of(aggregate.means(rows))],
            recipes=[_recipe(rows, recipe, focus, (scans, rings)) for recipe in aggregate.recipes_of(rows)],
            time=quality_against_time(_times(rows)),
            worst=_worst(rows, pictures),
            failures=[row for row in rows if row.error],
            doubts=[row for row in rows if row.warnings and not row.error],
        )
    )


def broken(title: str) -> str:
    """A column's title with the places where it may break: numbers are narrower than long words."""
    for word in BREAKS:
        title = title.replace(word.replace(SOFT_HYPHEN, ""), word)
    return title


def what_was_run(rows: Sequence[BenchmarkRow]) -> str:
    """How the scans came about and how results were judged, as it was in these rows."""
    measured = {row.recipe == MEASURED.name for row in rows}
    scans = {
        frozenset((True,)): "low-resolution scans, measured as such: each is paired with a sharp scan of the same head",
        frozenset((False,)): "low-resolution scans, simulated from sharp ones",
    }.get(frozenset(measured), "low-resolution scans, some simulated from sharp ones and some measured as such")
    fitted = {row.fit is not None for row in rows if not row.error}
    fit = {
        frozenset((True,)): "after one robust fit of gain and offset",
        frozenset((False,)): "without a fit of intensities",
    }.get(frozenset(fitted), "in some cases after one robust fit of gain and offset")
    judged = f"Results were judged by the same code inside the head of the sharp scan, {fit}."
    return f"Every method got the same {scans}. {judged}"


@dataclass(frozen=True, kw_only=True)
class RegionTable:
    """PSNR by region and method with a note on its scans, and the scans whose regions are known."""

    names: list[str]
    lines: list[tuple[str, str, list[str]]]
    scans: list[str]


@dataclass(frozen=True, kw_only=True)
class RecipeSection:
    """One recipe on the page.

    Args:
        table: method, cells, persons and failures of every line.
        differences: title and plot.
        lesions: sums, and a note where they are over fewer scans than `lesion_scans`.
        losses: title of the metric, and the loss.
    """

    name: str
    table: list[tuple[str, list[str], int, int]]
    differences: list[tuple[str, Plot]]
    regions: RegionTable | None
    lesions: list[tuple[LesionSum, str]]
    lesion_scans: list[str]
    losses: list[tuple[str, Loss]]
    dots: Plot


def _recipe(
    rows: Sequence[BenchmarkRow], recipe: str, focus: str, scans: tuple[Sequence[str], Sequence[str]]
) -> RecipeSection:
    """The section of one recipe; `scans` are all, and those drawn as rings."""
    columns = columns_of(aggregate.means(rows))
    mine = [row for row in rows if row.recipe == recipe]
    gains = {method: _gain_by_scan(mine, method) for method in aggregate.methods_of(mine)}
    averages, lesions = aggregate.means(mine), aggregate.lesion_sums(mine)
    mean_gains = {mean.method: mean.gain_psnr for mean in averages}
    compared = aggregate.differences(mine, focus)
    plots = []
    for metric, title in aggregate.COMPARED.items():
        values = {entry.against: (entry.mean, entry.low, entry.high) for entry in compared if entry.metric == metric}
        if values:
            plots.append((title, intervals(values, f"{title}, {focus} minus the other")))
    return RecipeSection(
        name=recipe,
        table=[(mean.method, [cell(mean, key) for key in columns], mean.persons, mean.failed) for mean in averages],
        differences=plots,
        regions=_regions(mine),
        lesions=[(one, scan_note(lesions, one.method)) for one in lesions],
        lesion_scans=sorted({scan for one in lesions for scan in one.scans}),
        losses=[(aggregate.CRITERIA[loss.metric].title, loss) for loss in aggregate.losses(mine, focus)],
        dots=dots(gains, mean_gains, *scans, "gain over interpolation, PSNR (dB)"),
    )


def _regions(rows: Sequence[BenchmarkRow]) -> RegionTable | None:
    """None where no scan's regions are known."""
    entries = aggregate.region_means(rows)
    if not entries:
        return None
    regions = list(dict.fromkeys(entry.region for entry in entries))
    psnr = {(entry.method, entry.region): f"{entry.psnr:.2f}" for entry in entries}
    methods = dict.fromkeys(entry.method for entry in entries)
    return RegionTable(
        names=regions,
        lines=[
            (method, scan_note(entries, method), [psnr.get((method, region), "-") for region in regions])
            for method in methods
        ],
        scans=sorted({scan for entry in entries for scan in entry.scans}),
    )


def _gain_by_scan(rows: Sequence[BenchmarkRow], method: str) -> dict[str, float]:
    """Gain in dB per scan, averaged over seeds; infinite ones cannot be drawn."""
    gains: dict[str, list[float]] = {}
    for row in rows:
        if row.method == method and row.gain_psnr is not None and math.isfinite(row.gain_psnr):
            gains.setdefault(row.scan, []).append(row.gain_psnr)
    return {scan: sum(values) / len(values) for scan, values in gains.items()}


def _times(rows: Sequence[BenchmarkRow]) -> dict[str, tuple[float, float]]:
    """Seconds and gain per method, as the table of times has them; infinite gains cannot be drawn."""
    return {
        mean.method: (mean.seconds, mean.gain_psnr)
        for mean in aggregate.overall_means(rows)
        if mean.seconds is not None and mean.gain_psnr is not None and math.isfinite(mean.gain_psnr)
    }


def _worst(rows: Sequence[BenchmarkRow], pictures: Path) -> list[tuple[BenchmarkRow, str]]:
    """Per method the row with the least gain that has a picture, and the picture as a data URI."""
    worst = []
    for method in aggregate.methods_of(rows):
        mine = [row for row in rows if row.method == method and not row.error and row.gain_psnr is not None]
        mine = [row for row in mine if (pictures / f"{row.key}.png").is_file()]
        if mine:
            row = min(mine, key=lambda one: one.gain_psnr if one.gain_psnr is not None else math.inf)
            worst.append((row, data_uri((pictures / f"{row.key}.png").read_bytes(), "image/png")))
    return worst
