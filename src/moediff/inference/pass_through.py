"""A scan that is already as fine as its target: put on the target grid, and nothing else.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from moediff.inference.options import Enhanced, EnhanceOptions, Maps
from moediff.inference.route import Route
from moediff.inference.sidecar import NO_UNCERTAINTY, Sidecar, SliceIntensity
from moediff.io.scans import LoadedScan

PASSED = "the scan is already as fine as the target grid and was passed through; ask for smaller voxels"
NOT_EVENED = "--correct-slice-intensity changed nothing: the scan was passed through"


def passed(
    loaded: LoadedScan, way: Route, options: EnhanceOptions, names: tuple[str, ...], sidecar: Sidecar
) -> Enhanced:
    """The input on the target grid, with a warning.

    Args:
        way: to the target grid.
        names: of the experts.
        sidecar: from `sidecar_for`; what did not happen is taken back.
    """
    volume = way.interpolated(loaded.volume)
    uneven = [NOT_EVENED] if options.even_slices else []
    sidecar = replace(
        sidecar,
        pass_through=True,
        settings=replace(sidecar.settings, steps=0, tta=1, samples=1, data_consistency=False),
        uncertainty=NO_UNCERTAINTY,
        slice_intensity=SliceIntensity(corrected=False) if options.even_slices else None,
        warnings=(*loaded.warnings, *way.warnings(), *uneven, PASSED),
    )
    shape = (*way.goal.shape, len(names))
    each = volume.data_XYZ[..., None].expand(shape) if options.each_expert else None
    maps = Maps(lambda: volume, lambda: torch.zeros(shape), lambda: torch.zeros(way.goal.shape, dtype=torch.bool))
    return Enhanced(volume, way.storage, maps, None, names, loaded, sidecar, each)
