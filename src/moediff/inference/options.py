"""What a user may choose, and what comes back.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core.errors import ConfigError, MoeDiffWarning
from moediff.core.geometry import StorageOrder
from moediff.core.volume import Grid, Volume
from moediff.diffusion.samplers import DEFAULT_SAMPLER, SAMPLERS
from moediff.inference.sidecar import Sidecar, former_record
from moediff.io.scans import LoadedScan

BOUNDS = {  # of numbers: what a message calls them, least, most
    "steps": ("steps", 2, 64),
    "samples": ("samples", 1, 64),
    "memory_mb": ("memory_mb (--mem-mb)", 64, 2**24),
}
MODES = ("faithful", "detail")
MIRRORS = ((), (0, 1, 2), (0,), (1, 2), (1,), (0, 2), (2,), (0, 1))  # axes that a scan is mirrored along, best first


@dataclass(frozen=True, kw_only=True)
class EnhanceOptions:
    """What a user may choose.

    Args:
        voxel_size: target voxel size in mm, one or three numbers in the input's axis order. None: where any axis is
            coarser than 1.2 mm, all axes coarser than 1 mm become 1 mm and finer ones stay; else all are halved.
        like: a grid to land on exactly, in any axis order; excludes voxel_size.
        mode: "faithful" (posterior mean, one evaluation) or "detail" (a few-step sample).
        mirrors: 1, 2, 4 or 8: the posterior mean is averaged over so many mirrored readings of the scan.
        sampler: how a sample is drawn, a name in `moediff.diffusion.samplers.SAMPLERS`.
        steps: steps of a sample, 2..64; one network evaluation each (heun: two, but for the last).
        samples: how many samples the uncertainty is taken from; with 1 the network foretells it in mode "faithful".
            In mode "detail" the first of them is the result: their mean would be smoother than any scan.
        seed: of the samples.
        even_slices: take out what alternates in brightness from one thick slice to the next (interleaved acquisition).
        consistency: correct what the measurement contradicts beyond its noise, unless the weights forbid it.
        sparse: run only the experts that the gate asks for.
        each_expert: also run every expert alone over the whole head (posterior mean; one evaluation each).
        memory_mb: bound on the activations of a tile.

    Raises:
        ConfigError: a value is out of range or two exclude each other.
    """

    voxel_size: tuple[float, ...] | None = None
    like: Grid | None = None
    mode: str = "faithful"
    mirrors: int = 1
    sampler: str = DEFAULT_SAMPLER
    steps: int = 3
    samples: int = 1
    seed: int = 0
    even_slices: bool = False
    consistency: bool = True
    sparse: bool = True
    each_expert: bool = False
    memory_mb: int = 1600

    def __post_init__(self) -> None:
        for name in ("mirrors", "seed", *BOUNDS):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        _check_choice("mode", self.mode, MODES)
        _check_choice("sampler", self.sampler, SAMPLERS)
        if self.voxel_size is not None and self.like is not None:
            raise ConfigError("voxel size and a reference grid exclude each other; give one of them")
        if self.like is not None:
            _check_grid(self.like)
        if self.voxel_size is not None:
            _check_sizes(self.voxel_size)
        if self.mirrors not in (1, 2, 4, 8):
            raise ConfigError(f"mirrors is {self.mirrors}, expected 1, 2, 4 or 8: choose one of these")
        if self.mirrors > 1 and self.mode != "faithful":
            raise ConfigError(f"mirrors average the posterior mean, mode {self.mode!r} draws samples; leave one out")
        for name, (shown, low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{shown} is {getattr(self, name)}, expected {low} to {high}: choose one of these")


def _whole(name: str, value: Any) -> int:
    """An int, whatever library's it was: the sidecar has to hold it."""
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} is {value!r}, expected a whole number: give one") from None


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is unknown; choose from {', '.join(choices)}")


def _check_grid(like: Any) -> None:
    """Refuse a file's name, which the command line takes."""
    if not isinstance(like, Grid):
        kind = type(like).__name__
        raise ConfigError(f"like is a {kind}, expected a grid: give moediff.load(FILE).stored_grid")


def _check_sizes(sizes: Any) -> None:
    """Refuse what is not one or three numbers that a voxel can measure, in mm."""
    if not isinstance(sizes, tuple | list):
        raise ConfigError(f"voxel size is {sizes!r}, expected a tuple: give one or three numbers, as in (1.0,)")
    numbers = all(isinstance(size, Real) for size in sizes)
    if len(sizes) not in (1, 3) or not numbers or not all(0.2 <= size < math.inf for size in sizes):
        raise ConfigError(f"voxel size {sizes}: give one or three numbers of at least 0.2 mm")


@dataclass(frozen=True)
class Maps:
    """What else is known of every voxel of a result, made when asked for: each map is as large as the result."""

    interpolated: Callable[[], Volume]
    gate_XYZE: Callable[[], Tensor]
    mask_XYZ: Callable[[], Tensor]


@dataclass(frozen=True)
class Enhanced:
    """A result on the target grid, RAS+, in the input's intensities.

    Args:
        volume: the enhanced scan.
        storage: the axis order that it is written in: the input's, or that of a reference grid.
        maps: makes the properties below.
        uncertainty: voxel-wise standard deviation, foretold or over samples; None for a single sample.
        expert_names: names of the experts, in the order of E.
        source: the input as read.
        sidecar: how it was made, as it stands in the file beside a written result.
        each_XYZE: every expert's own result, or None.
        residual: the result acquired again minus the input, on the input's grid; None where nothing was done.
    """

    volume: Volume
    storage: StorageOrder
    maps: Maps
    uncertainty: Volume | None
    expert_names: tuple[str, ...]
    source: LoadedScan
    sidecar: Sidecar
    each_XYZE: Tensor | None = None
    residual: Volume | None = None

    @property
    def record(self) -> dict[str, Any]:
        """Former name of `sidecar`: plain values under their former keys, for one more release."""
        warnings.warn("Enhanced.record is now Enhanced.sidecar", MoeDiffWarning, stacklevel=2)
        return former_record(self.sidecar)

    def plot(self, path: Path | str | None = None, *, truth: Volume | None = None) -> Any:
        """Draw input, interpolated, enhanced, experts (and truth, error, uncertainty where known) in three planes.

        Args:
            path: where a PNG goes; None writes nothing.
            truth: the true scan, on any grid.

        Returns:
            The matplotlib figure.

        Raises:
            ConfigError: matplotlib is not installed.
            DataError: the result is constant.
            CannotCreate: the PNG cannot be written.
        """
        from moediff.report.figure import plot

        return plot(self, path, truth=truth)

    @property
    def stored(self) -> Volume:
        """The enhanced scan in the axis order that it is written in."""
        return self.storage.undo(self.volume)

    @cached_property
    def interpolated(self) -> Volume:
        """The input interpolated to the same grid."""
        return self.maps.interpolated()

    @cached_property
    def gate_XYZE(self) -> Tensor:
        """Weight of each expert per voxel; zero outside the head."""
        return self.maps.gate_XYZE()

    @cached_property
    def mask_XYZ(self) -> Tensor:
        """Where the network worked."""
        return self.maps.mask_XYZ()

    def differences_XYZN(self) -> Tensor:
        """Every expert's own result minus the aggregate (E volumes), then minus the interpolated input (E volumes).

        Raises:
            ConfigError: the experts were not run alone, or the aggregate is a sample.
        """
        if self.each_XYZE is None:
            raise ConfigError("the experts were not run alone; ask for each_expert in EnhanceOptions")
        if self.sidecar.settings.mode == "detail":
            raise ConfigError(
                "differences compare the experts' posterior means with the result, mode 'detail' draws "
                "samples; leave one out"
            )
        others = (self.volume, self.interpolated)
        return torch.cat([self.each_XYZE - other.data_XYZ[..., None] for other in others], -1)
