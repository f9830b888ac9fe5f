"""Reader of one DICOM series of a folder, zip or file, under the same rules as NIfTI.

Axes: X columns, Y rows, Z slices along the normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import DataError, prefix_errors
from moediff.core.geometry import canonicalise
from moediff.core.volume import Volume
from moediff.io.dicom.files import DicomFile, open_export
from moediff.io.dicom.geometry import STEP_TOLERANCE, Stack
from moediff.io.dicom.image_type import image_type_warnings
from moediff.io.dicom.series import Series, choose_series, choose_several, find_series
from moediff.io.dicom.tags import DicomImage, open_dataset, require_pydicom, silence_pydicom
from moediff.io.loaded import DicomOrigin, LoadedScan, SliceGeometry
from moediff.io.nifti.affine import check_plausible
from moediff.io.nifti.header import SLOPE_RANGE, select_volume
from moediff.io.voxels import check_voxels

SCANNER_CODES = (1, 1)  # scanner coordinates, in NIfTI's terms
DAMAGED = "the voxels of an image cannot be decoded (cut short or damaged): copy or export the series again"


def load_series(path: Path, series: str | None = None) -> LoadedScan:
    """Read one series.

    Args:
        path: folder, .zip, or one .dcm or .ima file.
        series: number as `moediff dicom list` shows it, or UID; None takes the only usable series.

    Raises:
        ConfigError: pydicom is not installed.
        InputMissing: nothing there, or no DICOM in it.
        DataError, GeometryError: damaged, not one regular stack, or several to choose from.
    """
    require_pydicom()
    with open_export(path) as files:
        passed_over: list[str] = []
        all_series = find_series(files, passed_over)
        chosen = choose_series(all_series, series)
        notes = [*_choice(chosen, len(all_series) - 1 if series is None else 0), *series_warnings(chosen), *passed_over]
        return _read(path, files, chosen, notes)


def load_several_series(path: Path, series: Sequence[str]) -> list[LoadedScan]:
    """Read several series of one study, which are to become one result.

    Args:
        path: folder or .zip.
        series: numbers as `moediff dicom list` shows them, or UIDs.

    Raises:
        ConfigError: pydicom is not installed.
        InputMissing: nothing there, or no DICOM in it.
        DataError, GeometryError: damaged, not one regular stack, not there, named twice, or of several studies.
    """
    require_pydicom()
    scans: list[LoadedScan] = []
    with open_export(path) as files:
        passed_over: list[str] = []
        for one in choose_several(find_series(files, passed_over), series):
            with prefix_errors(f"series {one.label}"):
                scans.append(_read(path, files, one, [*series_warnings(one), *(passed_over if not scans else ())]))
    return scans


def _read(path: Path, files: list[DicomFile], chosen: Series, notes: list[str]) -> LoadedScan:
    """A series with a stack; `notes` get what was corrected."""
    stack = chosen.stack
    assert stack is not None
    select_volume(stack.shape, None, notes)
    check_plausible(stack.affine, stack.shape, notes)
    data_XYZ = check_voxels(_voxels(files, stack, notes), notes)
    volume, storage = canonicalise(Volume(data_XYZ, torch.from_numpy(stack.affine)))
    stem = f"series-{chosen.label}_{stack.images[0].modality}"
    return LoadedScan(volume, storage, path, SCANNER_CODES, tuple(notes), stem, _origin(stack), slices=_slices(stack))


def read_back(folder: Path) -> Volume:
    """The one series of a folder as its files hold it, although it may be too small to be enhanced.

    Raises:
        DataError, GeometryError: it is not one regular stack.
    """
    with open_export(folder) as files:
        stack = choose_series(find_series(files), None).stack
        assert stack is not None
        return Volume(_voxels(files, stack, []), torch.from_numpy(stack.affine))


def _slices(stack: Stack) -> SliceGeometry | None:
    thick = [image.thickness_mm for image in stack.images if image.thickness_mm]
    if not thick or min(thick) <= 0:
        return None
    return SliceGeometry(float(np.median(thick)), float(np.linalg.norm(stack.affine[:3, 2])))


def _origin(stack: Stack) -> DicomOrigin:
    first = stack.images[0]
    # The frames of a multi-frame file share one instance.
    instances = dict.fromkeys((image.class_uid, image.instance_uid) for image in stack.images)
    number, lossy = first.number or 0, any(image.lossy for image in stack.images)
    return DicomOrigin(first.study_uid, first.series_uid, first.frame_of_reference_uid, tuple(instances), number, lossy)


def _choice(series: Series, others: int) -> list[str]:
    return [f"series {series.label} was taken; {others} others cannot be enhanced"] if others > 0 else []


def series_warnings(series: Series) -> list[str]:
    """What looks doubtful about a series by its tags; nothing where it is not usable, which has its own reason."""
    stack = series.stack
    if stack is None:
        return []
    images, first = stack.images, stack.images[0]
    step_mm = float(np.linalg.norm(stack.affine[:3, 2]))
    declared_mm, count = first.declared_step_mm, first.declared_count
    conditions = {
        f"the modality is {first.modality}, expected MR: the model knows MR only": first.modality != "MR",
        f"{len(stack.copies)} images existed twice and were taken once": bool(stack.copies),
        "MONOCHROME1: intensities were inverted, so that bright tissue has large values": first.inverted,
        "the images were compressed with loss": any(image.lossy for image in images),
        "an unusable rescale slope or intercept was taken as 1 or 0": any(image.scaling_fixed for image in images),
        f"the slices lie {step_mm:.4g} mm apart, their tags say {declared_mm or 0:.4g} mm; the positions were used": (
            declared_mm is not None and abs(abs(declared_mm) - step_mm) > STEP_TOLERANCE * step_mm
        ),
        f"{len(images)} images were found, the acquisition had {count}: slices at an end may be missing": (
            count is not None and count > len(images)
        ),
    }
    kinds = image_type_warnings(image.image_type for image in images)
    return [*(words for words, holds in conditions.items() if holds), *_numbering(images), *kinds]


def _numbering(images: tuple[DicomImage, ...]) -> list[str]:
    """A warning where the numbers of single-frame images tell that some are not there."""
    numbers = sorted({image.instance_number for image in images if image.instance_number is not None})
    if len(numbers) < len(images) or images[0].declared_count == len(images):
        return []
    step = math.gcd(*np.diff(numbers).tolist())  # 2 where two echoes were numbered in turn
    gaps = (numbers[-1] - numbers[0]) // step + 1 - len(numbers)
    before = (numbers[0] - 1) // step
    if not gaps and before <= 0:
        return []
    return [
        f"the images are numbered {numbers[0]} to {numbers[-1]}, {max(before, 0)} numbers before and {gaps} between "
        "them are absent: slices may be missing"
    ]


def _voxels(files: list[DicomFile], stack: Stack, notes: list[str]) -> Tensor:
    """Every slice decoded and scaled, float32; padding takes the level of air."""
    data_XYZ = torch.empty(stack.shape, dtype=torch.float32)
    padding_XYZ = torch.zeros(stack.shape, dtype=torch.bool)
    images_of_file: dict[int, list[tuple[int, DicomImage]]] = {}
    for z, image in enumerate(stack.images):
        images_of_file.setdefault(image.file, []).append((z, image))
    for number, images in images_of_file.items():
        stored_FYX, top = _stored(files[number])
        for z, image in images:
            data_XYZ[:, :, z] = _scaled(stored_FYX, top, image).T
            if image.padding is not None:
                low, high = image.padding
                stored_YX = stored_FYX[image.index]
                padding_XYZ[:, :, z] = torch.from_numpy((stored_YX >= low) & (stored_YX <= high)).T
    _require_same_copies(files, stack, data_XYZ)
    return _without_padding(data_XYZ, padding_XYZ, notes)


def _require_same_copies(files: list[DicomFile], stack: Stack, data_XYZ: Tensor) -> None:
    """Raises DataError where an instance that exists twice has other voxels there."""
    index = {id(image): z for z, image in enumerate(stack.images)}
    copies_of_file: dict[int, list[tuple[int, DicomImage]]] = {}  # a multi-frame file is decoded as a whole
    for original, copy in stack.copies:
        copies_of_file.setdefault(copy.file, []).append((index[id(original)], copy))
    for number, copies in copies_of_file.items():
        stored_FYX, top = _stored(files[number])
        if not all(torch.equal(_scaled(stored_FYX, top, copy).T, data_XYZ[:, :, z]) for z, copy in copies):
            raise DataError("one instance exists twice with different voxels: export the series again")


def _without_padding(data_XYZ: Tensor, padding_XYZ: Tensor, notes: list[str]) -> Tensor:
    """Padding becomes 0, or the least measured value where that is negative."""
    measured = data_XYZ[~padding_XYZ] if bool(padding_XYZ.any()) else data_XYZ[:0]
    if not measured.numel():
        return data_XYZ
    air = min(float(measured.min()), 0.0)
    changed = int((padding_XYZ & (data_XYZ != air)).sum())
    if changed:
        notes.append(f"{changed} voxels are padding (PixelPaddingValue), not data: they were taken as {air:g}")
    return data_XYZ.masked_fill_(padding_XYZ, air)


def _stored(file: DicomFile) -> tuple[np.ndarray, int]:
    """Stored voxels of every frame of a file, and the sum of the least and the greatest value they can take."""
    with file.open() as stream, silence_pydicom(DAMAGED):
        dataset: Any = open_dataset(stream)
        stored = np.asarray(dataset.pixel_array)
        bits, signed = int(dataset.get("BitsStored", 1)), int(dataset.get("PixelRepresentation", 0))
        return stored.reshape(-1, *stored.shape[-2:]), -1 if signed else 2**bits - 1


def _scaled(stored_FYX: np.ndarray, top: int, image: DicomImage) -> Tensor:
    if image.index >= len(stored_FYX) or stored_FYX.shape[:0:-1] != image.size:
        raise DataError(DAMAGED)
    values_YX = stored_FYX[image.index].astype(np.float64)
    if image.inverted:
        values_YX = top - values_YX
    low, high = SLOPE_RANGE
    if not low <= abs(image.slope) <= high:
        raise DataError(f"the rescale slope is {image.slope:g}, expected {low:g} to {high:g}: export the series again")
    return torch.from_numpy((values_YX * image.slope + image.inter).astype(np.float32))
