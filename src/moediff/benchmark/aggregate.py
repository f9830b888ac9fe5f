"""What benchmark rows say together: gains over interpolation, means over persons, paired differences, tables.

Rows are those of `evaluation.benchmark`, plain data as JSON holds them. Rows that failed, and scans shown for their
behaviour only, are in no mean.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from moediff._version import RESEARCH_ONLY, __version__
from moediff.anatomy.regions import REGIONS
from moediff.benchmark.methods import BASELINES
from moediff.core.config import rng_for
from moediff.core.errors import printable
from moediff.evaluation.pairs import plain, table_text

Row = dict[str, Any]

COMPARED = {"psnr": "PSNR (dB)", "ssim": "SSIM", "haarpsi": "HaarPSI"}  # higher is better in all
GAINED = ("psnr", "ssim")
LESIONS = ("count", "lost", "invented", "contrast_kept", "dice", "volume_ref_ml", "volume_pred_ml")  # in the CSV
DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over persons with its bootstrap confidence interval."""

    mean: float
    low: float
    high: float
    persons: int


def bootstrap(values: Sequence[float], *key: object) -> Interval:
    """Percentile bootstrap of a mean (Efron & Tibshirani 1993, ch. 13), the same for the same key.

    Args:
        values: one per person, at least one; with fewer than about ten the interval is too narrow.
        key: what it is for.
    """
    sample = torch.tensor(values, dtype=torch.float64)
    index = torch.randint(len(sample), (DRAWS, len(sample)), generator=rng_for(0, "bootstrap", *key))
    means = sample[index].mean(1).sort().values
    tail = round((1 - LEVEL) / 2 * DRAWS)
    return Interval(fmean(values), float(means[tail]), float(means[DRAWS - 1 - tail]), len(values))


def value_of(row: Row, metric: str) -> float | None:
    """A metric of a row as a number; JSON holds infinity as a word."""
    value = row["metrics"].get(metric)
    return None if value is None else float(value)


def with_gains(rows: Iterable[Row]) -> list[Row]:
    """Rows with gain_psnr (dB) and gain_ssim: over the better of cubic and zero-fill in the same case, or None."""
    rows = list(rows)
    of_case: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row["method"] in BASELINES:
            of_case.setdefault(_case(row), []).append(row)
    out = []
    for row in rows:
        gains = {}
        for metric in GAINED:
            base = [v for r in of_case.get(_case(row), []) if (v := value_of(r, metric)) is not None]
            ours = value_of(row, metric)
            gains[f"gain_{metric}"] = None if ours is None or len(base) < len(BASELINES) else ours - max(base)
        out.append(row | gains)
    return out


def _case(row: Row) -> tuple[object, ...]:
    return row["scan"], row["recipe"], row["seed"]


def names(rows: Iterable[Row], column: str) -> list[str]:
    """Different values of a column, in order."""
    return list(dict.fromkeys(str(row[column]) for row in rows))


def counted(rows: Iterable[Row], method: str, recipe: str) -> list[Row]:
    """Rows of one method and recipe that means count."""
    return [r for r in rows if (r["method"], r["recipe"]) == (method, recipe) and r["counts"] and not r["error"]]


def _mean(values: Iterable[float | None]) -> float | None:
    kept = [v for v in values if v is not None]
    return fmean(kept) if kept else None


def _over_scans(rows: Iterable[Row], value: Callable[[Row], float | None]) -> float | None:
    """Mean over scans, each the mean of its rows: every scan counts alike, however many of its seeds failed."""
    found: dict[str, list[float | None]] = {}
    for row in rows:
        found.setdefault(row["scan"], []).append(value(row))
    return _mean(_mean(values) for values in found.values())


def _read(key: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(key)


def _metric(key: str) -> Callable[[Row], float | None]:
    return lambda row: value_of(row, key)


def means(rows: Sequence[Row]) -> list[Row]:
    """Per method and recipe: persons and failures counted, means of every metric, gain, time and memory."""
    out = []
    for recipe in names(rows, "recipe"):
        for method in names(rows, "method"):
            kept = counted(rows, method, recipe)
            failed = sum(bool(r["error"]) for r in rows if (r["method"], r["recipe"]) == (method, recipe))
            metrics = list(dict.fromkeys(metric for r in kept for metric in r["metrics"]))
            out.append(
                {"recipe": recipe, "method": method, "persons": len(names(kept, "scan")), "failed": failed}
                | {metric: _over_scans(kept, _metric(metric)) for metric in metrics}
                | {
                    key: _over_scans(kept, _read(key))
                    for key in ("gain_psnr", "gain_ssim", "seconds", "cpu_s", "compute_s", "gflop")
                }
                | {"consistency": _over_scans(kept, lambda r: (r["consistency"] or {}).get("rms_over_range"))}
                | {"peak_mib": max((r["peak_mib"] for r in kept), default=None)}
            )
    return out


def pairs(rows: Sequence[Row], focus: str) -> list[Row]:
    """Paired differences, focus minus every other method, per recipe and metric, with intervals over persons."""
    out = []
    for recipe in names(rows, "recipe"):
        ours = counted(rows, focus, recipe)
        for method in names(rows, "method"):
            for metric in () if method == focus else COMPARED:
                found = _differences(ours, counted(rows, method, recipe), metric)
                if found:
                    interval = bootstrap(list(found.values()), focus, method, recipe, metric)
                    place = {"recipe": recipe, "focus": focus, "against": method, "metric": metric}
                    out.append(place | vars(interval) | {"by_scan": found})
    return out


def _differences(ours: Sequence[Row], theirs: Sequence[Row], metric: str) -> dict[str, float]:
    """Difference per scan, averaged over seeds."""
    other = {_case(row): value_of(row, metric) for row in theirs}
    found: dict[str, list[float]] = {}
    for row in ours:
        a, b = value_of(row, metric), other.get(_case(row))
        if a is not None and b is not None and abs(a) + abs(b) < float("inf"):
            found.setdefault(row["scan"], []).append(a - b)
    return {scan: fmean(values) for scan, values in found.items()}


def about(threads: int, device: str, seeds: Sequence[int]) -> Row:
    """What numbers depend on besides the data; no name of a machine or a person."""
    return {
        "moediff": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "device": device,
        "seeds": list(seeds),
        "note": RESEARCH_ONLY,
    }


def as_csv(rows: Iterable[Row]) -> str:
    """One flat line per row."""
    first = ("method", "kind", "scan", "recipe", "seed", "counts", "gain_psnr", "gain_ssim")
    return table_text(
        [
            plain(
                {key: row.get(key) for key in first}
                | row["metrics"]
                | {f"consistency_{key}": (row["consistency"] or {}).get(key) for key in ("rms_over_range",)}
                | {
                    f"psnr_{part.replace(' ', '_')}": (row.get("parts") or {}).get(part, {}).get("psnr")
                    for part in REGIONS
                }
                | {f"lesions_{key}": (row.get("lesions") or {}).get(key) for key in LESIONS}
                | {key: row.get(key) for key in ("seconds", "cpu_s", "compute_s", "gflop", "peak_mib")}
                | {"warnings": "; ".join(row["warnings"]), "error": row["error"]}
            )
            for row in rows
        ]
    )


SHOWN = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "gain_psnr": ("gain (dB)", "{:+.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "gain_ssim": ("gain SSIM", "{:+.4f}"),
    "haarpsi": ("HaarPSI", "{:.4f}"),
    "hf_ratio": ("hf ratio", "{:.2f}"),
    "consistency": ("consistency", "{:.4f}"),
    "seconds": ("time (s)", "{:.1f}"),
    "cpu_s": ("CPU (s)", "{:.1f}"),
    "compute_s": ("compute (s)", "{:.2f}"),
    "gflop": ("GFLOP", "{:.0f}"),
    "peak_mib": ("peak (MiB)", "{:.0f}"),
}


def shown_columns(rows: Sequence[Row]) -> list[str]:
    """Keys of `SHOWN` that some mean has."""
    found = means(rows)
    return [key for key in SHOWN if any(row.get(key) is not None for row in found)]


def cell(row: Row, key: str) -> str:
    """A number of `means` as tables show it; a dash where there is none."""
    value = row.get(key)
    return "-" if value is None else SHOWN[key][1].format(value)


def markdown(rows: Sequence[Row], focus: str) -> str:
    """Tables for a terminal or a document: means per recipe, then the focus method's gain per scan."""
    averages, columns, parts = means(rows), shown_columns(rows), []
    for recipe in names(rows, "recipe"):
        lines = [["method", *(SHOWN[key][0] for key in columns), "persons", "failed"]]
        lines += [
            [row["method"], *(cell(row, key) for key in columns), str(row["persons"]), str(row["failed"])]
            for row in averages
            if row["recipe"] == recipe
        ]
        parts.append(f"{recipe}, mean over persons:\n\n{table(lines)}")
    return "\n\n".join([*parts, f"{focus}, gain per scan, PSNR (dB) / SSIM:\n\n{_gains(rows, focus)}"])


def _gains(rows: Sequence[Row], focus: str) -> str:
    recipes, lines = names(rows, "recipe"), []
    for scan in names(rows, "scan"):
        mine = [row for row in rows if row["method"] == focus and row["scan"] == scan]
        cells = []
        for recipe in recipes:
            psnr, ssim = (_mean(r[f"gain_{m}"] for r in mine if r["recipe"] == recipe) for m in GAINED)
            cells.append(f"{'-' if psnr is None else f'{psnr:+.2f}'} / {'-' if ssim is None else f'{ssim:+.3f}'}")
        lines.append([scan if all(row["counts"] for row in mine) else f"{scan} (behaviour only)", *cells])
    return table([["scan", *recipes], *lines])


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    safe = [[printable(word).replace("|", "\\|") for word in line] for line in lines]
    widths = [max(len(line[i]) for line in safe) for i in range(len(safe[0]))]
    rows = ["| " + " | ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)) + " |" for line in safe]
    return "\n".join([rows[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *rows[1:]])
