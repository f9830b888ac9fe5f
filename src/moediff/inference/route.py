"""The way of a result, and of all that is known of it, from the voxels that the network works on to its grid.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from moediff.core.geometry import StorageOrder, axis_positions, band_limit, resample
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.inference.grid_plan import land, measured, working_grid

DARK = 0.01  # quantile that air lies at where a scan goes below zero


@dataclass(frozen=True)
class Route:
    """Where the network works, and the way of its results to their grid.

    Args:
        near: from `working_grid`.
        goal: the results' grid, RAS+.
        storage: the axis order that results are written in.
        measured_XYZ: from `measured`.
        air: what a scan holds where nothing was measured, raw intensity.
        floor: the least that a scan may hold, raw intensity.
    """

    near: Grid
    goal: Grid
    storage: StorageOrder
    measured_XYZ: Tensor | None
    air: float
    floor: float

    @cached_property
    def oblique(self) -> bool:
        """Whether results are interpolated on their way."""
        return axis_positions(self.near, self.goal) is None

    def scan(self, volume: Volume) -> Volume:
        """A scan from the working grid on the goal; air where nothing was measured."""
        if not self.oblique:
            return self._measured(land(volume, self.goal, outside=self.air), self.air)
        landed = land(band_limit(volume, self.goal), self.goal)
        landed.data_XYZ.clamp_(min=self.floor)  # cubic interpolation overshoots
        return self._measured(landed, self.air)

    def map(self, volume: Volume) -> Volume:
        """A map of what is never negative from the working grid on the goal; zero where nothing was measured."""
        return self._measured(land(volume, self.goal, "linear", outside=0.0), 0.0)

    def interpolated(self, volume: Volume) -> Volume:
        """The input on the goal; air where nothing was measured."""
        held = band_limit(volume, self.goal)
        read = resample(held, self.goal)
        if held is not volume:
            read.data_XYZ.clamp_(min=self.floor)  # a sharp cut in frequency rings
        return self._measured(read, self.air)

    def warnings(self) -> list[str]:
        """A sentence where part of the goal was not measured."""
        if self.measured_XYZ is None:
            return []
        share = 1 - float(self.measured_XYZ.double().mean())
        return [f"{share:.1%} of the target grid lies outside the scan's field of view: not measured, filled with air"]

    def _measured(self, volume: Volume, outside: float) -> Volume:
        if self.measured_XYZ is None:
            return volume
        return volume.with_data(volume.data_XYZ.masked_fill(~self.measured_XYZ, outside))


def route(volume: Volume, stored_goal: Grid) -> Route:
    """The way from a scan, raw intensities, to the grid of its results, given in the axis order they are written in.

    Raises:
        DataError: see `working_grid` and `measured`.
    """
    storage = StorageOrder.of(stored_goal.affine)
    goal = storage.apply_grid(stored_goal)
    inside_XYZ, near = measured(volume.grid, goal), working_grid(volume.grid, goal)
    air = min(quantile(volume.data_XYZ, DARK), 0.0)
    return Route(near, goal, storage, inside_XYZ, air, min(float(volume.data_XYZ.min()), 0.0))
