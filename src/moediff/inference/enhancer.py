"""Enhancer: a loaded model for any number of scans; commands, validation, benchmark and report all call it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moediff.core.device import parse_device, parse_dtype
from moediff.core.errors import ConfigError, prefix_errors
from moediff.core.memory import reused_memory
from moediff.core.volume import Volume
from moediff.inference.grid_plan import GridPlan, plan_grids
from moediff.inference.guided import GUIDE_NOT_NEEDED, GuidedScan, check_guide, load_guide
from moediff.inference.options import EnhanceOptions
from moediff.inference.result import Enhanced, pass_through
from moediff.inference.session import Model, Progress, Session, no_progress, planned_sidecar
from moediff.inference.several import SeveralScans, aligned_scans, several_options
from moediff.inference.several_plan import plan_several
from moediff.io.scans import LoadedScan, from_nibabel, from_volume, load
from moediff.model.bundle import Bundle, load_bundle

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
        where, precision = parse_device(device), parse_dtype(dtype)
        self.model = Model(bundle if isinstance(bundle, Bundle) else load_bundle(bundle, where), where, precision)

    @property
    def bundle(self) -> Bundle:
        """The loaded weights with their settings."""
        return self.model.bundle

    @reused_memory()
    def __call__(
        self,
        source: Source | Sequence[Source],
        options: EnhanceOptions | None = None,
        progress: Progress | None = None,
        *,
        plan: GridPlan | None = None,
        guide: Source | None = None,
    ) -> Enhanced:
        """Enhance one scan, or several of one head and one contrast to one result.

        Args:
            source: a path, a nibabel image, a `Volume`, or what `load` returned; or a list of these.
            options: of the enhancement; defaults suit most scans.
            progress: called with the share done (0..1) and a word.
            plan: from `plan_grids`, where it was needed before; of the first scan.
            guide: a sharp scan of another contrast of the same head, for one scan of thick slices.

        Returns:
            The enhanced scan with its maps and its sidecar; nothing is written.

        Raises:
            DataError, GeometryError, InputMissing: a scan or the guide cannot be used, or several do not fit; the
                message says why.
            ConfigError: several scans or a guide, and SimpleITK is not installed; or options that do not go together.
            TryAgain: memory ran out even with small tiles.
        """
        scans, options = read_sources(source), options or EnhanceOptions()
        options = replace(options, data_consistency=options.data_consistency and self.bundle.config.data_consistency)
        if guide is not None:
            return self._guided(scans, read_guide(guide), options, progress or no_progress, plan)
        if len(scans) > 1:
            options = several_options(scans, options)
            report = progress or no_progress
            plan = plan or plan_several(scans, options)
            report(0.01, "aligning")
            aligned = aligned_scans(scans, options)
            return SeveralScans(self.model, aligned, plan, options, report).run()
        scan = scans[0]
        with prefix_errors(scan.path) if scan.path is not None else nullcontext():
            plan = plan or plan_grids(scan, options)
            if plan.pass_through:
                return pass_through(scan, plan, options, planned_sidecar(self.model, scan, plan, options))
            return Session(self.model, scan, plan, options, progress or no_progress).run()

    def _guided(
        self,
        scans: Sequence[LoadedScan],
        guide: LoadedScan,
        options: EnhanceOptions,
        progress: Progress,
        plan: GridPlan | None,
    ) -> Enhanced:
        """One scan with a guide."""
        scan = scans[0]
        with prefix_errors(scan.path) if scan.path is not None else nullcontext():
            plan = plan or plan_grids(scan, options)
        check_guide(scans, guide, plan, options)
        if plan.pass_through:
            result = pass_through(scan, plan, options, planned_sidecar(self.model, scan, plan, options))
            warnings = (*result.sidecar.warnings, GUIDE_NOT_NEEDED)
            return replace(result, sidecar=replace(result.sidecar, warnings=warnings))
        with prefix_errors(scan.path) if scan.path is not None else nullcontext():
            return GuidedScan(self.model, scan, guide, plan, options, progress).run()


def read_sources(source: Source | Sequence[Source]) -> list[LoadedScan]:
    """One input or several as loaded scans.

    Raises:
        ConfigError: an empty list.
    """
    sources = list(source) if isinstance(source, list | tuple) else [source]
    if not sources:
        raise ConfigError("no scan was given, expected one or several of one head: name their files")
    return [read_source(one) for one in sources]


def read_guide(source: Source) -> LoadedScan:
    """Any accepted guide as a loaded scan; messages about its file call it the guide.

    Raises:
        MoeDiffError: see `load`.
    """
    return load_guide(Path(source)) if isinstance(source, Path | str) else read_source(source)


def read_source(source: Source) -> LoadedScan:
    """Any accepted input as a loaded scan."""
    if isinstance(source, LoadedScan):
        return source
    if isinstance(source, Volume):
        return from_volume(source)
    if isinstance(source, Path | str):
        return load(source)
    return from_nibabel(source)
