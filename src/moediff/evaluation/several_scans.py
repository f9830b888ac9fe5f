"""Data consistency with several scans: a prediction acquired again as each of them was, where the head lay in it.

Where a scan lies comes from the record of the result (`recorded_scans`); for other programs' results it is found by
registration. A scan at an angle to the prediction is acquired by the forward model of `acquisition.placed`.

Axes: X Y Z voxels of a scan's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.combine import Measurement
from moediff.acquisition.data_consistency import (
    TISSUE_OVER_RANGE,
    ConsistencySummary,
    TissueGap,
    intensity_range,
    magnitude_gap,
)
from moediff.acquisition.point_spread import Samplings
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.core.errors import DataError, prefix_errors, printable
from moediff.core.geometry import are_parallel, canonicalise
from moediff.core.volume import Volume
from moediff.evaluation.data_consistency import discrepancy_of
from moediff.evaluation.intensity_fit import fit_intensities
from moediff.evaluation.records import ScanConsistency
from moediff.registration.agreement import LEAST_SHARED
from moediff.registration.align import WORST_MISMATCH, Alignment, align, compare
from moediff.registration.mutual_information import require_registration
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm


@dataclass(frozen=True)
class InputScan:
    """One of several scans that a prediction was made from.

    Args:
        name: for records and messages.
        scan: RAS+, raw intensities.
        transform: the prediction's frame -> the scan's own; None where it must be found by registration, and then the
            first scan's frame is taken for the prediction's.
        gain: its intensities over the prediction's; None where it must be found.
        sampling: how it was sampled, R, A, S; None takes what the voxel sizes suggest.
        left_out: why the prediction was made without it; it is then listed without numbers.
    """

    name: str
    scan: Volume
    transform: Rigid | None = None
    gain: float | None = None
    sampling: Samplings | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class SeveralConsistency:
    """Data consistency with several scans.

    Args:
        overall: over the samples of all scans that took part, each over its own scan's range.
        scans: of each one.
        warnings: about scans that may not be the ones that the prediction was made from.
    """

    overall: ConsistencySummary
    scans: tuple[ScanConsistency, ...]
    warnings: tuple[str, ...]


def several_consistency(pred: Volume, inputs: Sequence[InputScan], *, fit: bool) -> SeveralConsistency:
    """RMS discrepancy from every scan and its noise, and both over all scans; see `data_consistency.consistency`.

    Args:
        pred: the prediction, RAS+.
        inputs: the scans.
        fit: bring the re-acquired prediction to each scan's intensities first.

    Raises:
        DataError: no scan is left, a scan does not fit the others, holds no head, or has another contrast.
        ConfigError: a scan must be registered, and SimpleITK is not installed.
    """
    used = [one for one in inputs if one.left_out is None]
    if not used:
        raise DataError(f"the prediction was made from none of the {len(inputs)} inputs: name those that took part")
    placed = _placed(used)
    gaps: dict[int, TissueGap] = {}
    records: list[ScanConsistency] = []
    for one in inputs:
        transform, scan = placed.scans.get(id(one), (one.transform or IDENTITY, None))
        record = ScanConsistency(
            name=one.name,
            placed_by="registration" if one.transform is None else "sidecar",
            displacement_mm=round(transform.displacement_mm(grid_centre_mm(one.scan.grid)), 3),
            left_out=one.left_out,
        )
        if scan is not None:
            with prefix_errors(f"input {printable(one.name)}"):
                gaps[id(one)] = gap = _tissue_gap(pred, scan, one.sampling, fit=fit)
            record = record.with_summary(gap.summary())
        records.append(record)
    return SeveralConsistency(_overall(list(gaps.values())), tuple(records), placed.warnings)


@dataclass(frozen=True)
class _Placed:
    """Scans by identity of their input: transform, and voxels in the prediction's frame and intensities."""

    scans: dict[int, tuple[Rigid, Volume]]
    warnings: tuple[str, ...]


def _placed(inputs: Sequence[InputScan]) -> _Placed:
    known = [one.transform or IDENTITY for one in inputs]
    there = [transform.placed_volume(one.scan) for transform, one in zip(known, inputs, strict=True)]
    alignments = _alignments(inputs, there)
    scans, warnings = {}, []
    for one, before, volume, alignment in zip(inputs, known, there, alignments, strict=True):
        transform = before if one.transform is not None else alignment.transform @ before
        if one.gain is not None and alignment.gain_map is None:
            matched = volume.with_data(volume.data_XYZ / one.gain)
        else:
            matched = alignment.matched(volume)
            matched = matched.with_data(matched.data_XYZ / (inputs[0].gain or 1.0))
        scans[id(one)] = transform, canonicalise(matched)[0]
        warnings += [note for note in [_doubt(one, alignment)] if note]
    return _Placed(scans, tuple(warnings))


def _alignments(inputs: Sequence[InputScan], there: Sequence[Volume]) -> list[Alignment]:
    """Gains, and transforms where some are not known; scans that must be registered have to fit.

    Raises:
        ConfigError: SimpleITK is not installed.
        DataError: one does not fit.
    """
    if len(there) == 1:
        return [Alignment()]
    if all(one.transform is not None for one in inputs):
        return compare(there)
    require_registration()
    result = align(there)
    for one, alignment in zip(inputs, result, strict=True):
        if alignment.misfit is not None:
            raise DataError(
                f"input {printable(one.name)} does not fit the other inputs ({alignment.misfit}), expected scans of "
                "one head and one contrast: leave it out"
            )
    return [a if one.transform is None else _unmoved(a) for one, a in zip(inputs, result, strict=True)]


def _unmoved(alignment: Alignment) -> Alignment:
    """Its gain alone: a place that is known is not changed."""
    return Alignment(gain=alignment.gain, gain_map=alignment.gain_map, agreement=alignment.agreement)


def _doubt(one: InputScan, alignment: Alignment) -> str | None:
    """A sentence where a scan, placed as its record says, hardly fits the first one."""
    agreement = alignment.agreement
    if one.transform is None or agreement is None:
        return None
    if agreement.shared >= LEAST_SHARED and agreement.motion.mismatch <= WORST_MISMATCH:
        return None
    return (
        f"input {printable(one.name)}, placed as the sidecar says, differs from the first input by "
        f"{agreement.motion.mismatch:.0%} of the contrast: is it the scan that the prediction was made from?"
    )


def _tissue_gap(pred: Volume, scan: Volume, sampling: Samplings | None, *, fit: bool) -> TissueGap:
    if are_parallel(scan.grid, pred.grid):
        return discrepancy_of(pred, scan, fit=fit, sampling=sampling).samples()
    prepared = prepare(scan, scan.grid, PrepareSettings(kernel="cubic"))
    source_XYZ, top = prepared.source.data_XYZ, intensity_range(prepared.source.data_XYZ)
    measurement = Measurement(prepared.source, prepared.noise, pred.grid, sampling=sampling)
    model = measurement.model(pred.grid, refined=True)
    tissue_XYZ = measurement.covered_XYZ & (source_XYZ > TISSUE_OVER_RANGE * top)
    if not bool(tissue_XYZ.any()):
        raise DataError("it shares no tissue with the prediction; give a scan of the same head")
    again_V = model.apply(prepared.scaling.apply(pred.data_XYZ.float()))[tissue_XYZ]
    source_V = source_XYZ[tissue_XYZ]
    if fit:
        again_V = fit_intensities(again_V, source_V).apply(again_V)
    return TissueGap(magnitude_gap(source_V, again_V), top, prepared.noise, model.acquisition.names)


def _overall(gaps: Sequence[TissueGap]) -> ConsistencySummary:
    """Root mean squares over all samples; an axis that scans sampled differently names each way."""
    sizes = torch.tensor([float(gap.gap_V.numel()) for gap in gaps], dtype=torch.float64)
    squares = torch.tensor([float((gap.gap_V / gap.top).square().sum()) for gap in gaps], dtype=torch.float64)
    noises = torch.tensor([(gap.noise / gap.top) ** 2 for gap in gaps], dtype=torch.float64)
    total = sizes.sum().clamp_min(1)
    x, y, z = (" or ".join(dict.fromkeys(ways)) for ways in zip(*(gap.assumed for gap in gaps), strict=True))
    return ConsistencySummary(_root(squares.sum() / total), _root((noises * sizes).sum() / total), (x, y, z))


def _root(mean: Tensor) -> float:
    return round(float(mean.sqrt()), 5)
