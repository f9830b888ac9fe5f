"""What benchmark rows say in parts: by region, by lesion, and where a method loses.

Rows are those of `evaluation.benchmark` after `summary.with_gains`. Regions and lesions exist for some scans only;
every entry names its scans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from moediff.anatomy.regions import REGIONS
from moediff.benchmark.aggregate import counted, names, value_of
from moediff.benchmark.methods import BASELINES

Row = dict[str, Any]
Case = tuple[str, Any]  # scan and seed

LESION_SUMS = ("count", "lost", "invented", "volume_ref_ml", "volume_pred_ml")
LESION_MEANS = ("contrast_kept", "dice", "cnr_ref", "cnr_pred")


@dataclass(frozen=True)
class Judge:
    """A number of a row: in words, what of it is better when larger, and where it stands (default: among metrics)."""

    title: str
    merit: Callable[[float], float]
    place: tuple[str, ...] = ()

    def read(self, row: Row, key: str) -> float | None:
        """The number in a row, None where it was not computed."""
        if not self.place:
            return value_of(row, key)
        found: Any = row
        for step in self.place:
            found = (found or {}).get(step)
        return None if found is None else float(found)


def _up(value: float) -> float:
    return value


def _down(value: float) -> float:
    return -value


def _near_one(value: float) -> float:
    return -abs(math.log(max(value, 1e-9)))


JUDGED = {
    "psnr": Judge("PSNR", _up),
    "ssim": Judge("SSIM", _up),
    "haarpsi": Judge("HaarPSI", _up),
    "haarpsi_med": Judge("HaarPSI (medical)", _up),
    "vif": Judge("VIF", _up),
    "gmsd": Judge("GMSD", _down),
    "ms_ssim": Judge("MS-SSIM", _up),
    "fsim": Judge("FSIM", _up),
    "hf_ratio": Judge("hf ratio (1 is right)", _near_one),
    "spectral_distance_db": Judge("spectral distance (dB)", _down),
    "lesions_lost": Judge("lesions lost, per scan", _down, ("lesions", "lost")),
    "lesions_invented": Judge("lesions invented, per scan", _down, ("lesions", "invented")),
    "lesions_contrast_kept": Judge("lesion contrast kept (1 is right)", _near_one, ("lesions", "contrast_kept")),
    "lesions_dice": Judge("lesion Dice", _up, ("lesions", "dice")),
} | {f"psnr {part}": Judge(f"PSNR, {part}", _up, ("parts", part, "psnr")) for part in REGIONS}


def part_means(rows: Sequence[Row]) -> list[Row]:
    """Per recipe, part of the brain and method: mean PSNR and SSIM, gain over the better interpolation, and scans."""
    out = []
    for recipe in names(rows, "recipe"):
        for part in REGIONS:
            base = _best_baseline(rows, recipe, part)
            for method in names(rows, "method"):
                kept = {_case(r): r["parts"][part] for r in _drawn(rows, method, recipe, "parts") if part in r["parts"]}
                if kept:
                    gains = {case: float(v["psnr"]) - base[case] for case, v in kept.items() if case in base}
                    out.append(
                        {
                            "recipe": recipe,
                            "part": part,
                            "method": method,
                            "scans": sorted({scan for scan, _ in kept}),
                            "psnr": _mean_of_scans({case: float(v["psnr"]) for case, v in kept.items()}),
                            "ssim": _mean_of_scans({case: float(v["ssim"]) for case, v in kept.items()}),
                            "gain_psnr": _mean_of_scans(gains) if gains else None,
                        }
                    )
    return out


def _drawn(rows: Sequence[Row], method: str, recipe: str, what: str) -> Iterable[Row]:
    return (row for row in counted(rows, method, recipe) if row.get(what))


def _case(row: Row) -> Case:
    return str(row["scan"]), row["seed"]


def _by_scan(values: Mapping[Case, float]) -> dict[str, float]:
    """Means over the seeds of every scan."""
    found: dict[str, list[float]] = {}
    for (scan, _), value in values.items():
        found.setdefault(scan, []).append(value)
    return {scan: fmean(each) for scan, each in found.items()}


def _mean_of_scans(values: Mapping[Case, float]) -> float:
    """Every scan counts alike, however many seeds it has."""
    return fmean(_by_scan(values).values())


def _best_baseline(rows: Sequence[Row], recipe: str, part: str) -> dict[Case, float]:
    """PSNR of the better interpolation per scan and seed, where both are there."""
    found: dict[Case, list[float]] = {}
    for method in BASELINES:
        for row in _drawn(rows, method, recipe, "parts"):
            if part in row["parts"]:
                found.setdefault(_case(row), []).append(float(row["parts"][part]["psnr"]))
    return {case: max(values) for case, values in found.items() if len(values) >= len(BASELINES)}


def lesion_sums(rows: Sequence[Row]) -> list[Row]:
    """Per recipe and method over all scans with outlines: sums of counts and volumes, means of the rest, and scans.

    Where a scan was judged with several seeds, its mean over them counts.
    """
    out = []
    for recipe in names(rows, "recipe"):
        for method in names(rows, "method"):
            kept = {_case(row): row["lesions"] for row in _drawn(rows, method, recipe, "lesions")}
            if kept:
                found = {
                    key: _by_scan({case: float(one[key]) for case, one in kept.items()})
                    for key in (*LESION_SUMS, *LESION_MEANS)
                }
                out.append(
                    {"recipe": recipe, "method": method, "scans": sorted({scan for scan, _ in kept})}
                    | {key: sum(found[key].values()) for key in LESION_SUMS}
                    | {key: fmean(found[key].values()) for key in LESION_MEANS}
                )
    return out


def losses(rows: Sequence[Row], focus: str) -> list[Row]:
    """Where another method's mean over persons is better than the focus method's: recipe, metric, the best of them.

    Each entry has both means, over the same persons, and in how many of them the other method is better.
    """
    out = []
    for recipe in names(rows, "recipe"):
        for metric, judge in JUDGED.items():
            better = [
                found
                for method in names(rows, "method")
                if method != focus and (found := _compared(rows, recipe, metric, (focus, method)))
            ]
            beaten = [entry for entry in better if judge.merit(entry["other"]) > judge.merit(entry["ours"])]
            if beaten:
                out.append(max(beaten, key=lambda entry: judge.merit(entry["other"])))
    return out


def _compared(rows: Sequence[Row], recipe: str, metric: str, methods: tuple[str, str]) -> Row | None:
    """Means of two methods over the cases that both have, and in how many the second is better."""
    merit, read = JUDGED[metric].merit, JUDGED[metric].read
    ours, other = (
        {_case(r): v for r in counted(rows, method, recipe) if (v := read(r, metric)) is not None} for method in methods
    )
    both = [case for case in ours if case in other]
    if not both:
        return None
    return {
        "recipe": recipe,
        "metric": metric,
        "method": methods[1],
        "cases": len(both),
        "ours": fmean(ours[case] for case in both),
        "other": fmean(other[case] for case in both),
        "worse_in": sum(merit(other[case]) > merit(ours[case]) for case in both),
    }
