"""Of a reference only the grid counts, and what cannot be used is refused in words about the reference."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.core.errors import DataError, GeometryError, InputMissing
from moediff.io.scans import grid_from_file

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 1.5, 0, -30], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def written(path: Path, data: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return image


DATA = {
    "scan": np.arange(40 * 44 * 20, dtype=np.int16).reshape(40, 44, 20),
    "mask_of_zeros": np.zeros((40, 44, 20), np.uint8),
    "series": np.zeros((40, 44, 20, 3), np.float32),
    "vectors": np.zeros((40, 44, 20, 1, 3), np.float32),
    "not_a_number": np.full((40, 44, 20), np.nan, np.float32),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("data", DATA.values(), ids=DATA.keys())
def test_the_grid_of_anything_is_read(data, suffix, tmp_path):
    if suffix == ".img":
        nib.save(nib.Nifti1Pair(data, AFFINE), tmp_path / "a.img")
    else:
        written(tmp_path / f"a{suffix}", data)
    grid = grid_from_file(tmp_path / f"a{suffix}")
    assert grid.shape == (40, 44, 20) and torch.equal(grid.affine, torch.from_numpy(AFFINE))


def test_a_few_slices_are_a_grid(tmp_path):
    written(tmp_path / "a.nii", np.zeros((40, 44, 2), np.uint8))
    assert grid_from_file(tmp_path / "a.nii").shape == (40, 44, 2)


def test_forms_that_contradict_each_other_are_refused_with_a_remedy_that_works(tmp_path):
    image = written(tmp_path / "a.nii", DATA["scan"])
    image.set_sform(AFFINE @ np.diag([-1.0, 1, 1, 1]), 1)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError) as caught:
        grid_from_file(tmp_path / "a.nii")
    said = str(caught.value)
    assert said.startswith("--like ") and "contradict each other" in said and "repair its sform and qform" in said
    assert "--trust" not in said


def test_damaged_references_are_refused(tmp_path):
    written(tmp_path / "a.nii.gz", DATA["scan"])
    good = (tmp_path / "a.nii.gz").read_bytes()
    for spoilt in (good[: len(good) // 2], good[:-8] + b"\0\0\0\0" + good[-4:], b"<html>"):
        (tmp_path / "a.nii.gz").write_bytes(spoilt)
        with pytest.raises(DataError, match=r"^--like .*a\.nii\.gz: "):
            grid_from_file(tmp_path / "a.nii.gz")
    written(tmp_path / "b.nii", DATA["scan"])
    (tmp_path / "b.nii").write_bytes((tmp_path / "b.nii").read_bytes()[:-100])
    with pytest.raises(DataError, match="bytes of voxels"):
        grid_from_file(tmp_path / "b.nii")


def test_a_2d_image_or_a_missing_file_is_refused(tmp_path):
    written(tmp_path / "a.nii", np.zeros((40, 44), np.uint8))
    with pytest.raises(DataError, match="expected a grid of 3 axes"):
        grid_from_file(tmp_path / "a.nii")
    with pytest.raises(InputMissing, match="--like"):
        grid_from_file(tmp_path / "none.nii")
