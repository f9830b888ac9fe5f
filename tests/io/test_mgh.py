"""FreeSurfer's .mgz and .mgh: the affine as nibabel has it, every fault refused, packed data never silently wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from moediff.cli.main import main
from moediff.core.errors import ConfigError, DataError, GeometryError
from moediff.io.nifti.mgh import LAYOUT
from moediff.io.scans import from_nibabel, load

OBLIQUE = np.array([[4.8, -2.0, 0.3, -40.0], [1.4, 4.5, -0.6, -30.0], [-0.1, 0.8, 4.9, -20.0], [0, 0, 0, 1]])


def mgh_bytes(data: np.ndarray, affine: np.ndarray = OBLIQUE, tail: bytes = b"", **fields: Any) -> bytes:
    """What nibabel writes, then `fields` set as given."""
    raw = bytearray(nib.MGHImage(data, affine).to_bytes())[: LAYOUT.itemsize + data.nbytes]
    header = np.frombuffer(raw, LAYOUT, count=1).copy()
    for name, value in fields.items():
        header[name] = value
    raw[: LAYOUT.itemsize] = header.tobytes()
    return bytes(raw) + tail


@pytest.fixture
def mgh(tmp_path: Path, voxels) -> Callable[..., Path]:
    """`mgh(data=None, name="scan.mgz", **fields)` -> path of the file written."""

    def make(data: np.ndarray | None = None, name: str = "scan.mgz", **fields: Any) -> Path:
        raw = mgh_bytes(voxels("i2") if data is None else data, **fields)
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw, mtime=0) if name.lower().endswith("z") else raw)
        return path

    return make


@pytest.mark.parametrize("name", ["scan.mgz", "scan.mgh", "scan.mgh.gz", "SCAN.MGZ"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_voxels_and_affine_as_nibabel_reads_them(name, dtype, mgh, voxels):
    data = (voxels("f4") % 256).astype(dtype)
    path = mgh(data, name, tail=b"\0" * 20 + b"recon-all -s JaneDoe")
    loaded = load(path)
    expected = nib.MGHImage.from_bytes(mgh_bytes(data))
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), expected.get_fdata(dtype=np.float32))
    assert np.allclose(loaded.stored.affine, expected.affine, atol=1e-4)
    assert np.allclose(loaded.stored.affine[:3, :3], OBLIQUE[:3, :3], atol=1e-4)
    assert loaded.codes == (0, 1) and not any("ignored" in w for w in loaded.warnings)


@pytest.mark.fault(22)
def test_a_missing_orientation_gives_a_clear_warning(mgh):
    loaded = load(mgh(good_ras=0, spacing=[5, 5, 5]))
    assert loaded.warnings[0].startswith("LEFT AND RIGHT ARE NOT KNOWN")
    coronal = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]  # columns to the left, down, forward: mri.cpp, MRI_CORONAL
    assert np.allclose(loaded.stored.affine[:3, :3], coronal)
    assert np.allclose(loaded.stored.affine.numpy() @ [8, 7, 6, 1], [0, 0, 0, 1])


def test_several_frames_need_a_choice(mgh, voxels):
    series = np.stack([voxels("f4"), 2 * voxels("f4")], -1)
    path = mgh(series)
    with pytest.raises(DataError, match="found 2: choose one with --volume"):
        load(path)
    assert np.array_equal(load(path, index=1).stored.data_XYZ.numpy(), series[..., 1])


REFUSED = {
    "row09_negative_dim": ({"dims": [16, -14, 12, 1]}, "at least 1"),
    "row10_zero_dim": ({"dims": [16, 0, 12, 1]}, "at least 1"),
    "row11_huge_dims": ({"dims": [2**31 - 1] * 3 + [1]}, "crop or downsample"),
    "row14_unknown_type": ({"type": 77}, "type 77"),
    "row17_bad_version": ({"version": 2}, "expected version 1"),
    "row23_spacing_0": ({"spacing": [5, 0, 5]}, "impossible"),
    "row24_spacing_negative": ({"spacing": [5, -5, 5]}, "impossible"),
    "row25_spacing_nan": ({"spacing": [5, np.nan, 5]}, "impossible"),
    "row21_direction_nan": ({"directions": np.full((3, 3), np.nan)}, "impossible"),
    "row20_no_directions": ({"directions": np.zeros((3, 3))}, "all zero"),
    "row31_voxels_far_too_large": ({"spacing": [500, 500, 500]}, "voxel size"),
    "row37_single_slice": ({"dims": [16, 168, 1, 1]}, "at least 8 voxels"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_an_impossible_header_is_refused(fields, words, mgh):
    with pytest.raises(DataError) as caught:
        load(mgh(**fields))
    assert words in str(caught.value) and str(caught.value).count("scan.mgz") == 1


DAMAGE = {
    "row01_cut_in_half": (lambda b: b[: len(b) // 2], "cut off"),
    "row02_trailer_lost": (lambda b: b[:-8], "cut off"),
    "row03_crc_wrong": (lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], "CRC"),
    "row04_bit_flipped": (lambda b: b[:600] + bytes([b[600] ^ 4]) + b[601:], "damaged"),
    "row06_plain_named_mgz": (gzip.decompress, "rename it to .mgh"),
    "row07_empty": (lambda b: b"", "empty"),
    "row07_web_page": (lambda b: b"<html>", "web page"),
    "row08_header_only": (lambda b: gzip.compress(gzip.decompress(b)[:284]), "promises"),
    "row08_half_a_header": (lambda b: gzip.compress(gzip.decompress(b)[:100]), "inside its header"),
    "row33_all_zero": (lambda b: gzip.compress(gzip.decompress(b)[:284] + bytes(2 * 2688)), "value 0"),
}


@pytest.mark.parametrize(("spoil", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_refused(spoil, words, mgh):
    path = mgh()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        load(path)
    assert words in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_gzip_data_named_mgh_are_refused_with_the_right_name(mgh, tmp_path):
    with pytest.raises(DataError, match=r"name it \.mgz"):
        load(mgh().rename(tmp_path / "scan.mgh"))


@pytest.mark.fault(3)
def test_an_image_of_nibabel_is_checked_in_its_file(mgh):
    path = mgh()
    assert np.array_equal(from_nibabel(nib.load(path)).stored.data_XYZ, load(path).stored.data_XYZ)
    image = nib.load(path)
    raw = path.read_bytes()
    path.write_bytes(raw[:-8] + b"\0\0\0\0" + raw[-4:])
    with pytest.raises(DataError, match="CRC"):
        from_nibabel(image)


def test_trusting_a_qform_that_no_mgz_has_is_refused(mgh):
    with pytest.raises((ConfigError, GeometryError), match="qform"):
        load(mgh(), trust="qform")


def test_it_is_enhanced_to_nifti_and_nothing_of_its_tail_comes_along(mgh, tmp_path, bundle):
    path = mgh(tail=b"\0" * 20 + b"recon-all -s JaneDoe")
    assert main(["enhance", str(path), "--bundle", str(bundle), "--voxel-size", "4", "-q"]) == 0
    result = nib.load(tmp_path / "scan_desc-sr.nii.gz")
    assert result.header["sform_code"] == 1 and np.allclose(np.linalg.norm(result.affine[:3, :3], axis=0), 4, atol=0.1)
    assert b"JaneDoe" not in gzip.decompress((tmp_path / "scan_desc-sr.nii.gz").read_bytes())


def test_freesurfer_files_have_no_form_to_trust(mgh):
    with pytest.raises(ConfigError, match="FreeSurfer"):
        load(mgh(), trust="qform")
