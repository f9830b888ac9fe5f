"""NIfTI-1 header of a result as bytes: voxels float32 or uint8, mm, both forms; importing nibabel would take 0.3 s.

Axes: columns of an affine are voxel axes, rows are R, A, S in mm.
"""

from __future__ import annotations

import numpy as np

from moediff.core.errors import DataError
from moediff.io.nifti.affine import DOUBTFUL_VOXELS, corner_gap, rotation_of
from moediff.io.nifti.header import FIRST_BYTES, MM, NIFTI1

DESCRIPTION = b"MoEDiff-SR research use only"
DESCRIPTION_AT = 148
DATATYPES = {"<f4": (16, 32), "u1": (2, 8)}  # kind of voxels: NIfTI's code, and bits
MAX_DIM = 32767  # dim is int16 in NIfTI-1
SAME_VOXELS = 1e-3  # corners may move this far by rounding the affine to float32


def result_header(shape: tuple[int, ...], affine: np.ndarray, codes: tuple[int, int], kind: str = "<f4") -> bytes:
    """Header and the four bytes that say that no extension follows.

    Where a quaternion cannot hold the affine (shear), the sform alone counts.

    Args:
        shape: of three or four axes.
        affine: voxel index -> RAS+ mm.
        codes: qform_code and sform_code.
        kind: of the voxels, one of `DATATYPES`.

    Raises:
        DataError: more voxels along an axis than NIfTI-1 can say.
    """
    if max(shape) > MAX_DIM:
        raise DataError(f"shape {shape} does not fit NIfTI-1 (at most {MAX_DIM} per axis): choose a coarser target")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    handedness, quaternion = quaternion_of(affine[:3, :3] / sizes)
    gap = corner_gap(_affine_of(handedness, quaternion, sizes, affine), affine, shape) / sizes.min()
    qform_code, sform_code = codes
    if sform_code == 0 and gap > SAME_VOXELS:
        sform_code = qform_code  # a quaternion cannot say this exactly (shear); then readers take the sform
    if gap > DOUBTFUL_VOXELS:
        qform_code = 0  # nor even nearly: a qform beside the sform would only contradict it
    raw = bytearray(FIRST_BYTES)
    raw[DESCRIPTION_AT : DESCRIPTION_AT + len(DESCRIPTION)] = DESCRIPTION
    header = np.frombuffer(memoryview(raw)[: NIFTI1.itemsize], NIFTI1)[:1]
    header["sizeof_hdr"], header["magic"] = NIFTI1.itemsize, b"n+1"
    header["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    header["datatype"], header["bitpix"] = DATATYPES[kind]
    header["pixdim"] = [handedness, *sizes, 1, 1, 1, 1]
    header["vox_offset"], header["scl_slope"], header["xyzt_units"] = FIRST_BYTES, 1, MM
    header["qform_code"], header["sform_code"] = qform_code, sform_code
    for name, value in zip(("quatern_b", "quatern_c", "quatern_d"), quaternion[1:], strict=True):
        header[name] = value
    for row, name in enumerate(("x", "y", "z")):
        header[f"qoffset_{name}"], header[f"srow_{name}"] = affine[row, 3], affine[row]
    return bytes(raw)


def quaternion_of(directions: np.ndarray) -> tuple[float, np.ndarray]:
    """The rotation nearest to three unit directions: qfac (-1 where they are left-handed), and (a, b, c, d), a >= 0.

    With qfac -1 it is the rotation of the directions with the third one reversed.
    """
    handedness = 1.0 if np.linalg.det(directions) > 0 else -1.0
    left, _, right = np.linalg.svd(directions * [1, 1, handedness])
    m = left @ right
    # The quaternion is the eigenvector of the largest eigenvalue of this form (Bar-Itzhack 2000).
    form = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    quaternion = np.linalg.eigh(form)[1][:, -1]
    return handedness, -quaternion if quaternion[0] < 0 else quaternion


def _affine_of(handedness: float, quaternion: np.ndarray, sizes: np.ndarray, affine: np.ndarray) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = rotation_of(*(float(number) for number in quaternion)) * sizes * [1, 1, handedness]
    result[:3, 3] = affine[:3, 3]
    return result
