"""Volume and grid: voxels together with their affine.

Axes: X Y Z voxel axes; RAS+ in every scan that `io.scans.load` returned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moediff.core.errors import GeometryError


@dataclass(frozen=True)
class Grid:
    """A shape and a 4x4 affine from voxel index to RAS+ mm.

    Raises:
        GeometryError: the affine is not 4x4, not finite or not invertible.
    """

    shape: tuple[int, int, int]
    affine: Tensor

    def __post_init__(self) -> None:
        if tuple(self.affine.shape) != (4, 4) or not bool(torch.isfinite(self.affine).all()):
            raise GeometryError(f"expected a finite 4x4 affine, got {self.affine.tolist()}")
        object.__setattr__(self, "affine", self.affine.to(torch.float64).cpu())
        if abs(float(torch.linalg.det(self.affine[:3, :3]))) < 1e-9:
            raise GeometryError("the affine has no inverse; set a valid sform or qform in the header")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along each axis, mm."""
        x, y, z = self.affine[:3, :3].norm(dim=0).tolist()
        return x, y, z


@dataclass(frozen=True)
class Volume:
    """One 3-D scan.

    Args:
        data_XYZ: floating-point voxels, any intensity unit.
        affine: 4x4, voxel index -> RAS+ mm.

    Raises:
        GeometryError: the data are not 3-D or the affine is unusable.
    """

    data_XYZ: Tensor
    affine: Tensor

    def __post_init__(self) -> None:
        if self.data_XYZ.ndim != 3:
            raise GeometryError(f"expected 3 axes, got shape {tuple(self.data_XYZ.shape)}")
        object.__setattr__(self, "affine", self.grid.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        x, y, z = self.data_XYZ.shape
        return x, y, z

    @property
    def grid(self) -> Grid:
        """Shape and affine of the voxels."""
        return Grid(self.shape, self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along each axis, mm."""
        return self.grid.spacing_mm

    def to(self, device: torch.device | str) -> Volume:
        """The same scan with its voxels on another device."""
        return self.with_data(self.data_XYZ.to(device))

    def with_data(self, data_XYZ: Tensor) -> Volume:
        """The same grid with other voxels.

        Raises:
            GeometryError: the shape differs.
        """
        if tuple(data_XYZ.shape) != self.shape:
            raise GeometryError(f"expected shape {self.shape}, got {tuple(data_XYZ.shape)}")
        return replace(self, data_XYZ=data_XYZ)
