"""Pairs of .hdr and .img under the rules of single files; Analyze 7.5 is refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_maker import nifti_bytes

from moediff.cli.main import main
from moediff.core.errors import DataError, InputMissing
from moediff.io.scans import load


@pytest.fixture
def pair(tmp_path: Path, voxels) -> Callable[..., Path]:
    """`pair(name="scan.hdr", **fields)` -> path of one of the two files written."""

    def make(name: str = "scan.hdr", cut: int = 352, **fields: Any) -> Path:
        raw = nifti_bytes(**({"magic": b"ni1", "vox_offset": 0} | fields))
        packed = name.endswith(".gz")
        stem = name.removesuffix(".gz")[:-4]
        for end, part in ((".hdr", raw[:cut]), (".img", raw[352:])):
            file = tmp_path / (stem + end + (".gz" if packed else ""))
            file.write_bytes(gzip.compress(part) if packed else part)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", ["scan.hdr", "scan.img", "scan.hdr.gz", "scan.img.gz"])
@pytest.mark.parametrize("cut", [348, 352])
def test_either_file_names_the_pair(name, cut, pair, voxels, affine):
    loaded = load(pair(name, cut=cut))
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels()) and np.allclose(loaded.stored.affine, affine)
    assert loaded.warnings == () and loaded.codes == (1, 1)


def test_what_nibabel_writes_is_read(tmp_path, voxels, affine):
    nib.save(nib.Nifti1Pair(voxels(), affine), tmp_path / "a.img")
    assert np.array_equal(load(tmp_path / "a.img").stored.data_XYZ.numpy(), voxels())


REFUSED = {
    "row09_negative_dim": ({"dim": [3, 16, -14, 12, 1, 1, 1, 1]}, "at least 1"),
    "row11_dims_32767": ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "crop or downsample"),
    "row14_unknown_datatype": ({"datatype": 77}, "unknown datatype"),
    "row16_offset_past_the_end": ({"vox_offset": 1 << 20}, "too short"),
    "row17_single_magic": ({"magic": b"n+1"}, "name it .nii"),
    "row17_analyze": ({"magic": b""}, "Analyze 7.5"),
    "row27_axis_reversed": ({"srow_x": [-5, 0, 0, 37.5]}, "reversed"),
    "row34_rgb": ({"datatype": 128}, "RGB"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_an_impossible_pair_is_refused(fields, words, pair):
    with pytest.raises(DataError) as caught:
        load(pair(**fields))
    assert words in str(caught.value)


def test_real_analyze_is_refused(tmp_path, voxels):
    nib.save(nib.AnalyzeImage(voxels(), np.diag([5, 5, 5, 1])), tmp_path / "a.img")
    with pytest.raises(DataError, match="does not say what is left and right"):
        load(tmp_path / "a.img")


@pytest.mark.parametrize(("name", "missing"), [("scan.hdr", "scan.img"), ("scan.img", "scan.hdr")])
def test_the_missing_file_of_a_pair_is_named(name, missing, pair, tmp_path):
    path = pair(name)
    (tmp_path / missing).unlink()
    with pytest.raises(InputMissing, match=rf"the other file of the pair, \*\.{missing[-3:]}, is not there"):
        load(path)


@pytest.mark.fault(4)
@pytest.mark.parametrize("damaged", ["scan.hdr.gz", "scan.img.gz"])
def test_both_checksums_count(damaged, pair, tmp_path):
    path = pair("scan.hdr.gz")
    raw = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(raw[:-8] + b"\0\0\0\0" + raw[-4:])
    with pytest.raises(DataError, match="CRC"):
        load(path)


@pytest.mark.fault(44)
def test_no_part_of_the_pair_is_replaced(pair, tmp_path, bundle, capsys):
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "scan.img")
    code = main(["enhance", str(pair()), "-o", str(tmp_path / "a.nii.gz"), "--overwrite", "--bundle", str(bundle)])
    assert code == 73 and "replace the input" in capsys.readouterr().err
