"""Public bug reports of other tools, rebuilt as small inputs: what this program makes of each (LOG.md, 2026-11-30)."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import nibabel as nib
import numpy as np
import pytest

from moediff.cli.main import main
from moediff.io.scans import load

AFFINE = np.array([[5.0, 0, 0, -90], [0, 5, 0, -100], [0, 0, 7, -84], [0, 0, 0, 1]])
MakeScan: TypeAlias = Callable[..., Path]
pytestmark = pytest.mark.fault(63)


@pytest.fixture(scope="module")
def head(make_phantom) -> np.ndarray:
    return make_phantom((36, 40, 24), (5.0, 5.0, 7.0)).data_XYZ.numpy()


@pytest.fixture
def scan(tmp_path, head) -> MakeScan:
    """Writes the head under an sform, and a qform where it differs."""

    def write(sform=AFFINE, codes=(1, 1), *, data=head, qform=None, name="scan.nii.gz") -> Path:
        image = nib.Nifti1Image(data, None)
        image.header.set_xyzt_units("mm")
        image.header.set_qform(sform if qform is None else qform, codes[0])
        image.header.set_sform(sform, codes[1])
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return write


def dry(path: Path, capsys, *options: str) -> dict[str, object]:
    """What a dry run prints."""
    assert main(["enhance", str(path), "--dry-run", *options]) == 0
    return dict(json.loads(capsys.readouterr().out))


def enhanced(path: Path, bundle: Path) -> nib.Nifti1Image:
    out = path.with_name("out.nii.gz")
    assert main(["enhance", str(path), "-o", str(out), "--bundle", str(bundle), "--voxel-size", "5", "-q"]) == 0
    return nib.load(out)


def test_an_sform_of_1_mm_beside_finer_voxels_is_refused(scan, capsys):
    """FastSurfer 36: the sform lost its voxel sizes, and the head became twice as large."""
    path = scan(np.diag([-10.0, -10, 7, 1]), qform=np.diag([-5.0, -5, 7, 1]))
    assert main(["enhance", str(path), "--dry-run"]) == 65
    said = capsys.readouterr().err
    assert "5.0, 5.0, 7.0" in said and "10.0, 10.0, 7.0" in said and "--trust" in said
    assert dry(path, capsys, "--trust", "qform", "--voxel-size", "5")["output_spacing_mm"] == [5, 5, 5]


def test_noise_in_a_voxel_size_is_no_reason_to_enhance(scan, capsys):
    """FastSurfer 850: 1.0000001 mm is 1 mm."""
    path = scan(np.diag([5.0000005, 5, 5.0000005, 1]))
    assert any("passed through" in str(note) for note in dry(path, capsys, "--voxel-size", "5")["warnings"])


def test_a_field_of_view_beyond_256_mm_is_kept(scan, head, capsys):
    """FastSurfer 45."""
    assert dry(scan(np.diag([7.0, 7, 12, 1])), capsys, "--voxel-size", "3.5")["output"] == [72, 80, 82]


def test_a_fourth_axis_of_one_is_left_out(scan, head, bundle):
    """FastSurfer 431: four zooms, one of them 0."""
    assert enhanced(scan(data=head[..., None]), bundle).shape == (36, 40, 34)


def test_a_slightly_sheared_sform_is_kept(scan, bundle):
    """ANTs 1675: ITK refuses this matrix."""
    sheared = np.array(
        [
            [0.995191, -0.009849, 0.097461, -95.06],
            [0.047470, 0.918793, -0.391875, -52.15],
            [-0.085687, 0.394617, 0.914842, -189.5],
            [0, 0, 0, 1],
        ]
    )
    sheared[:3, :3] *= [5, 5, 7]
    image = enhanced(scan(sheared), bundle)
    np.testing.assert_allclose(image.affine[:3, :3], sheared[:3, :3] * [1, 1, 5 / 7], atol=1e-3)
    np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-3)


@pytest.mark.parametrize(("extension", "code"), [(0, 0), (1, 65)])
def test_a_voxel_offset_that_was_never_set(scan, head, extension, code, capsys):
    """Anima 108: 0, slope and intercept NaN, no unit; nibabel takes the first byte after the header."""
    raw = bytearray(gzip.decompress(scan(codes=(0, 2)).read_bytes()))
    raw[108:120] = struct.pack("<fff", 0.0, float("nan"), float("nan"))
    raw[123], raw[348] = 0, extension
    path = scan(name="odd.nii")
    path.write_bytes(raw)
    assert main(["enhance", str(path), "--dry-run"]) == code
    if code == 0:
        loaded = load(path)
        np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), head)
        assert any("vox_offset is not set" in note for note in loaded.warnings)


def test_unused_dimensions_of_zero_are_no_fault(scan, head):
    """ITK 3333: dim 4 to 7 are 0, both codes too."""
    raw = bytearray(gzip.decompress(scan().read_bytes()))
    raw[48:56], raw[252:256] = bytes(8), bytes(4)
    path = scan(name="odd.nii")
    path.write_bytes(raw)
    loaded = load(path)
    assert loaded.stored.shape == head.shape and "LEFT AND RIGHT ARE NOT KNOWN" in loaded.warnings[0]


def test_a_form_that_was_moved_alone_is_the_only_one_written(scan, bundle):
    """torchio 567: SPM moves the sform and leaves the qform."""
    moved = AFFINE.copy()
    moved[:3, 3] += [12, -7, 3]
    header = enhanced(scan(moved, (1, 2), qform=AFFINE), bundle).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 2)


@pytest.mark.parametrize("codes", [(1, 0), (4, 4), (0, 2)])
def test_codes_stay(codes, scan, bundle):
    """HD-BET 10 and nilearn 3168: results without the forms of their input."""
    header = enhanced(scan(codes=codes), bundle).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == codes


def test_forms_of_a_turned_left_handed_scan_agree(scan, bundle):
    """SynthStrip 1025: the two forms of the output differed."""
    turn, flipped = np.eye(4), AFFINE.copy()
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    flipped[0] *= -1
    header = enhanced(scan(turn @ flipped), bundle).header
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)


def test_big_endian_doubles_are_read(tmp_path, head):
    """nilearn 1445: resampled to 1e308."""
    nib.save(nib.Nifti1Image(head.astype(">f8"), AFFINE, nib.Nifti1Header(endianness=">")), tmp_path / "big.nii.gz")
    np.testing.assert_array_equal(load(tmp_path / "big.nii.gz").stored.data_XYZ.numpy(), head)


def test_channels_on_the_fifth_axis_are_refused(scan, head, capsys):
    """MONAI 3176: two contrasts as (X, Y, Z, 1, 2)."""
    assert main(["enhance", str(scan(data=np.stack([head] * 2, -1)[:, :, :, None])), "--dry-run"]) == 65
    assert "5-D" in capsys.readouterr().err


def test_three_voxel_sizes_are_three(scan, capsys):
    """MONAI 7233: only two axes were rescaled."""
    result = dry(scan(), capsys, "--voxel-size", "2.5", "5", "3.5")
    assert result["output"] == [72, 40, 48] and result["output_spacing_mm"] == [2.5, 5, 3.5]


def test_scans_of_one_head_land_on_one_grid(scan, capsys):
    """SynthSeg 103: outputs of 220, 221 and 222 voxels for scans of nearly one size."""
    reference = scan(name="reference.nii.gz")
    slightly = AFFINE @ np.diag([0.986, 0.998, 1, 1])
    assert dry(scan(slightly), capsys, "--like", str(reference))["output"] == [36, 40, 24]


def test_a_defaced_scan_with_exact_zeros_is_enhanced(scan, head, bundle):
    """mriqc 1402 and 1406: no noise in air."""
    cut = head.copy()
    cut[:, 30:], cut[:, :, :8] = 0, 0
    assert np.isfinite(enhanced(scan(data=cut), bundle).get_fdata()).all()


def test_a_few_nan_are_filled(scan, head, bundle):
    """mriqc 1133: refacing left NaN."""
    holes = head.copy()
    holes[10:12, 20, 10] = np.nan
    assert np.isfinite(enhanced(scan(data=holes), bundle).get_fdata()).all()


def test_a_mask_of_another_place_is_refused(scan, head, capsys):
    """nnU-Net 2551: origin mismatch between image and segmentation."""
    elsewhere = AFFINE.copy()
    elsewhere[:3, 3] += [20, 10, -5]
    mask = scan(elsewhere, data=(head > 100).astype(np.float32), name="mask.nii.gz")
    words = ["evaluate", "--pred", str(scan()), "--ref", str(scan(name="ref.nii.gz")), "--mask", str(mask)]
    assert main(words) == 65 and "the mask lies on another grid" in capsys.readouterr().err


def test_two_coarse_axes_are_enhanced(scan, capsys):
    """nnU-Net 538: "only one anisotropic axis supported"."""
    assert dry(scan(np.diag([3.0, 8, 8, 1])), capsys, "--voxel-size", "4")["output"] == [27, 80, 48]


OTHER = {
    "a.nrrd": (b"NRRD0004\n", "3D Slicer"),  # MONAI 2902 and 3356
    "a.mnc": (b"\x89HDF\r\n", "mnc2nii"),  # torchio 610
    "a.PAR": (b"# === DATA", "dcm2niix"),
    "a.npy": (b"\x93NUMPY", "voxel sizes"),
    "a.png": (b"\x89PNG", "the scan it was made from"),
    "a.v": (b"\0\1", "convert it first"),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_formats_name_what_reads_them(name, tmp_path, capsys):
    content, remedy = OTHER[name]
    (tmp_path / name).write_bytes(content + bytes(900))
    assert main(["enhance", str(tmp_path / name)]) == 65
    said = capsys.readouterr().err
    assert "unsupported kind of file" in said and remedy in said
