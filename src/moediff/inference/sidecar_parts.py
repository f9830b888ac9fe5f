"""Parts of the sidecar that describe grids and what was registered to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from moediff.core.volume import Grid


@dataclass(frozen=True)
class Closed:
    """A part of the record whose schema allows no further keys."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "json_schema_serialization_defaults_required": True}


@dataclass(frozen=True)
class GridRecord(Closed):
    """A grid in the axis order of its file."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, grid: Grid) -> GridRecord:
        """Spacing to a hundredth of a micrometre."""
        x, y, z = (round(s, 5) for s in grid.spacing_mm)
        return cls(grid.shape, (x, y, z))


@dataclass(frozen=True, kw_only=True)
class GuideRecord(Closed):
    """A sharp scan of another contrast that the result was corrected by.

    Args:
        name: of its file, or the neutral stem of a DICOM series.
        input: its grid, as stored.
        transform: 4x4, points of the result's frame to the guide's own, RAS+ mm.
        rotation_deg, displacement_mm: how far that moves the head (RMS over a ball of 80 mm).
        apart_mm: between two ways of registration, by mutual information and by edges; None where none was done.
        agreement: mean squared cosine between its edges and the result's; 1 is perfect, 1/3 chance.
        change_over_range: RMS of what it changed in the head, over the scan's intensity range.
        not_used: why it changed nothing; None where it was used.
    """

    name: str
    input: GridRecord
    transform: tuple[tuple[float, float, float, float], ...]
    rotation_deg: float
    displacement_mm: float
    apart_mm: float | None = None
    agreement: float
    change_over_range: float = 0.0
    not_used: str | None = None
