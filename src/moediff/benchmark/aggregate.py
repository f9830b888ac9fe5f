"""Aggregation of benchmark rows: gains over interpolation, means, paired differences, regions, lesions and losses.

Means are over persons: each is the mean of their scans, and a scan the mean of its seeds, however many of them failed.
Scans whose names begin with the same BIDS subject (`sub-01_`) are of one person; every other scan counts as one. Rows
that failed, and scans that are excluded from means, are in none. Regions and lesions exist for some scans only; every
entry names its scans.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from moediff.anatomy.regions import REGIONS
from moediff.benchmark.methods import BASELINES
from moediff.benchmark.records import BenchmarkRow, Difference, LesionSum, Loss, Mean, RegionMean
from moediff.core.config import rng_for
from moediff.evaluation.metrics.registry import METRIC_TABLE, Direction

COMPARED = {"psnr": "PSNR (dB)", "ssim": "SSIM", "haarpsi": "HaarPSI"}  # higher is better in all
GAINED = ("psnr", "ssim")
LESION_SUMS = ("count", "false_negatives", "false_positives", "volume_ref_ml", "volume_pred_ml")
LESION_MEANS = ("contrast_recovery", "dice", "cnr_ref", "cnr_pred")
DRAWS = 10_000
CONFIDENCE = 0.95
SUBJECT = re.compile(r"sub-[A-Za-z0-9]+(?=_|$)")  # of BIDS
ScanSeed = tuple[str, int]


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
    averages = sample[index].mean(1).sort().values
    tail = round((1 - CONFIDENCE) / 2 * DRAWS)
    return Interval(fmean(values), float(averages[tail]), float(averages[DRAWS - 1 - tail]), len(values))


def with_gains(rows: Iterable[BenchmarkRow]) -> list[BenchmarkRow]:
    """Rows with their gains over the better of cubic and zero-fill in the same case, None without both."""
    rows = list(rows)
    of_case: dict[tuple[str, str, int], list[BenchmarkRow]] = {}
    for row in rows:
        if row.method in BASELINES:
            of_case.setdefault(row.case, []).append(row)

    def gain(row: BenchmarkRow, metric: str) -> float | None:
        baselines = [r.metrics[metric] for r in of_case.get(row.case, []) if metric in r.metrics]
        ours = row.metrics.get(metric)
        return None if ours is None or len(baselines) < len(BASELINES) else ours - max(baselines)

    return [replace(row, gain_psnr=gain(row, "psnr"), gain_ssim=gain(row, "ssim")) for row in rows]


def methods_of(rows: Iterable[BenchmarkRow]) -> list[str]:
    """Different methods, in order."""
    return list(dict.fromkeys(row.method for row in rows))


def scans_of(rows: Iterable[BenchmarkRow]) -> list[str]:
    """Different scans, in order."""
    return list(dict.fromkeys(row.scan for row in rows))


def recipes_of(rows: Iterable[BenchmarkRow]) -> list[str]:
    """Different recipes, in order."""
    return list(dict.fromkeys(row.recipe for row in rows))


def counted(rows: Iterable[BenchmarkRow], method: str, recipe: str) -> list[BenchmarkRow]:
    """Rows of one method and recipe that means include."""
    return [row for row in rows if (row.method, row.recipe) == (method, recipe) and row.counted]


def person_of(scan: str) -> str:
    """The BIDS subject at the beginning of a scan's name, else the scan itself: other names do not say who is who."""
    subject = SUBJECT.match(scan)
    return scan if subject is None else subject.group()


def _by_person(by_scan: Mapping[str, float]) -> dict[str, float]:
    """Means over the scans of every person."""
    of_person: dict[str, list[float]] = {}
    for scan, value in by_scan.items():
        of_person.setdefault(person_of(scan), []).append(value)
    return {person: fmean(values) for person, values in of_person.items()}


def _over_persons(rows: Iterable[BenchmarkRow], value: Callable[[BenchmarkRow], float | None]) -> float | None:
    """Mean over persons, of scans that are the mean of their rows; rows may be of several recipes."""
    by_scan: dict[str, list[float]] = {}
    for row in rows:
        if (number := value(row)) is not None:
            by_scan.setdefault(row.scan, []).append(number)
    of_persons = _by_person({scan: fmean(values) for scan, values in by_scan.items()}).values()
    return fmean(of_persons) if of_persons else None


def _metric(name: str) -> Callable[[BenchmarkRow], float | None]:
    return lambda row: row.metrics.get(name)


def means(rows: Sequence[BenchmarkRow]) -> list[Mean]:
    """Per method and recipe: persons and failures, means of every metric, gain and time, greatest memory."""
    return [_mean_of(rows, recipe, method) for recipe in recipes_of(rows) for method in methods_of(rows)]


def overall_means(rows: Sequence[BenchmarkRow]) -> list[Mean]:
    """`means` of every method over all recipes together."""
    return means([replace(row, recipe="all") for row in rows])


def _mean_of(rows: Sequence[BenchmarkRow], recipe: str, method: str) -> Mean:
    own = counted(rows, method, recipe)
    metrics = list(dict.fromkeys(metric for row in own for metric in row.metrics))
    return Mean(
        recipe=recipe,
        method=method,
        persons=len({person_of(row.scan) for row in own}),
        failed=sum(bool(row.error) for row in rows if (row.method, row.recipe) == (method, recipe)),
        metrics={metric: _over_persons(own, _metric(metric)) for metric in metrics},
        gain_psnr=_over_persons(own, lambda row: row.gain_psnr),
        gain_ssim=_over_persons(own, lambda row: row.gain_ssim),
        data_consistency=_over_persons(
            own, lambda row: row.data_consistency.rms_over_range if row.data_consistency else None
        ),
        seconds=_over_persons(own, lambda row: row.seconds),
        cpu_s=_over_persons(own, lambda row: row.cpu_s),
        compute_s=_over_persons(own, lambda row: row.compute_s),
        gflop=_over_persons(own, lambda row: row.gflop),
        peak_mib=max((row.peak_mib for row in own if row.peak_mib is not None), default=None),
    )


def differences(rows: Sequence[BenchmarkRow], focus: str) -> list[Difference]:
    """Paired differences, focus minus every other method, per recipe and metric, with intervals over persons."""
    result = []
    for recipe in recipes_of(rows):
        ours = counted(rows, focus, recipe)
        for method in methods_of(rows):
            for metric in () if method == focus else COMPARED:
                by_scan = _difference_by_scan(ours, counted(rows, method, recipe), metric)
                if by_scan:
                    interval = bootstrap(list(_by_person(by_scan).values()), focus, method, recipe, metric)
                    result.append(
                        Difference(
                            recipe=recipe,
                            focus=focus,
                            against=method,
                            metric=metric,
                            **vars(interval),
                            by_scan=by_scan,
                        )
                    )
    return result


def _difference_by_scan(ours: Sequence[BenchmarkRow], theirs: Sequence[BenchmarkRow], metric: str) -> dict[str, float]:
    """Difference per scan, averaged over seeds."""
    other = {row.case: row.metrics.get(metric) for row in theirs}
    by_scan: dict[str, list[float]] = {}
    for row in ours:
        a, b = row.metrics.get(metric), other.get(row.case)
        if a is not None and b is not None and abs(a) + abs(b) < math.inf:
            by_scan.setdefault(row.scan, []).append(a - b)
    return {scan: fmean(values) for scan, values in by_scan.items()}


# --- regions and lesions ---


def _key(row: BenchmarkRow) -> ScanSeed:
    return row.scan, row.seed


def _by_scan(values: Mapping[ScanSeed, float]) -> dict[str, float]:
    """Means over the seeds of every scan."""
    by_scan: dict[str, list[float]] = {}
    for (scan, _), value in values.items():
        by_scan.setdefault(scan, []).append(value)
    return {scan: fmean(each) for scan, each in by_scan.items()}


def _mean_over_persons(values: Mapping[ScanSeed, float]) -> float:
    """Every person counts alike, however many scans and seeds there are."""
    return fmean(_by_person(_by_scan(values)).values())


def region_means(rows: Sequence[BenchmarkRow]) -> list[RegionMean]:
    """Per recipe, region of the brain and method, for the scans whose regions are known."""
    result = []
    for recipe in recipes_of(rows):
        for region in REGIONS:
            baseline = _best_baseline(rows, recipe, region)
            for method in methods_of(rows):
                scores = {
                    _key(row): row.regions[region]
                    for row in counted(rows, method, recipe)
                    if row.regions and region in row.regions
                }
                if not scores:
                    continue
                gains = {key: one.psnr - baseline[key] for key, one in scores.items() if key in baseline}
                result.append(
                    RegionMean(
                        recipe=recipe,
                        region=region,
                        method=method,
                        scans=tuple(sorted({scan for scan, _ in scores})),
                        psnr=_mean_over_persons({key: one.psnr for key, one in scores.items()}),
                        ssim=_mean_over_persons({key: one.ssim for key, one in scores.items()}),
                        gain_psnr=_mean_over_persons(gains) if gains else None,
                    )
                )
    return result


def _best_baseline(rows: Sequence[BenchmarkRow], recipe: str, region: str) -> dict[ScanSeed, float]:
    """PSNR of the better interpolation per scan and seed, where both are there."""
    values: dict[ScanSeed, list[float]] = {}
    for method in BASELINES:
        for row in counted(rows, method, recipe):
            if row.regions and region in row.regions:
                values.setdefault(_key(row), []).append(row.regions[region].psnr)
    return {key: max(each) for key, each in values.items() if len(each) >= len(BASELINES)}


def lesion_sums(rows: Sequence[BenchmarkRow]) -> list[LesionSum]:
    """Per recipe and method over all scans with outlines; the mean over its seeds counts for a scan."""
    result = []
    for recipe in recipes_of(rows):
        for method in methods_of(rows):
            scores = {_key(row): row.lesions for row in counted(rows, method, recipe) if row.lesions is not None}
            if scores:
                of_scans = {
                    name: _by_scan({key: float(getattr(one, name)) for key, one in scores.items()})
                    for name in (*LESION_SUMS, *LESION_MEANS)
                }
                result.append(
                    LesionSum(
                        recipe=recipe,
                        method=method,
                        scans=tuple(sorted({scan for scan, _ in scores})),
                        **{name: sum(of_scans[name].values()) for name in LESION_SUMS},
                        **{name: fmean(_by_person(of_scans[name]).values()) for name in LESION_MEANS},
                    )
                )
    return result


# --- losses ---


@dataclass(frozen=True)
class Criterion:
    """A number of a row by which methods are compared."""

    title: str
    direction: Direction
    read: Callable[[BenchmarkRow], float | None]

    def merit(self, value: float) -> float:
        """Larger is better."""
        if self.direction == "near 1":
            return -abs(math.log(max(value, 1e-9)))
        return -value if self.direction == "lower" else value


def _lesion(name: str) -> Callable[[BenchmarkRow], float | None]:
    return lambda row: None if row.lesions is None else float(getattr(row.lesions, name))


def _region_psnr(region: str) -> Callable[[BenchmarkRow], float | None]:
    return lambda row: row.regions[region].psnr if row.regions and region in row.regions else None


LOSS_METRICS = (
    "psnr",
    "ssim",
    "haarpsi",
    "haarpsi_med",
    "vif",
    "gmsd",
    "ms_ssim",
    "fsim",
    "hf_ratio",
    "spectral_distance_db",
)
CRITERIA = (
    {name: Criterion(METRIC_TABLE[name].title, METRIC_TABLE[name].better, _metric(name)) for name in LOSS_METRICS}
    | {
        "lesions_false_negatives": Criterion("false-negative lesions, per scan", "lower", _lesion("false_negatives")),
        "lesions_false_positives": Criterion("false-positive lesions, per scan", "lower", _lesion("false_positives")),
        "lesions_contrast_recovery": Criterion(
            "lesion contrast recovery (1 is right)", "near 1", _lesion("contrast_recovery")
        ),
        "lesions_dice": Criterion("lesion Dice", "higher", _lesion("dice")),
    }
    | {f"psnr {region}": Criterion(f"PSNR, {region}", "higher", _region_psnr(region)) for region in REGIONS}
)


def losses(rows: Sequence[BenchmarkRow], focus: str) -> list[Loss]:
    """Where another method's mean over persons is better than the focus method's: recipe, metric, the best of them."""
    result = []
    for recipe in recipes_of(rows):
        for metric, criterion in CRITERIA.items():
            others = (_compared(rows, recipe, metric, (focus, name)) for name in methods_of(rows) if name != focus)
            better = [
                loss for loss in others if loss is not None and criterion.merit(loss.other) > criterion.merit(loss.ours)
            ]
            if better:
                result.append(max(better, key=lambda loss: criterion.merit(loss.other)))
    return result


def _compared(rows: Sequence[BenchmarkRow], recipe: str, metric: str, methods: tuple[str, str]) -> Loss | None:
    """Means over persons of two methods, from the cases that both have, and in how many the second is better."""
    criterion = CRITERIA[metric]
    ours, other = (
        {_key(row): value for row in counted(rows, method, recipe) if (value := criterion.read(row)) is not None}
        for method in methods
    )
    both = [key for key in ours if key in other]
    if not both:
        return None
    return Loss(
        recipe=recipe,
        metric=metric,
        method=methods[1],
        cases=len(both),
        ours=_mean_over_persons({key: ours[key] for key in both}),
        other=_mean_over_persons({key: other[key] for key in both}),
        worse_in=sum(criterion.merit(other[key]) > criterion.merit(ours[key]) for key in both),
    )
