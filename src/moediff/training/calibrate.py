"""Calibration of finished weights: uncertainty head, scale and exponent of predicted errors, statistics of known scans.

None of it touches the network that makes results. Each part works through units (a patch, a scan under one recipe)
whose results are small; `Units` stores them, so that an interrupted stage repeats one unit at most.

Axes: N cells, C channels, G conditioning, V voxels, D token width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import prepare
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError
from moediff.core.geometry import centre_crop
from moediff.core.volume import Volume
from moediff.evaluation.calibration import TARGET_PERCENT, half_width
from moediff.evaluation.metrics.fidelity import head_mask
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import aligned_grid, target_grid
from moediff.inference.options import EnhanceOptions
from moediff.inference.out_of_distribution import statistics
from moediff.inference.tiling import encode
from moediff.io.label_check import load_intensities
from moediff.model.bundle import Bundle, BundleConfig, OutOfDistributionStatistics
from moediff.model.denoiser import Denoiser
from moediff.model.layers import to_lattice
from moediff.model.routing import make_condition
from moediff.training.cache import ScanSource
from moediff.training.losses import error_loss
from moediff.training.patches import PatchSource
from moediff.training.sources import REMEDY, coarsest_truth

SHARE = TARGET_PERCENT / 100
HALF_WIDTH = half_width(TARGET_PERCENT)
WIDEST = 100.0  # times the predicted interval
LEAST_SPREAD = 1e-3
FEWEST_SCANS = 4  # fewer say nothing of how much scans differ
ALIKE = 0.05  # of log anisotropy: cases that differ by less say nothing of the exponent

Unit = dict[str, Tensor]
Units = Callable[[str, Callable[[], Unit]], Unit]
Case = Callable[[], tuple[Volume, Volume]]  # what the scanner measured, and the truth


def at_once(name: str, compute: Callable[[], Unit]) -> Unit:
    """Units that are neither stored nor interrupted."""
    return compute()


def never(reached: str) -> None:
    """No signal stops what is done."""


@dataclass(frozen=True)
class Calibrated:
    """What a stage made of a bundle: its settings, its weights, and what the provenance says about it."""

    config: BundleConfig
    weights: Mapping[str, Tensor]
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HeadFit:
    """How the uncertainty head is fitted.

    Args:
        patches: training patches whose features and errors are computed once.
        cells: of each patch that count.
        steps, rows, learning_rate: of the head's own optimiser; `rows` cells a step.
        seed: of patches and cells; not the training's, so that the network has not seen these patches.
    """

    patches: int = 150
    cells: int = 6000
    steps: int = 4000
    rows: int = 4096
    learning_rate: float = 2e-3
    seed: int = 77

    def __post_init__(self) -> None:
        if min(self.patches, self.cells, self.steps, self.rows) < 1:
            raise ConfigError("patches, cells, steps and rows of an uncertainty head must be 1 or more each")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate={self.learning_rate} must be a positive number")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the scale (and exponent) of predicted errors is chosen.

    Args:
        recipes: frozen recipes that real training scans are degraded by; pairs are taken as they were measured.
        side: voxels of the middle cube of each scan that is read.
        exponent: fit the anisotropy exponent too; else it stays.
    """

    recipes: tuple[str, ...] = ("thick3", "thick5", "low1.5", "iso2")
    side: int = 96
    exponent: bool = False

    def __post_init__(self) -> None:
        check_recipes(self.recipes)
        if self.side < 1:
            raise ConfigError(f"side={self.side} must be at least 1 voxel")


@dataclass(frozen=True, kw_only=True)
class StatisticsFit:
    """Frozen recipes under which the encoder's statistics of real training scans are taken."""

    recipes: tuple[str, ...] = ("thick5", "low1.5", "iso2")

    def __post_init__(self) -> None:
        check_recipes(self.recipes)


def check_recipes(names: Sequence[str]) -> None:
    """Refuse what no frozen recipe is called.

    Raises:
        ConfigError: a name is unknown, or there is none.
    """
    if not names or (unknown := [name for name in names if name not in NAMED]):
        raise ConfigError(
            f"recipes={list(names)}: name some of {', '.join(NAMED)}" + (f", not {unknown}" if names else "")
        )


# Uncertainty head


def fit_uncertainty_head(
    bundle: Bundle,
    source: PatchSource,
    options: HeadFit,
    units: Units = at_once,
    heed_signals: Callable[[str], None] = never,
) -> Calibrated:
    """Fit the head that predicts the error to a finished network.

    Features and errors of training patches are computed once; the head then takes thousands of quick steps on them,
    which a run that computes the network anew for each step cannot.

    Args:
        heed_signals: called in every such step, with where it stands; may raise. These steps are not stored.
    """
    denoiser, config = bundle.denoiser, bundle.config
    device, sigma = next(denoiser.parameters()).device, config.diffusion.sigma_max * config.denoiser.sigma_data
    parts = [
        units(f"patch-{number}", partial(_cells, denoiser, source, number, sigma, options))
        for number in range(options.patches)
    ]
    feature_NC, error_NV = (torch.cat([part[name] for part in parts]).to(device) for name in ("feature", "error"))
    embedding_NG = torch.cat([part["conditioning"].expand(len(part["feature"]), -1) for part in parts]).to(device)
    loss = _fit_head(denoiser, (feature_NC, embedding_NG, error_NV), options, heed_signals)
    record = {"patches": options.patches, "cells": options.cells, "steps": options.steps, "loss": round(loss, 4)}
    return Calibrated(config, denoiser.state_dict(), {**record, "seed": options.seed})


@torch.no_grad()
def _cells(denoiser: Denoiser, source: PatchSource, number: int, sigma: float, options: HeadFit) -> Unit:
    """Features [N, C], conditioning [1, G] and errors in units of sigma_data [N, V] of one patch at sigma_max."""
    device = next(denoiser.parameters()).device
    batch = source.batch(number, 1).to(device)
    condition = make_condition(denoiser, batch.network_input)
    x, sigma_B = torch.zeros_like(batch.interpolated_BXYZ), torch.tensor([sigma], device=device)
    feature, embedding = denoiser.features(x, sigma_B, condition)
    mean = denoiser.precondition(x, sigma_B, denoiser.experts.combine(feature, embedding, condition.weight_BxyzE))
    error = (batch.truth_BXYZ - batch.interpolated_BXYZ - mean) / denoiser.config.sigma_data
    chosen = torch.randperm(feature[..., 0].numel(), generator=rng_for(options.seed, number))[: options.cells]
    cells = to_lattice(error[..., None]).flatten(0, 3)[chosen.to(device)]
    return {
        "feature": feature.flatten(0, 3)[chosen.to(device)].cpu(),
        "conditioning": embedding.cpu(),
        "error": cells.cpu(),
    }


def _fit_head(
    denoiser: Denoiser,
    data: tuple[Tensor, Tensor, Tensor],
    options: HeadFit,
    heed_signals: Callable[[str], None] = never,
) -> float:
    """Minimise the Laplace likelihood; returns its mean over the last tenth of the steps."""
    feature_NC, embedding_NG, error_NV = data
    optimiser = torch.optim.AdamW(denoiser.uncertainty_head.parameters(), options.learning_rate)
    rng, last = rng_for(options.seed, "fit"), []
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * options.learning_rate * (1 + math.cos(math.pi * step / options.steps))
        some = torch.randint(len(feature_NC), (options.rows,), generator=rng).to(feature_NC.device)
        log_error = denoiser.uncertainty_head(feature_NC[some][:, None, None, None], embedding_NG[some])
        loss = error_loss(error_NV[some][:, None, None, None], log_error)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        heed_signals(f"step {step + 1} of the head")
        if step >= 0.9 * options.steps:
            last.append(float(loss.detach()))
    return sum(last) / len(last)


# Scale and exponent


def calibrate(
    bundle: Bundle, scans: Sequence[ScanSource], data: Path, options: Calibration, units: Units = at_once
) -> Calibrated:
    """Choose the factor at which 90 % intervals hold 90 % of voxels of real training persons, mean of all cases.

    As in split conformal prediction (Angelopoulos and Bates 2021, arXiv 2107.07511), but cases count, not voxels,
    since those of one scan err together. With `exponent` the power of the anisotropy ratio is chosen first, by least
    squares on the logarithms of the factors that single cases need. The network must not know the scans by heart.
    Without real scans both stay as they are. Cases without a voxel to judge are left out, and counted in the record.

    Raises:
        DataError: not even intervals a hundred times as wide hold 90 %, or no case is left.
    """
    enhancer, config = Enhancer(bundle), bundle.config
    parts = [
        units(name, partial(_ratios, enhancer, case))
        for source in scans
        if not (source.labels or source.prepared)
        for name, case in _cases(source, data, options)
    ]
    if not parts:  # hours of training on label maps alone shall not end in an error
        return Calibrated(config, bundle.denoiser.state_dict(), {"cases": 0})
    judged = [part for part in parts if part["ratio"].numel()]
    if not judged:
        raise DataError(
            f"none of {len(parts)} cases has a voxel with a predicted error; expected scans that are coarser than "
            f"their truth, with a head in their middle {options.side} voxels: list others, or leave this stage out"
        )
    ratios = [part["ratio"] for part in judged]
    record: dict[str, Any] = {"cases": len(judged), "left_out": len(parts) - len(judged), "side": options.side}
    record["covered_before"] = round(covered(ratios, 1), 4)
    exponent = 0.0
    if options.exponent:
        anisotropy = [float(part["anisotropy"]) for part in judged]
        exponent = fit_exponent(ratios, anisotropy)
        ratios = [ratio_V / times**exponent for ratio_V, times in zip(ratios, anisotropy, strict=True)]
    factor = fit_scale(ratios)
    before = config.anisotropy_exponent
    chosen = replace(
        config,
        uncertainty_scale=round(config.uncertainty_scale * factor, 4),
        anisotropy_exponent=round(before + exponent, 4) if options.exponent else before,
    )
    record |= {"scale": chosen.uncertainty_scale, "exponent": chosen.anisotropy_exponent}
    return Calibrated(chosen, bundle.denoiser.state_dict(), record)


def _cases(source: ScanSource, data: Path, options: Calibration) -> Iterator[tuple[str, Case]]:
    """Cases of one scan by name."""

    def truth() -> Volume:
        return centre_crop(coarsest_truth(source, data), options.side)

    if source.input is not None:
        pair = source.input
        yield pair, lambda: (load_intensities(data / pair, REMEDY).volume, truth())
        return
    for recipe in options.recipes:

        def degraded(recipe: str = recipe) -> tuple[Volume, Volume]:
            sharp = truth()
            return degrade(sharp, NAMED[recipe], rng_for(0, source.path, recipe)), sharp

        yield f"{source.path} {recipe}", degraded


def _ratios(enhancer: Enhancer, case: Case) -> Unit:
    """Absolute error over half the width of its 90 % interval, voxels of the head [V]; the case's anisotropy ratio.

    No voxel is judged where the scan is as fine as its truth, so that the network predicts nothing.
    """
    low, truth = case()
    result = enhancer(low, EnhanceOptions(like=truth.grid))
    spread_XYZ = torch.zeros_like(truth.data_XYZ) if result.uncertainty is None else result.uncertainty.data_XYZ
    known = head_mask(truth.data_XYZ) & (spread_XYZ > 0)
    ratio_V = ((result.volume.data_XYZ - truth.data_XYZ).abs() / (HALF_WIDTH * spread_XYZ))[known]
    return {"ratio": ratio_V.cpu(), "anisotropy": torch.tensor(_anisotropy(low, truth), dtype=torch.float64)}


def _anisotropy(low: Volume, truth: Volume) -> float:
    """How many times coarser the coarsest axis was measured than the others, as `enhance` counts it."""
    pairs = zip(low.spacing_mm, truth.spacing_mm, strict=True)
    first, second, coarsest = sorted(max(measured / target, 1.0) for measured, target in pairs)
    return max(coarsest / (first * second) ** 0.5, 1.0)


def covered(ratios: Sequence[Tensor], factor: float) -> float:
    """Share of voxels inside intervals that are so many times as wide, mean of the cases."""
    return sum(float((ratio_V <= factor).double().mean()) for ratio_V in ratios) / len(ratios)


def fit_scale(ratios: Sequence[Tensor]) -> float:
    """The factor at which intervals hold 90 % in the mean of the cases.

    Raises:
        DataError: not even intervals a hundred times as wide do, or a case has no voxel.
    """
    if not ratios or not all(ratio_V.numel() for ratio_V in ratios):
        raise DataError("a case without a voxel to judge has no factor; expected some of every case: leave it out")
    below, above = 0.0, WIDEST
    if covered(ratios, above) < SHARE:
        raise DataError(
            f"intervals {WIDEST:g} times as wide hold under {SHARE:g} of voxels: fit the uncertainty head first"
        )
    for _ in range(30):
        factor = (below + above) / 2
        below, above = (below, factor) if covered(ratios, factor) >= SHARE else (factor, above)
    return above


def fit_exponent(ratios: Sequence[Tensor], anisotropy: Sequence[float]) -> float:
    """Slope of the logarithm of each case's own factor over that of its anisotropy ratio; 0 where all are alike."""
    x = torch.tensor([math.log(times) for times in anisotropy], dtype=torch.float64)
    if float(x.max() - x.min()) < ALIKE:
        return 0.0
    y = torch.tensor([math.log(fit_scale([ratio_V])) for ratio_V in ratios], dtype=torch.float64)
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


# Out-of-distribution statistics


def fit_statistics(
    bundle: Bundle, scans: Sequence[ScanSource], data: Path, options: StatisticsFit, units: Units = at_once
) -> Calibrated:
    """What real training scans look like to the encoder, for the out-of-distribution score.

    Label maps are left out: the score separates real heads from other input. With fewer than four scans the bundle
    gets no statistics.
    """
    real = [source for source in scans if not (source.labels or source.prepared)]
    record: dict[str, Any] = {"scans": len(real)}
    if len(real) < FEWEST_SCANS:
        return Calibrated(replace(bundle.config, out_of_distribution=None), bundle.denoiser.state_dict(), record)
    parts = [
        units(f"{source.path} {recipe}", partial(_statistics, bundle, data, source, recipe))
        for source in real
        for recipe in options.recipes
    ]
    table = torch.stack([part["statistics"] for part in parts]).double()
    mean, spread = table.mean(0), table.std(0).clamp_min(LEAST_SPREAD)
    typical = OutOfDistributionStatistics(
        mean=tuple(round(v, 5) for v in mean.tolist()), std=tuple(round(v, 5) for v in spread.tolist())
    )
    return Calibrated(replace(bundle.config, out_of_distribution=typical), bundle.denoiser.state_dict(), record)


@torch.no_grad()
def _statistics(bundle: Bundle, data: Path, source: ScanSource, recipe: str) -> Unit:
    """Token statistics of one degraded scan, on the grid that `enhance` takes by default: [2 D]."""
    scan = degrade(coarsest_truth(source, data), NAMED[recipe], rng_for(0, source.path, recipe))
    target = aligned_grid(scan.grid, target_grid(scan.grid, EnhanceOptions()))
    return {"statistics": statistics(encode(bundle.denoiser, prepare(scan, target, bundle.config.prepare)))}
