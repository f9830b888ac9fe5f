"""DICOM in: one series of a folder or zip as a scan, under the same rules as NIfTI.

Axes: X columns, Y rows, Z slices along the normal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.volume import Volume
from moediff.io.dicom.files import DicomFile, open_export
from moediff.io.dicom.geometry import STEP_TOLERANCE, Stack
from moediff.io.dicom.series import Series, choose_series, find_series
from moediff.io.dicom.tags import Frame, open_dataset, require_pydicom, silence_pydicom
from moediff.io.loaded import Loaded, Origin
from moediff.io.nifti.affine import check_plausible
from moediff.io.nifti.header import SLOPE_RANGE, select_volume
from moediff.io.voxels import check_voxels

SCANNER_CODES = (1, 1)  # scanner coordinates, in NIfTI's terms
DAMAGED = "the voxels of an image cannot be decoded (cut short or damaged): copy or export the series again"


def load_series(path: Path, series: str | None = None) -> Loaded:
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
        every = find_series(files)
        chosen = choose_series(every, series)
        stack = chosen.stack
        assert stack is not None
        notes = _notes(chosen, stack, len(every) - 1 if series is None else 0)
        select_volume(stack.shape, None, notes)
        check_plausible(stack.affine, stack.shape, notes)
        data_XYZ = check_voxels(_voxels(files, stack), notes)
    volume = Volume(data_XYZ, torch.from_numpy(stack.affine))
    stem = f"series-{chosen.label}_{stack.frames[0].modality}"
    return Loaded(volume, path, SCANNER_CODES, tuple(notes), stem, _origin(stack))


def read_back(folder: Path) -> Volume:
    """The one series of a folder as its files hold it, although it may be too small to be enhanced.

    Raises:
        DataError, GeometryError: it is not one regular stack.
    """
    with open_export(folder) as files:
        stack = choose_series(find_series(files), None).stack
        assert stack is not None
        return Volume(_voxels(files, stack), torch.from_numpy(stack.affine))


def _origin(stack: Stack) -> Origin:
    first = stack.frames[0]
    instances = dict.fromkeys((f.class_uid, f.instance_uid) for f in stack.frames)  # frames of a file share them
    number = first.number or 0
    return Origin(first.study_uid, first.series_uid, first.place_uid, tuple(instances), number, first.modality)


def _notes(series: Series, stack: Stack, others: int) -> list[str]:
    frames, first = stack.frames, stack.frames[0]
    step_mm = float(np.linalg.norm(stack.affine[:3, 2]))
    declared_mm, count = first.declared_step_mm, first.declared_count
    doubts = {
        f"series {series.label} was taken; {others} others cannot be enhanced": others > 0,
        f"the modality is {first.modality}, expected MR: the model knows MR only": first.modality != "MR",
        f"{len(stack.copies)} images existed twice and were taken once": bool(stack.copies),
        "MONOCHROME1: intensities were turned round, so that large is bright": first.inverted,
        "the images were compressed with loss": any(f.lossy for f in frames),
        "an unusable rescale slope or intercept was taken as 1 or 0": any(f.scaling_fixed for f in frames),
        f"the slices lie {step_mm:.4g} mm apart, their tags say {declared_mm or 0:.4g} mm; positions were believed": (
            declared_mm is not None and abs(declared_mm - step_mm) > STEP_TOLERANCE * step_mm
        ),
        f"{len(frames)} images were found, the acquisition had {count}: slices at an end may be missing": (
            count is not None and count > len(frames)
        ),
    }
    return [words for words, holds in doubts.items() if holds]


def _voxels(files: list[DicomFile], stack: Stack) -> Tensor:
    """Every slice decoded and scaled, float32."""
    data_XYZ = torch.empty(stack.shape, dtype=torch.float32)
    twice: dict[int, list[tuple[int, Frame]]] = {}
    for z, frame in enumerate(stack.frames):
        twice.setdefault(frame.file, []).append((z, frame))
    for number, wanted in twice.items():
        stored_FYX, top = _stored(files[number])
        for z, frame in wanted:
            data_XYZ[:, :, z] = _scaled(stored_FYX, top, frame).T
    place = {id(frame): z for z, frame in enumerate(stack.frames)}
    for kept, copy in stack.copies:
        if not torch.equal(_scaled(*_stored(files[copy.file]), copy).T, data_XYZ[:, :, place[id(kept)]]):
            raise DataError("one instance exists twice with different voxels: export the series again")
    return data_XYZ


def _stored(file: DicomFile) -> tuple[np.ndarray, int]:
    """Voxels of every frame of a file as stored, and the sum of the least and the greatest value they can take."""
    with file.open() as stream, silence_pydicom(DAMAGED):
        dataset: Any = open_dataset(stream)
        stored = np.asarray(dataset.pixel_array)
        bits, signed = int(dataset.get("BitsStored", 1)), int(dataset.get("PixelRepresentation", 0))
        return stored.reshape(-1, *stored.shape[-2:]), -1 if signed else 2**bits - 1


def _scaled(stored_FYX: np.ndarray, top: int, frame: Frame) -> Tensor:
    if frame.index >= len(stored_FYX) or stored_FYX.shape[:0:-1] != frame.size:
        raise DataError(DAMAGED)
    values_YX = stored_FYX[frame.index].astype(np.float64)
    if frame.inverted:
        values_YX = top - values_YX
    low, high = SLOPE_RANGE
    if not low <= abs(frame.slope) <= high:
        raise DataError(f"the rescale slope is {frame.slope:g}, expected {low:g} to {high:g}: export the series again")
    return torch.from_numpy((values_YX * frame.slope + frame.inter).astype(np.float32))
