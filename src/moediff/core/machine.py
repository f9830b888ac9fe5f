"""The machine: how many cores and how much memory this process may use, inside containers and queued jobs too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# Of a control group of version 2 and of version 1: limit, memory in use, what of that is cache of files in memory.stat.
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
# Microseconds of processor time in a period, and the period; without a quota "max" (no number) or -1.
QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
MIB = 2**20


def usable_cores(cgroup: Path = CGROUP, own: Path = OWN_GROUPS) -> int:
    """Cores that this process may use: those it is bound to, or fewer where a container's quota says so.

    Args:
        cgroup: where the control groups are mounted.
        own: the list of those of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _group_folders("cpu", cgroup, own):
        for names in QUOTA_FILES:
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = (int(word) for name in names for word in (folder / name).read_text().split())
                cores = min(cores, max(1, quota // period)) if quota > 0 else cores
    return cores


def free_memory_mb(
    cgroup: Path = CGROUP,
    meminfo: Path = Path("/proc/meminfo"),
    own: Path = OWN_GROUPS,
    environment: Mapping[str, str] = os.environ,
) -> int | None:
    """Memory that is free for this process in MiB: the least of machine, containers and Slurm; None if unknown.

    Args:
        cgroup, own: as in `usable_cores`; any of the groups around this one may have a limit.
        environment: where Slurm says what a job has, which not every cluster enforces by groups.
    """
    limits = [_slurm_mb(environment)]
    with suppress(OSError, ValueError, IndexError, StopIteration):
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) // 1024)
    limits += [_free_in_group_mb(folder) for folder in _group_folders("memory", cgroup, own)]
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else None


def _group_folders(controller: str, cgroup: Path, own: Path) -> list[Path]:
    """Folders of the groups around this process; a container may see its own one as the root."""
    folders = [cgroup, cgroup / controller]
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):  # version 2 has one tree for all, and no names
                root = cgroup / controller if controllers else cgroup
                inner = root / path.lstrip("/")
                folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
    return folders


def _free_in_group_mb(folder: Path) -> int | None:
    """A group's limit less what cannot be given back, which is all but the cache of files; None without a limit."""
    for limit, in_use, cache in MEMORY_FILES:
        with suppress(OSError, ValueError):
            most, used = (int((folder / name).read_text()) for name in (limit, in_use))
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return (most - used + int(statistics.get(cache, 0))) // MIB
    return None


def _slurm_mb(environment: Mapping[str, str]) -> int | None:
    """What Slurm gave this job on this node; 0 stands for the whole node."""
    with suppress(KeyError, ValueError):
        return int(environment["SLURM_MEM_PER_NODE"]) or None
    with suppress(KeyError, ValueError):
        return int(environment["SLURM_MEM_PER_CPU"]) * int(environment["SLURM_CPUS_ON_NODE"]) or None
    return None
