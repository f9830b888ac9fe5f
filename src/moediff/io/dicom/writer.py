"""Writer of a DICOM series: a result as a series of a study of its own that refers to its source.

Only the tags below are written. Nothing of the patient, the institution or the day is copied; a PACS that is to file
the series with the patient must add that itself. UIDs can embed date and time, so those of the source are remapped: a
new UID is made of the old one's sha256. Results of one source study thus share a new study and frame of reference, and
whoever has the source can prove the link, but nobody can read the source's UIDs from it.

Axes: X columns, Y rows, Z slices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from moediff._version import RESEARCH_ONLY, __version__
from moediff.core.errors import DataError, OutputFailed, prefix_errors, printable
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.io.atomic import whole_folder
from moediff.io.dicom.geometry import LPS_TO_RAS
from moediff.io.dicom.reader import read_back
from moediff.io.dicom.tags import require_pydicom
from moediff.io.loaded import DicomOrigin

if TYPE_CHECKING:
    from pydicom import Dataset

REMAPPING = b"moediff-sr:"  # before the UID that is hashed
WINDOW = (0.01, 0.995)  # quantiles
DESCRIPTION = "MoEDiff-SR, research use only"
LEVELS = 2**16 - 1
RIGHT_ANGLE = 1e-3  # cosine that still counts as one
SAME_POSITION = 1e-3  # of a voxel; DICOM's decimal strings have 16 characters
SERIES_STEP = 1000  # added to the source's number
EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientPosition",
    "PositionReferenceIndicator",
)


def write_series(volume: Volume, origin: DicomOrigin, folder: Path, others: Sequence[DicomOrigin] = ()) -> None:
    """Write one file per slice into a new folder, read them back, and only then give the folder its name.

    Args:
        volume: the result, in the axis order of its source.
        origin: the series that it comes from, which gives it its study, frame of reference and number.
        folder: must not exist.
        others: further series of that study that it was made from; they are referred to as well.

    Raises:
        DataError: the grid's axes are not at right angles, which DICOM cannot represent, or it is a single slice.
        CannotCreate, OutputFailed: the folder exists, cannot be created, or does not read back.
    """
    require_pydicom()
    with prefix_errors(printable(folder)):
        require_series_grid(volume.grid)
        with whole_folder(folder, overwrite=False, verify=lambda hidden: _verify(hidden, volume)) as hidden:
            for number, dataset in enumerate(_datasets(volume, (origin, *others)), 1):
                with (hidden / f"IM{number:04d}.dcm").open("xb") as file:
                    dataset.save_as(file, enforce_file_format=True)


def require_series_grid(grid: Grid) -> None:
    """Refuse a grid that no series can lie on.

    Raises:
        DataError: its axes are not at right angles, which DICOM cannot represent, or it is a single slice.
    """
    if grid.shape[2] < 2:
        raise DataError(
            "the result is one slice, and no DICOM series states the thickness of one: leave --dicom-out out"
        )
    columns = grid.affine[:3, :3].numpy()
    unit = columns / np.linalg.norm(columns, axis=0)
    if np.abs(unit.T @ unit - np.eye(3)).max() > RIGHT_ANGLE:
        raise DataError(
            "the result's axes are not at right angles, which DICOM cannot represent: leave --dicom-out out"
        )


def remapped(uid: str) -> str:
    """A UID made of another one's sha256, of the kind 2.25 (UUIDs, PS3.5 B.2); an absent one becomes a random one."""
    from pydicom.uid import generate_uid

    if not uid:
        return str(generate_uid(prefix=None))
    digest = hashlib.sha256(REMAPPING + uid.encode()).digest()[:16]
    return f"2.25.{UUID(bytes=digest, version=5).int}"


def _window(volume: Volume) -> tuple[float, float]:
    """Centre and width of a window that spans the head: above air, up to the 99.5th percentile."""
    low, high = (quantile(volume.data_XYZ, share) for share in WINDOW)
    width = max(high - low, float(volume.data_XYZ.max() - volume.data_XYZ.min()) / 100, 1.0 / LEVELS)
    return low + width / 2, width


def _datasets(volume: Volume, origins: Sequence[DicomOrigin]) -> Any:
    from pydicom.uid import generate_uid

    uids = {
        "StudyInstanceUID": remapped(origins[0].study),
        "SeriesInstanceUID": generate_uid(prefix=None),
        "FrameOfReferenceUID": remapped(origins[0].frame_of_reference),
    }
    low, high = float(volume.data_XYZ.min()), float(volume.data_XYZ.max())
    slope = max(high - low, 1e-6) / LEVELS
    centre, width = _window(volume)
    affine = np.diag([*np.diag(LPS_TO_RAS), 1.0]) @ volume.affine.numpy()
    for z in range(volume.shape[2]):
        dataset = _common_dataset(volume, origins, affine, uids)
        dataset.InstanceNumber = z + 1
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        dataset.ImagePositionPatient = _decimals(affine[:3, 3] + z * affine[:3, 2])
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = *_decimals([slope, low]), "US"
        dataset.WindowCenter, dataset.WindowWidth = _decimals([centre, width])
        stored_YX = ((volume.data_XYZ[:, :, z].T.double() - low) / slope).round().clamp(0, LEVELS)
        dataset.PixelData = stored_YX.numpy().astype("<u2").tobytes()
        yield dataset


def _common_dataset(
    volume: Volume, origins: Sequence[DicomOrigin], affine: np.ndarray, uids: dict[str, str]
) -> Dataset:
    """Everything that slices share; the first origin counts, all are referred to; `affine` is LPS+."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    meta, origin = FileMetaDataset(), origins[0]
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    x_mm, y_mm, z_mm = volume.spacing_mm
    directions = [affine[:3, axis] / volume.spacing_mm[axis] for axis in (0, 1)]
    values = {name: "" for name in EMPTY} | {
        **uids,
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",  # the only one that MR Image Storage allows, PS3.3 C.8.3.1
        "BodyPartExamined": "BRAIN",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "SeriesNumber": origin.number + SERIES_STEP,
        "StudyDescription": DESCRIPTION,
        "SeriesDescription": DESCRIPTION,
        "DerivationDescription": f"super-resolution by moediff-sr {__version__}. {RESEARCH_ONLY}",
        "ContentQualification": "RESEARCH",
        "SoftwareVersions": __version__,
        "Manufacturer": "MoEDiff-SR",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "no patient data were copied",
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "",
        "RepetitionTime": "",
        "EchoTime": "",
        "EchoTrainLength": "",
        "LossyImageCompression": "01" if any(one.lossy for one in origins) else "00",  # once is for good
        "PixelSpacing": _decimals([y_mm, x_mm]),
        "SliceThickness": _decimals([z_mm])[0],
        "SpacingBetweenSlices": _decimals([z_mm])[0],
        "ImageOrientationPatient": _decimals(np.concatenate(directions)),
        "Columns": volume.shape[0],
        "Rows": volume.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "ReferencedSeriesSequence": [_reference(one) for one in origins],
        "SourceImageSequence": [image for one in origins for image in _source_images(one)],
    }
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def _reference(origin: DicomOrigin) -> Dataset:
    from pydicom import Dataset

    reference = Dataset()
    reference.SeriesInstanceUID, reference.ReferencedInstanceSequence = remapped(origin.series), _source_images(origin)
    return reference


def _source_images(origin: DicomOrigin) -> list[Dataset]:
    from pydicom import Dataset

    images = []
    for kind, instance in origin.instances:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = kind, remapped(instance)
        images.append(image)
    return images


def _decimals(numbers: Any) -> list[Any]:
    """DICOM's decimal strings, as exact as 16 characters allow."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(n), auto_format=True) for n in numbers]


def _verify(folder: Path, volume: Volume) -> None:
    """Raises DataError or OutputFailed where the series, as our own reader takes it, is not the result."""
    again = read_back(folder)
    data_XYZ, affine = volume.data_XYZ, volume.affine.clone()
    if float(again.affine[:3, 2] @ affine[:3, 2]) < 0:  # read along the normal, which is against our third axis
        affine[:3, 3] += (volume.shape[2] - 1) * affine[:3, 2]
        affine[:3, 2] *= -1
        data_XYZ = data_XYZ.flip(2)
    step = float(data_XYZ.max() - data_XYZ.min()) / LEVELS
    moved = float((again.affine - affine).abs().max()) / min(volume.spacing_mm)
    if again.shape != volume.shape or moved > SAME_POSITION * max(volume.shape):
        raise OutputFailed("the written series has another position when it is read back: please report this")
    if float((again.data_XYZ - data_XYZ).abs().max()) > step + 1e-5 * float(data_XYZ.abs().max()):
        raise OutputFailed("the voxels differ from what was written: check the disk and retry")
