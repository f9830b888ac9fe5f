"""Tiny NIfTI files written byte by byte, so that any field can be wrong."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (16, 14, 12)
VOXEL_MM = 5.0


def head_voxels(dtype: str = "<i2") -> np.ndarray:
    """An ellipsoid of 300..1000 in air of 0..20, shape 16x14x12."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    rng = np.random.default_rng(0)
    data_XYZ = np.where(x**2 + y**2 + z**2 < 0.8, 650 + 350 * np.sin(4 * x + 3 * y), 0) + rng.integers(0, 20, SHAPE)
    return data_XYZ.astype(dtype)


def scanner_affine() -> np.ndarray:
    """5 mm voxels, RAS+, roughly centred."""
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = (-37.5, -32.5, -27.5)
    return affine


def nifti_bytes(data: np.ndarray | None = None, *, extension: bytes = b"", tail: bytes = b"", **fields: Any) -> bytes:
    """A sound NIfTI-1 file of `data`, then `fields` set as given, whatever they are; byte order is that of the data."""
    data = head_voxels() if data is None else data
    header = nib.Nifti1Header(endianness=">" if data.dtype.byteorder == ">" else "<")
    header.set_data_shape(data.shape)
    header.set_data_dtype(data.dtype)
    header.set_qform(scanner_affine(), 1)
    header.set_sform(scanner_affine(), 1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352 + len(extension)
    header["scl_slope"] = 1
    for name, value in fields.items():
        header.structarr[name] = value
    extender = b"\1\0\0\0" if extension else b"\0\0\0\0"
    return header.binaryblock + extender + extension + data.tobytes("F") + tail
