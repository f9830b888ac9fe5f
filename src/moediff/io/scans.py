"""Scans: load any format, with every byte checked, and save NIfTI, as whole files.

Axes: X Y Z voxels (RAS+), E maps of one scan. Files have an axis order of their own (`StorageOrder`) and store their
first axis fastest, so arrays appear reversed there.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import ConfigError, DataError, GeometryError, prefix_errors, printable
from moediff.core.geometry import RAS, StorageOrder, canonicalise
from moediff.core.volume import Grid, Volume
from moediff.io.atomic import check_free, write_text
from moediff.io.bids_sidecar import BidsSidecar, read_bids
from moediff.io.checksum import file_state
from moediff.io.dicom.files import is_dicom_export
from moediff.io.dicom.image_type import image_type_warnings
from moediff.io.dicom.reader import load_series, load_several_series
from moediff.io.loaded import LoadedScan, SliceGeometry
from moediff.io.naming import has_two_forms, suffix_of
from moediff.io.nifti import writer
from moediff.io.nifti.affine import (
    check_codes,
    check_plausible,
    choose_affine,
    codes_of_result,
    default_affine,
    unit_scale,
)
from moediff.io.nifti.gzip_stream import REMEDY
from moediff.io.nifti.header import memory_header, select_volume
from moediff.io.nifti.reader import read_header_only, read_scan
from moediff.io.voxels import check_voxels, decode

__all__ = [
    "LoadedScan",
    "check_free",
    "from_nibabel",
    "from_volume",
    "grid_from_file",
    "load",
    "load_several",
    "save",
    "save_labels",
    "save_maps",
    "write_text",
]
NO_SERIES = "a series is a choice for a folder or zip of DICOM files; leave it out for NIfTI"


def load(
    path: Path | str, *, trust: str | None = None, index: int | None = None, series: str | None = None
) -> LoadedScan:
    """Load one scan from a file of any format in `FORMATS`, or one series from a folder or zip of DICOM files.

    Args:
        trust: "sform" or "qform" where the two contradict each other; NIfTI only.
        index: which volume of a 4-D file, from 0; NIfTI only.
        series: which DICOM series, by number or UID; None takes the only usable one.

    Returns:
        The scan in RAS+ (intensities in float32), the storage order of its file, and warnings.

    Raises:
        InputMissing: there is no such file, or it cannot be read.
        DataError, GeometryError: the file is damaged, or is no scan we can enhance.
        ConfigError: an argument that this format does not take, or pydicom is not installed.
    """
    path = Path(path)
    state = file_state(path)
    with prefix_errors(printable(path)):
        if is_dicom_export(path):
            _refuse_choices_of_nifti(trust, index)
            return replace(load_series(path, series), file_state=state)
        if series is not None:
            raise ConfigError(NO_SERIES)
        if trust is not None and not has_two_forms(path):
            raise ConfigError("a form to trust is a choice for NIfTI files; leave it out for FreeSurfer's")
        notes: list[str] = []
        header, data_XYZ = read_scan(path, index, notes)
        affine = choose_affine(header, trust, notes)
        check_plausible(affine, header.shape, notes)
        codes = codes_of_result(header, affine, notes)
        volume, storage = canonicalise(Volume(check_voxels(data_XYZ, notes), torch.from_numpy(affine)))
        bids = read_bids(path)
        notes += image_type_warnings([bids.image_type])
        slices = _slices(bids, volume)
        loaded = LoadedScan(volume, storage, path, codes, tuple(notes), intent=header.intent, slices=slices)
        return replace(loaded, file_state=state)


def load_several(
    path: Path | str, series: Sequence[str], *, trust: str | None = None, index: int | None = None
) -> list[LoadedScan]:
    """Load several DICOM series of one study, scans of one head that `enhance` makes one of, in this order.

    Args:
        path: folder or zip.
        series: numbers or UIDs.
        trust: None; as in `load`, a choice for NIfTI.
        index: None; the same.

    Raises:
        InputMissing, DataError, GeometryError, ConfigError: see `load`; a series is named twice, or they are of several
            studies.
    """
    path = Path(path)
    state = file_state(path)
    with prefix_errors(printable(path)):
        if not is_dicom_export(path):
            raise ConfigError(NO_SERIES)
        _refuse_choices_of_nifti(trust, index)
        return [replace(scan, file_state=state) for scan in load_several_series(path, series)]


def _refuse_choices_of_nifti(trust: str | None, index: int | None) -> None:
    if (trust, index) != (None, None):
        raise ConfigError("a form to trust and a volume are choices for NIfTI files; leave them out for DICOM")


def _slices(bids: BidsSidecar, volume: Volume) -> SliceGeometry | None:
    """Slices as a BIDS sidecar describes them; they are stacked along the coarsest axis."""
    if bids.thickness_mm is None:
        return None
    return SliceGeometry(bids.thickness_mm, bids.distance_mm or max(volume.spacing_mm))


def from_nibabel(image: Any) -> LoadedScan:
    """Check a nibabel SpatialImage as a file is checked; voxels that are still in a file are read from it again.

    Raises:
        InputMissing: the file behind the image is gone.
        DataError, GeometryError: the image is no scan we can enhance.
    """
    from nibabel import Nifti1Header
    from nibabel.spatialimages import SpatialImage

    notes: list[str] = []
    if not isinstance(image, SpatialImage):
        raise DataError(f"expected a path, a Volume or a nibabel image, got {type(image).__name__}")
    behind = _file_behind(image)
    state = None if behind is None else file_state(behind)
    dataobj: Any = image.dataobj  # nibabel's own annotation lacks the dtype that every array and proxy has
    kind = np.dtype(dataobj.dtype)
    if kind.kind not in "iuf" or image.get_data_dtype().kind not in "iuf":
        raise DataError(f"expected real voxels, got {kind} (colour, complex or boolean): give one real-valued scan")
    shape, _ = select_volume(image.shape, None, notes)
    affine, codes = _memory_affine(image, notes)
    check_plausible(affine, shape, notes)
    data_XYZ = check_voxels(_image_voxels(image, shape, notes), notes)
    volume, storage = canonicalise(Volume(data_XYZ, torch.from_numpy(affine)))
    intent = int(image.header["intent_code"]) if isinstance(image.header, Nifti1Header) else 0
    codes = check_codes(codes, notes)
    return LoadedScan(volume, storage, None, codes, tuple(notes), intent=intent, file_state=state)


def from_volume(volume: Volume) -> LoadedScan:
    """Check a scan in memory as a file is checked: float32, finite, with contrast.

    Raises:
        DataError: its voxels are no real numbers, more than 5 % of them are not finite, or all are equal.
    """
    notes: list[str] = []
    stored_XYZ = volume.data_XYZ.detach()
    if stored_XYZ.is_complex() or stored_XYZ.dtype == torch.bool:
        raise DataError(f"expected real voxels, got {str(stored_XYZ.dtype).removeprefix('torch.')}: give a scan")
    data_XYZ = check_voxels(stored_XYZ.to("cpu", torch.float32), notes)
    canonical, storage = canonicalise(volume.with_data(data_XYZ))
    return LoadedScan(canonical, storage, None, (1, 1), tuple(notes))


def save(
    volume: Volume,
    path: Path | str,
    *,
    storage: StorageOrder = RAS,
    codes: tuple[int, int] = (1, 1),
    overwrite: bool = False,
) -> None:
    """Write a scan as float32 NIfTI-1 in mm; the suffix .nii or .nii.gz decides about gzip.

    Args:
        storage: the axis order to store a RAS+ scan in; without it the volume is stored in the order that it has.
        codes: (qform_code, sform_code) of the source; where both are 0 the sform gets code 1, with a warning.

    Raises:
        CannotCreate: the file exists (and `overwrite` is False) or its folder is closed to us.
        OutputFailed: the disk is full or failed; nothing partial is left.
    """
    with prefix_errors(printable(path)):
        form = writer.StoredForm(storage, codes)
        writer.write(volume.data_XYZ, volume.affine, Path(path), form, overwrite=overwrite)


def save_maps(
    data_XYZE: Tensor,
    affine: Tensor | np.ndarray,
    path: Path | str,
    *,
    storage: StorageOrder = RAS,
    codes: tuple[int, int] = (1, 1),
    overwrite: bool = False,
) -> None:
    """Write several maps on one grid as a 4-D float32 file; otherwise like `save`.

    Raises:
        CannotCreate, OutputFailed: see `save`.
        GeometryError: the data are not 4-D or the affine is unusable.
    """
    with prefix_errors(printable(path)):
        if data_XYZE.ndim != 4:
            raise GeometryError(f"expected 4 axes X Y Z E, got shape {tuple(data_XYZE.shape)}")
        checked = Volume(data_XYZE[..., 0], torch.as_tensor(affine)).affine
        writer.write(data_XYZE, checked, Path(path), writer.StoredForm(storage, codes), overwrite=overwrite)


def save_labels(
    volume: Volume,
    path: Path | str,
    *,
    storage: StorageOrder = RAS,
    codes: tuple[int, int] = (1, 1),
    overwrite: bool = False,
) -> None:
    """Write labels, uint8, as they are; otherwise like `save`.

    Raises:
        CannotCreate, OutputFailed: see `save`.
        GeometryError: the voxels are no uint8.
    """
    with prefix_errors(printable(path)):
        if volume.data_XYZ.dtype != torch.uint8:
            raise GeometryError(f"expected labels of type uint8, got {volume.data_XYZ.dtype}")
        form = writer.StoredForm(storage, codes, writer.LABELS)
        writer.write(volume.data_XYZ, volume.affine, Path(path), form, overwrite=overwrite)


def grid_from_file(path: Path, option: str = "--like") -> Grid:
    """The grid of a file whose voxels do not matter (scan, mask, 4-D series): that of its first three axes.

    Args:
        option: the command-line option that named the file; error messages begin with it. Empty: an input itself.

    Raises:
        InputMissing: there is no such file, or it cannot be read.
        DataError, GeometryError: the file is damaged, or its header defines no affine.
    """
    with prefix_errors(f"{option} {printable(path)}".strip()):
        return _series_grid(path) if is_dicom_export(path) else _header_grid(path)


def _image_voxels(image: Any, shape: tuple[int, int, int], notes: list[str]) -> Tensor:
    path = _file_behind(image)
    if path is None:
        try:
            return decode(np.asarray(image.dataobj).reshape(shape).T, 1.0, 0.0)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"the image's voxels cannot be read ({error}): {REMEDY}") from error
    file_notes: list[str] = []
    with prefix_errors(printable(path)):
        header, data_XYZ = read_scan(path, None, file_notes)
        if tuple(data_XYZ.shape) != shape:
            raise DataError(f"the image has shape {image.shape}, its file now {header.shape}: open the file again")
    notes += [note for note in file_notes if note not in notes]
    return data_XYZ


def _file_behind(image: Any) -> Path | None:
    """The file that the image's voxels are still in; nibabel would read it without verifying checksums."""
    name = getattr(image.dataobj, "file_like", None)  # an array has none, a proxy may have an open stream instead
    if not isinstance(name, str | os.PathLike) or suffix_of(Path(name)) is None:
        return None
    return Path(name)


def _memory_affine(image: Any, notes: list[str]) -> tuple[np.ndarray, tuple[int, int]]:
    """Affine in mm and codes of an image in memory."""
    from nibabel import Nifti1Header

    if not isinstance(image.header, Nifti1Header):  # the base of Nifti2Header and of pairs too
        if image.affine is None:
            return default_affine(image.shape, image.header.get_zooms()[:3], notes), (0, 0)
        return np.array(image.affine, dtype=np.float64), (1, 1)
    header = memory_header(image.header.structarr, image.shape)
    if image.affine is None or np.allclose(image.affine, image.header.get_best_affine(), equal_nan=True):
        affine = choose_affine(header, None, notes)
        return affine, codes_of_result(header, affine, notes)
    affine = np.array(image.affine, dtype=np.float64)  # changed after opening; nibabel would write it like this
    affine[:3] *= unit_scale(header.unit, notes)
    return affine, (0, 2)


def _series_grid(path: Path) -> Grid:
    try:
        return load_series(path).stored_grid
    except DataError as error:
        if "--series" in str(error):
            raise DataError(f"{_without_remedy(error)}: name a folder that holds one series only") from error
        raise


def _header_grid(path: Path) -> Grid:
    notes: list[str] = []  # not reported: the sidecar's warnings are about the scan
    header = read_header_only(path, notes)
    if len(header.shape) < 3:
        raise DataError(f"expected a grid of 3 axes, got shape {header.shape}: name a whole scan")
    try:
        affine = choose_affine(header, None, notes)
    except GeometryError as error:
        raise GeometryError(
            f"the header does not give one position for its voxels ({_without_remedy(error)}), expected one affine: "
            "repair its sform and qform, or name another reference"
        ) from error
    check_plausible(affine, header.shape, notes)
    x, y, z = header.shape[:3]
    return Grid((x, y, z), torch.from_numpy(affine))


def _without_remedy(error: DataError) -> str:
    """The message of an error without its remedy, which is meant for the scan that is enhanced."""
    return str(error).split(": ")[0]
