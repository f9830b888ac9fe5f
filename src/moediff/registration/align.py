"""Alignment of several scans of one head: where each lies in the frame of the first, and whether it fits.

Mutual information finds the motion; least squares of the equally blurred scans refines it and is a second opinion. All
scans are registered to one reference, which is chosen by what the scans hold, not by their order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from moediff.core.geometry import coarsest_axis, field_of_view_mask, resample
from moediff.core.volume import Volume
from moediff.registration.agreement import LEAST_SHARED, Agreement, agreement
from moediff.registration.mutual_information import blurred, common_blur_mm, register
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm

REFINEMENTS, SETTLED_MM = 12, 0.02  # at most so many, until one moves the head by less than this
WORST_MISMATCH = 0.24  # one head 0.06-0.16, at low field 0.16-0.21; T1w with and without contrast agent 0.26
SUSPECT_MISMATCH = (0.16, 0.6)  # mirrored 0.32-0.50, another head 0.44 and more: here the mirror image is tried, too
MIRRORED = 0.8  # a mirror image that leaves less than this share of the mismatch fits better
WORST_LEFT_MM = 0.3  # motion that refinement did not settle; half of the gain is lost at 0.5 mm
WORST_UNCERTAIN_MM = 1.0  # predicted error at which all of the gain is lost
WORST_APART = 0.4  # between the two estimates, of the thickest slices: 2 mm where they are 5 mm thick
UNEVEN_GAIN = 0.03  # standard deviation of the log of a gain that is corrected place by place


@dataclass(frozen=True)
class Alignment:
    """Where a scan lies, and how well it fits the others.

    Args:
        transform: common frame (the first scan's) -> the scan's own.
        gain: its intensity over the first scan's, the median.
        gain_map: the same where it varies slowly, in the common frame; None where it is even.
        agreement: with the reference; None for the reference itself.
        uncertain_mm: predicted error of where it lies, RMS over the head; 0 for the first scan.
        misfit: why the scan must be left out; None where it fits.
        rank: of all scans in an order that their content decides.
    """

    transform: Rigid = IDENTITY
    gain: float = 1.0
    gain_map: Volume | None = None
    agreement: Agreement | None = None
    uncertain_mm: float = 0.0
    misfit: str | None = None
    rank: int = 0

    def matched(self, scan: Volume) -> Volume:
        """The scan placed in the common frame, with the intensities of the first."""
        placed = self.transform.placed_volume(scan)
        if self.gain_map is None:
            return placed.with_data(placed.data_XYZ / self.gain) if self.gain != 1 else placed
        return placed.with_data(placed.data_XYZ / resample(self.gain_map, placed.grid, "linear").data_XYZ)


def align(scans: Sequence[Volume], *, register_them: bool = True) -> list[Alignment]:
    """Bring scans to the frame of the first. Other orders of the scans give the same relative placement.

    Args:
        scans: RAS+, raw intensities, at least two.
        register_them: False trusts the headers and only compares.

    Raises:
        ConfigError: SimpleITK is not installed.
    """
    width = common_blur_mm(*scans)
    copies = [blurred(scan, width) for scan in scans]
    ranked = sorted(range(len(scans)), key=lambda index: _content_key(scans[index]))
    best: list[Alignment] = []
    for reference in ranked if len(scans) > 2 else ranked[:1]:
        candidate = _to_reference(copies, reference, WORST_APART * width, register_them=register_them)
        if not best or _misfits(candidate) < _misfits(best):
            best = candidate
        if 2 * _misfits(best) <= len(scans) - 1:
            break
    if len(scans) == 2:  # of two that do not fit, the second is the one to leave out
        best = [replace(best[0], misfit=None), replace(best[1], misfit=_of_two(best))]
    rank = {index: number for number, index in enumerate(ranked)}
    first = best[0]
    return [replace(_in_frame_of(first, one), rank=rank[index]) for index, one in enumerate(best)]


def compare(scans: Sequence[Volume]) -> list[Alignment]:
    """How well scans agree that lie in one frame already, and the gain between them; nothing is moved or left out.

    Args:
        scans: RAS+, raw intensities; all are compared with the first.
    """
    width = common_blur_mm(*scans)
    fixed, *others = [blurred(scan, width) for scan in scans]
    first = Alignment()
    compared = [Alignment(agreement=agreement(fixed, copy, IDENTITY)) for copy in others]
    return [first, *(_in_frame_of(first, one) for one in compared)]


def _content_key(scan: Volume) -> tuple[float, float, int, str]:
    """Orders scans: largest field of view first, thinnest slices, axial before other planes, then by a checksum.

    What comes before the checksum of voxels and place stays as it is when a scan is saved again with other last digits.
    """
    size = round(math.prod(n * s for n, s in zip(scan.shape, scan.spacing_mm, strict=True)))
    slices_mm, plane = round(max(scan.spacing_mm), 2), coarsest_axis(scan.spacing_mm)
    digest = hashlib.sha256(scan.data_XYZ.contiguous().cpu().numpy().tobytes())
    digest.update(scan.affine.cpu().numpy().tobytes())
    return -size, slices_mm, -plane, digest.hexdigest()


def _of_two(alignments: Sequence[Alignment]) -> str | None:
    """Why two scans do not fit, whichever of them was the reference; None where they do."""
    (judged,) = (one for one in alignments if one.agreement is not None)
    if judged.misfit and judged.agreement is not None and judged.agreement.shared < LEAST_SHARED:
        return f"the two share {judged.agreement.shared:.0%} of the head, at least {LEAST_SHARED:.0%} are needed"
    return judged.misfit


def _misfits(alignments: Sequence[Alignment]) -> int:
    return sum(one.misfit is not None for one in alignments)


def _to_reference(
    copies: Sequence[Volume], reference: int, most_apart_mm: float, *, register_them: bool
) -> list[Alignment]:
    """All scans in the frame of one of them."""
    fixed, result = copies[reference], []
    for index, copy in enumerate(copies):
        if index == reference:
            result.append(Alignment())
        elif register_them:
            by_itself = _aligned(fixed, copy, most_apart_mm)
            result.append(_not_mirrored(by_itself, partial(_aligned, fixed, _mirrored(copy), most_apart_mm)))
        else:
            result.append(_not_mirrored(_trusted(fixed, copy), partial(_placed, fixed, _mirrored(copy))))
    return result


def _in_frame_of(first: Alignment, one: Alignment) -> Alignment:
    """An alignment to the reference, seen from the first scan: its frame and its intensities."""
    if one is first:
        return replace(one, transform=IDENTITY, gain=1.0, uncertain_mm=0.0)
    back = first.transform.inverse  # the first scan's frame -> the reference's
    gain, uncertain = _gain(one) / _gain(first), math.hypot(one.uncertain_mm, first.uncertain_mm)
    placed = replace(one, transform=one.transform @ back, uncertain_mm=uncertain)
    lattice = next(a.agreement.gain_map for a in (first, one) if a.agreement is not None)
    relative = (_gain_map(one, lattice) / _gain_map(first, lattice) / gain).clamp(0.5, 2)
    if float(relative.log().std()) < UNEVEN_GAIN:
        return replace(placed, gain=gain)
    grid = back.placed_grid(lattice.grid)
    return replace(placed, gain=gain, gain_map=Volume(relative * gain, grid.affine))


def _gain(one: Alignment) -> float:
    return 1.0 if one.agreement is None else one.agreement.gain


def _gain_map(one: Alignment, lattice: Volume) -> Tensor:
    return torch.ones_like(lattice.data_XYZ) if one.agreement is None else one.agreement.gain_map.data_XYZ


def _aligned(fixed: Volume, moving: Volume, most_apart_mm: float) -> Alignment:
    """From where the headers place the scan; from the middles of the heads where that leads nowhere."""
    shared = float(field_of_view_mask(moving.grid, fixed.grid).float().mean())
    first = _refined(fixed, moving, IDENTITY, most_apart_mm) if shared > LEAST_SHARED / 2 else None
    if first is not None and first.misfit is None:
        return first
    middles = Rigid.of((0, 0, 0), [b - a for a, b in zip(middle_mm(fixed), middle_mm(moving), strict=True)])
    second = _refined(fixed, moving, middles, most_apart_mm)
    return second if first is None or second.misfit is None else first


def _refined(fixed: Volume, moving: Volume, start: Rigid, most_apart_mm: float) -> Alignment:
    estimate = register(fixed, moving, start)
    settled = _settled(fixed, moving, estimate)
    return _judged(fixed, moving, settled, estimate, most_apart_mm, "the head moved within it, or its header is wrong")


def _trusted(fixed: Volume, moving: Volume) -> Alignment:
    """Where its header places the scan, compared with where least squares would move it from there."""
    settled = _settled(fixed, moving, IDENTITY)
    return _judged(fixed, moving, IDENTITY, settled, WORST_LEFT_MM, "register them first")


def _placed(fixed: Volume, moving: Volume) -> Alignment:
    """Where least squares moves it to from where its header places it."""
    settled = _settled(fixed, moving, IDENTITY)
    return _judged(fixed, moving, settled, settled, WORST_LEFT_MM, "register them first")


def _settled(fixed: Volume, moving: Volume, transform: Rigid) -> Rigid:
    """Refined by least squares, until nothing moves any more."""
    centre = grid_centre_mm(fixed.grid)
    for _ in range(REFINEMENTS):
        now = agreement(fixed, moving, transform)
        if now.shared < LEAST_SHARED or now.motion.mismatch > SUSPECT_MISMATCH[1]:
            break
        transform = transform @ now.motion.left.inverse
        if now.motion.left.displacement_mm(centre) < SETTLED_MM:
            break
    return transform


def _judged(
    fixed: Volume, moving: Volume, transform: Rigid, other: Rigid, most_apart_mm: float, remedy: str
) -> Alignment:
    """An alignment and whether it fits, by the agreement and by another estimate of the transform."""
    centre = grid_centre_mm(fixed.grid)
    now = agreement(fixed, moving, transform)
    apart = (other.inverse @ transform).displacement_mm(centre)
    left, mismatch = now.motion.left.displacement_mm(centre), now.motion.mismatch
    uncertain = math.hypot(left, now.motion.uncertain_mm)
    doubts = (
        (left, WORST_LEFT_MM, "it could still be moved by"),
        (apart, most_apart_mm, "two ways to register it are apart by"),
        (uncertain, WORST_UNCERTAIN_MM, "its predicted error is"),
    )
    worst, allowed, what = max(doubts, key=lambda doubt: doubt[0] / doubt[1])
    misfit = None
    if now.shared < LEAST_SHARED:
        misfit = f"it holds {now.shared:.0%} of the other scans' head, at least {LEAST_SHARED:.0%} are needed"
    elif mismatch > WORST_MISMATCH:
        misfit = (
            f"it differs from the other scans by {mismatch:.0%} of the contrast, one head differs by less than "
            f"{WORST_MISMATCH:.0%}: another head, another contrast, or a scan that moved while it was taken"
        )
    elif worst > allowed:
        misfit = f"its place is uncertain, {what} {worst:.2f} mm ({allowed:.3g} are allowed): {remedy}"
    return Alignment(transform, agreement=now, uncertain_mm=uncertain, misfit=misfit)


def _mirrored(scan: Volume) -> Volume:
    return scan.with_data(scan.data_XYZ.flip(0))


def _not_mirrored(aligned: Alignment, mirrored: Callable[[], Alignment]) -> Alignment:
    """An alignment, unless that of the mirrored scan fits better."""
    assert aligned.agreement is not None
    own = aligned.agreement.motion.mismatch
    if aligned.agreement.shared < LEAST_SHARED or not SUSPECT_MISMATCH[0] < own < SUSPECT_MISMATCH[1]:
        return aligned
    mirror = mirrored().agreement
    if mirror is None or mirror.shared < LEAST_SHARED or mirror.motion.mismatch > MIRRORED * own:
        return aligned
    misfit = (
        f"its mirror image fits the other scans better ({mirror.motion.mismatch:.0%} of the contrast differs, not "
        f"{own:.0%}): left and right are exchanged in one of the files"
    )
    return replace(aligned, misfit=misfit)


def middle_mm(volume: Volume) -> list[float]:
    """Centre of the bright voxels."""
    weight = volume.data_XYZ.clamp_min(0)
    weight = weight * (weight > 0.1 * weight.max())
    where = [
        float((weight.sum([b for b in range(3) if b != axis]) * torch.arange(n)).sum() / weight.sum().clamp_min(1e-9))
        for axis, n in enumerate(volume.shape)
    ]
    middle = volume.affine @ torch.tensor([*where, 1.0], dtype=torch.float64)
    return [float(value) for value in middle[:3]]
