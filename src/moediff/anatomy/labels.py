"""Label maps of brains, in FreeSurfer's numbers: groups of labels, and the check of a map as it was read.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moediff.core.errors import DataError

WHITE, CORTEX = (2, 41), (3, 42)
VENTRICLES_CSF = (4, 5, 14, 15, 24, 43, 44)
CEREBELLAR_CORTEX = (8, 47)
DEEP_GREY = (*CEREBELLAR_CORTEX, 10, 11, 12, 13, 17, 18, 26, 28, 49, 50, 51, 52, 53, 54, 58, 60)
CEREBELLAR_WHITE = (7, 46, 16)  # and brainstem
LEFT_OF_RIGHT = {
    41: 2,
    42: 3,
    43: 4,
    44: 5,
    46: 7,
    47: 8,
    49: 10,
    50: 11,
    51: 12,
    52: 13,
    53: 17,
    54: 18,
    58: 26,
    60: 28,
}
PARTS = (  # of a structure, as aseg, aparc (both atlases) and wmparc number them: first, last, the structure
    (31, 31, 4),  # choroid plexus
    (63, 63, 43),
    (77, 78, 2),  # white matter that is dark on T1w
    (79, 79, 41),
    (251, 255, 2),  # corpus callosum
    (1000, 1035, 3),
    (2000, 2035, 42),
    (3000, 3035, 2),
    (4000, 4035, 41),
    (5001, 5001, 2),
    (5002, 5002, 41),
    (11100, 11175, 3),
    (12100, 12175, 42),
)
# Small structures that look like a larger one: vessels, fifth ventricle, dark deep grey matter, optic chiasm. Their
# numbers stay, since what is random in a synthetic scan is drawn number by number.
SMALL_PARTS = {30: 12, 62: 51, 72: 14, 80: 12, 81: 12, 82: 51, 85: 28}
BRAIN = (*WHITE, *CORTEX, *VENTRICLES_CSF, *DEEP_GREY, *CEREBELLAR_WHITE)
INTEGER_TOLERANCE = 1e-3  # how far a label may lie from a whole number
MINIMUM_BRAIN_SHARE = 0.1  # of labelled voxels; label maps of whole heads have 0.34 and more


def as_label_map(map_XYZ: Tensor) -> Tensor:
    """A label map as it was read -> int32.

    Raises:
        DataError: numbers that are not whole.
    """
    labels_XYZ = map_XYZ.round()
    if not bool(torch.isfinite(map_XYZ).all()) or float((labels_XYZ - map_XYZ).abs().max()) > INTEGER_TOLERANCE:
        raise DataError("the labels are not whole numbers, expected a label map: name one, or segment the scan first")
    return labels_XYZ.to(torch.int32)


def as_brain_label_map(map_XYZ: Tensor) -> Tensor:
    """A label map of a brain as it was read -> int32, parts of a structure with the number of the whole.

    Raises:
        DataError: numbers that are not whole, or hardly any of the brain's.
    """
    labels_XYZ = as_label_map(map_XYZ)
    for first, last, whole in PARTS:
        labels_XYZ[(labels_XYZ >= first) & (labels_XYZ <= last)] = whole
    brain = labelled(labels_XYZ, BRAIN).sum() / (labels_XYZ != 0).sum().clamp_min(1)
    if float(brain) < MINIMUM_BRAIN_SHARE:
        raise DataError(
            "few voxels have one of FreeSurfer's numbers of the brain, expected its label map: give SynthSeg's, or aseg"
        )
    return labels_XYZ


def labelled(labels_XYZ: Tensor, numbers: Sequence[int]) -> Tensor:
    """Where a label map holds one of these numbers."""
    return torch.isin(labels_XYZ, torch.tensor(numbers, dtype=labels_XYZ.dtype))
