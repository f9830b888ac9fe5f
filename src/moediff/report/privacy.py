"""Privacy of a report: may a scan be shown in 3-D? A rendered head with its skin is a portrait of the person.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from moediff.anatomy.tissue import brain_of
from moediff.core.volume import Volume
from moediff.report.data import ReportScans

MOST_CUT_CM2 = 20.0  # stripped brains in tight boxes have 4 at most, slabs of heads 200, a neck 60 and more
COARSE_MM = 3.0  # voxels are skipped up to this distance; what is told apart is larger by far


def _stripped(volume: Volume) -> bool:
    steps = [max(1, int(COARSE_MM / s)) for s in volume.spacing_mm]
    data_XYZ = volume.data_XYZ[:: steps[0], :: steps[1], :: steps[2]]
    spacing_mm = [k * s for k, s in zip(steps, volume.spacing_mm, strict=True)]
    brain = brain_of(data_XYZ, spacing_mm)
    return brain is not None and _largest_cut_cm2(brain, spacing_mm) < MOST_CUT_CM2


def _largest_cut_cm2(mask_XYZ: Tensor, spacing_mm: Sequence[float]) -> float:
    """The largest area in which a side of the volume cuts the mask: a slab of a head may be as small as a brain.

    Padding around a slab does not hide its cut: there the mask's area begins at once, a brain's grows from nothing.
    What is there at once is twice the first plane's area less the second's.
    """
    cuts = []
    for axis, size in enumerate(spacing_mm):
        others = [other for other in range(3) if other != axis]
        area_cm2 = mask_XYZ.sum(others).double() * (math.prod(spacing_mm) / size / 100)
        for side_cm2 in (area_cm2, area_cm2.flip(0)):
            first, second, *_ = [*side_cm2[side_cm2 > 0].tolist(), 0.0, 0.0]
            cuts += [float(side_cm2[0]), 2 * first - second]
    return max(cuts)


def why_no_3d(scans: ReportScans) -> str:
    """Why the page offers no 3-D view, in a few words; empty where it may.

    Every scan displayed has to be stripped, or the user has to say that it was defaced.
    """
    displayed = [v for v in (scans.enhanced, scans.source, scans.truth) if v is not None]
    if scans.defaced or all(_stripped(volume) for volume in displayed):
        return ""
    return "No 3-D view: this scan may show a face. It is offered for stripped scans, and with --defaced."
