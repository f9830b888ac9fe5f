"""A benchmark's Markdown tables, each by a name, and a document whose marked blocks they fill.

A block stands between `<!-- benchmark NAME -->` and `<!-- end -->`; what is between them is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moediff.benchmark.aggregate import COMPARED, GAINED, SHOWN, cell, means, names, pairs, table
from moediff.benchmark.breakdown import JUDGED, lesion_sums, losses, part_means
from moediff.core.errors import DataError

Row = dict[str, Any]

BLOCK = re.compile(r"(?P<start><!-- benchmark (?P<name>[a-z]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
TIMES = ("seconds", "cpu_s", "compute_s", "gflop", "peak_mib")
NUMBERS = {
    "psnr": "{:.2f}",
    "gain_psnr": "{:+.2f}",
    "ssim": "{:.4f}",
    "gain_ssim": "{:+.4f}",
    "haarpsi": "{:.3f}",
    "haarpsi_med": "{:.3f}",
    "ms_ssim": "{:.4f}",
    "fsim": "{:.4f}",
    "vif": "{:.3f}",
    "gmsd": "{:.4f}",
    "hf_ratio": "{:.2f}",
    "spectral_distance_db": "{:.2f}",
    "consistency": "{:.4f}",
}
TITLES = {
    "gain_psnr": "gain (dB)",
    "gain_ssim": "gain SSIM",
    "consistency": "consistency",
    "hf_ratio": "hf ratio",
    "spectral_distance_db": "spectra (dB)",
}


def tables(rows: Sequence[Row], focus: str, about: Row) -> dict[str, str]:
    """Markdown by name: machine, means, persons, gains, differences, losses, parts, lesions, time.

    Args:
        rows: from `summary.with_gains`.
        focus: the method that others are compared with.
        about: from `summary.about`.
    """
    return {
        "machine": machine(about),
        "means": mean_table(rows),
        "persons": person_table(rows),
        "gains": gain_table(rows, focus),
        "differences": difference_table(rows, focus),
        "losses": loss_table(rows, focus),
        "parts": part_table(rows),
        "lesions": lesion_table(rows),
        "time": time_table(rows),
    }


def machine(about: Row) -> str:
    """One line: what the numbers depend on besides the data."""
    seeds = ", ".join(str(seed) for seed in about["seeds"])
    return (
        f"{about['cpus']} CPU cores ({about['machine']}, {about['system']}), {about['threads']} thread(s) for every "
        f"method, device {about['device']}, seed(s) {seeds}; moediff {about['moediff']}, torch {about['torch']}, "
        f"Python {about['python']}."
    )


def _cell(row: Row, key: str) -> str:
    value = row.get(key)
    return "-" if value is None else NUMBERS[key].format(float(value))


def mean_table(rows: Sequence[Row]) -> str:
    """A line per recipe and method: means over persons of the metrics that were computed."""
    averages = means(rows)
    keys = [key for key in NUMBERS if any(row.get(key) is not None for row in averages)]
    titles = [TITLES.get(key) or (JUDGED[key].title if key in JUDGED else key) for key in keys]
    lines = [["recipe", "method", *titles, "persons", "failed"]]
    lines += [
        [row["recipe"], row["method"], *(_cell(row, key) for key in keys), str(row["persons"]), str(row["failed"])]
        for row in averages
    ]
    return table(lines)


def _gain(rows: Sequence[Row]) -> str:
    """Gains of the rows of one scan, averaged over seeds: PSNR in dB / SSIM."""
    found = []
    for metric, form in zip(GAINED, ("{:+.2f}", "{:+.3f}"), strict=True):
        values = [float(row[f"gain_{metric}"]) for row in rows if row[f"gain_{metric}"] is not None]
        found.append(form.format(sum(values) / len(values)) if values else "-")
    return " / ".join(found)


def person_table(rows: Sequence[Row]) -> str:
    """A line per recipe and method, a column per scan: gain in PSNR (dB) / SSIM."""
    scans = names(rows, "scan")
    lines = [["recipe", "method", *(_title(rows, scan) for scan in scans)]]
    for recipe in names(rows, "recipe"):
        for method in names(rows, "method"):
            mine = [r for r in rows if (r["recipe"], r["method"]) == (recipe, method)]
            lines.append([recipe, method, *(_gain([r for r in mine if r["scan"] == scan]) for scan in scans)])
    return table(lines)


def _title(rows: Sequence[Row], scan: str) -> str:
    return scan if all(row["counts"] for row in rows if row["scan"] == scan) else f"{scan} (behaviour only)"


def gain_table(rows: Sequence[Row], focus: str) -> str:
    """The focus method's gain in PSNR (dB) / SSIM: a line per scan and one of means, a column per recipe."""
    recipes, mine = names(rows, "recipe"), [row for row in rows if row["method"] == focus]
    lines = [["scan", *recipes]]
    for scan in names(rows, "scan"):
        lines.append(
            [
                _title(rows, scan),
                *(_gain([r for r in mine if (r["scan"], r["recipe"]) == (scan, recipe)]) for recipe in recipes),
            ]
        )
    average = {row["recipe"]: row for row in means(mine)}
    return table(
        [
            *lines,
            [
                "mean",
                *(
                    " / ".join(
                        "-" if average[recipe][key] is None else form.format(average[recipe][key])
                        for key, form in (("gain_psnr", "{:+.2f}"), ("gain_ssim", "{:+.3f}"))
                    )
                    for recipe in recipes
                ),
            ],
        ]
    )


def difference_table(rows: Sequence[Row], focus: str) -> str:
    """Focus minus the other, mean over persons and 95 % bootstrap interval: a line per recipe and other method."""
    found = {(row["recipe"], row["against"], row["metric"]): row for row in pairs(rows, focus)}
    lines = [["recipe", f"{focus} minus", *COMPARED.values()]]
    for recipe, other in dict.fromkeys((recipe, other) for recipe, other, _ in found):
        cells = []
        for metric in COMPARED:
            entry, digits = found.get((recipe, other, metric)), 2 if metric == "psnr" else 3
            cells.append(
                "-"
                if entry is None
                else (f"{entry['mean']:+.{digits}f} ({entry['low']:+.{digits}f} to {entry['high']:+.{digits}f})")
            )
        lines.append([recipe, other, *cells])
    return table(lines)


def loss_table(rows: Sequence[Row], focus: str) -> str:
    """Every recipe and metric in which some method's mean is better than the focus method's, with the best of them."""
    lines = [["recipe", "metric", focus, "better", "its value", f"{focus} is worse in"]]
    for entry in losses(rows, focus):
        form = NUMBERS.get(entry["metric"], "{:.2f}")
        lines.append(
            [
                entry["recipe"],
                JUDGED[entry["metric"]].title,
                form.format(entry["ours"]),
                entry["method"],
                form.format(entry["other"]),
                f"{entry['worse_in']} of {entry['cases']}",
            ]
        )
    return table(lines) if len(lines) > 1 else "No metric of any recipe has a method with a better mean."


def part_table(rows: Sequence[Row]) -> str:
    """PSNR (dB) by region of the brain, gain over the better interpolation in brackets; a line per recipe, method."""
    found = part_means(rows)
    if not found:
        return "No scan whose regions can be told apart."
    parts, scans = names(found, "part"), sorted({scan for entry in found for scan in entry["scans"]})
    lines = [["recipe", "method", *parts]]
    by_place = {(entry["recipe"], entry["method"], entry["part"]): entry for entry in found}
    for recipe, method in dict.fromkeys((recipe, method) for recipe, method, _ in by_place):
        cells = (by_place.get((recipe, method, part)) for part in parts)
        lines.append(
            [
                recipe,
                method,
                *(
                    "-"
                    if entry is None
                    else (
                        f"{entry['psnr']:.2f}" + ("" if entry["gain_psnr"] is None else f" ({entry['gain_psnr']:+.2f})")
                    )
                    for entry in cells
                ),
            ]
        )
    return f"Scans: {', '.join(scans)}.\n\n{table(lines)}"


def lesion_table(rows: Sequence[Row]) -> str:
    """What became of outlined lesions: a line per recipe and method, summed over the scans that have outlines."""
    found = lesion_sums(rows)
    if not found:
        return "No scan with outlined lesions."
    scans = sorted({scan for entry in found for scan in entry["scans"]})
    titles = ("lesions", "lost", "invented", "contrast kept", "Dice", "volume (ml)", "true volume (ml)")
    lines = [["recipe", "method", *titles]]
    lines += [
        [
            entry["recipe"],
            entry["method"],
            *(f"{entry[key]:.0f}" for key in ("count", "lost", "invented")),
            f"{entry['contrast_kept']:.2f}",
            f"{entry['dice']:.2f}",
            *(f"{entry[key]:.2f}" for key in ("volume_pred_ml", "volume_ref_ml")),
        ]
        for entry in found
    ]
    return f"Scans: {', '.join(scans)}.\n\n{table(lines)}"


def time_table(rows: Sequence[Row]) -> str:
    """Seconds, operations and memory per method: means over all recipes and persons, the greatest of memory."""
    together = [row | {"recipe": "all"} for row in rows]
    found = means(together)
    keys = [key for key in TIMES if any(row.get(key) is not None for row in found)]
    lines = [["method", "gain (dB)", *(SHOWN[key][0] for key in keys)]]
    lines += [[row["method"], _cell(row, "gain_psnr"), *(cell(row, key) for key in keys)] for row in found]
    return table(lines)


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A document with its marked blocks replaced.

    Raises:
        DataError: it has no block, or one of an unknown name.
    """
    wanted = [match["name"] for match in BLOCK.finditer(text)]
    unknown = [name for name in wanted if name not in blocks]
    if unknown or not wanted:
        found = f"an unknown block {unknown[0]!r}" if unknown else "no block <!-- benchmark NAME --> ... <!-- end -->"
        raise DataError(f"{found}; expected some of {', '.join(blocks)}")
    return BLOCK.sub(lambda match: f"{match['start']}{blocks[match['name']]}\n{match['end']}", text)
