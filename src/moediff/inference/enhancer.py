"""The one inference loop: CLI, validation, benchmark and report all call `Enhancer`.

Axes: B batch (1), X Y Z voxels, E experts, S samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.acquisition.data_consistency import correct, discrepancy
from moediff.acquisition.prepare import Prepared, anisotropy_ratio, flipped, prepare
from moediff.core.config import rng_for
from moediff.core.device import move_if_it_fits, parse_device, parse_dtype, precision_warnings
from moediff.core.errors import ConfigError, DataError, TryAgain, prefix_errors
from moediff.core.memory import is_out_of_memory
from moediff.core.volume import Volume
from moediff.diffusion.samplers import SAMPLERS, evaluations
from moediff.diffusion.schedule import schedule
from moediff.inference.grid_plan import passes_through, target_grid
from moediff.inference.maps import maps_of, measured_uncertainty
from moediff.inference.options import MIRRORS, Enhanced, EnhanceOptions
from moediff.inference.out_of_distribution import strange, strangeness
from moediff.inference.pass_through import passed
from moediff.inference.quality_checks import doubts, require_head, uneven
from moediff.inference.route import Route, route
from moediff.inference.sidecar import Sidecar, SliceIntensity, Timings, sidecar_for
from moediff.inference.tiling import Frame, denoise_tiled, frame
from moediff.io.scans import LoadedScan, from_nibabel, from_volume, load
from moediff.model.bundle import Bundle, load_bundle

Progress = Callable[[float, str], None]
Source = Path | str | Volume | Any  # Any: a nibabel image
MAX_THREADS = 1024  # OpenMP ends the process without a word where it cannot start so many


class Enhancer:
    """A loaded model, ready for any number of scans.

    Args:
        bundle: a loaded bundle or a folder; None takes the embedded weights.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "float32", or "bfloat16" where the device is fast at it.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        BundleError: the bundle is incomplete or altered.
        ConfigError: device or dtype is unknown or absent.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str | None = None,
        *,
        device: str = "auto",
        dtype: str = "float32",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            if not 1 <= threads <= MAX_THREADS:
                raise ConfigError(f"threads is {threads}, expected 1 to {MAX_THREADS}: choose about as many as cores")
            torch.set_num_threads(threads)
        self.device, self.dtype = parse_device(device), parse_dtype(dtype)
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, self.device)

    @torch.no_grad()
    def __call__(
        self, source: Source, options: EnhanceOptions | None = None, progress: Progress | None = None
    ) -> Enhanced:
        """Enhance one scan.

        Args:
            source: a path, a nibabel image, a `Volume`, or what `load` returned.
            options: what to do; defaults suit most scans.
            progress: called with the share done (0..1) and a word.

        Returns:
            The enhanced scan with its maps and its record; nothing is written.

        Raises:
            DataError, GeometryError, InputMissing: the scan cannot be used; the message says why.
            TryAgain: memory ran out even with small tiles.
        """
        loaded = read_source(source)
        with prefix_errors(loaded.path) if loaded.path is not None else nullcontext():
            chosen = options or EnhanceOptions()
            chosen = replace(chosen, consistency=chosen.consistency and self.bundle.config.data_consistency)
            return self._enhanced(loaded, chosen, progress or (lambda share, word: None))

    def _enhanced(self, loaded: LoadedScan, options: EnhanceOptions, report: Progress) -> Enhanced:
        start = time.perf_counter()
        way = route(loaded.volume, target_grid(loaded.stored_grid, options))
        if passes_through(loaded.volume.grid, way.goal):
            return passed(loaded, way, options, self._names(), self._sidecar(loaded, way, options))
        report(0.02, "preparing")
        scan = move_if_it_fits(loaded.volume, way.near, self.device, options.memory_mb)
        prepared = prepare(scan, way.near, self.bundle.config.prepare, correct_slices=options.even_slices)
        require_head(prepared, way)
        ready = time.perf_counter()
        head = self._read(prepared, options)
        score = strangeness(head, self.bundle.config.out_of_distribution)
        prepared = replace(prepared, neighbours_NXYZ=torch.empty(0))  # the frame holds the part that is read
        scans = self._results(prepared, head, options, report)
        each = self._each(prepared, head, options, report) if options.each_expert else None
        report(0.95, "finishing")
        timings = Timings(round(ready - start, 2), round(time.perf_counter() - ready, 2))
        head = head.weights_only()
        finished = self._finish(loaded, way, prepared, head, scans, options, timings, score)
        if each is None:
            return finished
        alone = [way.scan(prepared.undo(result)).data_XYZ for result in each]
        return replace(finished, each_XYZE=torch.stack(alone, -1))

    def _autocast(self) -> torch.autocast:
        """For the network alone: what comes before and after it needs float32 (data consistency above all)."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _read(self, prepared: Prepared, options: EnhanceOptions) -> Frame:
        with self._autocast():
            return frame(self.bundle.denoiser, prepared, sparse=options.sparse)

    def _results(
        self, prepared: Prepared, head: Frame, options: EnhanceOptions, report: Progress
    ) -> tuple[Tensor, Tensor | None]:
        """The scaled result and, with several samples, their standard deviation, on the target grid."""
        faithful = options.mode == "faithful"
        count = options.samples if options.samples > 1 or not faithful else 0
        a_sample = evaluations(SAMPLERS[options.sampler], self._sigmas(options)) if count else 0
        calls, done = faithful * options.mirrors + count * a_sample, 0

        def denoised() -> None:
            nonlocal done
            report(0.1 + 0.85 * done / calls, "denoising")
            done += 1

        def denoise(x: Tensor, sigma: float) -> Tensor:
            denoised()
            return self._denoise(x, sigma, head, options)

        mean_XYZ = spread_XYZ = None
        if faithful:
            mean_XYZ, spread_XYZ = self._mean(prepared, head, options, denoised)
            config = self.bundle.config
            spread_XYZ.mul_(config.uncertainty_scale * anisotropy_ratio(prepared) ** config.anisotropy_exponent)
        total = square = first = torch.zeros(())
        for index in range(count):
            drawn = self._sample(head, denoise, options, index)
            first = first if index else drawn
            total, square = total + drawn, square + drawn.square()
        if count > 1:
            deviation = ((square - total.square() / count) / (count - 1)).clamp_min(0).sqrt()
            spread_XYZ = head.place(deviation, nothing(prepared))
        if mean_XYZ is None:
            mean_XYZ = head.place(first, nothing(prepared))
        return whole(mean_XYZ, prepared, options), spread_XYZ

    def _each(self, prepared: Prepared, head: Frame, options: EnhanceOptions, report: Progress) -> list[Tensor]:
        """The scaled result of every expert alone, on the CPU."""
        results = []
        for index, name in enumerate(self._names()):
            mean_XYZ, _ = self._mean(prepared, head, options, partial(report, 0.95, f"{name} alone"), alone=index)
            results.append(whole(mean_XYZ, prepared, options).cpu())
        return results

    def _mean(
        self,
        prepared: Prepared,
        head: Frame,
        options: EnhanceOptions,
        before_each: Callable[[], None],
        *,
        alone: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The residual's posterior mean and the absolute error to expect, on the target grid; mean over mirrors."""
        total: list[Tensor] = []
        for axes in MIRRORS[: options.mirrors]:
            before_each()
            view = self._read(flipped(prepared, axes), options) if axes else head
            view = view if alone is None else view.alone(alone)
            found = [view.place(part, nothing(prepared)) for part in self._posterior_mean(view, options)]
            found = [part.flip(axes) for part in found] if axes else found
            total = [so_far.add_(part) for so_far, part in zip(total, found, strict=True)] if total else found
        mean, error = (part.div_(options.mirrors) if options.mirrors > 1 else part for part in total)
        return mean, error

    def _posterior_mean(self, head: Frame, options: EnhanceOptions) -> tuple[Tensor, Tensor]:
        """The residual's posterior mean, and the absolute error to expect of it."""
        config = self.bundle.config
        sigma = config.diffusion.sigma_max * config.denoiser.sigma_data
        mean, error = self._denoise(
            torch.zeros_like(head.condition.interpolated_BXYZ), sigma, head, options, error=True
        )
        return mean, error

    def _sample(
        self, head: Frame, denoise: Callable[[Tensor, float], Tensor], options: EnhanceOptions, index: int
    ) -> Tensor:
        sigmas = self._sigmas(options)
        noise = torch.randn(head.shape, generator=rng_for(options.seed, "sample", index))[None].to(self.device)
        return SAMPLERS[options.sampler](denoise, noise * sigmas[0], sigmas)

    def _sigmas(self, options: EnhanceOptions) -> list[float]:
        config = self.bundle.config
        return schedule(options.steps, config.denoiser.sigma_data, config.diffusion)

    def _denoise(self, x: Tensor, sigma: float, head: Frame, options: EnhanceOptions, *, error: bool = False) -> Tensor:
        """D(x, sigma), on request with the error to expect; tiles halve when memory runs out."""
        limit = self.bundle.config.diffusion.sigma_max * self.bundle.config.denoiser.sigma_data * 0.999
        x = torch.zeros_like(x) if sigma >= limit else x  # trained on the mean of the noise there
        budget = options.memory_mb * 2**20
        while True:
            try:
                with self._autocast():
                    return denoise_tiled(self.bundle.denoiser, x, sigma, head, budget, error=error).float()
            except (RuntimeError, MemoryError) as fault:
                if not is_out_of_memory(fault):
                    raise
                if budget < 2**26:
                    raise TryAgain(
                        "memory ran out even with small tiles; close other programs or use a larger machine"
                    ) from fault
                budget //= 2

    def _finish(  # noqa: PLR0913
        self,
        loaded: LoadedScan,
        way: Route,
        prepared: Prepared,
        head: Frame,
        scans: tuple[Tensor, Tensor | None],
        options: EnhanceOptions,
        timings: Timings,
        score: float | None,
    ) -> Enhanced:
        result, spread = scans
        if not bool(torch.isfinite(result).all()):
            raise DataError("the result is not finite, expected numbers: rescale the input's intensities")
        uncertainty = None
        if spread is not None:
            plain = Volume(spread * prepared.scaling.scale, prepared.grid.affine)
            uncertainty = way.map(plain.to("cpu"))
        gap = discrepancy(result, prepared)
        sidecar = self._sidecar(loaded, way, options)
        sidecar = replace(
            sidecar,
            uncertainty=measured_uncertainty(sidecar.uncertainty, spread, prepared),
            slice_intensity=SliceIntensity.of(prepared, requested=options.even_slices),
            data_consistency=gap.summary(),
            out_of_distribution_score=score,
            timings=timings,
            warnings=(
                *loaded.warnings,
                *way.warnings(),
                *doubts(prepared),
                *uneven(prepared, asked=options.even_slices),
                *strange(score),
                *precision_warnings(self.device, self.dtype),
            ),
        )
        volume, maps = way.scan(prepared.undo(result).to("cpu")), maps_of(loaded, way, prepared, head)
        left = gap.residual().to("cpu")
        return Enhanced(volume, way.storage, maps, uncertainty, self._names(), loaded, sidecar, residual=left)

    def _sidecar(self, loaded: LoadedScan, way: Route, options: EnhanceOptions) -> Sidecar:
        where = (str(self.device), str(self.dtype).removeprefix("torch."))
        grids = loaded.stored_grid, way.storage.undo_grid(way.goal)
        return sidecar_for(self.bundle, where, grids, options)

    def _names(self) -> tuple[str, ...]:
        return self.bundle.config.denoiser.experts.regions


def nothing(prepared: Prepared) -> Tensor:
    """Zero on the whole target grid, in the room of one number."""
    return prepared.interpolated_XYZ.new_zeros(()).expand(prepared.grid.shape)


def whole(residual_XYZ: Tensor, prepared: Prepared, options: EnhanceOptions) -> Tensor:
    """The residual (overwritten) put on the interpolated scan, consistent with the measurement."""
    least = min(float(prepared.source.data_XYZ.min()), 0.0)
    result = residual_XYZ.add_(prepared.interpolated_XYZ).clamp_(min=least)
    if not options.consistency:
        return result
    return correct(result, prepared).clamp_(min=least)


def read_source(source: Source) -> LoadedScan:
    """Any accepted input as a loaded scan."""
    if isinstance(source, LoadedScan):
        return source
    if isinstance(source, Volume):
        return from_volume(source)
    if isinstance(source, Path | str):
        return load(source)
    return from_nibabel(source)
