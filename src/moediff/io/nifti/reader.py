"""From a file on disk to a checked header and the stored voxels of one volume, whatever the kind of file.

Every byte passes through, so that a gzip checksum has always been seen; nothing is allocated for voxels before the
header's promise was compared with a budget and with the size of the file.

Axes: X Y Z voxels in storage order.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from moediff.core.errors import DataError, InputMissing
from moediff.io.nifti.gzip_stream import GZIP_MAGIC, REMEDY, Stream, gunzip, raw_pieces
from moediff.io.nifti.header import (
    FIRST_BYTES,
    MAX_BYTES,
    MAX_OFFSET,
    Header,
    check_extensions,
    read_header,
    read_pair_header,
    refuse_other_formats,
    select_volume,
)
from moediff.io.nifti.mgh import read_mgh_header
from moediff.io.voxels import decode

DEFLATE_RATIO = 1032  # deflate cannot pack more than this many bytes into one
SURPLUS_BYTES = 1 << 24  # unpacked bytes after the voxels that are ignored rather than called a gzip bomb

Part: TypeAlias = "tuple[tuple[int, int, int], int]"  # the shape of one volume, and its place among those stored
HeaderReader: TypeAlias = "Callable[[Stream, list[str]], tuple[Header, bytes]]"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        read_header: what reads its header.
        gzipped: whether it is packed.
        plain_name: how the same content is named unpacked.
        pair: suffixes of the header's and the voxels' file where there are two.
        has_tail: whether something that belongs to the format follows the voxels.
    """

    read_header: HeaderReader
    gzipped: bool
    plain_name: str
    pair: tuple[str, str] | None = None
    has_tail: bool = False


KINDS = {
    ".nii.gz": Kind(read_header, True, ".nii"),
    ".nii": Kind(read_header, False, ".nii"),
    ".mgz": Kind(read_mgh_header, True, ".mgh", has_tail=True),
    ".mgh.gz": Kind(read_mgh_header, True, ".mgh", has_tail=True),
    ".mgh": Kind(read_mgh_header, False, ".mgh", has_tail=True),
    ".hdr": Kind(read_pair_header, False, ".hdr", (".hdr", ".img")),
    ".img": Kind(read_pair_header, False, ".img", (".hdr", ".img")),
    ".hdr.gz": Kind(read_pair_header, True, ".hdr", (".hdr.gz", ".img.gz")),
    ".img.gz": Kind(read_pair_header, True, ".img", (".hdr.gz", ".img.gz")),
}


def suffix_of(path: Path) -> str | None:
    """The one of `KINDS` that a file's name ends with, in lower case; None for any other name."""
    return next((suffix for suffix in KINDS if path.name.lower().endswith(suffix)), None)


def files_of(path: Path) -> tuple[Path, Path]:
    """Where the header and where the voxels are; the same file unless it is a pair."""
    suffix = suffix_of(path)
    pair = KINDS[suffix].pair if suffix else None
    if suffix is None or pair is None:
        return path, path
    stem, own = path.name[: -len(suffix)], path.name[-len(suffix) :]
    header, voxels = (path.with_name(stem + (end.upper() if own.isupper() else end)) for end in pair)
    return header, voxels


def read_scan(path: Path, index: int | None, notes: list[str]) -> tuple[Header, Tensor]:
    """Header and one volume, float32.

    Raises:
        InputMissing: there is no such file, or it cannot be read.
        DataError: it is damaged, or is no scan we can enhance.
    """
    with _opened(path, notes) as scan:
        part = select_volume(scan.header.shape, index, notes)
        _check_budget(scan.header, _most_bytes(scan.file, scan.kind))
        body = scan.stream.read(scan.before) if scan.raw else b""
        if scan.raw and not scan.kind.has_tail:
            check_extensions(scan.raw, body)
        scan.stream.skip(scan.before - len(body))
        return scan.header, _voxels(scan.stream, scan.header, scan.kind, part, notes)


class _Opened(NamedTuple):
    """A scan whose header has been read.

    Args:
        stream: of `file`, somewhere before the voxels.
        before: bytes that are left before them.
        raw: the header's bytes where it stands in the same file as the voxels.
    """

    header: Header
    kind: Kind
    file: BinaryIO
    stream: Stream
    before: int
    raw: bytes


@contextmanager
def _opened(path: Path, notes: list[str]) -> Iterator[_Opened]:
    header_path, voxel_path = files_of(path)
    with open_file(path) as file:
        kind = _kind_of(path)
        if kind.pair is None:
            stream = _open_stream(file, kind, notes)
            header, raw = kind.read_header(stream, notes)
            yield _Opened(header, kind, file, stream, header.offset - len(raw), raw)
            return
    header = _pair_header(header_path, kind, notes)
    with _partner(voxel_path) as file:
        yield _Opened(header, kind, file, _open_stream(file, kind, notes), header.offset, b"")


def _kind_of(path: Path) -> Kind:
    suffix = suffix_of(path)
    if suffix is None:
        raise DataError(
            "unsupported kind of file; supported are .nii, .nii.gz, .mgz, .mgh and .hdr with .img: convert it first"
        )
    return KINDS[suffix]


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open an ordinary file; what goes wrong becomes InputMissing."""
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


@contextmanager
def _partner(path: Path) -> Iterator[BinaryIO]:
    if not path.exists():
        raise InputMissing(f"the other file of the pair, *{suffix_of(path)}, is not there: keep both together")
    with open_file(path) as file:
        yield file


def _pair_header(path: Path, kind: Kind, notes: list[str]) -> Header:
    with _partner(path) as file:
        stream = _open_stream(file, kind, notes)
        header, raw = kind.read_header(stream, notes)
        body = stream.read(MAX_OFFSET)
        check_extensions(raw, body)
        _check_surplus(stream.skip(SURPLUS_BYTES + 1), notes)
    return header


def read_header_only(path: Path, notes: list[str]) -> Header:
    """The header alone of a scan whose voxels only have to be there: they are checked like those of a scan, not kept.

    Raises:
        InputMissing, DataError: as `read_scan`, but for what is about the voxels' values.
    """
    with _opened(path, notes) as scan:
        _check_all_there(scan.stream, scan.header, scan.before)
        return scan.header


def _check_all_there(stream: Stream, header: Header, before: int) -> None:
    """Pass over what comes before the voxels and over them, to the end of the file."""
    stream.skip(before)
    _check_length(header, stream.skip(header.data_bytes))
    _check_surplus(stream.skip(SURPLUS_BYTES + 1), [])


def _open_stream(file: BinaryIO, kind: Kind, notes: list[str]) -> Stream:
    start = file.read(FIRST_BYTES)
    file.seek(0)
    if kind.gzipped and not start.startswith(GZIP_MAGIC):
        refuse_other_formats(start)
        raise DataError(f"the file is named as packed but is not gzip-compressed: rename it to {kind.plain_name}")
    return Stream(gunzip(file, notes) if kind.gzipped else raw_pieces(file))


def _most_bytes(file: BinaryIO, kind: Kind) -> int:
    """What this file can unpack to at most."""
    return os.fstat(file.fileno()).st_size * (DEFLATE_RATIO if kind.gzipped else 1)


def _voxels(stream: Stream, header: Header, kind: Kind, part: Part, notes: list[str]) -> Tensor:
    """One volume of a stream that stands where voxels begin, which is then read to its end."""
    shape, chosen = part
    one = math.prod(shape) * header.dtype.itemsize
    buffer = bytearray(one)
    done = stream.skip(chosen * one)
    done += stream.fill(memoryview(buffer))
    done += stream.skip(header.data_bytes - done)
    _check_length(header, done)
    _check_surplus(stream.skip(SURPLUS_BYTES + 1), [] if kind.has_tail else notes)
    stored_ZYX = np.frombuffer(buffer, header.dtype).reshape(shape[::-1])
    return decode(stored_ZYX, header.slope, header.inter)


def _check_budget(header: Header, most_bytes: int) -> None:
    """Refuse before anything is allocated for voxels."""
    if header.data_bytes > MAX_BYTES:
        raise DataError(
            f"the header promises {header.data_bytes} bytes of voxels (shape {header.shape}), expected at most "
            f"{MAX_BYTES}: extract one volume, or crop or downsample the scan"
        )
    if header.offset + header.data_bytes > most_bytes:
        raise DataError(f"the file is too short for the {header.data_bytes} bytes of voxels it promises: {REMEDY}")


def _check_length(header: Header, found: int) -> None:
    if found < header.data_bytes:
        raise DataError(f"the header promises {header.data_bytes} bytes of voxels, found {found}: {REMEDY}")


def _check_surplus(surplus: int, notes: list[str]) -> None:
    if surplus > SURPLUS_BYTES:
        raise DataError(f"more than {SURPLUS_BYTES >> 20} MiB follow the voxels (a gzip bomb?): export the scan again")
    if surplus:
        notes.append(f"{surplus} bytes after the voxels were ignored")
