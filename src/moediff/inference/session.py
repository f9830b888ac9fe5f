"""Session: one scan on its way through the network, from its grid plan to the result.

Axes: B batch (1), X Y Z voxels of the working grid (RAS+), E experts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from moediff.acquisition.data_consistency import Discrepancy, correct, discrepancy
from moediff.acquisition.prepare import Prepared, anisotropy_ratio, flipped, prepare
from moediff.core.config import rng_for
from moediff.core.device import move_if_it_fits, precision_warnings
from moediff.core.errors import DataError, TryAgain
from moediff.core.memory import is_out_of_memory
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.diffusion.samplers import SAMPLERS
from moediff.diffusion.schedule import schedule
from moediff.inference import out_of_distribution
from moediff.inference.grid_plan import GridPlan
from moediff.inference.options import FLIPS, EnhanceOptions
from moediff.inference.quality_checks import (
    require_foreground,
    sample_warnings,
    scan_warnings,
    slice_intensity_warnings,
)
from moediff.inference.result import Enhanced, lazy_maps
from moediff.inference.sidecar import (
    SampledAxes,
    Sidecar,
    SliceIntensity,
    SliceRecord,
    Timings,
    Uncertainty,
    sidecar_for,
)
from moediff.inference.tiling import GateWeights, TileContext, denoise_tiled, encode
from moediff.io.scans import LoadedScan
from moediff.model.bundle import Bundle, BundleConfig

Progress = Callable[[float, str], None]
LEAST_BUDGET_BYTES = 2**26  # of a tile; smaller ones are not tried


def no_progress(share: float, word: str) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class Model:
    """A loaded bundle, the device it lies on, and the precision that its layers compute in."""

    bundle: Bundle
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """For the network alone: what comes before and after it needs float32 (data consistency above all)."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


@dataclass(frozen=True)
class NetworkOutput:
    """Output of the network, scaled, on the working grid.

    Args:
        result_XYZ: the enhanced scan.
        deviation_XYZ: its standard deviation; None for a single sample.
        single_experts: every expert's own result, on the CPU; None where they were not requested.
        gate: the experts' weights.
        score: out-of-distribution score, where the bundle has one.
        seconds: that all this took.
    """

    result_XYZ: Tensor
    deviation_XYZ: Tensor | None
    single_experts: tuple[Tensor, ...] | None
    gate: GateWeights
    score: float | None
    seconds: float


class Session:
    """One scan, prepared for the network; `run` enhances it.

    Args:
        model: the network.
        scan: as loaded.
        plan: its grids.
        options: after the weights' own restrictions.
        progress: called with the share done (0..1) and a word.

    Raises:
        DataError: no head, no intensities to scale by, or a target grid that holds only air.
    """

    def __init__(
        self,
        model: Model,
        scan: LoadedScan,
        plan: GridPlan,
        options: EnhanceOptions,
        progress: Progress = no_progress,
    ) -> None:
        start = time.perf_counter()
        progress(0.02, "preparing")
        self.model, self.scan, self.plan, self.options, self.progress = model, scan, plan, options, progress
        volume = move_if_it_fits(scan.volume, plan.working, model.device, options.memory_mb)
        self.prepared: Prepared = prepare(
            volume,
            plan.working,
            self.config.prepare,
            correct_slices=options.correct_slice_intensity,
            sampling=plan.sampling or ("spectrum" if options.estimate_sampling else None),
        )
        require_foreground(self.prepared, plan)
        self.prepare_seconds = time.perf_counter() - start

    @torch.no_grad()
    def run(self) -> Enhanced:
        """Enhance the scan.

        Raises:
            DataError: the result is not finite.
            TryAgain: memory ran out even with small tiles.
        """
        output = self.run_network()
        self.progress(0.95, "finishing")
        return self.finish(output)

    @property
    def config(self) -> BundleConfig:
        """Of the bundle."""
        return self.model.bundle.config

    def encode(self, prepared: Prepared) -> TileContext:
        """What all tiles of a prepared scan share."""
        with self.model.autocast():
            return encode(self.model.bundle.denoiser, prepared, sparse=self.options.sparse)

    def denoise(self, x: Tensor, sigma: float, context: TileContext, *, error: bool = False) -> Tensor:
        """D(x, sigma), on request with the predicted error; tiles halve when memory runs out."""
        x = torch.zeros_like(x) if sigma >= 0.999 * self._sigma_max else x  # trained on the mean of the noise there
        budget = self.options.memory_mb * 2**20
        while True:
            try:
                with self.model.autocast():
                    return denoise_tiled(self.model.bundle.denoiser, x, sigma, context, budget, error=error).float()
            except (RuntimeError, MemoryError) as fault:
                if not is_out_of_memory(fault):
                    raise
                if budget < LEAST_BUDGET_BYTES:
                    raise TryAgain(
                        "memory ran out even with small tiles; close other programs or use a larger machine"
                    ) from fault
                budget //= 2

    def compose(self, residual_XYZ: Tensor) -> Tensor:
        """The residual (overwritten) added to the interpolated scan, made consistent with the measurement."""
        least = min(float(self.prepared.source.data_XYZ.min()), 0.0)
        result = residual_XYZ.add_(self.prepared.interpolated_XYZ).clamp_(min=least)
        if not self.options.data_consistency:
            return result
        return correct(result, self.prepared).clamp_(min=least)

    @property
    def _sigma_max(self) -> float:
        return self.config.diffusion.sigma_max * self.config.denoiser.sigma_data

    @property
    def _sigmas(self) -> list[float]:
        return schedule(self.options.steps, self.config.denoiser.sigma_data, self.config.diffusion)

    def run_network(self) -> NetworkOutput:
        """Everything that the network computes for this scan; its context is freed at the end."""
        start = time.perf_counter()
        context = self.encode(self.prepared)
        score = out_of_distribution.score(context, self.config.out_of_distribution)
        result_XYZ, deviation_XYZ = self._estimate(context)
        singles = self._single_experts(context) if self.options.single_experts else None
        gate = context.gate_weights()
        return NetworkOutput(result_XYZ, deviation_XYZ, singles, gate, score, time.perf_counter() - start)

    def _estimate(self, context: TileContext) -> tuple[Tensor, Tensor | None]:
        """The scaled result and its standard deviation: predicted in mode "faithful", else over several samples."""
        faithful = self.options.mode == "faithful"
        count, calls, done = self.options.drawn, self.options.evaluations, 0

        def advance() -> None:
            nonlocal done
            self.progress(0.1 + 0.85 * done / calls, "denoising")
            done += 1

        residual_XYZ = deviation_XYZ = None
        if faithful:
            residual_XYZ, deviation_XYZ = self._posterior_mean(context, advance)
            growth = anisotropy_ratio(self.prepared) ** self.config.anisotropy_exponent
            deviation_XYZ.mul_(self.config.uncertainty_scale * growth)
        if count:
            first, deviation = self._samples(context, count, advance)
            if residual_XYZ is None:
                residual_XYZ = self._paste(first, context)
            if deviation is not None:
                deviation_XYZ = self._paste(deviation, context)
        assert residual_XYZ is not None
        return self.compose(residual_XYZ), deviation_XYZ

    def _single_experts(self, context: TileContext) -> tuple[Tensor, ...]:
        """The scaled result of every expert by itself, on the CPU."""
        results = []
        for index, name in enumerate(self.config.denoiser.experts.regions):
            advance = partial(self.progress, 0.95, f"{name} alone")
            residual_XYZ, _ = self._posterior_mean(context, advance, expert=index)
            results.append(self.compose(residual_XYZ).cpu())
        return tuple(results)

    def _posterior_mean(
        self, context: TileContext, advance: Callable[[], None], *, expert: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The residual's posterior mean and its predicted absolute error, mean over flips.

        Args:
            advance: called before every evaluation.
            expert: one expert everywhere; None combines them by the gate.
        """
        total: list[Tensor] = []
        for axes in FLIPS[: self.options.tta]:
            advance()
            current = self.encode(flipped(self.prepared, axes)) if axes else context
            current = current if expert is None else current.single_expert(expert)
            zero = torch.zeros_like(current.condition.interpolated_BXYZ)
            parts = [self._paste(part, current) for part in self.denoise(zero, self._sigma_max, current, error=True)]
            parts = [part.flip(axes) for part in parts] if axes else parts
            total = [so_far.add_(part) for so_far, part in zip(total, parts, strict=True)] if total else parts
        mean, error = (part.div_(self.options.tta) if self.options.tta > 1 else part for part in total)
        return mean, error

    def _samples(self, context: TileContext, count: int, advance: Callable[[], None]) -> tuple[Tensor, Tensor | None]:
        """The first of several samples of the residual, and the standard deviation of all of them."""

        def denoise(x: Tensor, sigma: float) -> Tensor:
            advance()
            return self.denoise(x, sigma, context)

        sigmas, sampler = self._sigmas, SAMPLERS[self.options.sampler]
        total = square = first = torch.zeros(())
        for index in range(count):
            rng = rng_for(self.options.seed, "sample", index)
            noise = torch.randn(context.crop.shape, generator=rng)[None].to(self.model.device)
            sample = sampler(denoise, noise * sigmas[0], sigmas)
            first = first if index else sample
            total, square = total + sample, square + sample.square()
        if count == 1:
            return first, None
        return first, ((square - total.square() / count) / (count - 1)).clamp_min(0).sqrt()

    def _paste(self, data_BXYZ: Tensor, context: TileContext) -> Tensor:
        return context.crop.paste(data_BXYZ, self.prepared.interpolated_XYZ)

    def finish(self, output: NetworkOutput) -> Enhanced:
        """Bring the output to the target grid and to the input's intensities."""
        if not bool(torch.isfinite(output.result_XYZ).all()):
            raise DataError("the result is not finite, expected numbers: rescale the input's intensities")
        uncertainty = None
        if output.deviation_XYZ is not None:
            deviation = Volume(output.deviation_XYZ * self.prepared.scaling.scale, self.prepared.grid.affine)
            uncertainty = self.plan.map_to_target(deviation.to("cpu"))
        gap = discrepancy(output.result_XYZ, self.prepared)
        sidecar = self._sidecar(output, gap)
        singles = None
        if output.single_experts is not None:
            singles = torch.stack([self._to_target(result).data_XYZ for result in output.single_experts], -1)
        return Enhanced(
            volume=self._to_target(output.result_XYZ),
            storage=self.plan.storage,
            maps=lazy_maps(self.scan, self.plan, self.prepared.mask_XYZ, output.gate),
            uncertainty=uncertainty,
            expert_names=sidecar.experts,
            source=self.scan,
            sidecar=sidecar,
            single_experts_XYZE=singles,
            residual=gap.residual().to("cpu"),
        )

    def _to_target(self, scaled_XYZ: Tensor) -> Volume:
        return self.plan.scan_to_target(self.prepared.undo(scaled_XYZ).to("cpu"))

    def _sidecar(self, output: NetworkOutput, gap: Discrepancy) -> Sidecar:
        requested = self.options.correct_slice_intensity
        sidecar = planned_sidecar(self.model, self.scan, self.plan, self.options)
        return replace(
            sidecar,
            uncertainty=self._measured(sidecar.uncertainty, output.deviation_XYZ),
            slice_intensity=SliceIntensity.of(self.prepared, requested=requested),
            sampling=SampledAxes.of(self.prepared),
            data_consistency=gap.summary(),
            out_of_distribution_score=output.score,
            timings=Timings(round(self.prepare_seconds, 2), round(output.seconds, 2)),
            warnings=(
                *self.scan.warnings,
                *self.plan.warnings,
                *self.noticed(output.score),
                *precision_warnings(self.model.device, self.model.dtype),
            ),
        )

    def noticed(self, score: float | None) -> tuple[str, ...]:
        """Warnings about the prepared scan and its uncertainty, and by its out-of-distribution score."""
        return (
            *scan_warnings(self.prepared),
            *slice_intensity_warnings(self.prepared, requested=self.options.correct_slice_intensity),
            *sample_warnings(self.options, one_of_several=self.plan.one_of_several),
            *out_of_distribution.score_warnings(score),
        )

    def _measured(self, uncertainty: Uncertainty, deviation_XYZ: Tensor | None) -> Uncertainty:
        """With the standard deviation in the foreground, over the scan's intensity range."""
        if deviation_XYZ is None:
            return uncertainty
        top = max(quantile(self.prepared.source.data_XYZ, 0.999), 1e-6)
        inside = deviation_XYZ[self.prepared.mask_XYZ > 0]
        mean, high = (float(inside.mean()), quantile(inside, 0.99)) if inside.numel() else (0.0, 0.0)
        return replace(uncertainty, mean_over_range=round(mean / top, 5), p99_over_range=round(high / top, 5))


def planned_sidecar(model: Model, scan: LoadedScan, plan: GridPlan, options: EnhanceOptions) -> Sidecar:
    """The sidecar of a result before anything is measured."""
    where = (str(model.device), str(model.dtype).removeprefix("torch."))
    sidecar = sidecar_for(model.bundle, where, (scan.stored_grid, plan.stored_target), options)
    return replace(sidecar, slices=SliceRecord.of(scan.slices, plan))
