"""Dry run: what a request would do, said without running the network."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.core.errors import DataError
from moediff.core.volume import Grid
from moediff.inference.grid_plan import GridPlan, coarser_warnings, plan_grids
from moediff.inference.guided import GUIDE_NOT_NEEDED, guide_warnings
from moediff.inference.memory_estimate import peak_mib_of
from moediff.inference.quality_checks import (
    require_foreground,
    sample_warnings,
    scan_warnings,
    slice_intensity_warnings,
)
from moediff.inference.result import PASSED_THROUGH
from moediff.inference.run import EnhanceRequest, PlannedScan
from moediff.model.bundle import BundleConfig


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What --dry-run prints: both grids, memory at its peak, files to write, and warnings known before any work.

    `input` is the shape of the scan, of several that of the first; `inputs` are all shapes, `guide` is the guide's.
    """

    input: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    guide: tuple[int, ...] | None
    output: tuple[int, ...]
    output_spacing_mm: tuple[float, ...]
    peak_memory_mib: int
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def dry_run(request: EnhanceRequest, config: BundleConfig) -> DryRun:
    """Refuse as a run does, and describe it.

    Args:
        request: what to read, do and write.
        config: of the weights that would do it.

    Raises:
        CannotCreate, ConfigError, DataError, GeometryError, InputMissing: as the run would.
    """
    planned = request.planned
    request.check_outputs()
    scan, plan = planned.scan, planned.plan
    return DryRun(
        input=scan.stored_grid.shape,
        inputs=tuple(one.stored_grid.shape for one in planned.scans),
        guide=None if planned.guide is None else planned.guide.stored_grid.shape,
        output=plan.stored_target.shape,
        output_spacing_mm=tuple(round(s, 4) for s in plan.stored_target.spacing_mm),
        peak_memory_mib=peak_mib_of(plans_of(planned), planned.options, config.denoiser, guide=guide_grid(planned)),
        files=tuple(str(path) for path in request.outputs.every()),
        warnings=(
            *(note for one in planned.scans for note in one.warnings),
            *guide_warnings(planned.guide),
            *plan.warnings,
            *_warnings_ahead(planned, config.prepare),
        ),
    )


def guide_grid(planned: PlannedScan) -> Grid | None:
    """Of the guide, where there is one and it would be used."""
    return None if planned.guide is None or planned.plan.pass_through else planned.guide.volume.grid


def plans_of(planned: PlannedScan) -> list[GridPlan]:
    """Of all scans, each as its header places it; where that is off the result's grid, as large as the first."""
    plans, common = [planned.plan], replace(planned.options, like=planned.plan.working, voxel_size=None)
    for scan in planned.scans[1:]:
        with suppress(DataError):
            plans.append(plan_grids(scan, common, one_of_several=True))
    return plans + [planned.plan] * (len(planned.scans) - len(plans))


def _warnings_ahead(planned: PlannedScan, settings: PrepareSettings) -> list[str]:
    """What a run would warn of before its network works."""
    plan, options = planned.plan, planned.options
    if plan.pass_through:
        unused = [GUIDE_NOT_NEEDED] if planned.guide is not None else []
        return unused + ([] if coarser_warnings(plan.source, plan.target) else [PASSED_THROUGH])
    prepared = prepare(
        planned.scan.volume,
        plan.working,
        settings,
        correct_slices=options.correct_slice_intensity,
        sampling=plan.sampling or ("spectrum" if options.estimate_sampling else None),
    )
    require_foreground(prepared, plan)
    return [
        *scan_warnings(prepared),
        *slice_intensity_warnings(prepared, requested=options.correct_slice_intensity),
        *sample_warnings(options, one_of_several=plan.one_of_several),
    ]
