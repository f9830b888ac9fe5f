"""Affine of a NIfTI scan: the choice between sform and qform, units, and whether the size is plausible.

Axes: columns of an affine are voxel axes, rows are R, A, S in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moediff.core.errors import ConfigError, GeometryError
from moediff.io.nifti.header import Header

MM_PER_UNIT = {1: ("metre", 1e3), 2: ("mm", 1.0), 3: ("micron", 1e-3)}
VOXEL_MM = (0.05, 20.0)
EXTENT_MM = (50.0, 600.0)
FAR_MM, LOST_MM = 2e3, 1e6  # from the scanner's centre; beyond the second, float32 cannot distinguish voxels
ABSURD = 10  # this many times beyond those limits is a wrong unit, not an unusual scan
SAME_AXIS = math.cos(math.radians(45))  # beyond 45 degrees another axis is the nearer one
DOUBTFUL_VOXELS = 0.2  # qform and sform may differ by this much without a warning
SAME_SIZES = 1.5  # ratio of voxel sizes beyond which one of them must be wrong
SHEAR_COSINE = 1e-3
QUATERNION_ROUNDING = 1e-3  # over a norm of 1; the NIfTI library rescales such quaternions too
CODES = range(6)


@dataclass(frozen=True)
class Form:
    """The sform or the qform: an affine, or the fault that makes it unusable."""

    affine: np.ndarray | None
    fault: str = ""


def unit_scale(unit: int, notes: list[str]) -> float:
    """Millimetres per unit of the header; unknown units count as mm."""
    if unit not in MM_PER_UNIT:
        notes.append(f"the spatial unit is unknown (code {unit}); taken as mm")
        return 1.0
    name, scale = MM_PER_UNIT[unit]
    if scale != 1.0:
        notes.append(f"sizes given in {name} were converted to mm")
    return scale


def choose_affine(header: Header, trust: str | None, notes: list[str]) -> np.ndarray:
    """The 4x4 affine from voxel index to RAS+ mm.

    Args:
        trust: "sform" or "qform" to take that form without a comparison.

    Raises:
        GeometryError: no form is usable, or they disagree on the axes.
    """
    if trust not in (None, "sform", "qform"):
        raise ConfigError(f"trust must be sform or qform, got {trust!r}")
    scale = np.array([unit_scale(header.unit, notes)] * 3 + [1.0])[:, None]
    sizes = _voxel_sizes(header, trust, notes)
    forms = {"sform": _sform(header), "qform": _qform(header, sizes)}
    if trust is not None:
        return scale * _trusted(forms, trust, notes)
    if not any(header.codes):
        return scale * default_affine(header.shape, sizes, notes)
    return scale * _choose(forms, header, notes)


def check_codes(codes: tuple[int, int], notes: list[str]) -> tuple[int, int]:
    """(qform_code, sform_code) to write back; a code outside the standard becomes 1."""
    if all(code in CODES for code in codes):
        return codes
    notes.append(f"qform_code {codes[0]} and sform_code {codes[1]}: outside 0..5 they were read as 1")
    q, s = (code if code in CODES else 1 for code in codes)
    return q, s


def codes_of_result(header: Header, affine: np.ndarray, notes: list[str]) -> tuple[int, int]:
    """(qform_code, sform_code) to write with this affine, in mm: 0 for a form that places the voxels elsewhere.

    Two codes name two spaces (a scanner's and a template's); a result under both would be wrong in one of them.
    """
    q, s = codes = check_codes(header.codes, notes)
    if q == s or not all(codes):
        return codes
    scale = np.array([unit_scale(header.unit, [])] * 3 + [1.0])[:, None]
    sizes_mm = np.linalg.norm(affine[:3, :3], axis=0)

    def holds(form: Form) -> bool:
        if form.affine is None:
            return False
        return corner_gap(scale * form.affine, affine, header.shape) <= DOUBTFUL_VOXELS * sizes_mm.min()

    same = {"qform": holds(_qform(header, [abs(size) for size in header.pixdim[1:]])), "sform": holds(_sform(header))}
    if all(same.values()) or not any(same.values()):
        return codes
    dropped, used = ("qform", "sform") if same["sform"] else ("sform", "qform")
    code = q if dropped == "qform" else s
    notes.append(
        f"the {dropped} (code {code}) places the scan elsewhere than the {used} that was used: "
        f"results carry {dropped}_code 0"
    )
    return (0, s) if dropped == "qform" else (q, 0)


def _voxel_sizes(header: Header, trust: str | None, notes: list[str]) -> list[float]:
    sizes = list(header.pixdim[1:])
    if trust != "sform" and not all(math.isfinite(p) for p in header.pixdim):
        raise GeometryError(f"pixdim holds {list(header.pixdim)}, expected finite voxel sizes: set them in the header")
    if min(sizes) < 0:
        notes.append(f"negative voxel sizes in pixdim {sizes} were read as positive")
    return [abs(size) for size in sizes]


def _sform(header: Header) -> Form:
    if header.codes[1] == 0:
        return Form(None, "is not set (sform_code 0)")
    if not np.isfinite(header.srow).all():
        return Form(None, "holds NaN or infinite numbers")
    if not header.srow[:, :3].any():
        return Form(None, "is all zero")
    columns = np.linalg.norm(header.srow[:, :3], axis=0)
    if min(columns) == 0 or abs(np.linalg.det(header.srow[:, :3] / columns)) < 1e-6:
        return Form(None, "has no inverse")
    return Form(np.vstack([header.srow, [0, 0, 0, 1]]))


def _qform(header: Header, sizes: Sequence[float]) -> Form:
    if header.codes[0] == 0:
        return Form(None, "is not set (qform_code 0)")
    bcd, offset = np.array(header.quaternion[:3]), np.array(header.quaternion[3:])
    if not np.isfinite(header.quaternion).all() or bcd @ bcd > 1 + QUATERNION_ROUNDING:
        return Form(None, f"has an invalid quaternion {bcd.tolist()}, offset {offset.tolist()}")
    if min(sizes) == 0 or not np.isfinite(sizes).all():
        return Form(None, f"has no voxel size (pixdim {list(sizes)})")
    square = 1 - float(bcd @ bcd)
    a = math.sqrt(square) if square > 1e-7 else 0.0  # nifti1_io.c, nifti_quatern_to_mat44: below, half a turn
    rotation = rotation_of(a, *(float(number) for number in bcd))
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(sizes) * [1, 1, -1 if header.pixdim[0] < 0 else 1]
    affine[:3, 3] = offset
    return Form(affine)


def rotation_of(a: float, b: float, c: float, d: float) -> np.ndarray:
    """The 3x3 rotation matrix of a quaternion."""
    s = 2 / (a * a + b * b + c * c + d * d)
    return np.array(
        [
            [1 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
            [s * (b * c + a * d), 1 - s * (b * b + d * d), s * (c * d - a * b)],
            [s * (b * d - a * c), s * (c * d + a * b), 1 - s * (b * b + c * c)],
        ]
    )


def _trusted(forms: dict[str, Form], trust: str, notes: list[str]) -> np.ndarray:
    affine = forms[trust].affine
    if affine is None:
        raise GeometryError(f"the trusted {trust} {forms[trust].fault}: trust the other one or repair it")
    notes.append(f"the {trust} was taken without comparison, as requested")
    return affine


def default_affine(shape: Sequence[int], sizes: Sequence[float], notes: list[str]) -> np.ndarray:
    """The affine of a scan without sform and qform: axes are left, anterior, superior, centred, as in nibabel and FSL.

    Raises:
        GeometryError: not even the voxel size is known.
    """
    if min(sizes) == 0:
        raise GeometryError("neither sform nor qform is set and pixdim holds 0: set a valid sform in the header")
    notes.append(
        "LEFT AND RIGHT ARE NOT KNOWN: sform_code and qform_code are both 0; axes were taken as left, anterior, "
        "superior, centred, and results carry sform_code 1"
    )
    affine = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[:3]) - 1) / 2)
    return affine


def _choose(forms: dict[str, Form], header: Header, notes: list[str]) -> np.ndarray:
    sform, qform = forms["sform"], forms["qform"]
    if header.codes[0] and "quaternion" in qform.fault:
        raise GeometryError(f"the qform {qform.fault}: repair the header or give --trust sform if that one is right")
    if sform.affine is None and qform.affine is None:
        raise GeometryError(f"the sform {sform.fault} and the qform {qform.fault}: set a valid sform in the header")
    if sform.affine is None:
        assert qform.affine is not None
        if header.codes[1]:
            notes.append(f"the sform {sform.fault}; the qform was used instead")
        return qform.affine
    if qform.affine is not None:
        _compare_forms(sform.affine, qform.affine, header.shape, notes)
    elif header.codes[0]:
        notes.append(f"the qform {qform.fault}; the sform was used")
    _compare_sizes(sform.affine, header, notes)
    return sform.affine


def _compare_sizes(affine: np.ndarray, header: Header, notes: list[str]) -> None:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if header.codes[0] == 0:
        _refuse_other_sizes(("pixdim", np.abs(header.pixdim[1:])), sizes)
    if header.codes[0] == 0 and not np.allclose(sizes, np.abs(header.pixdim[1:]), rtol=0.01):
        notes.append(
            f"pixdim says voxels of {np.abs(header.pixdim[1:]).tolist()}, the sform {np.round(sizes, 4).tolist()}; "
            "the sform was used"
        )


def corner_gap(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance between the corners of a box of voxels under two affines, in the affines' unit."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in shape[:3]), indexing="ij")).reshape(3, -1)
    return float(np.linalg.norm((a - b)[:3, :3] @ corners + (a - b)[:3, 3:], axis=0).max())


def _compare_forms(sform: np.ndarray, qform: np.ndarray, shape: Sequence[int], notes: list[str]) -> None:
    s_mm, q_mm = (np.linalg.norm(a[:3, :3], axis=0) for a in (sform, qform))
    cosine = ((sform[:3, :3] / s_mm) * (qform[:3, :3] / q_mm)).sum(0)
    if cosine.min() < SAME_AXIS:
        kind = "is reversed" if cosine.min() < -SAME_AXIS else "points elsewhere"
        raise GeometryError(
            f"qform and sform contradict each other: voxel axis {'xyz'[int(cosine.argmin())]} {kind} in one of them; "
            "find out which is right and give --trust sform or --trust qform, or correct the other in the header"
        )
    _refuse_other_sizes(("qform", q_mm), s_mm)
    gap = corner_gap(sform, qform, shape)
    if gap > DOUBTFUL_VOXELS * s_mm.min():
        notes.append(f"qform and sform differ by up to {gap:.3g} mm; the sform was used")


def _refuse_other_sizes(other: tuple[str, np.ndarray], sform_sizes: np.ndarray) -> None:
    """Refuse voxel sizes that are set and contradict the sform's by half as much again."""
    name, sizes = other
    known = (sizes > 0) & np.isfinite(sizes)
    if known.any() and np.abs(np.log(sizes[known] / sform_sizes[known])).max() > math.log(SAME_SIZES):
        remedy = "--trust sform or --trust qform" if name == "qform" else "--trust sform if that one is right"
        raise GeometryError(
            f"{name} says voxels of {np.round(sizes, 4).tolist()}, the sform {np.round(sform_sizes, 4).tolist()}, "
            f"expected the same: find out which is right and give {remedy}, or correct the other in the header"
        )


def check_plausible(affine: np.ndarray, shape: Sequence[int], notes: list[str]) -> None:
    """Check that voxels and field of view could be those of a head scan in mm.

    Raises:
        GeometryError: voxels or field of view are so far off that the unit must be wrong.
    """
    columns = affine[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or min(sizes) == 0:
        raise GeometryError(f"the affine {affine.tolist()} is not usable: set a valid sform in the header")
    _check_range("voxel size", sizes, VOXEL_MM, notes)
    _check_range("field of view", sizes * np.array(shape[:3]), EXTENT_MM, notes)
    _check_distance(float(np.abs(columns @ ((np.array(shape[:3]) - 1) / 2) + affine[:3, 3]).max()), notes)
    gram = (columns / sizes).T @ (columns / sizes)
    if np.abs(gram - np.eye(3)).max() > SHEAR_COSINE:
        notes.append("the affine is sheared: voxel axes are not at right angles; it was not changed")


def _check_distance(away_mm: float, notes: list[str]) -> None:
    if away_mm > LOST_MM:
        raise GeometryError(
            f"the scan lies {away_mm:.3g} mm from the origin, expected at most {FAR_MM:g}: correct the affine's offsets"
        )
    if away_mm > FAR_MM:
        notes.append(f"the scan lies {away_mm:.4g} mm from the origin, expected at most {FAR_MM:g} mm")


def _check_range(what: str, found_mm: np.ndarray, limits_mm: tuple[float, float], notes: list[str]) -> None:
    low, high = limits_mm
    said = " x ".join(f"{mm:.4g}" for mm in found_mm)
    if found_mm.min() < low / ABSURD or found_mm.max() > high * ABSURD:
        raise GeometryError(
            f"the {what} is {said} mm, expected {low:g} to {high:g} mm per axis: correct the units or the affine"
        )
    if found_mm.min() < low or found_mm.max() > high:
        notes.append(f"unusual {what}: {said} mm, expected {low:g} to {high:g} mm per axis")
