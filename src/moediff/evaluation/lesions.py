"""What became of lesions whose outline is known: contrast, volume, and how many were lost or invented.

One threshold rule, fixed on the reference, for every method: a voxel counts as lesion where it lies beyond the middle
between the lesion's mean and that of the tissue around it, in the outline or at most 2 mm from it and further than that
from every other outline. Invented is what a reader
could take for one more lesion: a separate spot in white matter, not the displaced edge of something that is there.

Axes: X Y Z voxels of the reference's grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.anatomy.morphology import dilated, reached_from
from moediff.anatomy.regions import within
from moediff.anatomy.tissue import WHITE, depth_mm, tissue_map
from moediff.core.errors import DataError

RULE = 2  # another number for every change of what is counted: a benchmark's rows from before are judged again
LEAST_VOXELS = 3  # of an outlined lesion; fewer are left out
REACH_MM = 2.0  # beyond the outline
RING_MM = (2.0, 6.0)  # the tissue around: this far from the lesion and further than 2 mm from all others
LEAST_RING = 20
LOST_BELOW = 0.25  # of the volume that the rule finds in the reference
INVENTED_AWAY_MM = 4.0
INVENTED_MM3, INVENTED_VOXELS = 3.0, 3
SPOT_RING_MM = (1.0, 4.0)  # a spot's surroundings
DEEP_MM = 10.0  # below the mask's surface: where white matter lies if tissues cannot be told
BOX_MM = RING_MM[1] + 2.0


@dataclass(frozen=True)
class Lesion:
    """One lesion in reference and prediction.

    Args:
        voxels: of the outline.
        contrast_ref, contrast_pred: mean inside the outline minus mean around it, in units of L.
        cnr_ref, cnr_pred: contrast over the robust standard deviation around it, in each scan's own.
        volume_ref_ml, volume_pred_ml: found by the rule.
        dice: overlap of the two; 1 is the same voxels.
        lost: the prediction shows less than a quarter of what the reference shows.
    """

    voxels: int
    contrast_ref: float
    contrast_pred: float
    cnr_ref: float
    cnr_pred: float
    volume_ref_ml: float
    volume_pred_ml: float
    dice: float
    lost: bool


def components(mask_XYZ: Tensor) -> Tensor:
    """Number of every voxel's connected group (26 neighbours), 1..n in no order that means anything; 0 outside."""
    found = torch.zeros(mask_XYZ.shape, dtype=torch.int64)
    where = mask_XYZ.nonzero()
    if not len(where):
        return found
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(where.amin(0), where.amax(0), strict=True))
    inside = mask_XYZ[box].double()
    number = torch.arange(1, inside.numel() + 1, dtype=torch.float64).reshape(inside.shape) * inside
    while True:
        spread = F.max_pool3d(number[None, None], 3, 1, 1)[0, 0] * inside
        if torch.equal(spread, number):
            break
        number = spread
    names, order = number.unique(return_inverse=True)
    found[box] = order if float(names[0]) == 0 else order + 1
    return found


def _box(mask_XYZ: Tensor, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    where = mask_XYZ.nonzero()
    reach = [math.ceil(BOX_MM / s) for s in spacing_mm]
    return tuple(
        slice(max(0, int(a) - r), int(b) + r + 1) for a, b, r in zip(where.amin(0), where.amax(0), reach, strict=True)
    )


def _spread(values: Tensor) -> float:
    """Robust standard deviation."""
    return 1.4826 * float((values - values.median()).abs().median())


def _measured(
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
    sign, level = math.copysign(1.0, contrast), around["ref"] + contrast / 2
    others = within(lesion_XYZ & ~one_XYZ, REACH_MM, spacing_mm)  # what a neighbour shows is no part of this one
    near = (within(one_XYZ, REACH_MM, spacing_mm) & ~others | one_XYZ) & brain_XYZ
    in_ref, in_pred = (near & (sign * (scan - level) > 0) for scan in (truth, pred))
    seen, shown = int(in_ref.sum()), int(in_pred.sum())
    shown_contrast = float(pred[one_XYZ].mean()) - around["pred"]
    voxel_ml = math.prod(spacing_mm) / 1000
    return Lesion(
        voxels=int(one_XYZ.sum()),
        contrast_ref=contrast,
        contrast_pred=shown_contrast,
        cnr_ref=contrast / max(_spread(truth[ring]), 1e-9),
        cnr_pred=shown_contrast / max(_spread(pred[ring]), 1e-9),
        volume_ref_ml=seen * voxel_ml,
        volume_pred_ml=shown * voxel_ml,
        dice=2 * int((in_ref & in_pred).sum()) / max(seen + shown, 1),
        lost=shown < LOST_BELOW * seen,
    )


def white_matter(truth_XYZ: Tensor, brain_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """White matter by the reference's intensities, else what lies 10 mm and more below the mask's surface."""
    tissue = tissue_map(truth_XYZ * brain_XYZ, spacing_mm)
    if tissue is not None:
        return tissue == WHITE
    return depth_mm(brain_XYZ, spacing_mm, DEEP_MM) >= DEEP_MM


@dataclass(frozen=True)
class Spots:
    """What to take for a lesion: sign of its contrast, level to pass, and the contrast to have."""

    sign: float
    level: float
    least: float

    def shown(self, scan_XYZ: Tensor) -> Tensor:
        """Voxels beyond the level."""
        return self.sign * (scan_XYZ - self.level) > 0


def _separate(spots: Spots, brain_XYZ: Tensor, known_XYZ: Tensor, scans: tuple[Tensor, Tensor]) -> Tensor:
    """Voxels that the prediction shows and nothing joins to what the reference shows, give or take a voxel."""
    pred, truth = scans
    shown = spots.shown(pred) & brain_XYZ
    there = dilated(spots.shown(truth) & brain_XYZ, 1) | known_XYZ
    return shown & ~reached_from(there, shown)


def _invented(
    spots: Spots, where: tuple[Tensor, Tensor, Tensor], scans: tuple[Tensor, Tensor], spacing_mm: Sequence[float]
) -> list[int]:
    """Sizes, in voxels, of the spots that the prediction alone shows; see `judge_lesions`.

    Args:
        where: brain, outlines with 4 mm around them, white matter.
    """
    brain, known, white = where
    number = components(_separate(spots, brain, known, scans))
    counts = torch.bincount(number.flatten())
    least = max(INVENTED_VOXELS, INVENTED_MM3 / math.prod(spacing_mm))
    found = []
    for index in (i for i in range(1, len(counts)) if int(counts[i]) >= least):
        box = _box(number == index, spacing_mm)
        one, (pred, truth) = number[box] == index, (scan[box] for scan in scans)
        ring = within(one, SPOT_RING_MM[1], spacing_mm) & ~within(one, SPOT_RING_MM[0], spacing_mm) & brain[box]
        if not bool(ring.any()) or float(white[box][one].double().mean()) <= 0.5:
            continue
        contrast = spots.sign * (float(pred[one].mean()) - float(pred[ring].mean()))
        new = spots.sign * float((pred - truth)[one].mean())
        found += [int(counts[index])] if min(contrast, new) > spots.least else []
    return found


def judge_lesions(
    pred_XYZ: Tensor, truth_XYZ: Tensor, brain_XYZ: Tensor, lesion_XYZ: Tensor, spacing_mm: Sequence[float]
) -> dict[str, object]:
    """Every outlined lesion, and what was invented elsewhere.

    Invented are connected groups of 3 voxels and 3 mm^3 or more that pass the median lesion's level in the prediction
    and touch nothing that passes it in the reference, by one voxel, nor the 4 mm around an outline; that lie mostly in
    white matter; whose mean exceeds both their surroundings and the reference by half the smallest contrast of a true
    lesion.

    Args:
        pred_XYZ, truth_XYZ: fitted prediction and truth, in units of L.
        brain_XYZ: where to judge.
        lesion_XYZ: outlines, bool.
        spacing_mm: voxel sizes.

    Returns:
        Counts, sums, means over lesions, and `each`. Contrasts of dark lesions count as their size there: kept is what
        has the reference's sign.

    Raises:
        DataError: no lesion of 3 voxels with tissue around it inside the mask.
    """
    number, scans = components(lesion_XYZ & brain_XYZ), (pred_XYZ, truth_XYZ)
    found: list[Lesion] = []
    for index in range(1, int(number.max()) + 1):
        if int((number == index).sum()) < LEAST_VOXELS:
            continue
        box = _box(number == index, spacing_mm)
        lesion = _measured(
            number[box] == index, lesion_XYZ[box], (pred_XYZ[box], truth_XYZ[box]), brain_XYZ[box], spacing_mm
        )
        found += [lesion] if lesion is not None else []
    if not found:
        raise DataError(
            f"no lesion to judge; expected outlines of {LEAST_VOXELS} voxels or more with tissue around them, "
            "inside the mask"
        )
    middle = sorted(found, key=lambda lesion: abs(lesion.contrast_ref))[len(found) // 2]
    level = float(truth_XYZ[brain_XYZ & ~lesion_XYZ].median()) + middle.contrast_ref / 2
    smallest = min(abs(lesion.contrast_ref) for lesion in found)
    spots = Spots(math.copysign(1.0, middle.contrast_ref), level, smallest / 2)
    known = within(lesion_XYZ, INVENTED_AWAY_MM, spacing_mm)
    where = brain_XYZ, known, white_matter(truth_XYZ, brain_XYZ, spacing_mm)
    invented = _invented(spots, where, scans, spacing_mm)
    volume_ref, volume_pred = (sum(getattr(x, f"volume_{name}_ml") for x in found) for name in ("ref", "pred"))
    kept = {
        name: sum(math.copysign(1.0, lesion.contrast_ref) * getattr(lesion, name) for lesion in found)
        for name in ("contrast_ref", "contrast_pred", "cnr_ref", "cnr_pred")
    }
    return {
        "count": len(found),
        "lost": sum(lesion.lost for lesion in found),
        "invented": len(invented),
        "invented_ml": sum(invented) * math.prod(spacing_mm) / 1000,
        "volume_ref_ml": volume_ref,
        "volume_pred_ml": volume_pred,
        "dice": sum(lesion.dice * lesion.voxels for lesion in found) / sum(lesion.voxels for lesion in found),
        "contrast_kept": kept["contrast_pred"] / max(kept["contrast_ref"], 1e-12),
        "cnr_ref": kept["cnr_ref"] / len(found),
        "cnr_pred": kept["cnr_pred"] / len(found),
        "each": [asdict(lesion) for lesion in found],
    }
