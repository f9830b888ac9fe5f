"""Faults of the header's fields (rows 9-19, 34-37, 39) and layouts that must work (row 38)."""

from __future__ import annotations

import struct

import nibabel as nib
import numpy as np
import pytest

from moediff.core.errors import DataError
from moediff.io.nifti import header
from moediff.io.scans import load

REFUSED = {
    "row09_negative_dim": ({"dim": [3, 16, -14, 12, 1, 1, 1, 1]}, "at least 1"),
    "row10_zero_dim": ({"dim": [3, 16, 0, 12, 1, 1, 1, 1]}, "at least 1"),
    "row11_dims_32767": ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "crop or downsample"),
    "row11_dims_32767_seven_axes": ({"dim": [7] + [32767] * 7}, "7-D"),
    "row13_ndim_0": ({"dim": [0, 16, 14, 12, 1, 1, 1, 1]}, "dim[0] = 0"),
    "row13_ndim_8": ({"dim": [8, 16, 14, 12, 1, 1, 1, 1]}, "dim[0] = 8"),
    "row14_unknown_datatype": ({"datatype": 77}, "unknown datatype, 77"),
    "row16_offset_nan": ({"vox_offset": np.nan}, "vox_offset nan"),
    "row16_offset_infinite": ({"vox_offset": np.inf}, "vox_offset inf"),
    "row16_offset_huge": ({"vox_offset": 1e30}, "vox_offset 1e+30"),
    "row16_offset_in_header": ({"vox_offset": 100}, "vox_offset 100"),
    "row16_offset_past_the_end": ({"vox_offset": 1 << 25}, "too short"),
    "row17_bad_magic": ({"magic": b"xyz"}, "magic"),
    "row17_pair_magic": ({"magic": b"ni1"}, ".img"),
    "row17_analyze": ({"magic": b""}, "magic"),
    "row17_bad_first_field": ({"sizeof_hdr": 349}, "NIfTI header"),
    "row19_slope_1e30": ({"scl_slope": 1e30}, "range"),
    "row19_slope_1e-30": ({"scl_slope": 1e-30}, "range"),
    "row19_intercept_1e30": ({"scl_inter": 1e30}, "range"),
    "row34_rgb": ({"datatype": 128}, "RGB colour"),
    "row34_rgba": ({"datatype": 2304}, "RGBA colour"),
    "row34_complex64": ({"datatype": 32}, "complex"),
    "row34_complex128": ({"datatype": 1792}, "complex"),
    "row34_binary": ({"datatype": 1}, "1-bit"),
    "row34_float128": ({"datatype": 1536}, "128-bit"),
    "row37_1d": ({"dim": [1, 2688, 1, 1, 1, 1, 1, 1]}, "1-D"),
    "row37_2d": ({"dim": [2, 16, 168, 1, 1, 1, 1, 1]}, "2-D"),
    "row37_single_slice": ({"dim": [3, 16, 168, 1, 1, 1, 1, 1]}, "at least 8 voxels"),
    "row37_seven_slices": ({"dim": [3, 16, 24, 7, 1, 1, 1, 1]}, "16 x 24 x 7"),
    "row37_5d": ({"dim": [5, 16, 14, 12, 1, 3, 1, 1]}, "5-D"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_an_impossible_header_is_refused(fields, words, name, nifti):
    with pytest.raises(DataError) as caught:
        load(nifti(name=name, **fields))
    assert words in str(caught.value) and str(caught.value).count("scan.nii") == 1


NOTED = {
    "row15_bitpix_differs": ({"bitpix": 8}, "bitpix 8 contradicts"),
    "row18_slope_0": ({"scl_slope": 0}, "scl_slope is 0"),
    "row18_slope_nan": ({"scl_slope": np.nan, "scl_inter": np.nan}, "scl_slope is nan"),
    "row18_slope_infinite": ({"scl_slope": np.inf, "scl_inter": 5}, "scl_slope is inf"),
    "row18_intercept_nan": ({"scl_inter": np.nan}, "scl_inter is nan; read as 0"),
    "row18_intercept_infinite": ({"scl_inter": np.inf}, "scl_inter is inf; read as 0"),
    "row35_4d_with_t_1": ({"dim": [4, 16, 14, 12, 1, 1, 1, 1]}, "was read as (16, 14, 12)"),
    "row35_5d_of_ones": ({"dim": [5, 16, 14, 12, 1, 1, 1, 1]}, "was read as (16, 14, 12)"),
}


@pytest.mark.parametrize(("fields", "words"), NOTED.values(), ids=NOTED.keys())
def test_a_doubtful_header_is_corrected_with_a_warning(fields, words, nifti, voxels):
    loaded = load(nifti(**fields))
    assert len(loaded.warnings) == 1 and words in loaded.warnings[0]
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels())


def test_a_valid_file_has_no_warnings(nifti):
    assert load(nifti()).warnings == () and load(nifti(name="SCAN.NII.GZ")).codes == (1, 1)


def test_slope_and_intercept_are_applied(nifti, voxels):
    loaded = load(nifti(scl_slope=-0.5, scl_inter=1000.25))
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels() * -0.5 + 1000.25)


def test_row36_several_volumes_need_a_choice(nifti, voxels):
    series = np.stack([voxels(), voxels() * 2, voxels() * 3], axis=-1)
    for name in ("series.nii", "series.nii.gz"):
        path = nifti(series, name=name)
        with pytest.raises(DataError, match=r"found 3: choose one with --volume 0 to --volume 2"):
            load(path)
        for index in range(3):
            assert np.array_equal(load(path, index=index).stored.data_XYZ.numpy(), series[..., index])
        for index in (-1, 3):
            with pytest.raises(DataError, match=f"no volume {index}: found 3"):
                load(path, index=index)


def test_row36_volume_0_of_a_single_volume_is_allowed(nifti):
    path = nifti()
    assert load(path, index=0).stored.shape == (16, 14, 12)
    with pytest.raises(DataError, match="no volume 1"):
        load(path, index=1)


ODD_TYPES = ["u1", "i1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", "<f4", ">f4", "<f8", ">f8", "<i8", "<u8"]


@pytest.mark.parametrize("dtype", ODD_TYPES, ids=lambda d: f"row38_{d}")
def test_every_real_type_and_byte_order_is_read(dtype, nifti, voxels):
    data = (voxels("f8") / 8).astype(dtype)
    loaded = load(nifti(data))
    assert str(loaded.stored.data_XYZ.dtype) == "torch.float32" and loaded.stored.data_XYZ.is_contiguous()
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), data.astype(np.float32)) and loaded.warnings == ()


def test_row38_large_integers_with_an_intercept_keep_their_precision(nifti, voxels):
    data = voxels("<i4") + 2_000_000_000
    loaded = load(nifti(data, scl_slope=1.0, scl_inter=-2e9))
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels())


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_2_is_read(order, tmp_path, voxels, affine):
    image = nib.Nifti2Image(voxels(), affine, nib.Nifti2Header(endianness=order))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "two.nii.gz")
    loaded = load(tmp_path / "two.nii.gz")
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels()) and np.allclose(loaded.stored.affine, affine)
    raw = bytearray((tmp_path / "two.nii.gz").read_bytes())
    assert raw[:2] == b"\x1f\x8b"


def test_nifti_2_with_a_translated_line_end_is_refused(tmp_path, voxels, affine):
    path = tmp_path / "two.nii"
    nib.save(nib.Nifti2Image(voxels(), affine), path)
    raw = bytearray(path.read_bytes())
    raw[8:12] = b"\n\x1a\n\0"
    path.write_bytes(raw)
    with pytest.raises(DataError, match="magic"):
        load(path)


def extension(size: int, payload: bytes = b"comment".ljust(24, b"\0"), order: str = "<") -> bytes:
    return struct.pack(order + "ii", size, 6) + payload


GOOD_EXTENSIONS = {
    "one": extension(32),
    "two": extension(32) * 2,
    "big_endian": extension(32, order=">"),
    "padded": extension(32) + bytes(48),
}
BAD_EXTENSIONS = {
    "row39_size_not_a_multiple_of_16": extension(33),
    "row39_size_negative": extension(-32),
    "row39_size_zero": extension(0),
    "row39_size_past_the_voxels": extension(4096),
    "row39_second_one_bad": extension(32) + extension(40),
}


@pytest.mark.parametrize("body", GOOD_EXTENSIONS.values(), ids=GOOD_EXTENSIONS.keys())
def test_valid_extensions_are_skipped(body, nifti, voxels):
    assert np.array_equal(load(nifti(extension=body)).stored.data_XYZ.numpy(), voxels())


@pytest.mark.parametrize("body", BAD_EXTENSIONS.values(), ids=BAD_EXTENSIONS.keys())
def test_bad_extension_sizes_are_refused(body, nifti):
    with pytest.raises(DataError, match="extension has an impossible size"):
        load(nifti(extension=body))


def test_any_damage_to_a_header_is_answered(raw_nifti, tmp_path):
    """Bytes overwritten at random: either a usable scan or one of our errors, never another exception or warning."""
    rng = np.random.default_rng(0)
    path = tmp_path / "scan.nii"
    for _ in range(500):
        raw = bytearray(raw_nifti)
        for at in rng.integers(0, 356, 3):
            raw[at] = rng.choice([0, 127, 128, 255, rng.integers(256)])
        path.write_bytes(raw)
        try:
            loaded = load(path)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert np.isfinite(loaded.stored.data_XYZ.numpy()).all() and loaded.stored.affine.isfinite().all()


@pytest.mark.parametrize(
    ("own", "other"), [(header.NIFTI1, nib.nifti1.header_dtype), (header.NIFTI2, nib.nifti2.header_dtype)]
)
def test_the_fields_lie_where_nibabel_has_them(own, other):
    assert own.itemsize == other.itemsize and own.names is not None
    for name in own.names:
        assert own.fields[name][1] == other.fields[name][1] and own[name].shape == other[name].shape
        assert own[name].base.newbyteorder("=") == other[name].base.newbyteorder("=")
