"""Markdown and CSV tables of a benchmark, and documents whose marked blocks they fill.

A block stands between `<!-- benchmark NAME -->` and `<!-- end -->`; what is between them is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from moediff.anatomy.regions import REGIONS
from moediff.benchmark.aggregate import (
    COMPARED,
    CRITERIA,
    differences,
    lesion_sums,
    losses,
    means,
    methods_of,
    overall_means,
    recipes_of,
    region_means,
    scans_of,
)
from moediff.benchmark.records import About, BenchmarkRow, LesionSum, Mean, RegionMean
from moediff.core.errors import DataError, printable
from moediff.evaluation.records import csv_text, plain

BLOCK = re.compile(r"(?P<start><!-- benchmark (?P<name>[a-z]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
EXCLUDED = "excluded from means"
GAINS = (("gain_psnr", "{:+.2f}"), ("gain_ssim", "{:+.3f}"))
# Columns of means on a terminal and a page: title and format.
COLUMNS = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "gain_psnr": ("gain (dB)", "{:+.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "gain_ssim": ("gain SSIM", "{:+.4f}"),
    "haarpsi": ("HaarPSI", "{:.4f}"),
    "hf_ratio": ("hf ratio", "{:.2f}"),
    "data_consistency": ("consistency", "{:.4f}"),
    "seconds": ("time (s)", "{:.1f}"),
    "cpu_s": ("CPU (s)", "{:.1f}"),
    "compute_s": ("compute (s)", "{:.2f}"),
    "gflop": ("GFLOP", "{:.0f}"),
    "peak_mib": ("peak (MiB)", "{:.0f}"),
}
TIMES = ("seconds", "cpu_s", "compute_s", "gflop", "peak_mib")
# Columns of means in documents: title and format.
DOCUMENT_COLUMNS = {
    "psnr": ("PSNR", "{:.2f}"),
    "gain_psnr": ("gain (dB)", "{:+.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "gain_ssim": ("gain SSIM", "{:+.4f}"),
    "haarpsi": ("HaarPSI", "{:.3f}"),
    "haarpsi_med": ("HaarPSI (medical)", "{:.3f}"),
    "ms_ssim": ("MS-SSIM", "{:.4f}"),
    "fsim": ("FSIM", "{:.4f}"),
    "vif": ("VIF", "{:.3f}"),
    "gmsd": ("GMSD", "{:.4f}"),
    "hf_ratio": ("hf ratio", "{:.2f}"),
    "spectral_distance_db": ("spectra (dB)", "{:.2f}"),
    "data_consistency": ("consistency", "{:.4f}"),
}
LESION_COLUMNS = {
    "count": ("lesions", "{:.0f}"),
    "false_negatives": ("false negatives", "{:.0f}"),
    "false_positives": ("false positives", "{:.0f}"),
    "contrast_recovery": ("contrast recovery", "{:.2f}"),
    "dice": ("Dice", "{:.2f}"),
    "volume_pred_ml": ("volume (ml)", "{:.2f}"),
    "volume_ref_ml": ("true volume (ml)", "{:.2f}"),
}
LESION_CSV = (
    "count",
    "false_negatives",
    "false_positives",
    "contrast_recovery",
    "dice",
    "volume_ref_ml",
    "volume_pred_ml",
)


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    safe = [[printable(word).replace("|", "\\|") for word in line] for line in lines]
    widths = [max(len(line[i]) for line in safe) for i in range(len(safe[0]))]
    rows = ["| " + " | ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)) + " |" for line in safe]
    return "\n".join([rows[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *rows[1:]])


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def columns_of(averages: Sequence[Mean]) -> list[str]:
    """Keys of `COLUMNS` that some mean has."""
    return [key for key in COLUMNS if any(mean.value(key) is not None for mean in averages)]


def cell(mean: Mean, key: str) -> str:
    """A number of a mean as `COLUMNS` formats it; a dash where there is none."""
    return _text(mean.value(key), COLUMNS[key][1])


def markdown(rows: Sequence[BenchmarkRow], focus: str) -> str:
    """Tables for a terminal: means per recipe, then the focus method's gain per scan."""
    averages = means(rows)
    columns, parts = columns_of(averages), []
    for recipe in recipes_of(rows):
        lines = [["method", *(COLUMNS[key][0] for key in columns), "persons", "failed"]]
        lines += [
            [mean.method, *(cell(mean, key) for key in columns), str(mean.persons), str(mean.failed)]
            for mean in averages
            if mean.recipe == recipe
        ]
        parts.append(f"{recipe}, mean over persons:\n\n{table(lines)}")
    recipes, mine = recipes_of(rows), [row for row in rows if row.method == focus]
    gains = table([["scan", *recipes], *_gains_by_scan(mine, recipes)])
    return "\n\n".join([*parts, f"{focus}, gain per scan, PSNR (dB) / SSIM:\n\n{gains}"])


def rows_csv(rows: Iterable[BenchmarkRow]) -> str:
    """One flat line per row."""
    return csv_text([_flat(row) for row in rows])


def _flat(row: BenchmarkRow) -> dict[str, object]:
    first = ("method", "kind", "scan", "recipe", "seed", "in_means", "gain_psnr", "gain_ssim")
    regions, lesions = row.regions or {}, row.lesions
    consistency = row.data_consistency
    values = (
        {key: getattr(row, key) for key in first}
        | row.metrics
        | {"data_consistency_rms_over_range": None if consistency is None else consistency.rms_over_range}
        | {f"psnr_{name.replace(' ', '_')}": regions[name].psnr if name in regions else None for name in REGIONS}
        | {f"lesions_{key}": None if lesions is None else getattr(lesions, key) for key in LESION_CSV}
        | {key: getattr(row, key) for key in TIMES}
        | {"warnings": "; ".join(row.warnings), "error": row.error}
    )
    return dict(plain(values))


def blocks_of(rows: Sequence[BenchmarkRow], focus: str, about: About) -> dict[str, str]:
    """Markdown by name: machine, means, persons, gains, differences, losses, regions, lesions, time.

    Args:
        rows: from `aggregate.with_gains`.
        focus: the method that others are compared with.
        about: what the numbers depend on.
    """
    return {
        "machine": machine(about, _weights_of(rows, focus)),
        "means": mean_table(rows),
        "persons": person_table(rows),
        "gains": gain_table(rows, focus),
        "differences": difference_table(rows, focus),
        "losses": loss_table(rows, focus),
        "regions": region_table(rows),
        "lesions": lesion_table(rows),
        "time": time_table(rows),
    }


def _weights_of(rows: Sequence[BenchmarkRow], method: str) -> str:
    """Checksum of a method's weights and settings; empty for one without."""
    known = (row.identity.bundle_sha256 for row in rows if row.method == method and row.identity is not None)
    return next((digest for digest in known if digest), "")


def machine(about: About, weights: str = "") -> str:
    """One line: what the numbers depend on besides the data.

    Args:
        about: the run.
        weights: checksum of weights and settings of the method that others are compared with.
    """
    seeds = ", ".join(str(seed) for seed in about.seeds)
    return (
        f"{about.cpus} CPU cores ({about.machine}, {about.system}), {about.threads} thread(s) for every "
        f"method, device {about.device}, seed(s) {seeds}; moediff {about.moediff}, torch {about.torch}, "
        f"Python {about.python}." + (f" Weights with their settings: `{weights[:12]}`." if weights else "")
    )


def mean_table(rows: Sequence[BenchmarkRow]) -> str:
    """A line per recipe and method: means over persons of the metrics that were computed."""
    averages = means(rows)
    keys = [key for key in DOCUMENT_COLUMNS if any(mean.value(key) is not None for mean in averages)]
    lines = [["recipe", "method", *(DOCUMENT_COLUMNS[key][0] for key in keys), "persons", "failed"]]
    for mean in averages:
        cells = (_text(mean.value(key), DOCUMENT_COLUMNS[key][1]) for key in keys)
        lines.append([mean.recipe, mean.method, *cells, str(mean.persons), str(mean.failed)])
    return table(lines)


def _gain(rows: Sequence[BenchmarkRow]) -> str:
    """Gains of the rows of one scan, averaged over seeds: PSNR in dB / SSIM."""
    cells = []
    for name, form in GAINS:
        values = [float(value) for row in rows if (value := getattr(row, name)) is not None]
        cells.append(_text(fmean(values) if values else None, form))
    return " / ".join(cells)


def _title(rows: Sequence[BenchmarkRow], scan: str) -> str:
    return scan if all(row.in_means for row in rows if row.scan == scan) else f"{scan} ({EXCLUDED})"


def person_table(rows: Sequence[BenchmarkRow]) -> str:
    """A line per recipe and method, a column per scan: gain in PSNR (dB) / SSIM."""
    scans = scans_of(rows)
    lines = [["recipe", "method", *(_title(rows, scan) for scan in scans)]]
    for recipe in recipes_of(rows):
        for method in methods_of(rows):
            mine = [row for row in rows if (row.recipe, row.method) == (recipe, method)]
            lines.append([recipe, method, *(_gain([row for row in mine if row.scan == scan]) for scan in scans)])
    return table(lines)


def _gains_by_scan(mine: Sequence[BenchmarkRow], recipes: Sequence[str]) -> list[list[str]]:
    """Gains of one method: a line per scan, a cell per recipe."""
    return [
        [
            _title(mine, scan),
            *(_gain([row for row in mine if (row.scan, row.recipe) == (scan, recipe)]) for recipe in recipes),
        ]
        for scan in scans_of(mine)
    ]


def gain_table(rows: Sequence[BenchmarkRow], focus: str) -> str:
    """The focus method's gain in PSNR (dB) / SSIM: a line per scan and one of means, a column per recipe."""
    recipes, mine = recipes_of(rows), [row for row in rows if row.method == focus]
    average = {mean.recipe: mean for mean in means(mine)}
    last = [" / ".join(_text(average[recipe].value(name), form) for name, form in GAINS) for recipe in recipes]
    return table([["scan", *recipes], *_gains_by_scan(mine, recipes), ["mean", *last]])


def difference_table(rows: Sequence[BenchmarkRow], focus: str) -> str:
    """Focus minus the other, mean over persons and 95 % bootstrap interval: a line per recipe and other method."""
    entries = {(entry.recipe, entry.against, entry.metric): entry for entry in differences(rows, focus)}
    lines = [["recipe", f"{focus} minus", *COMPARED.values()]]
    for recipe, other in dict.fromkeys((recipe, other) for recipe, other, _ in entries):
        cells = []
        for metric in COMPARED:
            entry, form = entries.get((recipe, other, metric)), "{:+.2f}" if metric == "psnr" else "{:+.3f}"
            numbers = () if entry is None else (form.format(n) for n in (entry.mean, entry.low, entry.high))
            cells.append("{} ({} to {})".format(*numbers) if entry is not None else "-")
        lines.append([recipe, other, *cells])
    return table(lines)


def loss_table(rows: Sequence[BenchmarkRow], focus: str) -> str:
    """Every recipe and metric in which some method's mean is better than the focus method's, with the best of them."""
    lines = [["recipe", "metric", focus, "better", "its value", f"{focus} is worse in"]]
    for entry in losses(rows, focus):
        form = DOCUMENT_COLUMNS[entry.metric][1] if entry.metric in DOCUMENT_COLUMNS else "{:.2f}"
        lines.append(
            [
                entry.recipe,
                CRITERIA[entry.metric].title,
                form.format(entry.ours),
                entry.method,
                form.format(entry.other),
                f"{entry.worse_in} of {entry.cases}",
            ]
        )
    return table(lines) if len(lines) > 1 else "No metric of any recipe has a method with a better mean."


def scan_note(entries: Sequence[RegionMean | LesionSum], method: str) -> str:
    """Behind a method's name: over how many of the scans of one recipe's entries it is, where not over all."""
    every = {scan for entry in entries for scan in entry.scans}
    own = {scan for entry in entries if entry.method == method for scan in entry.scans}
    return "" if own == every else f" ({len(own)} of {len(every)} scans)"


def region_table(rows: Sequence[BenchmarkRow]) -> str:
    """PSNR (dB) by region of the brain, gain over the better interpolation in brackets; a line per recipe, method."""
    entries = region_means(rows)
    if not entries:
        return "No scan whose regions can be separated."
    regions = list(dict.fromkeys(entry.region for entry in entries))
    scans = sorted({scan for entry in entries for scan in entry.scans})
    lines = [["recipe", "method", *regions]]
    by_key = {(entry.recipe, entry.method, entry.region): entry for entry in entries}
    for recipe, method in dict.fromkeys((recipe, method) for recipe, method, _ in by_key):
        cells, own = [], [entry for entry in entries if entry.recipe == recipe]
        for region in regions:
            entry = by_key.get((recipe, method, region))
            gain = "" if entry is None or entry.gain_psnr is None else f" ({entry.gain_psnr:+.2f})"
            cells.append("-" if entry is None else f"{entry.psnr:.2f}{gain}")
        lines.append([recipe, method + scan_note(own, method), *cells])
    return f"Scans: {', '.join(scans)}.\n\n{table(lines)}"


def lesion_table(rows: Sequence[BenchmarkRow]) -> str:
    """Outlined lesions: a line per recipe and method, summed over the scans that have outlines."""
    entries = lesion_sums(rows)
    if not entries:
        return "No scan with outlined lesions."
    scans = sorted({scan for entry in entries for scan in entry.scans})
    lines = [["recipe", "method", *(title for title, _ in LESION_COLUMNS.values())]]
    for entry in entries:
        cells = (form.format(getattr(entry, key)) for key, (_, form) in LESION_COLUMNS.items())
        own = [other for other in entries if other.recipe == entry.recipe]
        lines.append([entry.recipe, entry.method + scan_note(own, entry.method), *cells])
    return f"Scans: {', '.join(scans)}.\n\n{table(lines)}"


def time_table(rows: Sequence[BenchmarkRow]) -> str:
    """Seconds, operations and memory per method: means over all recipes and persons, the greatest of memory."""
    averages = overall_means(rows)
    keys = [key for key in TIMES if any(mean.value(key) is not None for mean in averages)]
    lines = [["method", "gain (dB)", *(COLUMNS[key][0] for key in keys)]]
    lines += [[mean.method, cell(mean, "gain_psnr"), *(cell(mean, key) for key in keys)] for mean in averages]
    return table(lines)


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A document with its marked blocks replaced.

    Raises:
        DataError: it has no block, or one of an unknown name.
    """
    wanted = [match["name"] for match in BLOCK.finditer(text)]
    unknown = [name for name in wanted if name not in blocks]
    if unknown or not wanted:
        fault = f"an unknown block {unknown[0]!r}" if unknown else "no block <!-- benchmark NAME --> ... <!-- end -->"
        raise DataError(f"{fault}; expected some of {', '.join(blocks)}")
    return BLOCK.sub(lambda match: f"{match['start']}{blocks[match['name']]}\n{match['end']}", text)
