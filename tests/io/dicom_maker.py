"""Synthetic DICOM series written with pydicom, with personal data in every header that must never come out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from moediff.core.volume import Volume

SHAPE = (12, 10, 9)
SPACING_MM = (6.0, 7.0, 8.0)
PERSONAL = {
    "PatientName": "Quimby^Jane",
    "PatientID": "HOSP-47110815",
    "PatientBirthDate": "19601231",
    "StudyDate": "20210405",
    "InstitutionName": "Clinic of Nowhere",
    "StudyDescription": "Quimby brain",
    "SeriesDescription": "t1 of Jane",
    "ReferringPhysicianName": "Roe^Richard",
    "StationName": "SCANNER77",
}
SECRETS = ("quimby", "jane", "47110815", "19601231", "20210405", "nowhere", "richard", "scanner77")
OBLIQUE = np.array([[0.8, 0.6, 0.0], [-0.48, 0.64, 0.6]])  # LPS along a row, then along a column


def known_voxels(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Different at every voxel: XYZ, 0..4000."""
    return np.random.default_rng(5).permutation(np.prod(shape)).reshape(shape).astype(np.uint16)


def known_affine(directions: np.ndarray = OBLIQUE, spacing: tuple[float, ...] = SPACING_MM) -> np.ndarray:
    """RAS+ affine of the written series, by columns and rows and slices, worked out apart from the reader."""
    affine = np.eye(4)
    normal = np.cross(directions[0], directions[1])
    for axis, direction in enumerate((*directions, normal)):
        affine[:3, axis] = np.array([-direction[0], -direction[1], direction[2]]) * spacing[axis]
    affine[:3, 3] = (20.0, 30.0, -15.0)  # LPS -20, -30, -15
    return affine


def slices(directions: np.ndarray = OBLIQUE, *, series: str = "1.2.3.5", number: int = 5, **tags: Any) -> list[Dataset]:
    """One data set per slice of `known_voxels`, in order along the normal; `tags` are set on each."""
    voxels, normal = known_voxels(), np.cross(directions[0], directions[1])
    datasets = []
    for z in range(SHAPE[2]):
        one = _one(f"{series}.{z}", series, number)
        one.ImagePositionPatient = [float(v) for v in np.round([-20, -30, -15] + z * SPACING_MM[2] * normal, 8)]
        one.ImageOrientationPatient = [float(v) for v in directions.ravel()]
        one.PixelSpacing = [SPACING_MM[1], SPACING_MM[0]]
        one.InstanceNumber = SHAPE[2] - z  # against the order of positions
        one.PixelData = voxels[:, :, z].T.astype("<u2").tobytes()
        for name, value in tags.items():
            setattr(one, name, value)
        datasets.append(one)
    return datasets


def stack_of(volume: Volume, number: int, *, series: str | None = None, **tags: Any) -> list[Dataset]:
    """One data set per slice of a scan with voxels 0..4000, sliced across its coarsest axis, in whole numbers."""
    across = max(range(3), key=lambda axis: volume.spacing_mm[axis])
    along = [axis for axis in range(3) if axis != across]
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine.numpy()
    series, datasets = series or f"1.2.3.{number}", []
    for k in range(volume.shape[across]):
        one = _one(f"{series}.{k}", series, number)
        one.ImagePositionPatient = [float(v) for v in np.round(lps[:3, 3] + k * lps[:3, across], 8)]
        one.ImageOrientationPatient = [float(v) for axis in along for v in lps[:3, axis] / volume.spacing_mm[axis]]
        one.PixelSpacing = [volume.spacing_mm[axis] for axis in reversed(along)]
        one.SliceThickness, one.InstanceNumber = volume.spacing_mm[across], k + 1
        one.Columns, one.Rows = (volume.shape[axis] for axis in along)
        stored = volume.data_XYZ.select(across, k).round().clamp(0, 4000).numpy()
        one.PixelData = stored.T.astype("<u2").tobytes()
        for name, value in tags.items():
            setattr(one, name, value)
        datasets.append(one)
    return datasets


def _one(uid: str, series: str, number: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in PERSONAL.items():
        setattr(one, name, value)
    one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID, one.SeriesNumber = MRImageStorage, uid, series, number
    one.StudyInstanceUID, one.Modality, one.ImageType = "1.2.3", "MR", ["ORIGINAL", "PRIMARY", "M"]
    one.ScanningSequence, one.MRAcquisitionType, one.SliceThickness = "GR", "2D", SPACING_MM[2]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.Columns, one.Rows = SHAPE[:2]
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    return one


def enhanced(directions: np.ndarray = OBLIQUE) -> Dataset:
    """The same slices as one multi-frame file, frames in reverse order, geometry in functional groups only."""
    plain = slices(directions)[::-1]
    whole = _one("1.2.3.9.1", "1.2.3.9", 9)
    whole.NumberOfFrames = len(plain)
    whole.PixelData = b"".join(one.PixelData for one in plain)
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = plain[0].PixelSpacing
    shared.PixelMeasuresSequence = [measures]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [_group(one) for one in plain]
    return whole


def _group(one: Dataset) -> Dataset:
    group, position, orientation, scaling = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = one.ImagePositionPatient
    orientation.ImageOrientationPatient = one.ImageOrientationPatient
    scaling.RescaleSlope, scaling.RescaleIntercept = 2.0, 3.0
    group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
    group.PixelValueTransformationSequence = [scaling]
    return group


def write(folder: Path, datasets: list[Dataset], prefix: str = "Quimby_Jane_") -> Path:
    """Write files whose names are shuffled and personal too."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(1).permutation(len(datasets))
    for name, one in zip(order, datasets, strict=True):
        one.save_as(folder / f"{prefix}{name:03d}.dcm", enforce_file_format=True)
    return folder
