"""Maps of a result, on its grid: where the network worked, who worked there, and what interpolation alone gives.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from moediff.acquisition.prepare import Prepared
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.inference.options import Maps
from moediff.inference.route import Route
from moediff.inference.sidecar import Uncertainty
from moediff.inference.tiling import Frame
from moediff.io.scans import LoadedScan


def maps_of(loaded: LoadedScan, way: Route, prepared: Prepared, head: Frame) -> Maps:
    """What makes the maps later; it keeps no volume of the target grid but a boolean mask."""
    grid, mask_XYZ = prepared.grid, prepared.mask_XYZ.cpu()
    experts = head.condition.weight_BxyzE.shape[-1]

    def landed(data_XYZ: Tensor) -> Tensor:
        return way.map(Volume(data_XYZ, grid.affine)).data_XYZ

    def gate_XYZE() -> Tensor:
        out_XYZE = torch.empty(*way.goal.shape, experts)
        for expert in range(experts):
            out_XYZE[..., expert] = landed(head.weight_XYZ(expert, grid.shape))
        return out_XYZE

    return Maps(
        interpolated=lambda: way.interpolated(loaded.volume),
        gate_XYZE=gate_XYZE,
        mask_XYZ=lambda: landed(mask_XYZ.float()) > 0.5,
    )


def measured_uncertainty(uncertainty: Uncertainty, spread_XYZ: Tensor | None, prepared: Prepared) -> Uncertainty:
    """With the standard deviation where the network worked, over the scan's intensity range."""
    if spread_XYZ is None:
        return uncertainty
    top = max(quantile(prepared.source.data_XYZ, 0.999), 1e-6)
    inside = spread_XYZ[prepared.mask_XYZ > 0]
    mean, high = (float(inside.mean()), quantile(inside, 0.99)) if inside.numel() else (0.0, 0.0)
    return replace(uncertainty, mean_over_range=round(mean / top, 5), p99_over_range=round(high / top, 5))
