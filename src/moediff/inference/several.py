"""Several scans of one head become one: aligned, enhanced one by one, and combined in one least-squares step.

Every scan goes its usual way (`Session`), on voxels parallel to its own. The first one's working grid is the common
grid; there, `acquisition.combine` joins what the scans say, and the first scan's session finishes the result.

Axes: X Y Z voxels of the common grid (RAS+), or of a scan's where it says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from moediff.acquisition.combine import Measurement, consistent, weighted_mean
from moediff.acquisition.data_consistency import magnitude_residual
from moediff.core.errors import ConfigError, DataError, prefix_errors, printable
from moediff.core.geometry import RAS, canonicalise, default_spacing, field_of_view_mask, ras_axes
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.inference.grid_plan import GridPlan, plan_grids
from moediff.inference.local_trust import is_doubted, with_local_trust
from moediff.inference.options import EnhanceOptions
from moediff.inference.result import Enhanced, ScanShare
from moediff.inference.session import Model, NetworkOutput, Progress, Session
from moediff.inference.sidecar import ScanRecord, Uncertainty
from moediff.inference.sidecar_parts import GridRecord
from moediff.inference.slice_trust import slice_trust, trust_on_common
from moediff.io.scans import LoadedScan
from moediff.registration.align import Alignment, align
from moediff.registration.mutual_information import require_registration
from moediff.registration.rigid import grid_centre_mm

LEAST_SCANS = 2
SECOND_ROUND = 0.5  # of the start's deviation: what a first round of least squares left of its error (LOG.md)
LEAST_DEVIATION = 2e-3  # scaled; no voxel of any scan is more certain
PLAIN_DEVIATION = 0.04  # scaled; of a single sample, whose error is not predicted
DOUBTFUL_MM = 0.3  # predicted error of registration, from which a warning follows
UNEXPLAINED = 4.0  # times a scan's noise and times the other scans' residual, from which a warning follows
# Variance after the step: of the start, of how far the scans' own results differ, and the start's mean in the head, all
# times what the spectrum says is left and a little more. Fitted on crops of two training persons and four designs,
# whose 90 % intervals of the combination then hold 93 to 97 % (single scans 94 %; LOG.md, 2026-11-30).
LEFT_FACTOR, SPREAD_FACTOR, MEAN_FACTOR, LEAST_LEFT = 1.2, 0.7, 0.3, 0.06
CALIBRATED = "predicted standard deviation of the combination of several scans, calibrated on training persons"
NOT_CALIBRATED = "standard deviation of the combination of several scans, not calibrated"


def several_options(scans: Sequence[LoadedScan], options: EnhanceOptions) -> EnhanceOptions:
    """Options with the finest voxel size that the scans support together, unless one or a grid was requested.

    Raises:
        ConfigError: a profile for every axis of one file.
    """
    if options.profile is not None and len(options.profile) > 1:
        raise ConfigError(
            f"--profile has {len(options.profile)} values for {len(scans)} scans, expected one for the coarse axes of "
            "all: give one, or leave it out"
        )
    if options.voxel_size is not None or options.like is not None:
        return options
    first = scans[0].stored_grid
    sizes = list(default_spacing(first.spacing_mm))
    for scan in scans[1:]:
        own = _along(first, scan.stored_grid)
        sizes = [min(size, other) for size, other in zip(sizes, own, strict=True)]
    return replace(options, voxel_size=tuple(max(round(size, 5), 0.2) for size in sizes))


def _along(first: Grid, other: Grid) -> list[float]:
    """Voxel size of another grid along the axes of the first."""
    mine, theirs = ras_axes(first.affine)[0], ras_axes(other.affine)[0]
    sizes = [0.0] * 3
    for world in range(3):
        sizes[mine[world]] = other.spacing_mm[theirs[world]]
    return sizes


@dataclass(frozen=True)
class AlignedScan:
    """One scan of several in the common frame.

    Args:
        scan: as loaded.
        placed: in the frame and with the intensities of the first, RAS+.
        alignment: how it came there.
    """

    scan: LoadedScan
    placed: LoadedScan
    alignment: Alignment

    @property
    def name(self) -> str:
        """For records and messages."""
        return self.scan.stem or (self.scan.path.name if self.scan.path is not None else "a scan in memory")


def aligned_scans(scans: Sequence[LoadedScan], options: EnhanceOptions) -> list[AlignedScan]:
    """Every scan in the frame of the first; those that do not fit say so in their alignment.

    Raises:
        ConfigError: SimpleITK is not installed.
        DataError: fewer than two scans fit together, or the first does not fit.
    """
    if options.align:
        require_registration()
    alignments = align([scan.volume for scan in scans], register_them=options.align)
    alignments = [
        replace(a, misfit=_repeated(scans, index) or a.misfit) if index else a for index, a in enumerate(alignments)
    ]
    result: list[AlignedScan] = []
    for scan, alignment in zip(scans, alignments, strict=True):
        placed = scan
        if result:
            volume, _ = canonicalise(alignment.matched(scan.volume))
            placed = replace(scan, volume=volume, storage=RAS)
        result.append(AlignedScan(scan, placed, alignment))
    _require_fit(result)
    return result


def _require_fit(scans: Sequence[AlignedScan]) -> None:
    """Refuse fewer than two scans that fit, or a first scan that does not.

    Raises:
        DataError: so it is.
    """
    fit = [one for one in scans if one.alignment.misfit is None]
    if len(fit) < LEAST_SCANS:
        misfits = "; ".join(f"{printable(one.name)}: {one.alignment.misfit}" for one in scans if one.alignment.misfit)
        raise DataError(
            f"fewer than two scans fit together ({misfits}), expected scans of one head and one contrast: "
            "leave out what does not fit, or enhance each by itself"
        )
    first = scans[0]
    if first.alignment.misfit is not None:
        raise DataError(
            f"the first scan gives the frame of the result and does not fit the others ({printable(first.name)}: "
            f"{first.alignment.misfit}): name {printable(fit[0].name)} first, or leave it out"
        )


def _repeated(scans: Sequence[LoadedScan], index: int) -> str | None:
    """Whether the same voxels came earlier in the list."""
    own = scans[index].volume
    for earlier in scans[:index]:
        other = earlier.volume
        if own.shape == other.shape and torch.equal(own.data_XYZ, other.data_XYZ):
            return "it holds the same voxels as a scan before it, which would count twice"
    return None


@dataclass(frozen=True)
class Estimate:
    """What one scan says by itself, on the common grid and the first scan's scale.

    Args:
        mean_XYZ, precision_XYZ: its result and one over its variance; no precision where it measured nothing.
        measurement: its samples.
        top: its intensity range.
    """

    mean_XYZ: Tensor
    precision_XYZ: Tensor
    measurement: Measurement
    top: float


class SeveralScans:
    """Several scans of one head on their way to one result; `run` combines them.

    Args:
        model: the network.
        scans: from `aligned_scans`; the first gives frame, order of axes and intensities.
        plan: of the first scan.
        options: from `several_options`.
        progress: called with the share done (0..1) and a word.
    """

    def __init__(
        self,
        model: Model,
        scans: Sequence[AlignedScan],
        plan: GridPlan,
        options: EnhanceOptions,
        progress: Progress,
    ) -> None:
        self.model, self.plan, self.options, self.progress = model, plan, options, progress
        self.scans = scans
        # In an order that does not depend on theirs, so that sums do not either.
        self.used = sorted((one for one in scans if one.alignment.misfit is None), key=lambda one: one.alignment.rank)
        self.common = plan.working

    def run(self) -> Enhanced:
        """Enhance every scan, combine them, and finish as for one scan.

        Raises:
            DataError: no head, or the result is not finite.
            TryAgain: memory ran out even with small tiles.
        """
        return self.join(self.estimates())

    @torch.no_grad()
    def estimates(self) -> list[Estimate]:
        """What every scan that takes part says by itself.

        Raises:
            DataError, TryAgain: see `run`.
        """
        estimates, self.notes = [], []
        for index, one in enumerate(self.used):
            if one is self.scans[0]:
                output = self.first.run_network()
                self.output = replace(output, deviation_XYZ=None)  # only its gate and score are read again
                estimates.append(self._estimate(self.first, output))
                continue
            with prefix_errors(printable(one.name)):
                session = self._session(one, index)
                output = session.run_network()
                estimates.append(self._estimate(session, output))
                notes = (*one.scan.warnings, *session.plan.notes, *session.noticed(output.score))
                self.notes += [f"{printable(one.name)}: {note}" for note in notes]
                del session, output
        return estimates

    @torch.no_grad()
    def join(self, estimates: Sequence[Estimate]) -> Enhanced:
        """Combine what the scans say.

        Args:
            estimates: from `estimates`.

        Raises:
            DataError: the result is not finite.
        """
        self.progress(0.9, "combining")
        estimates = _doubted(estimates)
        joined = self._combine(estimates)
        output = replace(self.output, result_XYZ=joined[0], deviation_XYZ=joined[1])
        return self._with_records(self.first.finish(output), estimates, joined[0])

    @cached_property
    def first(self) -> Session:
        """Of the first scan, which gives frame and scale."""
        number = next(index for index, one in enumerate(self.used) if one is self.scans[0])
        return Session(self.model, self.scans[0].placed, self.plan, self.options, self._part(number))

    def _uncertainty(self, measured: Uncertainty) -> Uncertainty:
        """What the standard deviation is, for the record."""
        options = self.options
        plain = options.mode == "faithful" and options.samples == 1 and options.data_consistency
        kind: Literal["predicted", "samples"] = "samples" if options.samples > 1 else "predicted"
        return replace(measured, kind=kind, description=CALIBRATED if plain else NOT_CALIBRATED)

    def _part(self, index: int) -> Progress:
        """Progress of one scan among all."""
        count = len(self.used)

        def report(share: float, word: str) -> None:
            self.progress(0.05 + 0.85 * (index + share) / count, f"{word} {index + 1}/{count}")

        return report

    def _session(self, one: AlignedScan, index: int) -> Session:
        options = replace(self.options, like=self.common, voxel_size=None, single_experts=False)
        return Session(
            self.model, one.placed, plan_grids(one.placed, options, one_of_several=True), options, self._part(index)
        )

    def _estimate(self, session: Session, output: NetworkOutput) -> Estimate:
        """Bring a scan's own result to the common grid and to the first scan's scale."""
        own, scaling = session.prepared, self.first.prepared.scaling
        ratio = own.scaling.scale / scaling.scale
        mean_XYZ, mask_XYZ = output.result_XYZ, own.mask_XYZ.float()
        deviation_XYZ = output.deviation_XYZ
        if deviation_XYZ is None:
            deviation_XYZ = torch.full_like(mean_XYZ, PLAIN_DEVIATION)
        deviation_XYZ = deviation_XYZ.clamp_min(LEAST_DEVIATION)
        if session is not self.first:
            plan, affine = session.plan, own.grid.affine
            mean_XYZ = scaling.apply(plan.scan_to_target(own.undo(mean_XYZ).to("cpu")).data_XYZ)
            deviation_XYZ = plan.map_to_target(Volume(deviation_XYZ.cpu(), affine)).data_XYZ * ratio
            mask_XYZ = plan.map_to_target(Volume(mask_XYZ.cpu(), affine)).data_XYZ
        seen_XYZ = field_of_view_mask(session.scan.volume.grid, self.common)
        precision_XYZ = deviation_XYZ.cpu().clamp_min(LEAST_DEVIATION) ** -2 * (seen_XYZ & (mask_XYZ.cpu() > 0.5))
        samples = scaling.apply(own.scaling.undo(own.source.data_XYZ)).cpu()
        measurement = Measurement(
            Volume(samples, own.source.affine), own.noise * ratio, self.common, sampling=own.sampling
        )
        return Estimate(mean_XYZ.cpu(), precision_XYZ, measurement, max(quantile(samples, 0.999), 1e-6))

    def _combine(self, estimates: Sequence[Estimate]) -> tuple[Tensor, Tensor]:
        """Result and standard deviation, scaled, on the common grid."""
        means, precisions = [e.mean_XYZ for e in estimates], [e.precision_XYZ for e in estimates]
        mean_XYZ, precision_XYZ = weighted_mean(means, precisions)
        deviation_XYZ = torch.where(precision_XYZ > 0, precision_XYZ.clamp_min(1e-12).rsqrt(), 0.0)
        deviation_XYZ *= self.first.prepared.mask_XYZ.cpu()
        spread_XYZ = _spread(means, precisions, mean_XYZ)
        left: Tensor | float = 1.0
        if self.options.data_consistency:
            mean_XYZ, left = _updated(mean_XYZ, deviation_XYZ, [e.measurement for e in estimates])
        least = min(float(self.first.prepared.source.data_XYZ.min()), 0.0)
        inside = deviation_XYZ > 0
        mean = float(deviation_XYZ[inside].square().mean()) if bool(inside.any()) else 0.0
        variance = LEFT_FACTOR * deviation_XYZ.square() + SPREAD_FACTOR * spread_XYZ + MEAN_FACTOR * mean
        return mean_XYZ.clamp_(min=least), (left * variance).sqrt() * inside

    def _with_records(self, result: Enhanced, estimates: Sequence[Estimate], joined_XYZ: Tensor) -> Enhanced:
        """The result with what each scan gave to it, and warnings about those that do not fit."""
        total = sum((e.precision_XYZ for e in estimates[1:]), estimates[0].precision_XYZ).clamp_min(1e-12)
        inside = total > 1e-9
        scale, shares, records = self.first.prepared.scaling.scale, [], []
        by_scan = dict(zip((id(one) for one in self.used), estimates, strict=True))
        for one in self.scans:
            record, estimate = _planned_record(one), by_scan.get(id(one))
            share = ScanShare(one.name, one.placed.volume, origin=one.scan.origin)
            if estimate is not None:
                measurement = estimate.measurement
                again_XYZ, weight_XYZ = measurement.acquired(joined_XYZ), estimate.precision_XYZ / total
                gap = measurement.gap_to(again_XYZ)
                tissue = measurement.covered_XYZ & (measurement.scan.data_XYZ > 0.05 * estimate.top)
                rms = float(gap[tissue].square().mean().sqrt()) if bool(tissue.any()) else 0.0
                record = replace(
                    record,
                    residual_over_range=round(rms / estimate.top, 5),
                    noise_over_range=round(measurement.noise / estimate.top, 5),
                    weight=round(float(weight_XYZ[inside].mean()), 4) if bool(inside.any()) else 0.0,
                    doubted_slices=_doubted_slices(measurement),
                    sampling=_sampling_codes(measurement),
                )
                on_target = self.plan.map_to_target(Volume(weight_XYZ, self.common.affine)).data_XYZ
                residual = Volume(magnitude_residual(gap, again_XYZ < 0) * scale, measurement.scan.affine)
                share = replace(share, weight_XYZ=on_target, residual=residual)
            shares.append(share)
            records.append(record)
        known = result.sidecar.warnings  # of the first scan; what others share with it is not said again
        others = [note for note in self.notes if not note.endswith(tuple(f": {one}" for one in known))]
        warnings = (*known, *others, *_scan_warnings(records), *_study_warnings(self.scans))
        return replace(
            result,
            scans=tuple(shares),
            sidecar=replace(
                result.sidecar,
                scans=tuple(records),
                uncertainty=self._uncertainty(result.sidecar.uncertainty),
                warnings=warnings,
            ),
        )


def _updated(
    mean_XYZ: Tensor, deviation_XYZ: Tensor, measurements: Sequence[Measurement]
) -> tuple[Tensor, Tensor | float]:
    """The mean made consistent with all scans, in two rounds, and the share of its variance that is left."""
    step = consistent(mean_XYZ, deviation_XYZ, measurements)
    trusted = [with_local_trust(one, step.result_XYZ) for one in measurements]
    left: Tensor | float = min(step.variance_left + LEAST_LEFT, 1.0)
    if any(map(is_doubted, trusted)):  # what was fitted to contradictions must not be the start
        step = consistent(mean_XYZ, deviation_XYZ, trusted)
        trust = [trust_on_common(m.weight_XYZ, m.scan.grid, m.common) for m in trusted if m.weight_XYZ is not None]
        left = 1 - (1 - left) * sum(trust[1:], start=trust[0]) / len(trust)
    return consistent(step.result_XYZ, SECOND_ROUND * deviation_XYZ, trusted).result_XYZ, left


def _spread(means: Sequence[Tensor], precisions: Sequence[Tensor], mean_XYZ: Tensor) -> Tensor:
    """Weighted variance of the scans' own results about their mean."""
    total, spread = torch.zeros_like(mean_XYZ), torch.zeros_like(mean_XYZ)
    for own, precision in zip(means, precisions, strict=True):
        spread += precision * (own - mean_XYZ).square()
        total += precision
    return spread / total.clamp_min(1e-12)


def _doubted(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Estimates with less weight for slices that contradict what the other scans say."""
    result = []
    for index, estimate in enumerate(estimates):
        others = [e for other, e in enumerate(estimates) if other != index]
        mean_XYZ, precision_XYZ = weighted_mean([e.mean_XYZ for e in others], [e.precision_XYZ for e in others])
        trust_XYZ, on_common = slice_trust(estimate.measurement, mean_XYZ, precision_XYZ > 0)
        if trust_XYZ is not None and on_common is not None:
            measurement = replace(estimate.measurement, weight_XYZ=trust_XYZ)
            estimate = replace(estimate, measurement=measurement, precision_XYZ=estimate.precision_XYZ * on_common)
        result.append(estimate)
    return result


def _doubted_slices(measurement: Measurement) -> tuple[int, ...]:
    if measurement.weight_XYZ is None:
        return ()
    axis = max(range(3), key=lambda a: measurement.scan.spacing_mm[a])
    lowest = measurement.weight_XYZ.amin([a for a in range(3) if a != axis])
    return tuple((lowest < 0.999).nonzero()[:, 0].tolist())


def _sampling_codes(measurement: Measurement) -> tuple[str, str, str] | None:
    if measurement.sampling is None:
        return None
    x, y, z = (axis.code for axis in measurement.sampling)
    return x, y, z


def _planned_record(one: AlignedScan) -> ScanRecord:
    """What alignment alone says."""
    alignment = one.alignment
    agreement = alignment.agreement
    return ScanRecord(
        name=one.name,
        input=GridRecord.of(one.scan.stored_grid),
        transform=alignment.transform.rows,
        rotation_deg=round(alignment.transform.angle_deg, 3),
        displacement_mm=round(alignment.transform.displacement_mm(grid_centre_mm(one.placed.volume.grid)), 3),
        uncertain_mm=round(alignment.uncertain_mm, 3) if math.isfinite(alignment.uncertain_mm) else None,
        mismatch=None if agreement is None else round(agreement.motion.mismatch, 4),
        gain=round(alignment.gain, 5),
        left_out=alignment.misfit,
    )


def _study_warnings(scans: Sequence[AlignedScan]) -> list[str]:
    """A sentence where DICOM series come from several studies."""
    studies = {one.scan.origin.study for one in scans if one.scan.origin is not None and one.alignment.misfit is None}
    if len(studies) < 2:
        return []
    return [f"the DICOM inputs are of {len(studies)} studies: the head may have changed between them"]


def _scan_warnings(records: Sequence[ScanRecord]) -> list[str]:
    """A sentence for every scan that was left out or does not fit as well as the others."""
    notes = [f"{printable(r.name)} was left out: {r.left_out}" for r in records if r.left_out]
    used = [r for r in records if r.left_out is None]
    for record in used:
        rms, noise = record.residual_over_range or 0.0, record.noise_over_range or 0.0
        others = min((r.residual_over_range or 0.0) for r in used if r is not record)
        if rms > UNEXPLAINED * max(noise, others):
            notes.append(
                f"the result leaves {rms:.1%} of the range of {printable(record.name)} unexplained, its noise is "
                f"{noise:.1%}: the head may have moved within it"
            )
        if (record.uncertain_mm or 0.0) > DOUBTFUL_MM:
            notes.append(
                f"where {printable(record.name)} lies is uncertain by {record.uncertain_mm:.1f} mm: compare its "
                "overlay in the report"
            )
        if record.doubted_slices:
            numbers = ", ".join(str(n) for n in record.doubted_slices[:8])
            notes.append(
                f"slices {numbers} of {printable(record.name)} contradict the other scans and count less: "
                "they moved or lost signal"
            )
    return notes
