"""Every metric by name, and how they are computed side by side.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from moediff.core.errors import ConfigError, DataError
from moediff.evaluation.metrics import fidelity as metrics
from moediff.evaluation.metrics import fsim, spectrum
from moediff.evaluation.metrics import haarpsi as haar
from moediff.evaluation.metrics import mrixfields as challenge
from moediff.evaluation.metrics import no_reference as blind
from moediff.evaluation.metrics import structural as similarity

MOST_WORKERS = 4  # each holds a metric's memory


@dataclass(frozen=True)
class Judged:
    """What metrics see: prediction (fitted) and truth on one grid, where to judge, L, voxel size, foot-to-head axis."""

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


Job = Callable[[Judged], Sequence[float]]

# Metrics that share work share a job; the longest jobs come first, so that none is left to run alone.
JOBS: dict[tuple[str, ...], Job] = {
    ("haarpsi", "haarpsi_med"): lambda c: haar.haarpsis(*c.pair, c.data_range, (haar.STANDARD, haar.MEDICAL)),
    ("fsim",): lambda c: [fsim.fsim(*c.pair, c.data_range)],
    ("ms_ssim",): lambda c: [similarity.ms_ssim(*c.pair, c.data_range)],
    ("vif",): lambda c: [similarity.vif(*c.pair, c.data_range)],
    ("ssim", "ssim_all"): lambda c: metrics.ssims(*c.whole, c.data_range, (c.mask_XYZ, c.whole[2])),
    ("spectral_distance_db",): lambda c: [spectrum.radial_spectral_distance(*c.pair)],
    ("psnr_mrixfields", "nrmse_mrixfields", "ssim_mrixfields"): lambda c: challenge.mrixfields(
        c.pred_XYZ, c.truth_XYZ, c.axial
    ),
    ("hf_ratio",): lambda c: [spectrum.high_frequency_ratio(*c.pair)],
    ("gmsd",): lambda c: [similarity.gmsd(*c.pair, c.data_range)],
    ("sharpness",): lambda c: [blind.sharpness(c.pred_XYZ, c.mask_XYZ, c.spacing_mm)],
    ("sharpness_ref",): lambda c: [blind.sharpness(c.truth_XYZ, c.mask_XYZ, c.spacing_mm)],
    ("noise",): lambda c: [blind.noise(c.pred_XYZ, c.mask_XYZ, c.data_range)],
    ("noise_ref",): lambda c: [blind.noise(c.truth_XYZ, c.mask_XYZ, c.data_range)],
    ("psnr",): lambda c: [metrics.psnr(*c.pair, c.data_range)],
    ("psnr_all",): lambda c: [metrics.psnr(*c.whole, c.data_range)],
    ("nrmse",): lambda c: [metrics.nrmse(*c.pair)],
    ("nrmse_all",): lambda c: [metrics.nrmse(*c.whole)],
}

# What takes the place of a job of which only a part is asked for.
LIGHTER: dict[tuple[str, ...], Job] = {
    ("ssim",): lambda c: [metrics.ssim(*c.pair, c.data_range)],
}

METRICS = (
    "psnr",
    "nrmse",
    "ssim",
    "psnr_all",
    "nrmse_all",
    "ssim_all",
    "psnr_mrixfields",
    "nrmse_mrixfields",
    "ssim_mrixfields",
    "ms_ssim",
    "haarpsi",
    "haarpsi_med",
    "gmsd",
    "vif",
    "fsim",
    "hf_ratio",
    "spectral_distance_db",
    "sharpness",
    "sharpness_ref",
    "noise",
    "noise_ref",
)
PERCEPTUAL = ("lpips", "dists")  # from `evaluation.perceptual`, where the weights of their networks are given


def metric_names(text: str | None) -> tuple[str, ...]:
    """Names from a list with commas, as `--metrics` takes it; None means all.

    Raises:
        ConfigError: see `check_names`.
    """
    names = METRICS if text is None else tuple(name.strip() for name in text.split(","))
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
        raise ConfigError(f"no metric called {name!r}{hint}; choose from {', '.join(METRICS)}")


def _jobs(wanted: Sequence[str]) -> dict[tuple[str, ...], Job]:
    """The jobs that together give these metrics, and as little else as possible."""
    found: dict[tuple[str, ...], Job] = {}
    for group, job in JOBS.items():
        asked = tuple(name for name in group if name in wanted)
        if asked:
            found |= {asked: LIGHTER[asked]} if asked in LIGHTER else {group: job}
    return found


def compute(judged: Judged, names: Iterable[str], missing: dict[str, str] | None = None) -> dict[str, float]:
    """Values by name, in the order asked for; what this pair has no value of is left out, its reason in `missing`.

    Metrics run side by side with one thread each: their steps are too short to share. On a busy machine threads that
    wait for each other within steps took ten times the processor time.
    """
    wanted, reasons = list(names), {} if missing is None else missing
    jobs = _jobs(wanted)
    threads = torch.get_num_threads()
    workers = max(1, min(threads, MOST_WORKERS, len(jobs)))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            found = list(pool.map(lambda job: _tried(job, judged, stop=missing is None), jobs.values()))
        finally:
            torch.set_num_threads(threads)  # what workers set reaches parts of torch that we use too
    values: dict[str, float] = {}
    for group, each in zip(jobs, found, strict=True):
        if isinstance(each, DataError):
            reasons |= {name: str(each) for name in group if name in wanted}
        else:
            values |= dict(zip(group, each, strict=True))
    return {name: values[name] for name in wanted if name in values}


def _tried(job: Job, judged: Judged, *, stop: bool) -> Sequence[float] | DataError:
    try:
        return job(judged)
    except DataError as error:
        if stop:
            raise
        return error
