"""Enhancer: a loaded model for any number of scans; commands, validation, benchmark and report all call it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moediff.core.device import parse_device, parse_dtype
from moediff.core.errors import ConfigError, prefix_errors
from moediff.core.volume import Volume
from moediff.inference.grid_plan import GridPlan, plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.inference.result import Enhanced, pass_through
from moediff.inference.session import Model, Progress, Session, no_progress, planned_sidecar
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

    def __call__(
        self,
        source: Source,
        options: EnhanceOptions | None = None,
        progress: Progress | None = None,
        *,
        plan: GridPlan | None = None,
    ) -> Enhanced:
        """Enhance one scan.

        Args:
            source: a path, a nibabel image, a `Volume`, or what `load` returned.
            options: of the enhancement; defaults suit most scans.
            progress: called with the share done (0..1) and a word.
            plan: from `plan_grids`, where it was needed before.

        Returns:
            The enhanced scan with its maps and its sidecar; nothing is written.

        Raises:
            DataError, GeometryError, InputMissing: the scan cannot be used; the message says why.
            TryAgain: memory ran out even with small tiles.
        """
        scan, options = read_source(source), options or EnhanceOptions()
        options = replace(options, data_consistency=options.data_consistency and self.bundle.config.data_consistency)
        with prefix_errors(scan.path) if scan.path is not None else nullcontext():
            plan = plan or plan_grids(scan, options)
            if plan.pass_through:
                return pass_through(scan, plan, options, planned_sidecar(self.model, scan, plan, options))
            return Session(self.model, scan, plan, options, progress or no_progress).run()


def read_source(source: Source) -> LoadedScan:
    """Any accepted input as a loaded scan."""
    if isinstance(source, LoadedScan):
        return source
    if isinstance(source, Volume):
        return from_volume(source)
    if isinstance(source, Path | str):
        return load(source)
    return from_nibabel(source)
