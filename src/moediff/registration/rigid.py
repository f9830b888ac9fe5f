"""Rigid transform: where one scan of a head lies in the frame of another; six numbers.

Coordinates are RAS+ mm. A transform takes points of the common frame to the frame of the scan's own header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.core.errors import GeometryError
from moediff.core.volume import Grid, Volume

ORTHOGONAL = 1e-6  # of R R' from the identity
HEAD_RADIUS_MM = 80.0


@dataclass(frozen=True)
class Rigid:
    """Common frame -> a scan's own frame.

    Args:
        matrix: 4x4, a rotation and a shift in mm.

    Raises:
        GeometryError: it turns over, shears or scales.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        matrix = self.matrix.to(torch.float64).cpu()
        object.__setattr__(self, "matrix", matrix)
        rotation = matrix[:3, :3]
        off = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
        if tuple(matrix.shape) != (4, 4) or not off < ORTHOGONAL or torch.linalg.det(rotation) < 0:
            raise GeometryError(f"expected a rotation and a shift, got {matrix.tolist()}")

    @staticmethod
    def of(angles_deg: Sequence[float], shift_mm: Sequence[float], centre_mm: Sequence[float] = (0, 0, 0)) -> Rigid:
        """Rotation about x, then y, then z through a centre, and a shift after it."""
        matrix = torch.eye(4, dtype=torch.float64)
        for axis, degrees in enumerate(angles_deg):
            matrix[:3, :3] = _turn(axis, math.radians(degrees)) @ matrix[:3, :3]
        centre, shift = (torch.tensor(values, dtype=torch.float64) for values in (centre_mm, shift_mm))
        matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
        return Rigid(matrix)

    @property
    def inverse(self) -> Rigid:
        """The scan's own frame -> common frame."""
        return Rigid(torch.linalg.inv(self.matrix))

    @property
    def rows(self) -> tuple[tuple[float, float, float, float], ...]:
        """The matrix for records, to nine digits."""
        rounded = [[round(value, 9) for value in row] for row in self.matrix.tolist()]
        return tuple((a, b, c, d) for a, b, c, d in rounded)

    def __matmul__(self, first: Rigid) -> Rigid:
        """This transform after another."""
        return Rigid(self.matrix @ first.matrix)

    def placed_grid(self, grid: Grid) -> Grid:
        """A grid of the scan's own frame, in the common frame."""
        return Grid(grid.shape, torch.linalg.inv(self.matrix) @ grid.affine)

    def placed_volume(self, volume: Volume) -> Volume:
        """A scan, in the common frame; no voxel value changes."""
        return Volume(volume.data_XYZ, self.placed_grid(volume.grid).affine)

    @property
    def angle_deg(self) -> float:
        """The angle of the rotation about its own axis, 0..180."""
        cosine = (float(torch.trace(self.matrix[:3, :3])) - 1) / 2
        return math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))

    def displacement_mm(self, centre_mm: Sequence[float], radius_mm: float = HEAD_RADIUS_MM) -> float:
        """How far it moves points of a ball, root mean square over its volume (Jenkinson 1999)."""
        change = self.matrix - torch.eye(4, dtype=torch.float64)
        centre = torch.tensor(centre_mm, dtype=torch.float64)
        shift = change[:3, 3] + change[:3, :3] @ centre
        turn = change[:3, :3]
        return math.sqrt(radius_mm**2 / 5 * float((turn * turn).sum()) + float(shift @ shift))


IDENTITY = Rigid(torch.eye(4, dtype=torch.float64))


def _turn(axis: int, radians: float) -> Tensor:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[first, first] = matrix[second, second] = math.cos(radians)
    matrix[second, first] = math.sin(radians)
    matrix[first, second] = -math.sin(radians)
    return matrix


def grid_centre_mm(grid: Grid) -> tuple[float, float, float]:
    """The middle of a grid's field of view."""
    middle = torch.tensor([*((n - 1) / 2 for n in grid.shape), 1.0], dtype=torch.float64)
    x, y, z, _ = (grid.affine @ middle).tolist()
    return x, y, z
