"""Tiny NIfTI files as fixtures."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nifti_maker import head_voxels, nifti_bytes, scanner_affine

NiftiMaker = Callable[..., Path]


@pytest.fixture
def nifti(tmp_path: Path) -> NiftiMaker:
    """`nifti(data=None, name="scan.nii.gz", extension=b"", tail=b"", **fields)` -> path of the file written."""

    def make(data: np.ndarray | None = None, name: str = "scan.nii.gz", **fields: Any) -> Path:
        raw = nifti_bytes(data, **fields)
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw, mtime=0) if name.lower().endswith(".gz") else raw)
        return path

    return make


@pytest.fixture
def voxels() -> Callable[..., np.ndarray]:
    """`voxels(dtype)` -> the head that `nifti` writes by default."""
    return head_voxels


@pytest.fixture
def affine() -> np.ndarray:
    """The affine that `nifti` writes by default."""
    return scanner_affine()


@pytest.fixture
def raw_nifti() -> bytes:
    """The bytes of a sound uncompressed file."""
    return nifti_bytes()
