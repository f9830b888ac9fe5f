"""LoadedScan: a scan in RAS+ with what its file said about itself, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from moediff.core.geometry import StorageOrder
from moediff.core.volume import Grid, Volume
from moediff.io.checksum import FileState


@dataclass(frozen=True)
class DicomOrigin:
    """References of a DICOM result to its source series; never printed.

    Args:
        study, series, frame_of_reference: UIDs of the study, the series and the frame of reference.
        instances: (class UID, instance UID) of every image.
        number: of the series.
        lossy: some image was ever compressed with loss.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    instances: tuple[tuple[str, str], ...] = field(repr=False)
    number: int
    lossy: bool


@dataclass(frozen=True)
class SliceGeometry:
    """Slices as the file describes them, in mm: how thick they are, and how far apart their middles."""

    thickness_mm: float
    distance_mm: float


@dataclass(frozen=True)
class LoadedScan:
    """A scan in RAS+, the order in which its file stores it, and what the file said about itself.

    Args:
        volume: float32 voxels on the chosen affine, axes nearest to R, A, S.
        storage: the file's own axis order; `save` writes results in it.
        path: the file or folder, None for an image in memory.
        codes: (qform_code, sform_code) of the source, to be written back.
        warnings: what was corrected or looks doubtful; the sidecar records the same text.
        stem: name for outputs where the source's own may hold personal data (DICOM); None takes it from the path.
        origin: the DICOM series it came from.
        intent: NIfTI's intent_code, what the values mean; 0 says nothing.
        slices: of DICOM files, and of NIfTI files with a BIDS sidecar, where they say it.
        file_state: of what it was read from, as it was before.
    """

    volume: Volume
    storage: StorageOrder
    path: Path | None
    codes: tuple[int, int]
    warnings: tuple[str, ...]
    stem: str | None = None
    origin: DicomOrigin | None = None
    intent: int = 0
    slices: SliceGeometry | None = None
    file_state: FileState | None = field(default=None, repr=False)  # names of DICOM files may hold personal data

    @property
    def stored(self) -> Volume:
        """The scan in the file's own axis order."""
        return self.storage.undo(self.volume)

    @property
    def stored_grid(self) -> Grid:
        """The grid in the file's own axis order."""
        return self.storage.undo_grid(self.volume.grid)
