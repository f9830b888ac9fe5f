"""A scan as it came from disk, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from moediff.core.volume import Volume


@dataclass(frozen=True)
class Origin:
    """What a DICOM result says about the series it was made from: references only, and never shown.

    Args:
        study, series, frame_of_reference: UIDs of the study, the series and the frame of reference.
        instances: (class UID, instance UID) of every image.
        number: of the series.
        modality: a coded word.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    instances: tuple[tuple[str, str], ...] = field(repr=False)
    number: int
    modality: str


@dataclass(frozen=True)
class Loaded:
    """A scan and what the file said about itself.

    Args:
        volume: float32 voxels on the chosen affine.
        path: the file or folder, None for an image in memory.
        codes: (qform_code, sform_code) of the source, to be written back.
        warnings: what was fixed or looks doubtful; the sidecar records the same words.
        stem: name for outputs where the source's own may hold personal data (DICOM); None takes it from the path.
        origin: the DICOM series it came from.
    """

    volume: Volume
    path: Path | None
    codes: tuple[int, int]
    warnings: tuple[str, ...]
    stem: str | None = None
    origin: Origin | None = None
