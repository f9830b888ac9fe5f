"""The benchmark's page: one HTML file that needs nothing else and asks nobody for anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moediff.benchmark.aggregate import COMPARED, SHOWN, cell, means, names, pairs, shown_columns
from moediff.benchmark.breakdown import JUDGED, lesion_sums, losses, part_means
from moediff.benchmark.cases import Case
from moediff.core.extras import require_modules
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.evaluation.alignment import on_grid
from moediff.report.charts import dots, intervals, quality_against_time
from moediff.report.figure import comparison_figure
from moediff.report.slices import data_uri

Row = dict[str, Any]

TEMPLATE = "benchmark.html"
NEEDED = ("jinja2", "matplotlib")


def draw_case(row: Row, case: Case, scans: dict[str, Volume], path: Path) -> None:
    """A picture of one row: input, cubic, the method's result in the truth's intensities, truth and error.

    Raises:
        MoeDiffError: see `comparison_figure`.
    """
    panels, shown = case_panels(row, scans)
    comparison_figure(panels, path, error_of=(shown, "truth"))


def case_panels(row: Row, scans: dict[str, Volume]) -> tuple[dict[str, Volume], str]:
    """What the picture shows, by title and on the truth's grid but for the input, and the result's title.

    Args:
        row: of the result, with its method's name, which may be any.
        scans: input, result and truth.
    """
    truth = scans["truth"]
    pred, _ = on_grid(scans["result"], truth.grid, resample=True)  # as it was judged
    fit = row["fit"] or {"gain": 1.0, "offset": 0.0}
    pred = pred.with_data(pred.data_XYZ * fit["gain"] + fit["offset"])
    shown = str(row["method"]).replace("\n", " ").replace("$", " ")  # matplotlib reads $...$ as mathematics
    shown = f"{shown} (result)" if shown in ("input", "truth") else shown
    cubic = resample(scans["input"], truth.grid)
    return {"input": scans["input"], "cubic": cubic, shown: pred, "truth": truth}, shown


def page(rows: Sequence[Row], about: Row, focus: str, pictures: Path) -> str:
    """HTML text.

    Args:
        rows: from `summary.with_gains`.
        about: from `summary.about`.
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
    scans = names(rows, "scan")
    rings = [scan for scan in scans if not all(row["counts"] for row in rows if row["scan"] == scan)]
    return str(
        environment.get_template(TEMPLATE).render(
            about=about,
            focus=focus,
            scans=scans,
            rings=rings,
            columns=[SHOWN[key][0] for key in shown_columns(rows)],
            recipes=[_recipe(rows, recipe, focus, (scans, rings)) for recipe in names(rows, "recipe")],
            time=quality_against_time(_times(rows)),
            worst=_worst(rows, pictures),
            failures=[row for row in rows if row["error"]],
            doubts=[row for row in rows if row["warnings"] and not row["error"]],
        )
    )


def _recipe(rows: Sequence[Row], recipe: str, focus: str, scans: tuple[Sequence[str], Sequence[str]]) -> Row:
    """What the page shows of one recipe; `scans` are all, and those drawn as rings."""
    columns = shown_columns(rows)
    mine = [row for row in rows if row["recipe"] == recipe]
    table = [(row["method"], [cell(row, key) for key in columns], row["persons"], row["failed"]) for row in means(mine)]
    gains = {method: _by_scan(mine, method) for method in names(mine, "method")}
    compared = pairs(mine, focus)
    differences = []
    for metric, title in COMPARED.items():
        values = {row["against"]: (row["mean"], row["low"], row["high"]) for row in compared if row["metric"] == metric}
        if values:
            differences.append((title, intervals(values, f"{title}, {focus} minus the other")))
    return {
        "name": recipe,
        "table": table,
        "differences": differences,
        "parts": _parts(mine),
        "lesions": lesion_sums(mine),
        "losses": _losses(mine, focus),
        "dots": dots(gains, *scans, "gain over interpolation, PSNR (dB)"),
    }


def _parts(rows: Sequence[Row]) -> Row | None:
    """PSNR by region and method, and the scans that regions were found in; None without any."""
    found = part_means(rows)
    if not found:
        return None
    names_, by_place = names(found, "part"), {(row["method"], row["part"]): row for row in found}
    cells = {
        method: [f"{by_place[method, part]['psnr']:.2f}" if (method, part) in by_place else "-" for part in names_]
        for method in names(found, "method")
    }
    return {"names": names_, "lines": cells, "scans": sorted({scan for row in found for scan in row["scans"]})}


def _losses(rows: Sequence[Row], focus: str) -> list[Row]:
    return [row | {"title": JUDGED[row["metric"]].title} for row in losses(rows, focus)]


def _by_scan(rows: Sequence[Row], method: str) -> dict[str, float]:
    """Gain in dB per scan, averaged over seeds; infinite ones cannot be drawn."""
    found: dict[str, list[float]] = {}
    for row in rows:
        gain = row["gain_psnr"]
        if row["method"] == method and gain is not None and math.isfinite(gain):
            found.setdefault(row["scan"], []).append(gain)
    return {scan: sum(values) / len(values) for scan, values in found.items()}


def _times(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Mean seconds and gain per method over everything that means count."""
    points = {}
    for method in names(rows, "method"):
        kept = [r for r in rows if r["method"] == method and r["counts"] and not r["error"]]
        kept = [r for r in kept if r["gain_psnr"] is not None and math.isfinite(r["gain_psnr"])]
        if kept:
            points[method] = tuple(sum(r[key] for r in kept) / len(kept) for key in ("seconds", "gain_psnr"))
    return {method: (s, g) for method, (s, g) in points.items()}


def _worst(rows: Sequence[Row], pictures: Path) -> list[tuple[Row, str]]:
    """Per method the row with the least gain that has a picture, and the picture as a data URI."""
    found = []
    for method in names(rows, "method"):
        mine = [r for r in rows if r["method"] == method and not r["error"] and r["gain_psnr"] is not None]
        mine = [r for r in mine if (pictures / f"{r['key']}.png").is_file()]
        if mine:
            row = min(mine, key=lambda r: float(r["gain_psnr"]))
            found.append((row, data_uri((pictures / f"{row['key']}.png").read_bytes(), "image/png")))
    return found
