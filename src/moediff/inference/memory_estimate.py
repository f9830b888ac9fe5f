"""How much memory an enhancement will take, told before it starts (`enhance --dry-run`).

The numbers were fitted to measured peaks of whole processes on a CPU (`benchmarks/perf.py enhance`,
LOG.md, 2026-11-26).
"""

from __future__ import annotations

import math

from moediff.core.geometry import axis_positions
from moediff.core.volume import Grid
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import BYTES_PER_CHANNEL

STARTED_MIB = 490.0  # Python, torch, the weights
INPUT_BYTES = 12  # a voxel: as read, scaled, and re-acquired
HELD_BYTES = 20  # a voxel of the target grid: interpolated scan, slices around it, tokens, gate, result
TURNED_BYTES = 48  # a voxel of a working grid oblique to the goal: a copy refined twofold, and half of one before it
LANDED_MAPS = 3  # on a goal that is not the working grid: result, uncertainty, and one on its way
MAP_BYTES = 4  # a voxel of one more map
HEAD_SHARE = 0.7  # of a scan's box is read by the network
RESERVED = 2.0  # times a small tile's own memory, for blocks that stay reserved between layers; large blocks go back


def predicted_mib(
    source: Grid, goal: Grid, options: EnhanceOptions, *, width: int, experts: int, near: Grid | None = None
) -> int:
    """Peak resident memory of `moediff enhance` in MiB, about 15 % right; without reports and gate maps.

    Args:
        source, goal: the scan's grid and the result's.
        near: where the network works; None is the goal.
        width: channels of the network's backbone.
        experts: how many there are.
    """
    near = near or goal
    voxels = math.prod(near.shape)
    held = voxels * HELD_BYTES + math.prod(source.shape) * INPUT_BYTES
    tile = min(RESERVED * HEAD_SHARE * voxels * width * BYTES_PER_CHANNEL, options.memory_mb * 2**20)
    maps = 2 * (options.samples > 1) + experts * options.each_expert
    landed = 0 if near is goal else LANDED_MAPS * MAP_BYTES * math.prod(goal.shape)
    turned = 0 if axis_positions(near, goal) is not None else voxels * TURNED_BYTES
    return round(STARTED_MIB + (held + max(tile, turned) + maps * MAP_BYTES * voxels + landed) / 2**20)
