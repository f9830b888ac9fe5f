"""How much memory an enhancement will take, told before it starts (`enhance --dry-run`).

The numbers were fitted to measured peaks of whole processes on a CPU (`python benchmarks/speed.py`, docs/decisions.md).
"""

from __future__ import annotations

import math

from moediff.inference.options import EnhanceOptions
from moediff.inference.tiles import BYTES_PER_CHANNEL
from moediff.volume.volume import Grid

STARTED_MIB = 560.0  # Python, torch, the weights
INPUT_BYTES = 12  # a voxel: as read, scaled, and re-acquired
HELD_BYTES = 20  # a voxel of the target grid: interpolated scan, slices around it, tokens, gate, result
MAP_BYTES = 4  # a voxel of one more map
HEAD_SHARE = 0.7  # of a scan's box is read by the network
RESERVED = 2.0  # times a small tile's own memory, for blocks that stay reserved between layers; large blocks go back


def predicted_mib(source: Grid, goal: Grid, options: EnhanceOptions, *, width: int, experts: int) -> int:
    """Peak resident memory of `moediff enhance` in MiB, about 15 % right; without reports and gate maps.

    Args:
        source, goal: the scan's grid and the result's.
        width: channels of the network's trunk.
        experts: how many there are.
    """
    voxels = math.prod(goal.shape)
    held = voxels * HELD_BYTES + math.prod(source.shape) * INPUT_BYTES
    tile = min(RESERVED * HEAD_SHARE * voxels * width * BYTES_PER_CHANNEL, options.memory_mb * 2**20)
    maps = 2 * (options.samples > 1) + experts * options.each_expert
    return round(STARTED_MIB + (held + tile + maps * MAP_BYTES * voxels) / 2**20)
