"""Images that nibabel holds get the answers that their files get (rows 1-5, 18-37)."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.core.errors import DataError, GeometryError, InputMissing
from moediff.io.scans import from_nibabel, load


def test_an_image_in_memory(voxels, affine):
    image = nib.Nifti1Image(voxels(), affine)
    loaded = from_nibabel(image)
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels()) and np.allclose(loaded.stored.affine, affine)
    assert loaded.path is None and loaded.codes == (0, 2) and loaded.warnings == ()
    assert from_nibabel(nib.MGHImage(voxels("f4"), affine)).codes == (1, 1)


def test_an_image_from_a_file_equals_the_file(nifti):
    path = nifti(scl_slope=0.5, scl_inter=-3, xyzt_units=0)
    image, loaded = from_nibabel(nib.load(path)), load(path)
    assert torch.allclose(image.stored.data_XYZ, loaded.stored.data_XYZ, atol=1e-4)
    assert image.codes == loaded.codes and torch.allclose(image.stored.affine, loaded.stored.affine)


def test_an_image_in_metres_or_without_an_affine(voxels, affine):
    image = nib.Nifti1Image(voxels(), np.diag([1e-3, 1e-3, 1e-3, 1]) @ affine)
    image.header.set_xyzt_units("meter")
    loaded = from_nibabel(image)
    assert np.allclose(loaded.stored.affine, affine) and "metre" in loaded.warnings[0]
    nowhere = nib.Nifti1Image(voxels(), None)
    nowhere.header.set_zooms((5, 5, 5))
    loaded = from_nibabel(nowhere)
    assert "LEFT AND RIGHT ARE NOT KNOWN" in loaded.warnings[0] and loaded.codes == (0, 0)
    plain = nib.spatialimages.SpatialImage(voxels(), None)
    plain.header.set_zooms((5, 5, 5))
    loaded = from_nibabel(plain)
    assert "LEFT AND RIGHT ARE NOT KNOWN" in loaded.warnings[0] and loaded.codes == (0, 0)


def test_images_in_memory_follow_the_same_rules(voxels, affine):
    data = voxels("f4")
    with_nan = data.copy()
    with_nan[8, 7, 6] = np.nan
    assert "1 voxels" in from_nibabel(nib.Nifti1Image(with_nan, affine)).warnings[0]
    assert "was read as" in from_nibabel(nib.Nifti1Image(data[..., None], affine)).warnings[0]
    colour = np.zeros(data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused = {
        "all voxels": np.zeros_like(data),
        "real voxels": data.astype(np.complex64),
        "expected real voxels": colour,
        "found 2": np.stack([data, data], -1),
        "2-D": data[..., 0],
        "5-D": data[..., None, None].repeat(2, -1),
        "at least 8": data[:4],
    }
    for words, bad in refused.items():
        with pytest.raises(DataError, match=words):
            from_nibabel(nib.Nifti1Image(bad, affine))
    with pytest.raises(GeometryError, match="voxel size"):
        from_nibabel(nib.Nifti1Image(data, np.diag([1e-4, 1e-4, 1e-4, 1])))


def flip_stored_bit(path: Path) -> None:
    """Damage that only the gzip checksum can notice."""
    raw = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0, mtime=0))
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_images_of_a_damaged_file_are_refused(nifti, affine):
    path = nifti()
    image = nib.load(path)
    flip_stored_bit(path)
    for lazy in (image, nib.Nifti1Image(image.dataobj, affine), nib.load(path)):
        with pytest.raises(DataError, match="CRC") as caught:
            from_nibabel(lazy)
        assert str(caught.value).count(str(path)) == 1
    path.unlink()
    with pytest.raises(InputMissing, match="no such file"):
        from_nibabel(image)


def test_an_image_whose_file_changed_is_refused(nifti, voxels):
    image = nib.load(nifti(name="scan.nii"))
    path = nifti(voxels()[:, :, :9], name="scan.nii")
    with pytest.raises(DataError, match="open the file again"):
        from_nibabel(image)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match="too short"):
        from_nibabel(image)


def test_a_damaged_pair_is_refused(voxels, affine, tmp_path):
    nib.save(nib.Nifti1Pair(voxels(), affine), tmp_path / "pair.img")
    image = nib.load(tmp_path / "pair.img")
    assert np.array_equal(from_nibabel(image).stored.data_XYZ.numpy(), voxels())
    (tmp_path / "pair.img").write_bytes(b"short")
    with pytest.raises(DataError, match="too short"):
        from_nibabel(image)


ALIKE = {
    "row05_surplus": {"tail": b"surplus"},
    "row18_slope_0": {"scl_slope": 0},
    "row19_slope_1e30": {"scl_slope": 1e30},
    "row21_sform_nan": {"srow_y": np.nan},
    "row22_codes_0": {"qform_code": 0, "sform_code": 0},
    "row27_axis_reversed": {"srow_x": [-5, 0, 0, 37.5]},
    "row27_half_a_voxel": {"qoffset_x": -35.0},
    "row30_microns": {"xyzt_units": 3},
    "row35_t_1": {"dim": [4, 16, 14, 12, 1, 1, 1, 1]},
}


@pytest.mark.parametrize("fields", ALIKE.values(), ids=ALIKE.keys())
def test_an_image_from_a_file_gets_the_answer_of_the_file(fields, nifti):
    def answer(read, source):
        try:
            loaded = read(source)
        except DataError as error:
            return type(error), str(error).removeprefix(f"{path}: ")
        return loaded.codes, sorted(loaded.warnings), loaded.stored.affine.tolist()

    path = nifti(**fields)
    assert answer(from_nibabel, nib.load(path)) == answer(load, path)


def test_an_affine_set_after_opening_wins(nifti, voxels):
    opened = nib.load(nifti())
    moved = np.diag([6.0, 6, 6, 1])
    loaded = from_nibabel(nib.Nifti1Image(opened.dataobj, moved, opened.header))
    assert np.allclose(loaded.stored.affine, moved) and loaded.codes == (0, 2)
    opened.header.set_sform(moved, 1)  # the image's own affine stays, as when nibabel saves it
    assert np.allclose(from_nibabel(opened).stored.affine, opened.affine)
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels())


@pytest.mark.parametrize("thing", [None, 3, np.zeros((9, 9, 9))], ids=["none", "number", "array"])
def test_anything_but_an_image_is_refused(thing):
    with pytest.raises(DataError, match="expected a path, a Volume or a nibabel image"):
        from_nibabel(thing)
