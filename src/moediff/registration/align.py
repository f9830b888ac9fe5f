"""Alignment of several scans of one head: where each lies in the frame of the first, and whether it fits.

Mutual information finds the motion; least squares of the equally blurred scans refines it and is a second opinion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moediff.core.geometry import field_of_view_mask, resample
from moediff.core.volume import Volume
from moediff.registration.agreement import LEAST_SHARED, Agreement, agreement
from moediff.registration.mutual_information import blurred, common_blur_mm, register
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm

REFINEMENTS = 3
WORST_MISMATCH = 0.2  # one head 0.05-0.15, also with a dark slice; mirrored 0.20 and more, another head 0.46
LEAST_LEFT_MM = 0.3  # motion that refinement did not settle; half of the gain is lost at 0.5 mm
WORST_APART_MM = 2.0  # between the two estimates
UNEVEN_GAIN = 0.03  # standard deviation of the log of a gain that is corrected place by place


@dataclass(frozen=True)
class Alignment:
    """Where a scan lies, and how well it fits the first.

    Args:
        transform: common frame (the first scan's) -> the scan's own.
        agreement: with the first scan; None for the first itself.
        apart_mm: between mutual information and least squares, RMS over the head; None where nothing was registered.
        misfit: why the scan must be left out; None where it fits.
    """

    transform: Rigid = IDENTITY
    agreement: Agreement | None = None
    apart_mm: float | None = None
    misfit: str | None = None

    def matched(self, scan: Volume) -> Volume:
        """The scan placed in the common frame, with the intensities of the first."""
        placed = self.transform.placed_volume(scan)
        if self.agreement is None:
            return placed
        gain = self.agreement.gain_map
        relative = (gain.data_XYZ / self.agreement.gain).clamp(0.5, 2)
        if float(relative.log().std()) < UNEVEN_GAIN:
            return placed.with_data(placed.data_XYZ / self.agreement.gain)
        here = resample(gain.with_data(relative), placed.grid, "linear").data_XYZ.clamp_min(0.5)
        return placed.with_data(placed.data_XYZ / (here * self.agreement.gain))


def align(scans: Sequence[Volume], *, register_them: bool = True) -> list[Alignment]:
    """Bring scans to the frame of the first.

    Args:
        scans: RAS+, raw intensities, at least two.
        register_them: False trusts the headers and only compares.

    Raises:
        ConfigError: SimpleITK is not installed.
    """
    width = common_blur_mm(*scans)
    first = blurred(scans[0], width)
    result = [Alignment()]
    for scan in scans[1:]:
        copy = blurred(scan, width)
        result.append(_aligned(first, copy) if register_them else _compared(first, copy, IDENTITY, None))
    return result


def _aligned(fixed: Volume, moving: Volume) -> Alignment:
    """From where the headers place the scan; from the middles of the heads where that leads nowhere."""
    shared = float(field_of_view_mask(moving.grid, fixed.grid).float().mean())
    first = _refined(fixed, moving, IDENTITY) if shared > LEAST_SHARED / 2 else None
    if first is not None and first.misfit is None:
        return first
    middles = Rigid.of((0, 0, 0), [b - a for a, b in zip(_middle_mm(fixed), _middle_mm(moving), strict=True)])
    second = _refined(fixed, moving, middles)
    return second if first is None or second.misfit is None else first


def _refined(fixed: Volume, moving: Volume, start: Rigid) -> Alignment:
    estimate = register(fixed, moving, start)
    transform = estimate
    for _ in range(REFINEMENTS):
        now = agreement(fixed, moving, transform)
        if now.shared < LEAST_SHARED or now.mismatch > WORST_MISMATCH:
            break
        transform = transform @ now.left.inverse
    return _compared(fixed, moving, transform, estimate)


def _compared(fixed: Volume, moving: Volume, transform: Rigid, estimate: Rigid | None) -> Alignment:
    centre = grid_centre_mm(fixed.grid)
    now = agreement(fixed, moving, transform)
    apart = None if estimate is None else (estimate.inverse @ transform).displacement_mm(centre)
    left = now.left.displacement_mm(centre)
    misfit = None
    if now.shared < LEAST_SHARED:
        misfit = f"it holds {now.shared:.0%} of the first scan's head, at least {LEAST_SHARED:.0%} are needed"
    elif now.mismatch > WORST_MISMATCH:
        misfit = (
            f"it differs from the first by {now.mismatch:.0%} of the contrast, one head differs by less than "
            f"{WORST_MISMATCH:.0%}: another head, another contrast, a mirrored or a moved scan"
        )
    elif left > LEAST_LEFT_MM or (apart or 0.0) > WORST_APART_MM:
        off = max(left, apart or 0.0)
        remedy = "register them first" if estimate is None else "the head moved within it, or its header is wrong"
        misfit = f"its place is uncertain by {off:.1f} mm, {LEAST_LEFT_MM} are allowed: {remedy}"
    return Alignment(transform, now, apart, misfit)


def _middle_mm(volume: Volume) -> list[float]:
    """Centre of the bright voxels."""
    weight = volume.data_XYZ.clamp_min(0)
    weight = weight * (weight > 0.1 * weight.max())
    where = [
        float((weight.sum([b for b in range(3) if b != axis]) * torch.arange(n)).sum() / weight.sum().clamp_min(1e-9))
        for axis, n in enumerate(volume.shape)
    ]
    middle = volume.affine @ torch.tensor([*where, 1.0], dtype=torch.float64)
    return [float(value) for value in middle[:3]]
