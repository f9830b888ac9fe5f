"""From the slices of one series to one stack with an affine, or the reason why not.

Axes: X columns, Y rows, Z slices along the normal. DICOM is LPS+, our affines RAS+, both in mm.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from moediff.core.errors import DataError, GeometryError
from moediff.io.dicom.tags import Frame
from moediff.io.nifti.header import MAX_BYTES

ORIENTATION_TOLERANCE = 1e-3  # direction cosines as scanners round them
SPACING_TOLERANCE = 1e-4  # relative, within the plane
STEP_TOLERANCE = 0.02  # relative, between slices; positions are rounded to 0.01 mm by some scanners
SAME_PLACE_MM = 1e-3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
EXPORT = "export the whole series again"


@dataclass(frozen=True)
class Stack:
    """Slices in order along the normal.

    Args:
        frames: one per Z.
        copies: pairs of a frame in the stack and a second copy of it, whose voxels must agree.
        affine: 4x4, voxel index (column, row, slice) -> RAS+ mm.
    """

    frames: tuple[Frame, ...]
    copies: tuple[tuple[Frame, Frame], ...]
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return *self.frames[0].size, len(self.frames)


def stack_frames(frames: list[Frame]) -> Stack:
    """Order the slices of one series and place them.

    Raises:
        DataError: they hold no gray picture that can be decoded.
        GeometryError: they are not one regular stack.
    """
    _check_pictures(frames)
    _check_alike(frames)
    row, column = _directions(frames)
    frames, copies = _without_copies(frames)
    if len(frames) < 2:
        raise GeometryError("there is 1 slice, expected a volume: name the folder of the whole series")
    normal = np.cross(row, column)
    ordered = sorted(frames, key=lambda f: float(normal @ _array(f.position_mm)))
    positions = np.array([f.position_mm for f in ordered])
    _check_steps(ordered, positions @ normal)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_straight(positions, step)
    spacing = ordered[0].spacing_mm
    assert spacing is not None
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.stack([row * spacing[0], column * spacing[1], step], axis=1)
    affine[:3, 3] = LPS_TO_RAS @ positions[0]
    return Stack(tuple(ordered), copies, affine)


def _array(numbers: tuple[float, ...] | None) -> np.ndarray:
    return np.array(numbers, dtype=np.float64)


def _check_pictures(frames: list[Frame]) -> None:
    empty = sum(not f.has_pixels for f in frames)
    if empty:
        raise DataError(f"{empty} of {len(frames)} images have no pixel data: export the series with its images")
    if not all(f.gray for f in frames):
        raise DataError("the images are in colour (or of an unknown kind), expected MONOCHROME: choose another series")
    if not all(f.decodable for f in frames):
        raise DataError(
            "the images are compressed in a way that needs another decoder: pip install 'pylibjpeg[all]', or export "
            "them uncompressed"
        )
    if any("MOSAIC" in f.image_type for f in frames):
        raise GeometryError("every image is a mosaic of slices, expected one slice an image: choose another series")
    if any("LOCALIZER" in f.image_type for f in frames):
        raise GeometryError("this is a localizer, expected one stack of parallel slices: choose another series")


def _check_alike(frames: list[Frame]) -> None:
    unplaced = sum(None in (f.position_mm, f.orientation, f.spacing_mm) for f in frames)
    if unplaced:
        raise GeometryError(
            f"{unplaced} of {len(frames)} images do not say where they lie (position, orientation or pixel spacing is "
            "absent or invalid): export the original series, not screenshots"
        )
    sizes = {f.size for f in frames}
    if len(sizes) > 1:
        said = ", ".join(f"{x} x {y}" for x, y in sorted(sizes))
        raise GeometryError(f"the images have several sizes ({said}), expected one: keep one stack per folder")
    if 0 in next(iter(sizes)):
        raise DataError(f"an image has no rows or no columns: {EXPORT}")
    if np.prod(next(iter(sizes))) * len(frames) * 4 > MAX_BYTES:
        raise DataError(f"{len(frames)} images exceed {MAX_BYTES} bytes as float32: choose a smaller series")
    spacings = np.array([f.spacing_mm for f in frames])
    if np.ptp(spacings, axis=0).max() > SPACING_TOLERANCE * spacings.min():
        raise GeometryError("the images have several pixel spacings, expected one: keep one stack per folder")


def _directions(frames: list[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Unit LPS vectors along a row and along a column."""
    every = np.array([f.orientation for f in frames])
    different = np.unique(np.round(every / (2 * ORIENTATION_TOLERANCE)), axis=0)
    if np.ptp(every, axis=0).max() > ORIENTATION_TOLERANCE:
        raise GeometryError(
            f"the slices have {max(2, len(different))} orientations (a localizer, or several stacks in one series), "
            "expected one: choose another series or keep one stack per folder"
        )
    row, column = every.mean(axis=0).reshape(2, 3)
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01:
        raise GeometryError(f"the image orientation is not two perpendicular unit vectors: {EXPORT}")
    return row / lengths[0], column / lengths[1]


def _without_copies(frames: list[Frame]) -> tuple[list[Frame], tuple[tuple[Frame, Frame], ...]]:
    """Each instance once; a second file of the same instance is a copy."""
    first: dict[tuple[str, int], Frame] = {}
    copies = []
    for frame in frames:
        kept = first.setdefault((frame.instance_uid, frame.index), frame)
        if kept is not frame:
            if math.dist(kept.position_mm or (), frame.position_mm or ()) > SAME_PLACE_MM:
                raise GeometryError(f"one instance exists twice at different positions: {EXPORT}")
            copies.append((kept, frame))
    return list(first.values()), tuple(copies)


def _check_steps(ordered: list[Frame], along_mm: np.ndarray) -> None:
    steps = np.diff(along_mm)
    if steps.min() < SAME_PLACE_MM:
        raise GeometryError(_several_volumes(ordered, along_mm))
    usual = float(np.median(steps))
    whole = np.rint(steps / usual)
    if np.abs(steps - usual).max() <= max(STEP_TOLERANCE * usual, SAME_PLACE_MM):
        return
    if whole.min() >= 1 and np.abs(steps - whole * usual).max() <= STEP_TOLERANCE * usual * whole.max():
        raise GeometryError(
            f"{int(whole.sum()) - len(steps)} slices are missing ({len(ordered)} found, {usual:.4g} mm apart, with a "
            f"gap of {steps.max():.4g} mm): {EXPORT}"
        )
    raise GeometryError(
        f"the slices are {steps.min():.4g} to {steps.max():.4g} mm apart, expected equal spacing: {EXPORT}, or "
        "resample it to equal spacing"
    )


def _check_straight(positions: np.ndarray, step: np.ndarray) -> None:
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    off_mm = float(np.linalg.norm(positions - expected, axis=1).max())
    if off_mm > max(0.1 * float(np.linalg.norm(step)), SAME_PLACE_MM):
        raise GeometryError(f"slices lie up to {off_mm:.3g} mm beside a straight line, expected one stack: {EXPORT}")


def _several_volumes(ordered: list[Frame], along_mm: np.ndarray) -> str:
    places = Counter(np.rint(along_mm / SAME_PLACE_MM).astype(int).tolist())
    differing = [
        word
        for word, values in (
            ("echo time", {f.echo_ms for f in ordered}),
            ("image type, such as magnitude and phase", {f.image_type for f in ordered}),
        )
        if len(values) > 1
    ]
    why = " and ".join(differing) or "time, diffusion weighting or a repeated export"
    return (
        f"there are up to {max(places.values())} images at one position ({len(ordered)} at {len(places)} positions; "
        f"they differ in {why}), expected one: keep one volume per folder"
    )
