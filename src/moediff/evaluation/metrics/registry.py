"""Registry of metrics: name, unit, direction and family of each, and their computation side by side.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from moediff.core.errors import ConfigError, DataError
from moediff.evaluation.metrics import fidelity, fsim, haarpsi, mrixfields, no_reference, spectrum, structural

MOST_WORKERS = 4  # each holds a metric's memory


@dataclass(frozen=True)
class MetricInput:
    """Fitted prediction and truth on one grid, where to judge, L, voxel size, and the foot-to-head axis."""

    pred_XYZ: Tensor
    truth_XYZ: Tensor
    mask_XYZ: Tensor
    data_range: float
    spacing_mm: tuple[float, float, float]
    axial: int = 2

    @property
    def pair(self) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction, truth and mask."""
        return self.pred_XYZ, self.truth_XYZ, self.mask_XYZ

    @cached_property
    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction, truth, and a mask of the whole field of view."""
        return self.pred_XYZ, self.truth_XYZ, torch.ones_like(self.mask_XYZ)


Job = Callable[[MetricInput], Sequence[float]]

# Metrics that share work share a job; the longest jobs come first, so that none is left to run alone.
JOBS: dict[tuple[str, ...], Job] = {
    ("haarpsi", "haarpsi_med"): lambda c: haarpsi.haarpsis(*c.pair, c.data_range, (haarpsi.STANDARD, haarpsi.MEDICAL)),
    ("fsim",): lambda c: [fsim.fsim(*c.pair, c.data_range)],
    ("ms_ssim",): lambda c: [structural.ms_ssim(*c.pair, c.data_range)],
    ("vif",): lambda c: [structural.vif(*c.pair, c.data_range)],
    ("ssim", "ssim_all"): lambda c: fidelity.ssims(*c.whole, c.data_range, (c.mask_XYZ, c.whole[2])),
    ("spectral_distance_db",): lambda c: [spectrum.radial_spectral_distance(*c.pair)],
    ("psnr_mrixfields", "nrmse_mrixfields", "ssim_mrixfields"): lambda c: mrixfields.mrixfields(
        c.pred_XYZ, c.truth_XYZ, c.axial
    ),
    ("hf_ratio",): lambda c: [spectrum.high_frequency_ratio(*c.pair)],
    ("gmsd",): lambda c: [structural.gmsd(*c.pair, c.data_range)],
    ("sharpness",): lambda c: [no_reference.sharpness(c.pred_XYZ, c.mask_XYZ, c.spacing_mm)],
    ("sharpness_ref",): lambda c: [no_reference.sharpness(c.truth_XYZ, c.mask_XYZ, c.spacing_mm)],
    ("noise",): lambda c: [no_reference.noise(c.pred_XYZ, c.mask_XYZ, c.data_range)],
    ("noise_ref",): lambda c: [no_reference.noise(c.truth_XYZ, c.mask_XYZ, c.data_range)],
    ("psnr",): lambda c: [fidelity.psnr(*c.pair, c.data_range)],
    ("psnr_all",): lambda c: [fidelity.psnr(*c.whole, c.data_range)],
    ("nrmse",): lambda c: [fidelity.nrmse(*c.pair)],
    ("nrmse_all",): lambda c: [fidelity.nrmse(*c.whole)],
}

# Cheaper jobs where only a part of one is requested.
LIGHTER: dict[tuple[str, ...], Job] = {
    ("ssim",): lambda c: [fidelity.ssim(*c.pair, c.data_range)],
}

Direction = Literal["higher", "lower", "near 1", "none"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: as options, CSV and JSON call it.
        title: as tables call it.
        unit: "" where it has none.
        better: which values are better; "none" for those that are compared with the reference's own.
        family: what it measures; the module of the same name computes it.
    """

    name: str
    title: str
    unit: str
    better: Direction
    family: str


METRIC_TABLE = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", "higher", "fidelity"),
        Metric("nrmse", "NRMSE", "", "lower", "fidelity"),
        Metric("ssim", "SSIM", "", "higher", "fidelity"),
        Metric("psnr_all", "PSNR, whole field of view", "dB", "higher", "fidelity"),
        Metric("nrmse_all", "NRMSE, whole field of view", "", "lower", "fidelity"),
        Metric("ssim_all", "SSIM, whole field of view", "", "higher", "fidelity"),
        Metric("psnr_mrixfields", "PSNR (MRIxFields)", "dB", "higher", "mrixfields"),
        Metric("nrmse_mrixfields", "NRMSE (MRIxFields)", "", "lower", "mrixfields"),
        Metric("ssim_mrixfields", "SSIM (MRIxFields)", "", "higher", "mrixfields"),
        Metric("ms_ssim", "MS-SSIM", "", "higher", "structural"),
        Metric("haarpsi", "HaarPSI", "", "higher", "haarpsi"),
        Metric("haarpsi_med", "HaarPSI (medical)", "", "higher", "haarpsi"),
        Metric("gmsd", "GMSD", "", "lower", "structural"),
        Metric("vif", "VIF", "", "higher", "structural"),
        Metric("fsim", "FSIM", "", "higher", "fsim"),
        Metric("hf_ratio", "hf ratio (1 is right)", "", "near 1", "spectrum"),
        Metric("spectral_distance_db", "spectral distance (dB)", "dB", "lower", "spectrum"),
        Metric("sharpness", "sharpness", "1/mm", "none", "no_reference"),
        Metric("sharpness_ref", "sharpness of the reference", "1/mm", "none", "no_reference"),
        Metric("noise", "noise", "", "none", "no_reference"),
        Metric("noise_ref", "noise of the reference", "", "none", "no_reference"),
    )
}
METRICS = tuple(METRIC_TABLE)
USUAL = ("psnr", "nrmse", "ssim", "haarpsi", "hf_ratio", "spectral_distance_db")  # error, structure, sharpness
ALL = "all"
PERCEPTUAL = ("lpips", "dists")  # from `metrics.perceptual`, where the weights of their networks are given


def metric_names(text: str | None) -> tuple[str, ...]:
    """Names from a list with commas, as `--metrics` takes it; None and "all" mean all.

    Raises:
        ConfigError: see `check_names`.
    """
    names = METRICS if text in (None, ALL) else tuple(name.strip() for name in str(text).split(","))
    check_names(names)
    return names


def check_names(names: Sequence[str]) -> None:
    """Refuse unknown metrics, and none at all.

    Raises:
        ConfigError: says which are known.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        name = (unknown or [""])[0]
        hint = " (it needs weights: --perceptual FILE adds it)" if name in PERCEPTUAL else ""
        raise ConfigError(f"no metric called {name!r}{hint}; choose from {', '.join(METRICS)}, or {ALL}")


def _jobs(wanted: Sequence[str]) -> dict[tuple[str, ...], Job]:
    """The jobs that together give these metrics, and as little else as possible."""
    jobs: dict[tuple[str, ...], Job] = {}
    for group, job in JOBS.items():
        requested = tuple(name for name in group if name in wanted)
        if requested:
            jobs |= {requested: LIGHTER[requested]} if requested in LIGHTER else {group: job}
    return jobs


def compute(judged: MetricInput, names: Iterable[str], missing: dict[str, str] | None = None) -> dict[str, float]:
    """Values by name, in the order of `names`; what this pair has no value of is left out, its reason in `missing`.

    Metrics run side by side with one thread each: their steps are too short to share. On a busy machine threads that
    wait for each other within steps took ten times the processor time.
    """
    wanted, reasons = list(names), {} if missing is None else missing
    jobs = _jobs(wanted)
    threads = torch.get_num_threads()
    workers = max(1, min(threads, MOST_WORKERS, len(jobs)))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            results = list(pool.map(lambda job: _tried(job, judged, stop=missing is None), jobs.values()))
        finally:
            torch.set_num_threads(threads)  # what workers set reaches this thread too
    values: dict[str, float] = {}
    for group, each in zip(jobs, results, strict=True):
        if isinstance(each, DataError):
            reasons |= {name: str(each) for name in group if name in wanted}
        else:
            values |= dict(zip(group, each, strict=True))
    return {name: values[name] for name in wanted if name in values}


def _tried(job: Job, judged: MetricInput, *, stop: bool) -> Sequence[float] | DataError:
    try:
        return job(judged)
    except DataError as error:
        if stop:
            raise
        return error
