"""Lesions with a known outline: contrast, volume, Dice, false negatives and false positives.

One threshold rule, fixed on the reference, for every method: a voxel counts as lesion where it lies beyond the middle
between the lesion's mean and that of the tissue around it, in the outline or at most 2 mm from it and further than that
from every other outline. A false positive is what a reader could take for one more lesion: a separate spot in white
matter, not the displaced edge of something that is there.

Axes: X Y Z voxels of the reference's grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.anatomy.tissue import WHITE, tissue_map
from moediff.core.errors import DataError
from moediff.core.morphology import components, depth_mm, dilated, reached_from, within

RULE = 2  # rises with every change of what is counted: earlier rows of a benchmark are then judged again
LEAST_VOXELS = 3  # of an outlined lesion; fewer are left out
REACH_MM = 2.0  # beyond the outline
RING_MM = (2.0, 6.0)  # the tissue around: this far from the lesion and further than 2 mm from all others
LEAST_RING = 20
FALSE_NEGATIVE_BELOW = 0.25  # of the volume that the rule finds in the reference
FALSE_POSITIVE_DISTANCE_MM = 4.0  # from every outline
FALSE_POSITIVE_MM3, FALSE_POSITIVE_VOXELS = 3.0, 3
SPOT_RING_MM = (1.0, 4.0)  # a spot's surroundings
DEEP_MM = 10.0  # below the mask's surface: where white matter lies if tissues cannot be separated
BOX_MM = RING_MM[1] + 2.0


@dataclass(frozen=True)
class Lesion:
    """One lesion in reference and prediction.

    Args:
        voxels: of the outline.
        contrast_ref, contrast_pred: mean inside the outline minus mean around it, in units of L.
        cnr_ref, cnr_pred: contrast over the robust standard deviation around it, in each scan's own.
        volume_ref_ml, volume_pred_ml: by the rule.
        dice: overlap of the two; 1 is the same voxels.
        false_negative: the prediction shows less than a quarter of the volume that the reference shows.
    """

    voxels: int
    contrast_ref: float
    contrast_pred: float
    cnr_ref: float
    cnr_pred: float
    volume_ref_ml: float
    volume_pred_ml: float
    dice: float
    false_negative: bool


@dataclass(frozen=True, kw_only=True)
class LesionScores:
    """All outlined lesions of one scan.

    Args:
        count: lesions that were judged.
        false_negatives: lesions that the prediction does not show.
        false_positives, false_positive_ml: spots that the prediction alone shows, and their volume.
        volume_ref_ml, volume_pred_ml: sums over lesions.
        dice: mean weighted by voxels.
        contrast_recovery: contrast in the prediction over that in the reference, of sums; 1 is right.
        cnr_ref, cnr_pred: means over lesions.
        each: the lesions in order of their voxels.
    """

    count: int
    false_negatives: int
    false_positives: int
    false_positive_ml: float
    volume_ref_ml: float
    volume_pred_ml: float
    dice: float
    contrast_recovery: float
    cnr_ref: float
    cnr_pred: float
    each: tuple[Lesion, ...] = ()


def _box(mask_XYZ: Tensor, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    where = mask_XYZ.nonzero()
    reach = [math.ceil(BOX_MM / s) for s in spacing_mm]
    return tuple(
        slice(max(0, int(a) - r), int(b) + r + 1) for a, b, r in zip(where.amin(0), where.amax(0), reach, strict=True)
    )


def _spread(values: Tensor) -> float:
    """Robust standard deviation."""
    return 1.4826 * float((values - values.median()).abs().median())


def _measure(
    one_XYZ: Tensor, lesion_XYZ: Tensor, scans: tuple[Tensor, Tensor], brain_XYZ: Tensor, spacing_mm: Sequence[float]
) -> Lesion | None:
    """One lesion inside its box; None where there is too little tissue around it."""
    pred, truth = scans
    taken = within(lesion_XYZ, RING_MM[0], spacing_mm)
    ring = within(one_XYZ, RING_MM[1], spacing_mm) & ~taken & brain_XYZ
    if int(ring.sum()) < LEAST_RING:
        return None
    around = {name: float(scan[ring].mean()) for name, scan in (("pred", pred), ("ref", truth))}
    contrast = float(truth[one_XYZ].mean()) - around["ref"]
    sign, threshold = math.copysign(1.0, contrast), around["ref"] + contrast / 2
    others = within(lesion_XYZ & ~one_XYZ, REACH_MM, spacing_mm)  # what a neighbour shows is no part of this one
    reach = (within(one_XYZ, REACH_MM, spacing_mm) & ~others | one_XYZ) & brain_XYZ
    in_ref, in_pred = (reach & (sign * (scan - threshold) > 0) for scan in (truth, pred))
    voxels_ref, voxels_pred = int(in_ref.sum()), int(in_pred.sum())
    contrast_pred = float(pred[one_XYZ].mean()) - around["pred"]
    voxel_ml = math.prod(spacing_mm) / 1000
    return Lesion(
        voxels=int(one_XYZ.sum()),
        contrast_ref=contrast,
        contrast_pred=contrast_pred,
        cnr_ref=contrast / max(_spread(truth[ring]), 1e-9),
        cnr_pred=contrast_pred / max(_spread(pred[ring]), 1e-9),
        volume_ref_ml=voxels_ref * voxel_ml,
        volume_pred_ml=voxels_pred * voxel_ml,
        dice=2 * int((in_ref & in_pred).sum()) / max(voxels_ref + voxels_pred, 1),
        false_negative=voxels_pred < FALSE_NEGATIVE_BELOW * voxels_ref,
    )


def white_matter(truth_XYZ: Tensor, brain_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """White matter by the reference's intensities, else what lies 10 mm and more below the mask's surface."""
    tissue = tissue_map(truth_XYZ * brain_XYZ, spacing_mm)
    if tissue is not None:
        return tissue == WHITE
    return depth_mm(brain_XYZ, spacing_mm, DEEP_MM) >= DEEP_MM


@dataclass(frozen=True)
class SpotRule:
    """When a spot counts as a lesion: sign of its contrast, threshold of intensity, least contrast."""

    sign: float
    threshold: float
    least_contrast: float

    def visible(self, scan_XYZ: Tensor) -> Tensor:
        """Voxels beyond the threshold."""
        return self.sign * (scan_XYZ - self.threshold) > 0


def _separate(rule: SpotRule, brain_XYZ: Tensor, outlined_XYZ: Tensor, scans: tuple[Tensor, Tensor]) -> Tensor:
    """Voxels visible in the prediction that are not connected to what is visible in the reference, within a voxel."""
    pred, truth = scans
    in_pred = rule.visible(pred) & brain_XYZ
    in_ref = dilated(rule.visible(truth) & brain_XYZ, 1) | outlined_XYZ
    return in_pred & ~reached_from(in_ref, in_pred)


def _false_positives(
    rule: SpotRule, where: tuple[Tensor, Tensor, Tensor], scans: tuple[Tensor, Tensor], spacing_mm: Sequence[float]
) -> list[int]:
    """Sizes, in voxels, of the spots that only the prediction shows; see `judge_lesions`.

    Args:
        where: brain, outlines with 4 mm around them, white matter.
    """
    brain, outlined, white = where
    number = components(_separate(rule, brain, outlined, scans))
    voxels = torch.bincount(number.flatten())
    least = max(FALSE_POSITIVE_VOXELS, FALSE_POSITIVE_MM3 / math.prod(spacing_mm))
    sizes = []
    for index in (i for i in range(1, len(voxels)) if int(voxels[i]) >= least):
        box = _box(number == index, spacing_mm)
        one, (pred, truth) = number[box] == index, (scan[box] for scan in scans)
        ring = within(one, SPOT_RING_MM[1], spacing_mm) & ~within(one, SPOT_RING_MM[0], spacing_mm) & brain[box]
        if not bool(ring.any()) or float(white[box][one].double().mean()) <= 0.5:
            continue
        contrast = rule.sign * (float(pred[one].mean()) - float(pred[ring].mean()))
        new = rule.sign * float((pred - truth)[one].mean())
        sizes += [int(voxels[index])] if min(contrast, new) > rule.least_contrast else []
    return sizes


def judge_lesions(
    pred_XYZ: Tensor, truth_XYZ: Tensor, brain_XYZ: Tensor, lesion_XYZ: Tensor, spacing_mm: Sequence[float]
) -> LesionScores:
    """Every outlined lesion, and false positives elsewhere.

    False positives are connected groups of 3 voxels and 3 mm^3 or more that pass the median lesion's threshold in the
    prediction and touch nothing that passes it in the reference, by one voxel, nor the 4 mm around an outline; that lie
    mostly in white matter; whose mean exceeds both their surroundings and the reference by half the smallest contrast
    of a true lesion.

    Args:
        pred_XYZ, truth_XYZ: fitted prediction and truth, in units of L.
        brain_XYZ: where to judge.
        lesion_XYZ: outlines, bool.
        spacing_mm: voxel sizes.

    Returns:
        Contrasts of dark lesions count as their size: recovered is what has the reference's sign.

    Raises:
        DataError: no lesion of 3 voxels with tissue around it inside the mask.
    """
    number, scans = components(lesion_XYZ & brain_XYZ), (pred_XYZ, truth_XYZ)
    lesions: list[Lesion] = []
    for index in range(1, int(number.max()) + 1):
        if int((number == index).sum()) < LEAST_VOXELS:
            continue
        box = _box(number == index, spacing_mm)
        lesion = _measure(
            number[box] == index, lesion_XYZ[box], (pred_XYZ[box], truth_XYZ[box]), brain_XYZ[box], spacing_mm
        )
        lesions += [lesion] if lesion is not None else []
    if not lesions:
        raise DataError(
            f"no lesion to judge; expected outlines of {LEAST_VOXELS} voxels or more with tissue around them, "
            "inside the mask"
        )
    middle = sorted(lesions, key=lambda lesion: abs(lesion.contrast_ref))[len(lesions) // 2]
    threshold = float(truth_XYZ[brain_XYZ & ~lesion_XYZ].median()) + middle.contrast_ref / 2
    smallest = min(abs(lesion.contrast_ref) for lesion in lesions)
    rule = SpotRule(math.copysign(1.0, middle.contrast_ref), threshold, smallest / 2)
    outlined = within(lesion_XYZ, FALSE_POSITIVE_DISTANCE_MM, spacing_mm)
    where = brain_XYZ, outlined, white_matter(truth_XYZ, brain_XYZ, spacing_mm)
    return _scores(lesions, _false_positives(rule, where, scans, spacing_mm), spacing_mm)


def _scores(lesions: Sequence[Lesion], false_positives: Sequence[int], spacing_mm: Sequence[float]) -> LesionScores:
    """Sums and means over lesions; `false_positives` are sizes in voxels."""
    signed = {
        name: sum(math.copysign(1.0, lesion.contrast_ref) * getattr(lesion, name) for lesion in lesions)
        for name in ("contrast_ref", "contrast_pred", "cnr_ref", "cnr_pred")
    }
    return LesionScores(
        count=len(lesions),
        false_negatives=sum(lesion.false_negative for lesion in lesions),
        false_positives=len(false_positives),
        false_positive_ml=sum(false_positives) * math.prod(spacing_mm) / 1000,
        volume_ref_ml=sum(lesion.volume_ref_ml for lesion in lesions),
        volume_pred_ml=sum(lesion.volume_pred_ml for lesion in lesions),
        dice=sum(lesion.dice * lesion.voxels for lesion in lesions) / sum(lesion.voxels for lesion in lesions),
        contrast_recovery=signed["contrast_pred"] / max(signed["contrast_ref"], 1e-12),
        cnr_ref=signed["cnr_ref"] / len(lesions),
        cnr_pred=signed["cnr_pred"] / len(lesions),
        each=tuple(lesions),
    )
