"""Writer of float32 NIfTI-1 files: compressed, synced, read back and compared before they get their names.

Axes: X Y Z voxels, E maps of one scan. Files store X fastest, then Y, Z, E.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from torch import Tensor

from moediff.core.errors import CannotCreate, ConfigError, DataError, MoeDiffWarning
from moediff.core.geometry import StorageOrder
from moediff.core.volume import Grid
from moediff.io.atomic import write_file
from moediff.io.nifti.affine import CODES, DOUBTFUL_VOXELS, choose_affine, corner_gap
from moediff.io.nifti.gzip_stream import GZIP_MODE, Stream, gunzip, raw_pieces
from moediff.io.nifti.header import FIRST_BYTES, read_header

if TYPE_CHECKING:
    import nibabel as nib

DESCRIPTION = "MoEDiff-SR research use only"
GZIP_LEVEL = 1  # float32 noise: level 6 gains 4 % and takes 16 % longer
SLICES_AT_ONCE = 8
MAX_DIM = 32767  # dim is int16 in NIfTI-1
SAME_VOXELS = 1e-3  # corners may move this far by rounding the affine to float32
SUFFIXES = {".nii": False, ".nii.gz": True}  # and whether gzip is wanted


def gzip_wanted(path: Path) -> bool | None:
    """True for .nii.gz, False for .nii, None for any other name."""
    return next((gzipped for suffix, gzipped in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)


def require_suffix(path: Path) -> bool:
    """Whether gzip is wanted.

    Raises:
        CannotCreate: the name is no NIfTI file's.
    """
    gzipped = gzip_wanted(path)
    if path.is_dir():
        raise CannotCreate("a folder has this name: name a file in it, ending in .nii or .nii.gz")
    if gzipped is None:
        raise CannotCreate("results are written as .nii or .nii.gz: choose such a name")
    return gzipped


@dataclass(frozen=True)
class StoredForm:
    """Storage order of the voxels in the file, and (qform_code, sform_code)."""

    storage: StorageOrder
    codes: tuple[int, int]


def write(data: Tensor, affine: Tensor, path: Path, form: StoredForm, *, overwrite: bool) -> None:
    """Write data_XYZ or data_XYZE in mm, in the form's storage order, with both forms set; see `io.save`."""
    gzipped = require_suffix(path)
    x, y, z = data.shape[:3]
    grid = form.storage.undo_grid(Grid((x, y, z), affine))
    shape = (*grid.shape, *data.shape[3:])
    header = _make_header(shape, grid.affine.numpy(), _known_codes(form.codes))
    checksum = 0

    def fill(file: BinaryIO) -> None:
        nonlocal checksum
        engine = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_MODE) if gzipped else None  # zlib sets mtime 0
        for piece in _pieces(header, data, form.storage):
            checksum = zlib.crc32(piece, checksum)
            file.write(engine.compress(piece) if engine else piece)
        if engine:
            file.write(engine.flush())

    def verify(hidden: Path) -> None:
        with hidden.open("rb") as file:
            _verify(Stream(gunzip(file, []) if gzipped else raw_pieces(file)), shape, grid.affine.numpy(), checksum)

    write_file(path, fill, overwrite=overwrite, verify=verify)


def codes_to_write(codes: tuple[int, int]) -> tuple[int, int]:
    """(qform_code, sform_code) that place a result of a source with these; reading has warned where both are 0."""
    return codes if any(codes) else (0, 1)


def _known_codes(codes: tuple[int, int]) -> tuple[int, int]:
    if not all(code in CODES for code in codes):
        raise ConfigError(f"codes {codes} are not in the standard: give qform_code and sform_code within 0..5")
    if not any(codes):
        warnings.warn("the source had no orientation; the result carries sform_code 1", MoeDiffWarning, stacklevel=4)
    return codes_to_write(codes)


def _make_header(shape: tuple[int, ...], affine: np.ndarray, codes: tuple[int, int]) -> nib.Nifti1Header:
    if max(shape) > MAX_DIM:
        raise DataError(f"shape {shape} does not fit NIfTI-1 (at most {MAX_DIM} per axis): choose a coarser target")
    import nibabel as nib  # 0.2 s that reading a scan does not need

    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header["vox_offset"] = FIRST_BYTES
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["descrip"] = DESCRIPTION
    header.set_xyzt_units("mm")
    header.set_qform(affine, codes[0], strip_shears=True)
    header.set_sform(affine, codes[1])
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    gap = corner_gap(header.get_qform(), affine, shape) / sizes.min()
    if codes[1] == 0 and gap > SAME_VOXELS:
        header["sform_code"] = codes[0]  # a quaternion cannot say this exactly (shear); then readers take the sform
    if gap > DOUBTFUL_VOXELS:
        header["qform_code"] = 0  # nor even nearly: a qform beside the sform would only contradict it
    header.set_zooms([*sizes, 1.0][: len(shape)])
    return header


def _pieces(header: nib.Nifti1Header, data: Tensor, storage: StorageOrder) -> Iterator[bytes]:
    yield header.binaryblock + bytes(FIRST_BYTES - len(header.binaryblock))
    data_XYZE = data.detach().cpu().unsqueeze(-1) if data.ndim == 3 else data.detach().cpu()
    for data_XYZ in data_XYZE.unbind(-1):
        for slab_XYZ in storage.undo_data(data_XYZ).split(SLICES_AT_ONCE, dim=2):
            yield slab_XYZ.float().permute(2, 1, 0).contiguous().numpy().astype("<f4", copy=False).tobytes()


def _verify(stream: Stream, shape: tuple[int, ...], affine: np.ndarray, checksum: int) -> None:
    """Raises DataError where the file differs from what was meant; reading it to its end checks gzip's CRC too."""
    header, raw = read_header(stream, [])
    written = choose_affine(header, None, [])
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    rounding = np.abs(affine).max() * np.finfo(np.float32).eps
    if header.shape != shape:
        raise DataError(f"shape {header.shape} instead of {shape}")
    if corner_gap(written, affine, header.shape) > SAME_VOXELS * sizes.min() + 4 * rounding * max(header.shape[:3]):
        raise DataError(f"affine {written.tolist()} instead of {affine.tolist()}")
    again = zlib.crc32(raw)
    while piece := stream.read(1 << 20):
        again = zlib.crc32(piece, again)
    if again != checksum:
        raise DataError("the voxels differ from what was written")
