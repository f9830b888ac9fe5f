"""Result of an enhancement: the enhanced scan with its maps and its sidecar (`Enhanced`).

Axes: X Y Z voxels of the target grid (RAS+), E experts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core.errors import ConfigError, MoeDiffWarning
from moediff.core.geometry import StorageOrder
from moediff.core.volume import Volume
from moediff.inference.grid_plan import GridPlan, coarser_warnings
from moediff.inference.options import EnhanceOptions
from moediff.inference.sidecar import NO_UNCERTAINTY, Sidecar, SliceIntensity, former_record
from moediff.inference.tiling import GateWeights
from moediff.io.loaded import DicomOrigin
from moediff.io.scans import LoadedScan

PASSED_THROUGH = "the scan is already as fine as the target grid and was passed through; ask for smaller voxels"
NOT_CORRECTED = "--correct-slice-intensity changed nothing: the scan was passed through"


@dataclass(frozen=True)
class Maps:
    """Maps of a result, computed when they are first read: each is as large as the result."""

    interpolated: Callable[[], Volume]
    gate_XYZE: Callable[[], Tensor]
    mask_XYZ: Callable[[], Tensor]


@dataclass(frozen=True)
class ScanShare:
    """What one of several scans gave to a result.

    Args:
        name: of its file.
        scan: its voxels, placed in the result's frame, with the intensities of the first scan.
        weight_XYZ: its share in every voxel of the result, 0..1; None where it was left out.
        residual: the result acquired again minus the scan, on its grid; None where it was left out.
        origin: the DICOM series it came from.
    """

    name: str
    scan: Volume
    weight_XYZ: Tensor | None = None
    residual: Volume | None = None
    origin: DicomOrigin | None = None


@dataclass(frozen=True)
class GuideShare:
    """What a guide added to a result.

    Args:
        name: of its file.
        scan: its voxels, placed in the result's frame.
        correction_XYZ: what was added for it, in the result's intensities.
        origin: the DICOM series it came from.
    """

    name: str
    scan: Volume
    correction_XYZ: Tensor
    origin: DicomOrigin | None = None


@dataclass(frozen=True)
class Enhanced:
    """A result on the target grid, RAS+, in the input's intensities.

    Args:
        volume: the enhanced scan.
        storage: the axis order that it is written in: the input's, or that of a reference grid.
        maps: computes the properties below.
        uncertainty: voxel-wise standard deviation, predicted or over samples; None for a single sample.
        expert_names: names of the experts, in the order of E.
        source: the input as read.
        sidecar: how the result was computed, as it stands in the file beside a written result.
        single_experts_XYZE: every expert's own result, or None.
        residual: the result acquired again minus the input, on the input's grid; None where the network did not run.
        scans: what each of several scans gave; empty for a single one.
        guide: what a sharp scan of another contrast added; None without one, and where it did not fit.
    """

    volume: Volume
    storage: StorageOrder
    maps: Maps
    uncertainty: Volume | None
    expert_names: tuple[str, ...]
    source: LoadedScan
    sidecar: Sidecar
    single_experts_XYZE: Tensor | None = None
    residual: Volume | None = None
    scans: tuple[ScanShare, ...] = ()
    guide: GuideShare | None = None

    @property
    def record(self) -> dict[str, Any]:
        """Former name of `sidecar`: plain values under their former keys, for one more release."""
        warnings.warn("Enhanced.record is now Enhanced.sidecar", MoeDiffWarning, stacklevel=2)
        return former_record(self.sidecar)

    @property
    def each_XYZE(self) -> Tensor | None:
        """Former name of `single_experts_XYZE`, for one more release."""
        warnings.warn("Enhanced.each_XYZE is now Enhanced.single_experts_XYZE", MoeDiffWarning, stacklevel=2)
        return self.single_experts_XYZE

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
            ConfigError: there are no single-expert results, or the aggregate is a sample.
        """
        if self.single_experts_XYZE is None:
            raise ConfigError("the experts were not run singly; ask for single_experts in EnhanceOptions")
        if self.sidecar.settings.mode == "detail":
            raise ConfigError(
                "differences compare the experts' posterior means with the result, mode 'detail' draws "
                "samples; leave one out"
            )
        others = (self.volume, self.interpolated)
        return torch.cat([self.single_experts_XYZE - other.data_XYZ[..., None] for other in others], -1)


def largest_XYZ(gate_XYZE: Tensor) -> Tensor:
    """The expert of the largest weight, from 1, as uint8; 0 where the network did not work, and weights sum to 0."""
    return torch.where(gate_XYZE.sum(-1) > 0.5, gate_XYZE.argmax(-1) + 1, 0).to(torch.uint8)


def lazy_maps(scan: LoadedScan, plan: GridPlan, mask_XYZ: Tensor, gate: GateWeights) -> Maps:
    """Maps of a result of the network; until they are read, no volume of the target grid but the mask is in memory.

    Args:
        mask_XYZ: the foreground on the working grid.
    """
    mask_XYZ, working = mask_XYZ.cpu(), plan.working

    def to_target(data_XYZ: Tensor) -> Tensor:
        return plan.map_to_target(Volume(data_XYZ, working.affine)).data_XYZ

    def gate_XYZE() -> Tensor:
        weights_XYZE = torch.empty(*plan.target.shape, gate.experts)
        for expert in range(gate.experts):
            weights_XYZE[..., expert] = to_target(gate.expert_XYZ(expert, working.shape))
        return weights_XYZE

    return Maps(
        interpolated=lambda: plan.interpolated(scan.volume),
        gate_XYZE=gate_XYZE,
        mask_XYZ=lambda: to_target(mask_XYZ.float()) > 0.5,
    )


def pass_through(scan: LoadedScan, plan: GridPlan, options: EnhanceOptions, sidecar: Sidecar) -> Enhanced:
    """The input on the target grid, where it is as fine as that already, with a warning.

    Args:
        sidecar: from `sidecar_for`; settings without effect are reset.
    """
    volume = plan.interpolated(scan.volume)
    # A coarser target has a sentence of its own in the plan.
    unchanged = [] if coarser_warnings(plan.source, plan.target) else [PASSED_THROUGH]
    not_corrected = [NOT_CORRECTED] if options.correct_slice_intensity else []
    sidecar = replace(
        sidecar,
        pass_through=True,
        settings=replace(sidecar.settings, steps=0, tta=1, samples=1, data_consistency=False),
        uncertainty=NO_UNCERTAINTY,
        slice_intensity=SliceIntensity(corrected=False) if options.correct_slice_intensity else None,
        warnings=(*scan.warnings, *plan.warnings, *not_corrected, *unchanged),
    )
    shape = (*plan.target.shape, len(sidecar.experts))
    singles = volume.data_XYZ[..., None].expand(shape) if options.single_experts else None
    maps = Maps(lambda: volume, lambda: torch.zeros(shape), lambda: torch.zeros(plan.target.shape, dtype=torch.bool))
    return Enhanced(volume, plan.storage, maps, None, sidecar.experts, scan, sidecar, singles)
