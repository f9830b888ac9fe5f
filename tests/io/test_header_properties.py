"""Any header at all: read as the standard says, or refused; and whatever can be saved comes back the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nifti_maker import head_voxels, nifti_bytes

from moediff.core.errors import DataError
from moediff.core.volume import Volume
from moediff.io.scans import load, save

SMALL_INTEGERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 8, 12, 14, 16, 99, 32767, -32768])
REALS = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, -1.0, 5.0, 352.0, float("nan"), float("inf")]))
ROW = st.lists(REALS, min_size=4, max_size=4)
FIELDS = {
    "dim": st.lists(SMALL_INTEGERS, min_size=8, max_size=8),
    "datatype": st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 2304, 7, -1]),
    "bitpix": SMALL_INTEGERS,
    "pixdim": st.lists(REALS, min_size=8, max_size=8),
    "vox_offset": REALS,
    "scl_slope": REALS,
    "scl_inter": REALS,
    "qform_code": SMALL_INTEGERS,
    "sform_code": SMALL_INTEGERS,
    "quatern_b": REALS,
    "quatern_c": REALS,
    "quatern_d": REALS,
    "qoffset_x": REALS,
    "srow_x": ROW,
    "srow_y": ROW,
    "srow_z": ROW,
    "xyzt_units": st.integers(0, 255),
    "magic": st.sampled_from([b"n+1", b"ni1", b"", b"n+2", b"abc"]),
    "cal_max": REALS,
    "intent_code": SMALL_INTEGERS,
}
headers = st.fixed_dictionaries({}, optional=FIELDS)
few = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """Overwritten by every example."""
    return tmp_path / "scan.nii"


@few
@given(headers)
def test_any_header_is_read_as_it_says_or_refused(quick, fields):
    quick.write_bytes(nifti_bytes(**fields))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loaded = load(quick)
        except DataError as error:
            said = str(error)
            assert said.startswith(f"{quick}: ") and ": " in said.removeprefix(f"{quick}: ") and "\n" not in said
            return
    assert np.isfinite(loaded.stored.affine.numpy()).all()
    voxel_fields = {"dim", "datatype", "vox_offset", "scl_slope", "scl_inter"}
    if not voxel_fields & set(fields):
        assert np.array_equal(loaded.stored.data_XYZ.numpy(), head_voxels())


@few
@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9), st.lists(st.floats(-900, 900), min_size=3, max_size=3))
def test_any_affine_that_is_saved_comes_back(quick, matrix, offset):
    columns = np.array(matrix).reshape(3, 3)
    sizes = np.linalg.norm(columns, axis=0)
    if sizes.min() < 0.5 or abs(np.linalg.det(columns / sizes)) < 0.05:
        return
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns * 2, offset
    data = torch.from_numpy(head_voxels("<f4"))
    save(Volume(data, torch.from_numpy(affine)), quick, overwrite=True)
    again = load(quick).stored
    assert torch.equal(again.data_XYZ, data)
    assert np.allclose(again.affine, affine, rtol=1e-5, atol=1e-3)
