"""Geometry of a DICOM series: its slices in order, with one affine, or the reason why they are not one stack.

Axes: X columns, Y rows, Z slices along the normal. DICOM is LPS+, our affines RAS+, both in mm.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from moediff.core.errors import DataError, GeometryError
from moediff.io.dicom.tags import DicomImage
from moediff.io.nifti.header import MAX_BYTES

ORIENTATION_TOLERANCE = 1e-3  # direction cosines as scanners round them
SPACING_TOLERANCE = 1e-4  # relative, within the plane
STEP_TOLERANCE = 0.02  # relative, between slices; positions are rounded to 0.01 mm by some scanners
SAME_POSITION_MM = 1e-3
DECIMALS = (1, 2, 3)  # of positions that a program rounded
EXACT_MM = 1e-6
MOST_OFF = 0.1  # of the distance of slices; one that is missing shifts others by more
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
EXPORT = "export the whole series again"


@dataclass(frozen=True)
class Stack:
    """Slices in order along the normal.

    Args:
        images: one per Z.
        copies: pairs of an image in the stack and a second copy of it, whose voxels must agree.
        affine: 4x4, voxel index (column, row, slice) -> RAS+ mm.
    """

    images: tuple[DicomImage, ...]
    copies: tuple[tuple[DicomImage, DicomImage], ...]
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return *self.images[0].size, len(self.images)


def stack_images(images: list[DicomImage]) -> Stack:
    """Order the slices of one series and place them.

    Raises:
        DataError: they hold no grey-scale image that can be decoded.
        GeometryError: they are not one regular stack.
    """
    _check_readable(images)
    _check_same_grid(images)
    row, column = _directions(images)
    images, copies = _split_copies(images)
    if len(images) < 2:
        raise GeometryError("there is 1 slice, expected a volume: name the folder of the whole series")
    normal = np.cross(row, column)
    ordered = sorted(images, key=lambda image: float(normal @ _array(image.position_mm)))
    positions = np.array([image.position_mm for image in ordered])
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


def _check_readable(images: list[DicomImage]) -> None:
    empty = sum(not image.has_pixels for image in images)
    if empty:
        raise DataError(f"{empty} of {len(images)} images have no pixel data: export the series with its images")
    if not all(image.grey for image in images):
        raise DataError("the images are in colour (or of an unknown kind), expected MONOCHROME: choose another series")
    if not all(image.decodable for image in images):
        raise DataError(
            "the images are compressed in a way that needs another decoder: pip install 'pylibjpeg[all]', or export "
            "them uncompressed"
        )
    if any("MOSAIC" in image.image_type for image in images):
        raise GeometryError("every image is a mosaic of slices, expected one slice an image: choose another series")
    if any("LOCALIZER" in image.image_type for image in images):
        raise GeometryError("this is a localizer, expected one stack of parallel slices: choose another series")


def _check_same_grid(images: list[DicomImage]) -> None:
    without_position = sum(None in (image.position_mm, image.orientation, image.spacing_mm) for image in images)
    if without_position:
        raise GeometryError(
            f"{without_position} of {len(images)} images do not say where they lie (position, orientation or pixel "
            "spacing is absent or invalid): export the original series, not screenshots"
        )
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        listed = ", ".join(f"{x} x {y}" for x, y in sorted(sizes))
        raise GeometryError(f"the images have several sizes ({listed}), expected one: keep one stack per folder")
    if 0 in next(iter(sizes)):
        raise DataError(f"an image has no rows or no columns: {EXPORT}")
    if np.prod(next(iter(sizes))) * len(images) * 4 > MAX_BYTES:
        raise DataError(f"{len(images)} images exceed {MAX_BYTES} bytes as float32: choose a smaller series")
    spacings = np.array([image.spacing_mm for image in images])
    if np.ptp(spacings, axis=0).max() > SPACING_TOLERANCE * spacings.min():
        raise GeometryError("the images have several pixel spacings, expected one: keep one stack per folder")


def _directions(images: list[DicomImage]) -> tuple[np.ndarray, np.ndarray]:
    """Unit LPS vectors along a row and along a column."""
    orientations = np.array([image.orientation for image in images])
    different = np.unique(np.round(orientations / (2 * ORIENTATION_TOLERANCE)), axis=0)
    if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE:
        raise GeometryError(
            f"the slices have {max(2, len(different))} orientations (a localizer, or several stacks in one series), "
            "expected one: choose another series or keep one stack per folder"
        )
    row, column = orientations.mean(axis=0).reshape(2, 3)
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01:
        raise GeometryError(f"the image orientation is not two perpendicular unit vectors: {EXPORT}")
    return row / lengths[0], column / lengths[1]


def _split_copies(images: list[DicomImage]) -> tuple[list[DicomImage], tuple[tuple[DicomImage, DicomImage], ...]]:
    """Each instance once; a second file of the same instance is a copy."""
    first: dict[tuple[str, int], DicomImage] = {}
    copies = []
    for image in images:
        original = first.setdefault((image.instance_uid, image.index), image)
        if original is not image:
            if math.dist(original.position_mm or (), image.position_mm or ()) > SAME_POSITION_MM:
                raise GeometryError(f"one instance exists twice at different positions: {EXPORT}")
            copies.append((original, image))
    return list(first.values()), tuple(copies)


def _check_steps(ordered: list[DicomImage], along_mm: np.ndarray) -> None:
    steps = np.diff(along_mm)
    if steps.min() < SAME_POSITION_MM:
        raise GeometryError(_several_volumes(ordered, along_mm))
    step = float(np.median(steps))
    whole = np.rint(steps / step)
    if np.abs(steps - step).max() <= max(STEP_TOLERANCE * step, SAME_POSITION_MM) or _is_rounded(ordered, along_mm):
        return
    if whole.min() >= 1 and np.abs(steps - whole * step).max() <= STEP_TOLERANCE * step * whole.max():
        raise GeometryError(
            f"{int(whole.sum()) - len(steps)} slices are missing ({len(ordered)} found, {step:.4g} mm apart, with a "
            f"gap of {steps.max():.4g} mm): {EXPORT}"
        )
    raise GeometryError(
        f"the slices are {steps.min():.4g} to {steps.max():.4g} mm apart, expected equal spacing: {EXPORT}, or "
        "resample it to equal spacing"
    )


def _is_rounded(ordered: list[DicomImage], along_mm: np.ndarray) -> bool:
    """Whether the slices lie on an even line but for the rounding of their positions, to 0.1 mm or finer."""
    positions = np.array([image.position_mm for image in ordered])
    decimals = next((d for d in DECIMALS if np.abs(positions - positions.round(d)).max() < EXACT_MM), None)
    if decimals is None:
        return False
    index = np.arange(len(along_mm))
    slope, start = np.polyfit(index, along_mm, 1)
    off_mm = float(np.abs(along_mm - (start + slope * index)).max())
    return off_mm <= min(math.sqrt(3) / 2 * 10.0**-decimals + EXACT_MM, MOST_OFF * float(slope))


def _check_straight(positions: np.ndarray, step: np.ndarray) -> None:
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    off_mm = float(np.linalg.norm(positions - expected, axis=1).max())
    if off_mm > max(0.1 * float(np.linalg.norm(step)), SAME_POSITION_MM):
        raise GeometryError(f"slices lie up to {off_mm:.3g} mm off a straight line, expected one stack: {EXPORT}")


def _several_volumes(ordered: list[DicomImage], along_mm: np.ndarray) -> str:
    positions = Counter(np.rint(along_mm / SAME_POSITION_MM).astype(int).tolist())
    differing = [
        word
        for word, values in (
            ("echo time", {image.echo_ms for image in ordered}),
            ("image type, such as magnitude and phase", {image.image_type for image in ordered}),
        )
        if len(values) > 1
    ]
    why = " and ".join(differing) or "time, diffusion weighting or a repeated export"
    return (
        f"there are up to {max(positions.values())} images at one position ({len(ordered)} at {len(positions)} "
        f"positions; they differ in {why}), expected one: keep one volume per folder"
    )
