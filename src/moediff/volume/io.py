"""Scans in, NIfTI out: every byte checked on the way in, every file whole on the way out.

Axes: X Y Z voxels in storage order, E maps of one scan. Files store X fastest, so arrays appear reversed there.
"""

from __future__ import annotations

import math
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from nibabel import Nifti1Header
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from moediff.errors import ConfigError, DataError, GeometryError, InputMissing, naming
from moediff.volume import nifti_out
from moediff.volume.atomic import check_free, shown, write_text
from moediff.volume.dicom import load_series
from moediff.volume.dicom_files import is_export
from moediff.volume.gzip_check import CURE, GZIP_MAGIC, Stream, gunzip, plain
from moediff.volume.header import (
    FIRST_BYTES,
    MAX_BYTES,
    Header,
    check_extensions,
    header_bytes,
    memory_header,
    pick_volume,
    read_header,
)
from moediff.volume.loaded import Loaded
from moediff.volume.placement import check_plausible, place, source_codes, unit_scale, unplaced_affine
from moediff.volume.values import check_values, decode
from moediff.volume.volume import Volume

__all__ = ["Loaded", "check_free", "from_nibabel", "load", "save", "save_maps", "write_text"]

DEFLATE_RATIO = 1032  # deflate cannot pack more than this many bytes into one
SURPLUS_BYTES = 1 << 24  # unpacked bytes after the voxels that are ignored rather than called a gzip bomb


def load(path: Path | str, *, trust: str | None = None, index: int | None = None, series: str | None = None) -> Loaded:
    """Read one scan from .nii or .nii.gz, or one series from a folder or zip of DICOM files.

    Args:
        trust: "sform" or "qform" where the two contradict each other; NIfTI only.
        index: which volume of a 4-D file, from 0; NIfTI only.
        series: which DICOM series, by number or UID; None takes the only usable one.

    Raises:
        InputMissing: there is no such file, or it cannot be read.
        DataError, GeometryError: the file is damaged, or is no scan we can enhance.
        ConfigError: a choice that this kind of file does not have, or pydicom is not installed.
    """
    path = Path(path)
    with naming(shown(path)):
        if is_export(path):
            if (trust, index) != (None, None):
                raise ConfigError("a form to trust and a volume are choices for NIfTI files; leave them out for DICOM")
            return load_series(path, series)
        if series is not None:
            raise ConfigError("a series is a choice for a folder or zip of DICOM files; leave it out for NIfTI")
        notes: list[str] = []
        with _reading(path) as file:
            header, data_XYZ = _read(file, _is_gzip(path), index, notes)
        affine = place(header, trust, notes)
        check_plausible(affine, header.shape, notes)
        volume = Volume(check_values(data_XYZ, notes), torch.from_numpy(affine))
        return Loaded(volume, path, source_codes(header.codes, notes), tuple(notes))


def from_nibabel(image: Any) -> Loaded:
    """Take a nibabel SpatialImage under the same rules; voxels still in a .nii or .nii.gz file are checked there.

    Raises:
        InputMissing: the file behind the image is gone.
        DataError, GeometryError: the image is no scan we can enhance.
    """
    notes: list[str] = []
    if not isinstance(image, SpatialImage):
        raise DataError(f"expected a path, a Volume or a nibabel image, got {type(image).__name__}")
    dataobj: Any = image.dataobj  # nibabel's own annotation lacks the dtype that every array and proxy has
    kind = np.dtype(dataobj.dtype)
    if kind.kind not in "iuf" or image.get_data_dtype().kind not in "iuf":
        raise DataError(f"expected real voxels, got {kind} (colour, complex or boolean): give one real-valued scan")
    shape, _ = pick_volume(image.shape, None, notes)
    affine, codes = _memory_affine(image, notes)
    check_plausible(affine, shape, notes)
    data_XYZ = check_values(_image_voxels(image, shape, notes), notes)
    return Loaded(Volume(data_XYZ, torch.from_numpy(affine)), None, source_codes(codes, notes), tuple(notes))


def save(volume: Volume, path: Path | str, *, codes: tuple[int, int] = (1, 1), overwrite: bool = False) -> None:
    """Write a scan as float32 NIfTI-1 in mm; the suffix .nii or .nii.gz decides about gzip.

    Args:
        codes: (qform_code, sform_code) of the source; where both are 0 the sform gets code 1, with a warning.

    Raises:
        CannotCreate: the file exists (and `overwrite` is False) or its folder is closed to us.
        OutputFailed: the disk is full or failed; nothing partial is left.
    """
    with naming(shown(path)):
        nifti_out.write(volume.data_XYZ, volume.affine, Path(path), codes=codes, overwrite=overwrite)


def save_maps(
    data_XYZE: Tensor,
    affine: Tensor | np.ndarray,
    path: Path | str,
    *,
    codes: tuple[int, int] = (1, 1),
    overwrite: bool = False,
) -> None:
    """Write several maps on one grid as a 4-D float32 file; otherwise like `save`.

    Raises:
        CannotCreate, OutputFailed: see `save`.
        GeometryError: the data are not 4-D or the affine is unusable.
    """
    with naming(shown(path)):
        if data_XYZE.ndim != 4:
            raise GeometryError(f"expected 4 axes X Y Z E, got shape {tuple(data_XYZE.shape)}")
        place = Volume(data_XYZE[..., 0], torch.as_tensor(affine)).affine
        nifti_out.write(data_XYZE, place, Path(path), codes=codes, overwrite=overwrite)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a null byte in the name
            raise InputMissing("there is no such file: check the name") from error
        if stat.S_ISDIR(mode):
            raise InputMissing("this is a folder, name one .nii or .nii.gz file in it")
        if not stat.S_ISREG(mode):
            raise InputMissing("this is not an ordinary file: copy the scan to disk first")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputMissing(
            f"the file cannot be read ({error.strerror or error}): check name and permissions"
        ) from error


def _is_gzip(path: Path) -> bool:
    gzipped = nifti_out.gzip_wanted(path)
    if gzipped is None:
        raise DataError("unsupported kind of file; supported are .nii and .nii.gz: convert it first")
    return gzipped


def _open_stream(file: BinaryIO, gzipped: bool, notes: list[str]) -> Stream:
    start = file.read(FIRST_BYTES)
    file.seek(0)
    if gzipped and not start.startswith(GZIP_MAGIC):
        header_bytes(start)  # says what it is instead, unless it is NIfTI
        raise DataError("the file is named .nii.gz but is not gzip-compressed: rename it to .nii")
    return Stream(gunzip(file, notes) if gzipped else plain(file))


def _read(file: BinaryIO, gzipped: bool, index: int | None, notes: list[str]) -> tuple[Header, Tensor]:
    """Header and one volume; the whole file is passed through so that its checksum has been seen."""
    stream = _open_stream(file, gzipped, notes)
    header, raw = read_header(stream, notes)
    shape, chosen = pick_volume(header.shape, index, notes)
    _check_budget(header, os.fstat(file.fileno()).st_size * (DEFLATE_RATIO if gzipped else 1))
    check_extensions(raw, stream.read(header.offset - len(raw)))
    one = math.prod(shape) * header.dtype.itemsize
    buffer = bytearray(one)
    done = stream.skip(chosen * one)
    done += stream.fill(memoryview(buffer))
    done += stream.skip(header.data_bytes - done)
    if done < header.data_bytes:
        raise DataError(f"the header promises {header.data_bytes} bytes of voxels, found {done}: {CURE}")
    _check_surplus(stream.skip(SURPLUS_BYTES + 1), notes)
    stored_ZYX = np.frombuffer(buffer, header.dtype).reshape(shape[::-1])
    return header, decode(stored_ZYX, header.slope, header.inter)


def _check_budget(header: Header, most_bytes: int) -> None:
    """Refuse before anything is allocated for voxels."""
    if header.data_bytes > MAX_BYTES:
        raise DataError(
            f"the header promises {header.data_bytes} bytes of voxels (shape {header.shape}), expected at most "
            f"{MAX_BYTES}: extract one volume, or crop or downsample the scan"
        )
    if header.offset + header.data_bytes > most_bytes:
        raise DataError(f"the file is too short for the {header.data_bytes} bytes of voxels it promises: {CURE}")


def _check_surplus(surplus: int, notes: list[str]) -> None:
    if surplus > SURPLUS_BYTES:
        raise DataError(f"more than {SURPLUS_BYTES >> 20} MiB follow the voxels (a gzip bomb?): export the scan again")
    if surplus:
        notes.append(f"{surplus} bytes after the voxels were ignored")


def _image_voxels(image: Any, shape: tuple[int, int, int], notes: list[str]) -> Tensor:
    path = _file_behind(image)
    if path is None:
        try:
            return decode(np.asarray(image.dataobj).reshape(shape).T, 1.0, 0.0)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"the image's voxels cannot be read ({error}): {CURE}") from error
    found: list[str] = []
    with naming(shown(path)), _reading(path) as file:
        header, data_XYZ = _read(file, _is_gzip(path), None, found)
        if tuple(data_XYZ.shape) != shape:
            raise DataError(f"the image has shape {image.shape}, its file now {header.shape}: open the file again")
    notes += [note for note in found if note not in notes]
    return data_XYZ


def _file_behind(image: Any) -> Path | None:
    """The NIfTI file that still holds this image's voxels; nibabel would read it without looking at checksums."""
    name = getattr(image.dataobj, "file_like", None)  # an array has none, a proxy may have an open stream instead
    if not isinstance(name, str | os.PathLike) or nifti_out.gzip_wanted(Path(name)) is None:
        return None
    return Path(name)


def _memory_affine(image: Any, notes: list[str]) -> tuple[np.ndarray, tuple[int, int]]:
    """Affine in mm and codes of an image in memory."""
    if not isinstance(image.header, Nifti1Header):  # the base of Nifti2Header and of pairs too
        if image.affine is None:
            return unplaced_affine(image.shape, image.header.get_zooms()[:3], notes), (0, 0)
        return np.array(image.affine, dtype=np.float64), (1, 1)
    header = memory_header(image.header.structarr, image.shape)
    if image.affine is None or np.allclose(image.affine, image.header.get_best_affine(), equal_nan=True):
        return place(header, None, notes), header.codes
    affine = np.array(image.affine, dtype=np.float64)  # set since; nibabel would write it like this
    affine[:3] *= unit_scale(header.unit, notes)
    return affine, (0, 2)
