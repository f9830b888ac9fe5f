"""A reference: a file of which only the grid is wanted, so anything may stand in its voxels."""

from __future__ import annotations

from pathlib import Path

import torch

from moediff.core.errors import DataError, GeometryError, prefix_errors, printable
from moediff.core.volume import Grid
from moediff.io.dicom.files import is_dicom_export
from moediff.io.dicom.reader import load_series
from moediff.io.nifti.affine import check_plausible, choose_affine
from moediff.io.nifti.reader import read_header_only


def grid_from_file(path: Path, option: str = "--like") -> Grid:
    """Where the voxels of a scan, mask, or series of volumes lie: its first three axes.

    Args:
        option: that named the file; errors begin with it, since remedies for the input do not help here.

    Raises:
        InputMissing: there is no such file, or it cannot be read.
        DataError, GeometryError: the file is damaged, or its header does not say where voxels lie.
    """
    with prefix_errors(f"{option} {printable(path)}"):
        return _series_grid(path) if is_dicom_export(path) else _grid(path)


def _found(error: DataError) -> str:
    """What an error found, without its remedy, which is meant for the input."""
    return str(error).split(": ")[0]


def _series_grid(path: Path) -> Grid:
    try:
        return load_series(path).stored_grid
    except DataError as error:
        if "--series" in str(error):
            raise DataError(f"{_found(error)}: name a folder that holds one series alone") from error
        raise


def _grid(path: Path) -> Grid:
    notes: list[str] = []  # of the reference; the record is about the scan
    header = read_header_only(path, notes)
    if len(header.shape) < 3:
        raise DataError(f"expected a grid of 3 axes, got shape {header.shape}: name a whole scan")
    try:
        affine = choose_affine(header, None, notes)
    except GeometryError as error:
        raise GeometryError(
            f"the header does not give one position for its voxels ({_found(error)}), expected one affine: "
            "repair its sform and qform, or name another reference"
        ) from error
    check_plausible(affine, header.shape, notes)
    x, y, z = header.shape[:3]
    return Grid((x, y, z), torch.from_numpy(affine))
