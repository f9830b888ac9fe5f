"""A sharp scan of another contrast as guide: placed in the thick scan, and asked for detail where edges agree.

The thick scan goes its usual way (`Session`). The guide is registered to the result, acquired by the same forward
model, and enhanced by the same network on the same grid; `acquisition.guided_detail` says what it then adds.

Axes: X Y Z voxels of the working grid (RAS+).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from moediff.acquisition.guided_detail import guided_detail
from moediff.acquisition.operators import assumed_sampling
from moediff.core.errors import ConfigError, DataError, MoeDiffError, prefix_errors, printable
from moediff.core.geometry import (
    band_limit,
    coarsest_axis,
    crop,
    field_of_view_mask,
    positions_along,
    resample,
)
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.inference.grid_plan import GridPlan, plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.inference.result import Enhanced, GuideShare
from moediff.inference.session import Model, NetworkOutput, Progress, Session
from moediff.inference.sidecar_parts import GridRecord, GuideRecord
from moediff.io.label_check import require_intensities
from moediff.io.scans import LoadedScan, from_volume, load
from moediff.io.voxels import without_outliers
from moediff.registration.across_contrasts import Placement, place_guide
from moediff.registration.mutual_information import require_registration
from moediff.registration.rigid import grid_centre_mm

FINER = 0.6  # of the slices' distance: as large as the guide's voxels may be along it
TOP_EXPONENT = 10  # the bright end of a guide is brought between 2^9 and 2^10
GUIDE_NOT_NEEDED = "the guide changed nothing: the scan was passed through"
OPTIONS_OF_SCANS = re.compile(r"--(series|trust)(?![-\w])")  # in messages; the guide has its own
NOT_A_SCAN = "name a sharp scan of the same head, or give `--trust-intensities` if these are intensities"


def load_guide(path: Path, *, trust: str | None = None, series: str | None = None) -> LoadedScan:
    """Load a guide; choices that `load` would offer for a scan are those of the guide.

    Args:
        trust, series: as in `load`.

    Raises:
        MoeDiffError: see `load`.
    """
    try:
        return load(path, trust=trust, series=series)
    except MoeDiffError as error:
        text = str(error)
        if "--volume" in text:
            text = f"{text[: text.index(': choose one')]}: name a guide of one volume"
        raise type(error)("the guide " + OPTIONS_OF_SCANS.sub(r"--guide-\1", text)) from error


def name_of(guide: LoadedScan) -> str:
    """For records and messages."""
    return guide.stem or (guide.path.name if guide.path is not None else "a guide in memory")


def guide_warnings(guide: LoadedScan | None) -> list[str]:
    """What reading it said."""
    return [] if guide is None else [f"the guide {printable(name_of(guide))}: {note}" for note in guide.warnings]


def check_guide(scans: Sequence[LoadedScan], guide: LoadedScan, plan: GridPlan, options: EnhanceOptions) -> None:
    """Refuse a guide that cannot help, before any long work.

    Args:
        scans: what is enhanced; a guide helps one.
        guide: as loaded.
        plan: of the scan.
        options: of the enhancement.

    Raises:
        ConfigError: options that do not go with a guide, or SimpleITK is not installed.
        DataError: it is no scan, the scan itself, or too coarse; or the scan has no thick slices.
    """
    if len(scans) > 1:
        raise ConfigError(
            f"--guide helps one thick scan, {len(scans)} were given: leave it out, or name the thickest scan alone"
        )
    if options.mode == "detail":
        raise ConfigError("--guide corrects the posterior mean, --mode detail draws a sample: leave one of the two out")
    if options.single_experts:
        raise ConfigError(
            "--single-experts and --differences show what the network alone does, --guide adds to it: leave one out"
        )
    if options.align:
        require_registration()
    with prefix_errors(f"the guide {printable(name_of(guide))}"):
        if not options.trust_intensities:
            require_intensities(guide, NOT_A_SCAN)
        _check_other(scans[0], guide)
        if not plan.pass_through:
            _check_thick(plan)
            _check_finer(plan.source, guide.volume.grid)


def _check_other(scan: LoadedScan, guide: LoadedScan) -> None:
    own, other = scan.volume, guide.volume
    if own.shape == other.shape and torch.equal(own.data_XYZ, other.data_XYZ):
        raise DataError("it holds the same voxels as the scan, expected a sharp scan of another contrast: name that")


def _check_thick(plan: GridPlan) -> None:
    positions = positions_along(plan.source, plan.working)
    spacing_mm = plan.source.spacing_mm
    if assumed_sampling(positions, spacing_mm)[coarsest_axis(spacing_mm)].method != "gaussian":
        sizes = " x ".join(f"{size:.3g}" for size in spacing_mm)
        raise DataError(
            f"the scan's voxels of {sizes} mm are no thick slices, for which alone a guide was tested: leave it out"
        )


def _check_finer(scan: Grid, guide: Grid) -> None:
    """Refuse a guide that is not much sharper across the scan's slices."""
    axis = coarsest_axis(scan.spacing_mm)
    across = scan.affine[:3, axis] / scan.spacing_mm[axis]
    size = float((guide.affine[:3, :3].T @ across).norm())  # of its voxel, along that direction
    if size > FINER * scan.spacing_mm[axis]:
        raise DataError(
            f"its voxels measure {size:.3g} mm across the scan's slices of {scan.spacing_mm[axis]:.3g} mm, expected at "
            f"most {FINER * scan.spacing_mm[axis]:.3g}: it adds nothing there, name a sharper scan"
        )


class GuidedScan:
    """A thick scan and its guide on their way to one result; `run` enhances it.

    Args:
        model: the network.
        scan, guide: as loaded, after `check_guide`.
        plan: of the scan.
        options: after the weights' own restrictions.
        progress: called with the share done (0..1) and a word.
    """

    def __init__(
        self,
        model: Model,
        scan: LoadedScan,
        guide: LoadedScan,
        plan: GridPlan,
        options: EnhanceOptions,
        progress: Progress,
    ) -> None:
        self.model, self.scan, self.guide, self.options, self.progress = model, scan, guide, options, progress
        self.session = Session(model, scan, plan, options, self._part(0))
        self.grid, self.prepared = self.session.prepared.grid, self.session.prepared

    @torch.no_grad()
    def run(self) -> Enhanced:
        """Enhance the scan and correct it by the guide; where the guide does not fit, a warning says so instead.

        Raises:
            DataError: no head, or the result is not finite.
            TryAgain: memory ran out even with small tiles.
        """
        output = self.session.run_network()
        self.progress(0.5, "placing the guide")
        sharp = self.guide.volume.with_data(_usual(self.guide.volume.data_XYZ))
        enhanced = Volume(output.result_XYZ.cpu(), self.grid.affine)
        inside_XYZ = self.prepared.mask_XYZ.cpu() > 0
        placement = place_guide(self.scan.volume, enhanced, inside_XYZ, sharp, registered=self.options.align)
        change_XYZ = torch.zeros_like(enhanced.data_XYZ)
        if placement.misfit is None:
            change_XYZ = self._correction(enhanced.data_XYZ, placement.transform.placed_volume(sharp))
        return self._finished(output, change_XYZ, placement)

    def _part(self, half: int) -> Progress:
        """Progress of the scan, then of the guide."""

        def report(share: float, word: str) -> None:
            self.progress(0.02 + 0.46 * (half + share), f"{word} {half + 1}/2")

        return report

    def _correction(self, enhanced_XYZ: Tensor, placed: Volume) -> Tensor:
        """What the guide adds, scaled as the scan is."""
        guide = resample(band_limit(placed, self.grid), self.grid)
        again_XYZ = self._enhanced_alike(guide, min(float(placed.data_XYZ.min()), 0.0))
        seen_XYZ = field_of_view_mask(placed.grid, self.grid)
        return guided_detail(enhanced_XYZ, guide.data_XYZ, again_XYZ, self.prepared, seen_XYZ)

    def _enhanced_alike(self, guide: Volume, least: float) -> Tensor:
        """The guide acquired as the scan was, without noise, and enhanced as it was; in the guide's intensities.

        Args:
            guide: on the working grid.
            least: its least intensity as measured, at most 0; it stands for air, whose intensity is 0 in a scan.
        """
        source, reached = self.prepared.source, self.prepared.reached
        lifted_XYZ = (guide.data_XYZ - least).to(source.data_XYZ.device)
        acquired = source.with_data(self.prepared.acquisition.apply(lifted_XYZ))
        part = crop(acquired, [r.start for r in reached], [r.stop - r.start for r in reached])
        scan = from_volume(part.with_data(part.data_XYZ.clamp_min(0)))
        options = replace(
            self.options,
            like=self.grid,
            voxel_size=None,
            profile=None,
            slice_thickness=None,
            estimate_sampling=False,
            samples=1,
            correct_slice_intensity=False,
            trust_intensities=True,
        )
        plan = replace(plan_grids(scan, options), sampling=self.prepared.sampling)
        session = Session(self.model, scan, plan, options, self._part(1))
        result = session.prepared.undo(session.run_network().result_XYZ).to("cpu")
        return plan.scan_to_target(result).data_XYZ + least

    def _finished(self, output: NetworkOutput, change_XYZ: Tensor, placement: Placement) -> Enhanced:
        """The corrected result with its records."""
        self.progress(0.95, "finishing")
        prepared, plan = self.prepared, self.session.plan
        least = min(float(prepared.source.data_XYZ.min()), 0.0)
        corrected = output.result_XYZ.add_(change_XYZ.to(output.result_XYZ)).clamp_(min=least)
        result = self.session.finish(replace(output, result_XYZ=corrected))
        inside_XYZ = prepared.mask_XYZ.cpu() > 0
        rms = float(change_XYZ[inside_XYZ].square().mean().sqrt()) if bool(inside_XYZ.any()) else 0.0
        record = _record(self.guide, placement, self.grid)
        record = replace(record, change_over_range=round(rms / max(quantile(prepared.source.data_XYZ, 0.999), 1e-6), 5))
        change = plan.map_to_target(Volume(change_XYZ * prepared.scaling.scale, self.grid.affine))
        used = placement.misfit is None
        placed = placement.transform.placed_volume(self.guide.volume)
        share = GuideShare(name_of(self.guide), placed, change.data_XYZ, self.guide.origin) if used else None
        notes = guide_warnings(self.guide)
        if not used:
            notes.append(f"the guide {printable(record.name)} was not used: {placement.misfit}")
        sidecar = replace(result.sidecar, guide=record, warnings=(*result.sidecar.warnings, *notes))
        return replace(result, guide=share, sidecar=sidecar)


def _usual(data_XYZ: Tensor) -> Tensor:
    """A guide without outliers, about as bright as scans are: next to least edges, tiny numbers would not count.

    By a power of two, which rounds nothing.
    """
    data_XYZ = without_outliers(data_XYZ)
    exponent = TOP_EXPONENT - math.frexp(quantile(data_XYZ.abs(), 0.999))[1]
    return torch.ldexp(data_XYZ, torch.tensor(exponent)) if exponent else data_XYZ


def _record(guide: LoadedScan, placement: Placement, grid: Grid) -> GuideRecord:
    transform = placement.transform
    return GuideRecord(
        name=name_of(guide),
        input=GridRecord.of(guide.stored_grid),
        transform=transform.rows,
        rotation_deg=round(transform.angle_deg, 3),
        displacement_mm=round(transform.displacement_mm(grid_centre_mm(grid)), 3),
        apart_mm=None if placement.apart_mm is None else round(placement.apart_mm, 3),
        agreement=round(placement.agreement, 4),
        not_used=placement.misfit,
    )
