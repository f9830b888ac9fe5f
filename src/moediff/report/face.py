"""May a scan be shown in 3-D? A rendered head with its skin is a portrait of the person.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from moediff.evaluation.tissue import brain_of
from moediff.report.scans import ReportScans
from moediff.volume.volume import Volume

COARSE_MM = 3.0  # voxels are skipped up to this distance; what is told apart is larger by far


def _stripped(volume: Volume) -> bool:
    steps = [max(1, int(COARSE_MM / s)) for s in volume.spacing_mm]
    data_XYZ = volume.data_XYZ[:: steps[0], :: steps[1], :: steps[2]]
    spacing_mm = [k * s for k, s in zip(steps, volume.spacing_mm, strict=True)]
    return brain_of(data_XYZ, spacing_mm) is not None


def why_flat(scans: ReportScans) -> str:
    """Why the page offers no 3-D view, in a few words; empty where it may.

    Every scan shown has to be stripped, or the user has to say that it was defaced.
    """
    shown = [v for v in (scans.enhanced, scans.source, scans.truth) if v is not None]
    if scans.defaced or all(_stripped(volume) for volume in shown):
        return ""
    return "No 3-D view: this scan may show a face. It is offered for stripped scans, and with --defaced."
