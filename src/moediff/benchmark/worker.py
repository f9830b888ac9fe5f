"""One method on one scan in a process of its own, so that time and memory belong to it.

    python -m moediff.benchmark.worker JOB.json

The job names the low-resolution scan, the grid to land on (never the truth itself) and the method. The last line
printed is JSON: the seconds that the method itself took, without Python's start and without reading and writing files,
or, where the job requests counting, its floating-point operations.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moediff.benchmark import total_variation as tv
from moediff.benchmark.flops import counting
from moediff.benchmark.methods import Method
from moediff.core.errors import MoeDiffError
from moediff.core.geometry import resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Grid, Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import LoadedScan, load, save


@dataclass(frozen=True, kw_only=True)
class Job:
    """One method's task.

    Args:
        source: the low-resolution scan.
        target: the file to write.
        grid: of the result.
        seed: of samples.
        threads: CPU threads.
        device: as `Enhancer` takes it.
        count: count operations instead of timing, which counting would slow down.
    """

    source: Path
    target: Path
    grid: Grid
    seed: int
    threads: int
    device: str
    count: bool = False

    def as_json(self, method: Method) -> str:
        """The job and its method as text; `from_json` reads it back."""
        grid = {"shape": list(self.grid.shape), "affine": self.grid.affine.tolist()}
        folder = None if method.bundle is None else str(method.bundle)
        return json.dumps(
            {
                "job": vars(self) | {"source": str(self.source), "target": str(self.target), "grid": grid},
                "method": vars(method) | {"bundle": folder},
            }
        )

    @staticmethod
    def from_json(text: str) -> tuple[Job, Method]:
        """What `as_json` wrote."""
        values: dict[str, dict[str, Any]] = json.loads(text)
        job, method = values["job"], values["method"]
        x, y, z = job["grid"]["shape"]
        grid = Grid((x, y, z), torch.tensor(job["grid"]["affine"], dtype=torch.float64))
        places = {"source": Path(job["source"]), "target": Path(job["target"]), "grid": grid}
        bundle = None if method["bundle"] is None else Path(method["bundle"])
        return Job(**job | places), Method(**method | {"bundle": bundle})


def apply(method: Method, loaded: LoadedScan, job: Job) -> Volume:
    """The method's result on the job's grid."""
    if method.kind == "interpolation":
        return resample(loaded.volume, job.grid, method.name)
    if method.kind == "tv":
        return tv.super_resolve(loaded.volume, job.grid)
    enhancer = Enhancer(method.bundle, threads=job.threads, device=job.device)
    return enhancer(loaded, EnhanceOptions(like=job.grid, mode=method.mode, seed=job.seed)).volume


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Cost of the method itself: seconds without Python's start and without files, or operations where those count."""

    compute_s: float | None = None
    gflop: float | None = None


def _timed(method: Method, loaded: LoadedScan, job: Job) -> tuple[Volume, Spent]:
    start = time.perf_counter()
    result = apply(method, loaded, job)
    return result, Spent(compute_s=time.perf_counter() - start)


def _counted(method: Method, loaded: LoadedScan, job: Job) -> tuple[Volume, Spent]:
    with counting() as counter:
        result = apply(method, loaded, job)
    return result, Spent(gflop=counter.get_total_flops() / 1e9)


def main(path: Path) -> int:
    """Do the job; returns an exit code, after a line with the fault."""
    tune_allocator()
    try:
        job, method = Job.from_json(path.read_text(encoding="utf-8"))
        torch.set_num_threads(job.threads)
        loaded = load(job.source)
        result, spent = (_counted if job.count else _timed)(method, loaded, job)
        save(result, job.target, codes=loaded.codes)
    except MoeDiffError as error:
        print(error)
        return error.exit_code
    print(json.dumps(vars(spent)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
