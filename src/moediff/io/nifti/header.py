"""NIfTI header: read from bytes and checked, before anything is allocated (nibabel checks much less).

NIfTI-1 and NIfTI-2, single files and pairs of .hdr and .img, either byte order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moediff.core.errors import DataError
from moediff.io.missing import APPLE_DOUBLE
from moediff.io.nifti.gzip_stream import REMEDY, Stream

MAX_BYTES = 2**31  # of voxel data in the file, and of one volume as float32
MIN_VOXELS = 8  # along each axis; the network works on neighbourhoods
MAX_OFFSET = 2**26  # extensions may take 64 MiB
EXTENDER_BYTES = 4
MM = 2  # xyzt_units
FIRST_BYTES = 348 + EXTENDER_BYTES  # the least that any header takes
SLOPE_RANGE = (1e-15, 1e15)  # int32 voxels times slope then stay well inside float32, squared too

# The fields that are read, as (name, type, byte offset). Not taken from nibabel, whose import costs 0.2 s.
NIFTI1_FIELDS = (
    ("sizeof_hdr", "<i4", 0),
    ("dim", "(8,)<i2", 40),
    ("intent_code", "<i2", 68),
    ("datatype", "<i2", 70),
    ("bitpix", "<i2", 72),
    ("pixdim", "(8,)<f4", 76),
    ("vox_offset", "<f4", 108),
    ("scl_slope", "<f4", 112),
    ("scl_inter", "<f4", 116),
    ("xyzt_units", "u1", 123),
    ("qform_code", "<i2", 252),
    ("sform_code", "<i2", 254),
    ("quatern_b", "<f4", 256),
    ("quatern_c", "<f4", 260),
    ("quatern_d", "<f4", 264),
    ("qoffset_x", "<f4", 268),
    ("qoffset_y", "<f4", 272),
    ("qoffset_z", "<f4", 276),
    ("srow_x", "(4,)<f4", 280),
    ("srow_y", "(4,)<f4", 296),
    ("srow_z", "(4,)<f4", 312),
    ("magic", "S4", 344),
)
NIFTI2_FIELDS = (
    ("sizeof_hdr", "<i4", 0),
    ("magic", "S4", 4),
    ("eol_check", "(4,)i1", 8),
    ("datatype", "<i2", 12),
    ("bitpix", "<i2", 14),
    ("dim", "(8,)<i8", 16),
    ("pixdim", "(8,)<f8", 104),
    ("vox_offset", "<i8", 168),
    ("scl_slope", "<f8", 176),
    ("scl_inter", "<f8", 184),
    ("qform_code", "<i4", 344),
    ("sform_code", "<i4", 348),
    ("quatern_b", "<f8", 352),
    ("quatern_c", "<f8", 360),
    ("quatern_d", "<f8", 368),
    ("qoffset_x", "<f8", 376),
    ("qoffset_y", "<f8", 384),
    ("qoffset_z", "<f8", 392),
    ("srow_x", "(4,)<f8", 400),
    ("srow_y", "(4,)<f8", 432),
    ("srow_z", "(4,)<f8", 464),
    ("xyzt_units", "<i4", 500),
    ("intent_code", "<i4", 504),
)


def _layout_of(fields: tuple[tuple[str, str, int], ...], size: int) -> np.dtype[np.void]:
    names, formats, offsets = zip(*fields, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


NIFTI1, NIFTI2 = _layout_of(NIFTI1_FIELDS, 348), _layout_of(NIFTI2_FIELDS, 540)
DATATYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
REFUSED_DATATYPES = {
    1: "1-bit voxels",
    32: "complex voxels",
    128: "RGB colour",
    1536: "128-bit floats",
    1792: "complex voxels",
    2048: "complex voxels",
    2304: "RGBA colour",
}
OTHER_FORMATS = (  # how files that are not NIfTI begin, what they are, and the remedy
    (b"<", "a web page or XML file; download the scan itself"),
    *(
        (signature, "macOS's notes on another file (AppleDouble); name the file without ._")
        for signature in APPLE_DOUBLE
    ),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file with `git lfs pull`"),
    (b"/annex/objects", "a git-annex pointer; fetch the file with `datalad get`"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "gzip data; name it .nii.gz"),
)


@dataclass(frozen=True)
class Header:
    """The fields that matter, in the file's own units; checked unless said otherwise.

    Args:
        shape: dim[1..ndim].
        dtype: voxel type with its byte order.
        offset: byte where voxels start.
        slope, inter: value = slope * stored + inter.
        pixdim: qfac and the voxel sizes along three axes, unchecked.
        codes: (qform_code, sform_code).
        quaternion: b, c, d, then the offsets x, y, z, unchecked.
        srow: 3x4 sform matrix, unchecked.
        unit: the spatial part of xyzt_units.
        intent: intent_code, what the values mean; 0 says nothing.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int
    slope: float
    inter: float
    pixdim: tuple[float, ...]
    codes: tuple[int, int]
    quaternion: tuple[float, ...]
    srow: np.ndarray
    unit: int
    intent: int = 0

    @property
    def data_bytes(self) -> int:
        """Bytes that all voxels take in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: Stream, notes: list[str]) -> tuple[Header, bytes]:
    """The checked header and its bytes, extender last.

    Raises:
        DataError: it is no NIfTI header, is cut short, or holds an impossible field.
    """
    raw = stream.read(FIRST_BYTES)
    raw += stream.read(_layout(raw)[0].itemsize + EXTENDER_BYTES - len(raw))
    return _parse(raw, notes, pair=False), raw


def read_pair_header(stream: Stream, notes: list[str]) -> tuple[Header, bytes]:
    """The same for the .hdr of a pair, where the extender may be left out.

    Raises:
        DataError: as `read_header`; also for Analyze 7.5, which does not say what is left and right.
    """
    raw = stream.read(FIRST_BYTES)
    size = _layout(raw)[0].itemsize
    raw += stream.read(size + EXTENDER_BYTES - len(raw))
    if len(raw) >= size:
        raw = raw.ljust(size + EXTENDER_BYTES, b"\0")
    return _parse(raw, notes, pair=True), raw


def refuse_other_formats(start: bytes) -> None:
    """Raises DataError where a file begins like something that is often mistaken for a scan."""
    if not start:
        raise DataError(f"the file is empty: {REMEDY}")
    for signature, what in OTHER_FORMATS:
        if start.lstrip().startswith(signature):
            raise DataError(f"expected a scan, found {what}")


def _layout(start: bytes) -> tuple[np.dtype[np.void], bool]:
    refuse_other_formats(start)
    for layout in (NIFTI1, NIFTI2):
        for ordered in (layout, layout.newbyteorder()):
            if start[:4] == np.array(layout.itemsize, ordered["sizeof_hdr"]).tobytes():
                return ordered, layout is NIFTI2
    raise DataError("expected a NIfTI header (first field 348 or 540), found something else: is this a NIfTI file?")


@np.errstate(invalid="ignore")  # damaged fields may hold signalling NaN
def _parse(raw: bytes, notes: list[str], *, pair: bool) -> Header:
    """Check the header's own fields; the affine is chosen later, by `choose_affine`."""
    layout, second = _layout(raw)
    if len(raw) < layout.itemsize + EXTENDER_BYTES:
        raise DataError(f"the file ends inside its header, after {len(raw)} bytes: {REMEDY}")
    field = np.frombuffer(raw, layout, count=1)[0]
    _check_magic(field, second, pair=pair)
    slope, inter = _check_scaling(float(field["scl_slope"]), float(field["scl_inter"]), notes)
    return Header(
        shape=_check_dim([int(n) for n in field["dim"]]),
        dtype=_check_datatype(int(field["datatype"]), int(field["bitpix"]), layout["sizeof_hdr"].byteorder, notes),
        offset=_check_offset(float(field["vox_offset"]), b"" if pair else raw, notes),
        slope=slope,
        inter=inter,
        intent=int(field["intent_code"]),
        **_affine_fields(field),
    )


@np.errstate(invalid="ignore")
def memory_header(field: Any, shape: Sequence[int]) -> Header:
    """The header of a nibabel image: nibabel applies the scaling itself, and an unknown unit means mm."""
    fields = _affine_fields(field)
    fields["unit"] = fields["unit"] or MM
    intent = int(field["intent_code"])
    return Header(tuple(shape), np.dtype(np.float32), 0, 1.0, 0.0, intent=intent, **fields)


def _affine_fields(field: Any) -> dict[str, Any]:
    """The fields that the affine is computed from, under the names they have in `Header`."""
    numbers = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    return {
        "pixdim": tuple(float(p) for p in field["pixdim"][:4]),
        "codes": (int(field["qform_code"]), int(field["sform_code"])),
        "quaternion": tuple(float(field[name]) for name in numbers),
        "srow": np.stack([field[name] for name in ("srow_x", "srow_y", "srow_z")]).astype(np.float64),
        "unit": int(field["xyzt_units"]) & 7,
    }


def _check_magic(field: np.void, second: bool, *, pair: bool) -> None:
    magic = bytes(field["magic"])
    single, double = (b"n+2", b"ni2") if second else (b"n+1", b"ni1")
    if pair and magic == single:
        raise DataError("this is a whole NIfTI file, not the header of a pair: name it .nii")
    if not pair and magic == double:
        raise DataError("this is the header of a .hdr and .img pair: name it .hdr and keep it beside its .img")
    if pair and not magic:
        raise DataError(
            "this is an Analyze 7.5 header, which does not say what is left and right: convert the scan to NIfTI "
            "with the program that wrote it"
        )
    good = double if pair else single
    if magic != good or (second and bytes(field["eol_check"]) != b"\r\n\x1a\n"):
        raise DataError(f"expected the NIfTI magic {good!r}, found {magic!r}: convert the scan to NIfTI again")


def _check_dim(dim: list[int]) -> tuple[int, ...]:
    if not 1 <= dim[0] <= 7:
        raise DataError(f"expected 3 axes, but the header says dim[0] = {dim[0]}: convert the scan again")
    shape = tuple(dim[1 : dim[0] + 1])
    if min(shape) < 1:
        raise DataError(f"every dimension must be at least 1, but the header says {shape}: convert the scan again")
    return shape


def _check_datatype(code: int, bitpix: int, order: str, notes: list[str]) -> np.dtype[np.generic]:
    if code in REFUSED_DATATYPES:
        raise DataError(f"{REFUSED_DATATYPES[code]} (datatype {code}) cannot be enhanced: give one real-valued scan")
    if code not in DATATYPES:
        raise DataError(f"the header names an unknown datatype, {code}: convert the scan again")
    dtype = np.dtype(DATATYPES[code]).newbyteorder(order)  # type: ignore[arg-type]
    if bitpix != 8 * dtype.itemsize:
        notes.append(f"bitpix {bitpix} contradicts datatype {code}; {8 * dtype.itemsize} bits per voxel were read")
    return dtype


def _check_offset(offset: float, raw: bytes, notes: list[str]) -> int:
    first = len(raw)
    if offset == 0 < first and raw[-EXTENDER_BYTES] == 0:  # no extension that would lie between
        notes.append(f"vox_offset is not set (0); the voxels were taken to begin after the header, at {first}")
        return first
    if not math.isfinite(offset) or offset != int(offset) or not first <= offset <= MAX_OFFSET:
        raise DataError(f"vox_offset {offset:g} is impossible, expected about {first}: convert the scan again")
    return int(offset)


def _check_scaling(slope: float, inter: float, notes: list[str]) -> tuple[float, float]:
    if slope == 0 or not math.isfinite(slope):
        notes.append(f"scl_slope is {slope:g}; read as 1 with intercept 0")
        return 1.0, 0.0
    if not math.isfinite(inter):
        notes.append(f"scl_inter is {inter:g}; read as 0")
        inter = 0.0
    low, high = SLOPE_RANGE
    if not low <= abs(slope) <= high or abs(inter) > high:
        raise DataError(
            f"the value range is too large or too small: scl_slope {slope:g}, scl_inter {inter:g}, "
            f"expected sizes of {low:g} to {high:g}; rescale the scan"
        )
    return slope, inter


def check_extensions(raw: bytes, body: bytes) -> None:
    """Check the sizes of the header extensions in `body`, the bytes between the header and the voxels.

    Raises:
        DataError: an extension's size is no positive multiple of 16, or it overlaps the voxels.
    """
    if raw[-EXTENDER_BYTES] == 0:
        return
    for order in ("<i4", ">i4"):
        at = 0
        while any(body[at:]):  # zeros after the last extension are padding
            size = int(np.frombuffer(body, order, count=1, offset=at)[0]) if at + 8 <= len(body) else 0
            if size < 16 or size % 16 or at + size > len(body):
                break
            at += size
        else:
            return
    raise DataError("a header extension has an impossible size, so voxels cannot be located: convert the scan again")


def select_volume(shape: tuple[int, ...], index: int | None, notes: list[str]) -> tuple[tuple[int, int, int], int]:
    """The shape of the one 3-D volume to read, and its index among those in the file.

    Raises:
        DataError: not 3-D, several volumes and none chosen, no such volume, or too few voxels or too many.
    """
    if len(shape) < 3:
        raise DataError(f"expected a 3-D scan, got {len(shape)}-D, shape {shape}: give the whole scan")
    if len(shape) > 4 and max(shape[4:]) > 1:
        raise DataError(f"expected a 3-D scan, got {len(shape)}-D, shape {shape}: extract one volume first")
    count = shape[3] if len(shape) > 3 else 1
    if count > 1 and index is None:
        raise DataError(f"expected one volume, found {count}: choose one with --volume 0 to --volume {count - 1}")
    if index is not None and not 0 <= index < count:
        raise DataError(f"there is no volume {index}: found {count}, numbered from 0; choose one of them")
    if len(shape) > 3 and count == 1:
        notes.append(f"shape {shape} was read as {shape[:3]}")
    x, y, z = shape[:3]
    if min(x, y, z) < MIN_VOXELS:
        raise DataError(
            f"expected at least {MIN_VOXELS} voxels along each axis, found {x} x {y} x {z}: give the whole scan"
        )
    if 4 * x * y * z > MAX_BYTES:
        raise DataError(f"{x} x {y} x {z} voxels need more than {MAX_BYTES >> 20} MiB: crop or downsample the scan")
    return (x, y, z), index or 0
