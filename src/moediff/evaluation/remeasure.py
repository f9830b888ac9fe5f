"""Data consistency of any prediction: acquired again, does it give back the measured scan?"""

from __future__ import annotations

from moediff.evaluation.fit import fit_intensities
from moediff.inference.consistency import assumed_acquisition, summary
from moediff.volume.geometry import canonicalise
from moediff.volume.intensity import quantile
from moediff.volume.prepare import PrepareSettings, prepare
from moediff.volume.volume import Volume


def consistency(pred: Volume, measured: Volume, *, fit: bool) -> dict[str, object]:
    """RMS discrepancy over the measured scan's range, its noise likewise, and the acquisition assumed per axis.

    0.. , lower is better; about the noise is right, far below it the noise was copied (Irani & Peleg 1991). The
    acquisition is guessed from voxel sizes, as in `inference.consistency`.

    Args:
        pred: prediction on its own grid, whose axes must be parallel to the measured scan's.
        measured: the low-resolution input.
        fit: bring the re-acquired prediction to the measured intensities first (`evaluation.fit`).

    Raises:
        GeometryError: the axes are not parallel.
        DataError: no head in the measured scan, or intensities that cannot be fitted.
    """
    prepared = prepare(measured, pred.grid, PrepareSettings(kernel="cubic"))
    acquisition = assumed_acquisition(prepared)
    data_XYZ = prepared.scaling.apply(canonicalise(pred)[0].data_XYZ.float())
    if fit:
        target = prepared.source.data_XYZ
        tissue = target > 0.05 * quantile(target, 0.999)
        data_XYZ = fit_intensities(acquisition.apply(data_XYZ)[tissue], target[tissue]).apply(data_XYZ)
    return summary(data_XYZ, prepared, acquisition)
