"""A scan as it came from disk, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moediff.volume.volume import Volume


@dataclass(frozen=True)
class Loaded:
    """A scan and what the file said about itself.

    Args:
        volume: float32 voxels on the chosen affine.
        path: the file or folder, None for an image in memory.
        codes: (qform_code, sform_code) of the source, to be written back.
        warnings: what was fixed or looks doubtful; the sidecar records the same words.
        stem: name for outputs where the source's own may hold personal data (DICOM); None takes it from the path.
    """

    volume: Volume
    path: Path | None
    codes: tuple[int, int]
    warnings: tuple[str, ...]
    stem: str | None = None
