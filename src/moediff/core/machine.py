"""The machine: how many cores and how much memory this process may use, inside containers and queued jobs too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MIB = 2**20


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: those it is bound to, or fewer where a container's quota says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))  # "max" is no number: no quota
    return cores


def free_memory_mb(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that is free for this process in MiB, the smaller of machine and container; None where nobody says."""
    limits = []
    with suppress(OSError, ValueError, IndexError, StopIteration):
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) // 1024)
    with suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        limits.append((limit - _in_use(cgroup)) // MIB)
    return max(0, min(limits)) if limits else None


def _in_use(cgroup: Path) -> int:
    """Bytes of a container that cannot be given back: without the cache of files."""
    used = int((cgroup / "memory.current").read_text())
    statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    return used - int(statistics.get("inactive_file", 0))
