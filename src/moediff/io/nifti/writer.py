"""Writer of NIfTI-1 files (float32, or uint8 for labels): compressed, synced, read back and compared, then named.

Axes: X Y Z voxels, E maps of one scan. Files store X fastest, then Y, Z, E.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from moediff.core.errors import CannotCreate, ConfigError, DataError, MoeDiffWarning
from moediff.core.geometry import StorageOrder
from moediff.core.volume import Grid
from moediff.io.atomic import write_file
from moediff.io.nifti.affine import CODES, choose_affine, corner_gap
from moediff.io.nifti.gzip_stream import Stream, checked_pieces, gunzip, gzipped_pieces, raw_pieces
from moediff.io.nifti.header import read_header
from moediff.io.nifti.result_header import SAME_VOXELS, result_header

SLICES_AT_ONCE = 8
LABELS = "u1"
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
    if os.path.isdir(path):  # False, too, for a name that no folder can hold
        raise CannotCreate("a folder has this name: name a file in it, ending in .nii or .nii.gz")
    if gzipped is None:
        raise CannotCreate("results are written as .nii or .nii.gz: choose such a name")
    return gzipped


@dataclass(frozen=True)
class StoredForm:
    """Storage order of the voxels in the file, (qform_code, sform_code), and the kind of the voxels."""

    storage: StorageOrder
    codes: tuple[int, int]
    kind: str = "<f4"


def write(data: Tensor, affine: Tensor, path: Path, form: StoredForm, *, overwrite: bool) -> None:
    """Write data_XYZ or data_XYZE in mm, in the form's storage order, with both forms set; see `io.save`."""
    gzipped = require_suffix(path)
    x, y, z = data.shape[:3]
    grid = form.storage.undo_grid(Grid((x, y, z), affine))
    shape = (*grid.shape, *data.shape[3:])
    header = result_header(shape, grid.affine.numpy(), _known_codes(form.codes), form.kind)
    checksum = 0

    def fill(file: BinaryIO) -> None:
        nonlocal checksum
        pack = gzipped_pieces if gzipped else checked_pieces
        for piece in pack(_pieces(header, data, form)):
            checksum = piece.checksum
            file.write(piece.content)

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


def _pieces(header: bytes, data: Tensor, form: StoredForm) -> Iterator[bytes]:
    yield header
    data_XYZE = data.detach().cpu().unsqueeze(-1) if data.ndim == 3 else data.detach().cpu()
    for data_XYZ in data_XYZE.unbind(-1):
        for slab_XYZ in form.storage.undo_data(data_XYZ).split(SLICES_AT_ONCE, dim=2):
            stored_ZYX = (slab_XYZ if form.kind == LABELS else slab_XYZ.float()).permute(2, 1, 0).contiguous()
            yield stored_ZYX.numpy().astype(form.kind, copy=False).tobytes()


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
