"""Memory estimate: peak resident memory of an enhancement, and its time, before it starts (`enhance --dry-run`).

The numbers were fitted to measured peaks of whole processes on a CPU (`benchmarks/perf.py enhance`,
LOG.md, 2026-11-26).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from moediff.core.volume import Grid
from moediff.inference.grid_plan import GridPlan
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import BYTES_PER_CHANNEL
from moediff.model.config import DenoiserConfig

STARTED_MIB = 490.0  # Python, torch, the weights
INPUT_BYTES = 12  # a voxel: as read, scaled, and re-acquired
WORKING_BYTES = 20  # a voxel of the working grid: interpolated scan, neighbouring slices, tokens, gate, result
MIRROR_BYTES = 15  # a voxel more with mirror images: the scan mirrored, its tokens, and the sum of what they gave
OBLIQUE_BYTES = 48  # a voxel of a working grid oblique to the target: a copy refined twofold, and half of one before it
TARGET_MAPS = 3  # on a target that is not the working grid: result, uncertainty, and one in between
MAP_BYTES = 4  # a voxel of one more map
FOREGROUND_SHARE = 0.7  # of a scan's box is read by the network
RESERVED = 2.0  # times a small tile's own memory, for blocks that stay reserved between layers; large blocks go back
ESTIMATE_BYTES = 12  # a voxel of the common grid and scan of several: result, precision, and samples
COMBINING_BYTES = 175  # a voxel of the common grid: a copy refined twofold, and the vectors of conjugate gradients
COMBINING_TIME = 1.6  # times the network's time for all scans, with registration and least squares
GUIDED_TIME = 4.0  # times the network's time for the scan: a second run on the guide, registration, edges of both
COMMAND_SECONDS = 3.0  # to start, read, prepare and write
SIMPLEITK_MIB = 60.0  # its library and copies for registration
GUIDE_BYTES = 90  # a voxel of the working grid: the guide refined twofold along each axis, and edges of both
SECONDS = 1.7e-6  # a voxel of the working grid, network evaluation and CPU thread, for the shipped width
SECOND_THREAD = 0.7  # share of a further thread that is gained
LONG_SECONDS = 90  # from here on said in minutes
FINE_MM = 0.95  # results with smaller voxels are announced


def seconds_on_cpu(plan: GridPlan, options: EnhanceOptions, threads: int, *, experts: int = 0) -> float:
    """Time of the network on so many threads of a quiet CPU, about 30 % right (LOG.md, 2026-11-27).

    Args:
        plan, options: of a scan.
        threads: of the CPU.
        experts: how many run by themselves too.
    """
    evaluations = options.evaluations + experts * options.tta
    return math.prod(plan.working.shape) * SECONDS * evaluations / (1 + SECOND_THREAD * (threads - 1))


def cost_sentence(
    plans: Sequence[GridPlan],
    options: EnhanceOptions,
    network: DenoiserConfig,
    threads: int,
    *,
    guide: Grid | None = None,
) -> str | None:
    """Grid, memory and time of a result with voxels finer than 1 mm, in a sentence; None for any other.

    Args:
        plans: of the scan, or of several that become one; the first is that of the first scan.
        options, network: as in `peak_memory_mib`.
        threads: of the CPU.
        guide: grid of the guide, where one scan has one.
    """
    first = plans[0]
    target = first.stored_target
    if first.pass_through or min(target.spacing_mm) >= FINE_MM:
        return None
    sizes, shape = " x ".join(f"{size:.3g}" for size in target.spacing_mm), " x ".join(map(str, target.shape))
    experts = len(network.experts.branches) * options.single_experts  # of the first scan alone
    seconds = seconds_on_cpu(first, options, threads, experts=experts)
    seconds += sum(seconds_on_cpu(plan, options, threads) for plan in plans[1:])
    seconds *= GUIDED_TIME if guide is not None else COMBINING_TIME if len(plans) > 1 else 1
    seconds += COMMAND_SECONDS
    duration = f"{seconds / 60:.1f} minutes" if seconds >= LONG_SECONDS else f"{seconds:.0f} seconds"
    peak_mib = peak_mib_of(plans, options, network, guide=guide)
    times = math.prod(target.shape) / math.prod(first.source.shape)
    return (
        f"voxels of {sizes} mm: a grid of {shape}, {times:.1f} times the input's voxels; about {peak_mib / 1024:.1f} "
        f"GiB, {duration} on {threads} CPU thread{'s' * (threads > 1)} (--voxel-size 1 takes less)"
    )


def peak_mib_of(
    plans: Sequence[GridPlan], options: EnhanceOptions, network: DenoiserConfig, *, guide: Grid | None = None
) -> int:
    """Peak of one scan, of one with a guide or of several; arguments as in `cost_sentence`."""
    if guide is not None:
        return guided_peak_mib(plans[0], guide, options, network)
    return several_peak_mib(plans, options, network) if len(plans) > 1 else peak_memory_mib(plans[0], options, network)


def several_peak_mib(plans: Sequence[GridPlan], options: EnhanceOptions, network: DenoiserConfig) -> int:
    """Peak of several scans that become one: the largest single scan, or their combination, beside all estimates.

    Args:
        plans: of every scan, on the common grid; the first is that of the first scan.
        options, network: as in `peak_memory_mib`.
    """
    common = math.prod(plans[0].working.shape)
    estimates = len(plans) * ESTIMATE_BYTES * common / 2**20
    largest = max(peak_memory_mib(plan, options, network) for plan in plans)
    return round(estimates + max(largest, STARTED_MIB + common * COMBINING_BYTES / 2**20))


def guided_peak_mib(plan: GridPlan, guide: Grid, options: EnhanceOptions, network: DenoiserConfig) -> int:
    """Peak of one scan with a guide: the second network run beside what the first left, or the guide refined.

    Args:
        plan: of the scan.
        guide: grid of the guide.
        options, network: as in `peak_memory_mib`.
    """
    voxels = math.prod(plan.working.shape)
    left = voxels * (WORKING_BYTES + ESTIMATE_BYTES) + math.prod(guide.shape) * INPUT_BYTES
    again = peak_memory_mib(plan, options, network)
    return round(SIMPLEITK_MIB + left / 2**20 + max(again, STARTED_MIB + voxels * GUIDE_BYTES / 2**20))


def peak_memory_mib(plan: GridPlan, options: EnhanceOptions, network: DenoiserConfig) -> int:
    """Peak resident memory of `moediff enhance` in MiB, about 15 % right; without reports and gate maps."""
    voxels = math.prod(plan.working.shape)
    grids = voxels * (WORKING_BYTES + MIRROR_BYTES * (options.tta > 1)) + math.prod(plan.source.shape) * INPUT_BYTES
    channels = RESERVED * FOREGROUND_SHARE * voxels * network.backbone.width
    tile = 0 if plan.pass_through else min(channels * BYTES_PER_CHANNEL, options.memory_mb * 2**20)
    maps = 2 * (options.samples > 1) + len(network.experts.branches) * options.single_experts
    on_target = 0 if plan.working is plan.target else TARGET_MAPS * MAP_BYTES * math.prod(plan.target.shape)
    oblique = voxels * OBLIQUE_BYTES if plan.oblique else 0
    return round(STARTED_MIB + (grids + max(tile, oblique) + maps * MAP_BYTES * voxels + on_target) / 2**20)
