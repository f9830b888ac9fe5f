"""A scan that is already as fine as its target: put on the target grid, and nothing else.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

from typing import Any

import torch

from moediff.inference.options import Enhanced, EnhanceOptions, Maps
from moediff.inference.route import Route
from moediff.io.scans import Loaded

PASSED = "the scan is already as fine as the target grid and was passed through; ask for smaller voxels"
NOT_EVENED = "--even-slices changed nothing: the scan was passed through"


def passed(
    loaded: Loaded, way: Route, options: EnhanceOptions, names: tuple[str, ...], record: dict[str, Any]
) -> Enhanced:
    """The input on the target grid, with a warning.

    Args:
        way: to the target grid.
        names: of the experts.
        record: from `record_of`; what did not happen is taken back.
    """
    volume = way.interpolated(loaded.volume)
    uneven = [NOT_EVENED] if options.even_slices else []
    record = record | {
        "passed_through": True,
        "steps": 0,
        "mirrors": 1,
        "samples": 1,
        "consistency": False,
        "uncertainty": "none",
        **({"slices": {"evened": False}} if options.even_slices else {}),
        "warnings": [*loaded.warnings, *way.warnings(), *uneven, PASSED],
    }
    shape = (*way.goal.shape, len(names))
    each = volume.data_XYZ[..., None].expand(shape) if options.each_expert else None
    maps = Maps(lambda: volume, lambda: torch.zeros(shape), lambda: torch.zeros(way.goal.shape, dtype=torch.bool))
    return Enhanced(volume, maps, None, names, loaded, record, each)
