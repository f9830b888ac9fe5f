"""Reader of one file, of any format in `FORMATS`: a checked header and the voxels of one volume.

Every byte of the file is read, so that gzip checksums are always verified. Nothing is allocated for voxels before the
size that the header promises was compared with a budget and with the size of the file.

Axes: X Y Z voxels in storage order.
"""

from __future__ import annotations

import math
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from moediff.core.errors import DataError, InputMissing
from moediff.io.formats import FORMATS, Format
from moediff.io.missing import is_dangling, why_missing
from moediff.io.naming import files_of, suffix_of
from moediff.io.nifti.gzip_stream import GZIP_MAGIC, GZIP_MODE, REMEDY, Stream, gunzip, raw_pieces
from moediff.io.nifti.header import (
    FIRST_BYTES,
    MAX_BYTES,
    MAX_OFFSET,
    Header,
    check_extensions,
    refuse_other_formats,
    select_volume,
)
from moediff.io.voxels import decode

DEFLATE_RATIO = 1032  # deflate cannot pack more than this many bytes into one
SURPLUS_BYTES = 1 << 24  # unpacked bytes after the voxels that are ignored rather than called a gzip bomb

OTHER_KINDS = {  # suffix -> what to do with such a file
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), "convert it first, for instance with SimpleITK or 3D Slicer"),
    **dict.fromkeys((".par", ".rec"), "convert it first; dcm2niix reads Philips PAR/REC"),
    **dict.fromkeys((".npy", ".npz", ".mat", ".h5"), "an array lacks voxel sizes, save it as NIfTI with its affine"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff"), "a picture is no scan, name the scan it was made from"),
    ".mnc": "convert it first; mnc2nii reads MINC",
    ".gii": "a surface is no scan, name the scan it was made from",
}
PACKED = {  # names that are often given for a scan: what they are, and the remedy
    **dict.fromkeys(
        (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".7z", ".rar"),
        "an archive of files: unpack it first and name the scan, or the folder of DICOM files, in it",
    ),
    **dict.fromkeys((".dcm.gz", ".ima.gz"), "a packed DICOM file: unpack all files with gunzip and name their folder"),
    **dict.fromkeys((".nii.xz", ".nii.bz2", ".nii.zst"), "a packed scan: unpack it, and pack it with gzip if at all"),
}

Selected: TypeAlias = "tuple[tuple[int, int, int], int]"  # the shape of one volume, and its index among those stored


def read_scan(path: Path, index: int | None, notes: list[str]) -> tuple[Header, Tensor]:
    """Header and one volume, float32.

    Raises:
        InputMissing: there is no such file, or it cannot be read.
        DataError: it is damaged, or is no scan we can enhance.
    """
    with _open_scan(path, notes) as scan:
        selected = select_volume(scan.header.shape, index, notes)
        _check_budget(scan.header, _max_unpacked_bytes(scan.file, scan.format))
        body = scan.stream.read(scan.bytes_before) if scan.raw else b""
        if scan.raw and not scan.format.trailing_data:
            check_extensions(scan.raw, body)
        scan.stream.skip(scan.bytes_before - len(body))
        return scan.header, _read_voxels(scan, selected, notes)


def read_header_only(path: Path, notes: list[str]) -> Header:
    """The header of a scan whose voxels are not needed: that they are there is checked, but they are not stored.

    Raises:
        InputMissing, DataError: as `read_scan`, except for faults of the voxels' values.
    """
    with _open_scan(path, notes) as scan:
        scan.stream.skip(scan.bytes_before)
        _check_length(scan.header, scan.stream.skip(scan.header.data_bytes))
        _check_surplus(scan.stream.skip(SURPLUS_BYTES + 1), [])
        return scan.header


class _OpenScan(NamedTuple):
    """A scan whose header has been read.

    Args:
        stream: the unpacked bytes of `file`, positioned somewhere before the voxels.
        bytes_before: how many bytes are left before the voxels.
        raw: the header's bytes where it is in the same file as the voxels, else empty.
    """

    header: Header
    format: Format
    file: BinaryIO
    stream: Stream
    bytes_before: int
    raw: bytes


@contextmanager
def _open_scan(path: Path, notes: list[str]) -> Iterator[_OpenScan]:
    header_path, voxel_path = files_of(path)
    with open_file(path) as file:
        format_ = _format_of(path)
        if format_.pair is None:
            stream = _open_stream(file, format_, notes)
            header, raw = format_.read_header(stream, notes)
            yield _OpenScan(header, format_, file, stream, header.offset - len(raw), raw)
            return
    header = _read_pair_header(header_path, format_, notes)
    with _open_partner(voxel_path) as file:
        yield _OpenScan(header, format_, file, _open_stream(file, format_, notes), header.offset, b"")


def _format_of(path: Path) -> Format:
    suffix = suffix_of(path)
    if suffix is None:
        for end, remedy in PACKED.items():
            if path.name.lower().endswith(end):
                raise DataError(f"expected a scan, found {remedy}")
        remedy = OTHER_KINDS.get(path.suffix.lower(), "convert it first")
        raise DataError(
            f"unsupported kind of file; supported are .nii, .nii.gz, .mgz, .mgh and .hdr with .img: {remedy}"
        )
    return FORMATS[suffix]


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; errors of the system become InputMissing."""
    try:
        if is_dangling(path):
            raise InputMissing(why_missing(path))
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


@contextmanager
def _open_partner(path: Path) -> Iterator[BinaryIO]:
    if not path.exists() and not is_dangling(path):
        raise InputMissing(f"the other file of the pair, *{suffix_of(path)}, is not there: keep both together")
    with open_file(path) as file:
        yield file


def _read_pair_header(path: Path, format_: Format, notes: list[str]) -> Header:
    with _open_partner(path) as file:
        stream = _open_stream(file, format_, notes)
        header, raw = format_.read_header(stream, notes)
        body = stream.read(MAX_OFFSET)
        check_extensions(raw, body)
        _check_surplus(stream.skip(SURPLUS_BYTES + 1), notes)
    return header


def _open_stream(file: BinaryIO, format_: Format, notes: list[str]) -> Stream:
    start = file.read(FIRST_BYTES)
    file.seek(0)
    if format_.gzipped and not start.startswith(GZIP_MAGIC):
        refuse_other_formats(start)
        raise DataError(
            f"the file is named as packed but is not gzip-compressed: rename it to {format_.unpacked_suffix}"
        )
    if format_.gzipped and _holds_gzip(start):
        raise DataError("the file is packed twice: unpack it once with gunzip, and keep its name")
    return Stream(gunzip(file, notes) if format_.gzipped else raw_pieces(file))


def _holds_gzip(start: bytes) -> bool:
    """Whether gzip data begin with gzip data; damaged ones are reported where they are read."""
    try:
        return zlib.decompressobj(GZIP_MODE).decompress(start, len(GZIP_MAGIC)) == GZIP_MAGIC
    except zlib.error:
        return False


def _max_unpacked_bytes(file: BinaryIO, format_: Format) -> int:
    return os.fstat(file.fileno()).st_size * (DEFLATE_RATIO if format_.gzipped else 1)


def _read_voxels(scan: _OpenScan, selected: Selected, notes: list[str]) -> Tensor:
    """One volume of a stream that is positioned at the first voxel; the stream is read to its end."""
    header, stream, (shape, index) = scan.header, scan.stream, selected
    volume_bytes = math.prod(shape) * header.dtype.itemsize
    buffer = bytearray(volume_bytes)
    done = stream.skip(index * volume_bytes)
    done += stream.fill(memoryview(buffer))
    done += stream.skip(header.data_bytes - done)
    _check_length(header, done)
    _check_surplus(stream.skip(SURPLUS_BYTES + 1), [] if scan.format.trailing_data else notes)
    stored_ZYX = np.frombuffer(buffer, header.dtype).reshape(shape[::-1])
    return decode(stored_ZYX, header.slope, header.inter)


def _check_budget(header: Header, most_bytes: int) -> None:
    """Raises DataError before anything is allocated for voxels."""
    if header.data_bytes > MAX_BYTES:
        raise DataError(
            f"the header promises {header.data_bytes} bytes of voxels (shape {header.shape}), expected at most "
            f"{MAX_BYTES}: extract one volume, or crop or downsample the scan"
        )
    if header.offset + header.data_bytes > most_bytes:
        raise DataError(f"the file is too short for the {header.data_bytes} bytes of voxels it promises: {REMEDY}")


def _check_length(header: Header, count: int) -> None:
    if count < header.data_bytes:
        raise DataError(f"the header promises {header.data_bytes} bytes of voxels, found {count}: {REMEDY}")


def _check_surplus(surplus: int, notes: list[str]) -> None:
    if surplus > SURPLUS_BYTES:
        raise DataError(f"more than {SURPLUS_BYTES >> 20} MiB follow the voxels (a gzip bomb?): export the scan again")
    if surplus:
        notes.append(f"{surplus} bytes after the voxels were ignored")
