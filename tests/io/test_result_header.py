"""The header of a result, field by field as nibabel writes it, and gzip data that every reader unpacks."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest
from nibabel.quaternions import angle_axis2mat, mat2quat

from moediff.core.errors import DataError
from moediff.io.nifti.gzip_stream import gzipped_pieces
from moediff.io.nifti.result_header import DESCRIPTION, quaternion_of, result_header

TURNS = [
    (0.0, (0, 0, 1)),
    (0.3, (1, 2, 3)),
    (np.pi, (0, 1, 0)),
    (np.pi, (1, 1, 0)),
    (3.0, (-1, 0.2, 0.1)),
    (2.1, (0, 1, 1)),
]


def affine_of(angle: float, axis: tuple[float, ...], sizes: tuple[float, ...], *, flipped: bool = False) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = angle_axis2mat(angle, axis) * sizes
    affine[:3, 3] = [-90.5, 12.25, 33.0]
    if flipped:
        affine[:3, 0] *= -1
    return affine


def as_nibabel(shape: tuple[int, ...], affine: np.ndarray, codes: tuple[int, int]) -> nib.Nifti1Header:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header["vox_offset"], header["scl_slope"], header["scl_inter"], header["descrip"] = 352, 1, 0, DESCRIPTION
    header.set_xyzt_units("mm")
    header.set_qform(affine, codes[0], strip_shears=True)
    header.set_sform(affine, codes[1])
    header.set_zooms([*np.linalg.norm(affine[:3, :3], axis=0), 1.0][: len(shape)])
    return header


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(("shape", "codes"), [((20, 24, 30), (1, 1)), ((8, 9, 10, 4), (2, 4)), ((20, 24, 30), (0, 3))])
def test_every_field_is_nibabels(turn, flipped, shape, codes):
    affine = affine_of(*turn, (0.8, 1.0, 3.3), flipped=flipped)
    raw = result_header(shape, affine, codes)
    assert len(raw) == 352 and raw[348:] == bytes(4)
    ours, theirs = nib.Nifti1Header(raw[:348], endianness="<"), as_nibabel(shape, affine, codes)
    for name in theirs:
        if not name.startswith("quatern"):  # a half turn has two
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    np.testing.assert_allclose(ours.get_qform(), theirs.get_qform(), atol=2e-6 * 100)
    np.testing.assert_allclose(ours.get_sform(), affine, atol=1e-5)


@pytest.mark.parametrize("turn", TURNS)
def test_the_quaternion_is_nibabels(turn):
    rotation = angle_axis2mat(*turn)
    handedness, quaternion = quaternion_of(rotation)
    assert handedness == 1 and abs(float(quaternion @ mat2quat(rotation))) == pytest.approx(1)
    assert quaternion_of(rotation * [1, 1, -1])[0] == -1


@pytest.mark.parametrize(("shear", "written"), [(0.0, (0, 1)), (0.001, (1, 1)), (0.2, (1, 0))])
def test_a_shear_is_left_to_the_sform(shear, written):
    """The qform of a source that had no sform: exact, nearly so, or not at all."""
    affine = affine_of(0.3, (1, 2, 3), (1.0, 1.0, 1.0))
    affine[:3, 1] += shear * affine[:3, 0]
    header = nib.Nifti1Header(result_header((100, 100, 100), affine, (1, 0))[:348], endianness="<")
    assert (int(header["sform_code"]), int(header["qform_code"])) == written


def test_more_voxels_than_nifti1_can_say():
    with pytest.raises(DataError, match="does not fit NIfTI-1"):
        result_header((40_000, 8, 8), np.eye(4), (1, 1))


PIECES = {
    "nothing": [],
    "empty pieces": [b"", b""],
    "one": [b"moediff" * 1000],
    "many": [bytes([i % 256]) * (i * 1013 % 70_000) for i in range(40)],
    "noise": [np.random.default_rng(i).bytes(200_000) for i in range(7)],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
def test_gzip_data_are_one_member_that_every_reader_unpacks(pieces, tmp_path):
    written = list(gzipped_pieces(pieces))
    packed, plain = b"".join(piece.content for piece in written), b"".join(pieces)
    assert written[-1].checksum == zlib.crc32(plain)
    assert gzip.decompress(packed) == plain and packed[4:8] == bytes(4)
    engine = zlib.decompressobj(31)
    assert engine.decompress(packed) == plain and engine.eof and engine.unused_data == b""
    assert gzip.GzipFile(fileobj=io.BytesIO(packed)).read(5) == plain[:5]
    assert packed == b"".join(piece.content for piece in gzipped_pieces(pieces))
    if shutil.which("gzip"):
        (tmp_path / "a.gz").write_bytes(packed)
        assert subprocess.run(["gzip", "-dc", tmp_path / "a.gz"], capture_output=True, check=True).stdout == plain


def test_writing_does_not_import_nibabel(tmp_path):
    script = (
        "import sys, torch; from moediff.io.scans import save; from moediff.core.volume import Volume; "
        "save(Volume(torch.rand(9, 9, 9), torch.eye(4, dtype=torch.float64)), sys.argv[1]); "
        "sys.exit('nibabel' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "x.nii.gz"], check=True)
    assert nib.load(tmp_path / "x.nii.gz").shape == (9, 9, 9)
