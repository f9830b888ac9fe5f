"""Faults of the affine: sform, qform, units and sizes (rows 20-31)."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moediff.core.errors import ConfigError, GeometryError
from moediff.io.nifti.affine import rotation_of
from moediff.io.scans import load, save

NO_SFORM = {"srow_x": 0, "srow_y": 0, "srow_z": 0}
NAN_SFORM = {"srow_y": np.nan}
NO_QFORM = {"qform_code": 0}
BAD_QUATERNION = {"quatern_b": 0.9, "quatern_c": 0.9}


def sizes(*mm: float, qfac: float = 1.0) -> dict[str, list[float]]:
    return {"pixdim": [qfac, *mm, 1, 1, 1, 1]}


def diagonal(x: float, y: float, z: float) -> dict[str, list[float]]:
    """An sform of these voxel sizes."""
    return {"srow_x": [x, 0, 0, -37.5], "srow_y": [0, y, 0, -32.5], "srow_z": [0, 0, z, -27.5]}


NOTED = {
    "row20_sform_zero_qform_used": (NO_SFORM, "the sform is all zero; the qform was used"),
    "row20_sform_singular_qform_used": ({"srow_x": [0, 5, 0, 0]}, "the sform has no inverse; the qform was used"),
    "row21_sform_nan_qform_used": (NAN_SFORM, "the sform holds NaN or infinite numbers; the qform was used"),
    "row21_sform_infinite_qform_used": ({"srow_z": np.inf}, "holds NaN or infinite numbers"),
    "row23_pixdim_0_sform_used": (sizes(0, 5, 5), "has no voxel size"),
    "row24_pixdim_negative": (sizes(-5, 5, 5), "read as positive"),
    "row30_units_unknown": ({"xyzt_units": 0}, "unit is unknown (code 0); taken as mm"),
    "row30_units_invalid": ({"xyzt_units": 7}, "unit is unknown (code 7); taken as mm"),
    "code_outside_the_standard": ({"sform_code": 99}, "outside 0..5"),
}


@pytest.mark.fault(56)
@pytest.mark.parametrize(("fields", "words"), NOTED.values(), ids=NOTED.keys())
def test_a_repairable_affine_is_repaired_with_a_warning(fields, words, nifti, affine):
    loaded = load(nifti(**fields))
    assert len(loaded.warnings) == 1 and words in loaded.warnings[0]
    assert np.allclose(loaded.stored.affine, affine, atol=1e-4)


REFUSED = {
    "row20_sform_zero_no_qform": (NO_SFORM | NO_QFORM, "the sform is all zero and the qform is not set"),
    "row21_sform_nan_no_qform": (NAN_SFORM | NO_QFORM, "holds NaN"),
    "row21_sform_nan_qform_without_sizes": (NAN_SFORM | sizes(5, 0, 5), "has no voxel size"),
    "row22_both_codes_0_no_sizes": (NO_QFORM | {"sform_code": 0} | sizes(5, 0, 5), "pixdim holds 0"),
    "row23_pixdim_0_only_qform": ({"sform_code": 0} | sizes(5, 5, 0), "has no voxel size"),
    "row25_pixdim_nan": (sizes(5, np.nan, 5), "pixdim holds"),
    "row25_pixdim_infinite": (sizes(5, np.inf, 5), "pixdim holds"),
    "row25_qfac_nan": (sizes(5, 5, 5, qfac=np.nan), "pixdim holds"),
    "row26_quaternion_too_long": (BAD_QUATERNION, "invalid quaternion"),
    "row26_quaternion_nan": ({"quatern_b": np.nan}, "invalid quaternion"),
    "row26_quaternion_too_long_alone": (BAD_QUATERNION | {"sform_code": 0}, "invalid quaternion"),
    "row27_axis_reversed": (diagonal(-5, 5, 5), "voxel axis x is reversed"),
    "row27_axes_swapped": ({"srow_x": [0, 5, 0, 0], "srow_y": [5, 0, 0, 0]}, "points elsewhere"),
    "row30_metres_that_are_mm": ({"xyzt_units": 1}, "voxel size is 5000 x 5000 x 5000 mm"),
    "row30_microns_that_are_mm": ({"xyzt_units": 3}, "correct the units"),
    "row31_voxel_far_too_large": (diagonal(300, 5, 5) | sizes(300, 5, 5) | NO_QFORM, "voxel size"),
    "row31_field_of_view_far_too_small": (diagonal(0.2, 0.2, 0.2) | sizes(0.2, 0.2, 0.2) | NO_QFORM, "field of view"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_an_affine_that_cannot_be_repaired_is_refused(fields, words, nifti):
    with pytest.raises(GeometryError) as caught:
        load(nifti(**fields))
    assert words in str(caught.value) and str(caught.value).count("scan.nii.gz") == 1


def test_row22_a_missing_orientation_gives_a_clear_warning(nifti):
    loaded = load(nifti(qform_code=0, sform_code=0))
    assert loaded.warnings[0].startswith("LEFT AND RIGHT ARE NOT KNOWN") and loaded.codes == (0, 0)
    assert np.allclose(loaded.stored.affine[:3, :3], np.diag([-5, 5, 5]))
    assert np.allclose(loaded.stored.affine[:3, 3], [37.5, -32.5, -27.5])


def test_row26_an_unused_quaternion_does_no_harm(nifti):
    assert load(nifti(qform_code=0, **BAD_QUATERNION)).warnings == ()


@pytest.mark.parametrize("trust", ["sform", "qform"])
def test_row27_trust_resolves_a_contradiction(trust, nifti):
    loaded = load(nifti(**diagonal(-5, 5, 5)), trust=trust)
    assert float(loaded.stored.affine[0, 0]) == (-5 if trust == "sform" else 5)
    assert f"the {trust} was taken without comparison" in loaded.warnings[0]


def test_row27_a_small_contradiction_gives_a_warning(nifti, affine):
    loaded = load(nifti(qoffset_x=-35.0))  # half a voxel off
    assert loaded.warnings == ("qform and sform differ by up to 2.5 mm; the sform was used",)
    assert np.allclose(loaded.stored.affine, affine)


def test_row27_trusting_an_unusable_form_is_refused(nifti):
    with pytest.raises(GeometryError, match="the trusted sform is all zero"):
        load(nifti(**NO_SFORM), trust="sform")
    with pytest.raises(GeometryError, match="the trusted qform has an invalid quaternion"):
        load(nifti(**BAD_QUATERNION), trust="qform")
    with pytest.raises(ConfigError, match="trust must be"):
        load(nifti(), trust="both")


def test_trusting_the_sform_ignores_faults_of_the_qform(nifti, affine):
    for fields in (BAD_QUATERNION, sizes(np.nan, 5, 5)):
        assert np.allclose(load(nifti(**fields), trust="sform").stored.affine, affine)


def test_pixdim_against_an_sform_alone_gives_a_warning(nifti):
    loaded = load(nifti(qform_code=0, **sizes(4, 5, 5)))
    assert "pixdim says voxels of [4.0, 5.0, 5.0], the sform [5.0, 5.0, 5.0]" in loaded.warnings[0]


@pytest.mark.fault(56)
@pytest.mark.parametrize(("form", "qform_code"), [("pixdim", 0), ("qform", 1)])
def test_voxel_sizes_that_differ_by_more_than_half_are_refused(form, qform_code, nifti):
    """Both are named; one of them can be trusted, and a size that is not set says nothing."""
    path = nifti(qform_code=qform_code, **sizes(5, 5, 3))
    with pytest.raises(GeometryError, match=rf"{form} says voxels of \[5.0, 5.0, 3.0\], the sform \[5.0, 5.0, 5.0\]"):
        load(path)
    assert load(path, trust="sform").stored_grid.spacing_mm == pytest.approx((5, 5, 5))
    assert load(nifti(qform_code=qform_code, **sizes(5, 5, 3.5))).warnings
    assert load(nifti(qform_code=0, **sizes(5, 5, 0))).stored_grid.spacing_mm == pytest.approx((5, 5, 5))


@pytest.mark.parametrize(
    ("codes", "trust", "written"),
    [
        ((1, 4), None, (0, 4)),
        ((1, 4), "sform", (0, 4)),
        ((1, 4), "qform", (1, 0)),
        ((1, 1), None, (1, 1)),
        ((0, 4), None, (0, 4)),
    ],
)
def test_a_form_that_lies_elsewhere_is_not_written(codes, trust, written, nifti, tmp_path):
    """A scanner's qform and a template's sform, 20 mm apart: the result holds one place, under its own code only."""
    loaded = load(nifti(qform_code=codes[0], sform_code=codes[1], qoffset_x=-17.5), trust=trust)
    assert loaded.codes == written
    save(loaded.volume, tmp_path / "out.nii.gz", codes=loaded.codes, storage=loaded.storage)
    header = nib.load(tmp_path / "out.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == written
    assert np.allclose(header.get_best_affine()[0, 3], -17.5 if trust == "qform" else -37.5)
    assert any("_code 0" in note for note in loaded.warnings) is (codes == (1, 4))


def test_forms_that_agree_keep_their_codes(nifti):
    assert load(nifti(qform_code=1, sform_code=4)).codes == (1, 4)


def test_row28_shear_stays_with_a_warning(nifti):
    loaded = load(nifti(qform_code=0, srow_x=[5, 0.5, 0, -37.5]))
    assert any("sheared" in w for w in loaded.warnings) and float(loaded.stored.affine[0, 1]) == 0.5


def test_row29_left_handed_qform(nifti):
    loaded = load(nifti(sform_code=0, **sizes(5, 5, 5, qfac=-1)))
    assert loaded.warnings == () and np.allclose(np.diag(loaded.stored.affine), [5, 5, -5, 1])


@pytest.mark.parametrize(("unit", "name", "scale"), [(1, "metre", 1e-3), (3, "micron", 1e3)])
def test_row30_metres_and_microns_become_mm(unit, name, scale, nifti, affine):
    rows = {f"srow_{axis}": affine[i] * scale for i, axis in enumerate("xyz")}
    offsets = {f"qoffset_{axis}": affine[i, 3] * scale for i, axis in enumerate("xyz")}
    for more in ({}, {"sform_code": 0}):
        loaded = load(nifti(xyzt_units=unit, **rows, **offsets, **sizes(*[5 * scale] * 3), **more))
        assert loaded.warnings == (f"sizes given in {name} were converted to mm",)
        assert np.allclose(loaded.stored.affine, affine, atol=1e-4)


@pytest.mark.parametrize(
    ("voxel_mm", "words"),
    [
        ((25, 5, 5), "unusual voxel size: 25 x 5 x 5 mm"),
        ((3.6, 5, 2), "unusual field of view: 57.6 x 70 x 24 mm"),
        ((5, 5, 60), "unusual field of view: 80 x 70 x 720 mm"),
    ],
    ids=["row31_voxel_large", "row31_view_small", "row31_view_large"],
)
def test_row31_unusual_sizes_give_a_warning(voxel_mm, words, nifti):
    loaded = load(nifti(qform_code=0, **diagonal(*voxel_mm), **sizes(*voxel_mm)))
    assert any(words in w for w in loaded.warnings)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_the_rotation_of_a_quaternion_is_nibabels(quaternion):
    np.testing.assert_allclose(rotation_of(*quaternion), nib.quaternions.quat2mat(quaternion), atol=1e-14)


def test_reading_a_scan_does_not_import_nibabel():
    code = "import sys; import moediff.io.scans, moediff.inference.enhancer; sys.exit('nibabel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
