"""Regions of the brain that experts are judged by, from a label map or from a scan.

Axes: X Y Z voxels. Label numbers are FreeSurfer's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moediff.anatomy.labels import CEREBELLAR_CORTEX, CEREBELLAR_WHITE, CORTEX, labelled
from moediff.anatomy.labels import WHITE as WHITE_LABELS
from moediff.anatomy.tissue import FLUID, GREY, WHITE, tissue_map
from moediff.core.morphology import depth_mm, eroded, within

REGIONS = ("deep white matter", "cortex", "junction", "rest")
BACKGROUND = 255
DEEP_MM, JUNCTION_GREY_MM = 3.0, 1.0
CORTEX_DEPTH_MM = 15.0  # grey matter deeper than this may be a nucleus: intensities cannot tell


def _regions(white_XYZ: Tensor, cortex_XYZ: Tensor, rest_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Regions of tissues; uint8, an index into REGIONS or BACKGROUND.

    Deep white matter lies more than 3 mm from cortical grey; the junction is the white matter nearer than that and the
    cortical grey within 1 mm of white matter; cortex is the other cortical grey.
    """
    region = torch.full(white_XYZ.shape, BACKGROUND, dtype=torch.uint8)
    region[rest_XYZ] = 3
    region[white_XYZ] = 0
    region[cortex_XYZ] = 1
    region[white_XYZ & within(cortex_XYZ, DEEP_MM, spacing_mm)] = 2
    region[cortex_XYZ & within(white_XYZ, JUNCTION_GREY_MM, spacing_mm)] = 2
    return region


def region_map(labels_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Region of every voxel of a label map: an index into REGIONS, or BACKGROUND where there is no label; uint8.

    Cerebellum and brainstem count as the tissue that they are, as in `scan_regions`.
    """
    white = labelled(labels_XYZ, (*WHITE_LABELS, *CEREBELLAR_WHITE))
    cortex = labelled(labels_XYZ, (*CORTEX, *CEREBELLAR_CORTEX))
    return _regions(white, cortex, labels_XYZ > 0, spacing_mm)


def scan_regions(data_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor | None:
    """Region of every voxel of a skull-stripped scan, as `region_map`; None where tissues cannot be distinguished.

    Cortex is the grey matter within 15 mm of the brain's surface. Deeper grey matter, and white matter near it, stays
    BACKGROUND: cortex and nuclei look the same. The cerebellum counts as cortex and white matter.
    """
    tissue = tissue_map(data_XYZ, spacing_mm)
    if tissue is None:
        return None
    grey, shallow = tissue == GREY, depth_mm(tissue > 0, spacing_mm, CORTEX_DEPTH_MM) < CORTEX_DEPTH_MM
    region = _regions(tissue == WHITE, grey & shallow, tissue == FLUID, spacing_mm)
    nuclei = eroded(grey & ~shallow, 1)  # not the rim of the ventricles, where fluid and white matter mix to grey
    region[within(nuclei, DEEP_MM + max(spacing_mm), spacing_mm) & (region != 1)] = BACKGROUND
    return region
