"""What `moediff enhance` costs: time, memory, operations and how well they use the machine; one table.

    python benchmarks/speed.py [--threads 1 2] [--modes faithful detail] [--sides small middle large huge]
                               [--clock wall|cpu] [--device cpu|cuda] [--json out.json]

Heads are phantoms (nested ellipsoids), so that anyone can run it: 1x1x5 mm to 1 mm for 112x112x100, 160x160x150 and
224x224x208 voxels out; "huge" is 512x512x416 voxels of 0.5 mm from slices of 2 mm (minutes, and 5 GiB of memory), and
has to be asked for. Columns:

- whole s, cpu s, peak MiB: the command in a process of its own, files and imports included.
- network s: encoder, gate and every evaluation, nothing else, in another process; the first call, as a user has it.
- again s: a second call of the same `Enhancer` in that process, the scan in memory before and the result after it.
- GFLOP: matrix products, convolutions and attention that this call ran. Experts that the gate does not ask for and
  tiles without foreground do not run; a box around the head holds some air, which does.
- kFLOP: the same per foreground voxel and evaluation (limit: 120 for one).
- share: GFLOP over network s, over the rate of a 2048^3 float32 matrix product in the same process and threads.
- GPU MiB: with --device cuda, the most that tensors held there. The first call also loads kernels, so GFLOP/s
  and share are of the second.

--clock cpu counts processor time over the number of threads instead of wall time, for network and matrix product alike:
for a machine that does other work. Best run on an idle one, by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.benchmark.flops import counting
from moediff.benchmark.process_meter import run_measured
from moediff.core.config import rng_for
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.inference import enhancer as engine
from moediff.inference.options import MODES, EnhanceOptions
from moediff.inference.tiling import denoise_tiled, frame
from moediff.io.scans import load, save
from moediff.model.bundle import load_bundle
from moediff.model.denoiser import make_condition

# Shape of the result, voxel size in mm, slice distance over it.
SIDES: dict[str, tuple[tuple[int, int, int], float, float]] = {
    "small": ((112, 112, 100), 1.0, 5),
    "middle": ((160, 160, 150), 1.0, 5),
    "large": ((224, 224, 208), 1.0, 5),
    "huge": ((512, 512, 416), 0.5, 4),
}
MATRIX_SIDE = 2048
LIMIT_S = 3600.0
CLOCKS: dict[str, Callable[[int], float]] = {
    "wall": lambda threads: time.perf_counter(),
    "cpu": lambda threads: time.process_time() / threads,
}
Case = tuple[Path, str, int, str, str]  # file, mode, threads, clock, device
COLUMNS = {
    "side": "voxels out",
    "mode": "mode",
    "threads": "threads",
    "seconds": "whole s",
    "cpu_s": "cpu s",
    "peak_mib": "peak MiB",
    "gpu_mib": "GPU MiB",
    "network_s": "network s",
    "again_s": "again s",
    "evaluations": "evaluations",
    "gflop": "GFLOP",
    "kflop_per_voxel": "kFLOP",
    "gflops": "GFLOP/s",
    "share_of_matrix_rate": "share",
}


def head(shape: tuple[int, int, int], spacing_mm: float) -> Volume:
    """A textured ellipsoid head that fills the field of view as heads do."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    radius = (x / 0.78) ** 2 + (y / 0.9) ** 2 + (z / 0.95) ** 2
    tissue = 500 + 150 * torch.sin(22 * x) * torch.cos(19 * y) * torch.cos(17 * z)
    affine = torch.diag(torch.tensor([spacing_mm, spacing_mm, spacing_mm, 1], dtype=torch.float64))
    return Volume(torch.where(radius < 1, tissue, torch.zeros(())), affine)


def written(side: str, folder: Path) -> Path:
    """The file of a phantom with thick slices."""
    shape, spacing_mm, thicker = SIDES[side]
    source = folder / f"{side}_T1w.nii.gz"
    save(degrade(head(shape, spacing_mm), thick_slices(thicker, 0.01, "speed"), rng_for(0, "speed")), source)
    return source


def whole(source: Path, mode: str, threads: int, device: str) -> dict[str, Any]:
    """Time and memory of the command."""
    command = [
        sys.executable,
        "-m",
        "moediff",
        "enhance",
        str(source),
        "-o",
        str(source.parent / "out.nii.gz"),
        "-q",
        "--mode",
        mode,
        "--threads",
        str(threads),
        "--device",
        device,
        "--overwrite",
    ]
    log = source.parent / "log"
    measured = run_measured(command, limit_s=LIMIT_S, log=log, env={})
    if measured.exit_code != 0:
        raise SystemExit(f"moediff enhance ended with {measured.exit_code}: {measured.fault or log.read_text()}")
    return {
        "seconds": round(measured.seconds, 2),
        "cpu_s": round(measured.cpu_s, 2),
        "peak_mib": round(measured.peak_mib),
    }


@dataclass
class Watch:
    """Stands before the engine's two calls of the network, and adds up what they take."""

    now: Callable[[], float]
    seconds: float = 0.0
    evaluations: int = 0
    foreground: int = 0
    gflop: float | None = None

    def put(self, *, count: bool) -> None:
        """Replace `frame` (encoder, gate) and `denoise_tiled` (an evaluation) in the engine."""
        read, evaluate = frame, denoise_tiled

        def read_head(*args: Any, **options: Any) -> Any:
            found = self.through(count, read, args, options)
            self.foreground = int(found.inside_BXYZ.sum())
            return found

        def denoised(*args: Any, **options: Any) -> Any:
            self.evaluations += 1
            return self.through(count, evaluate, args, options)

        vars(engine).update(frame=read_head, denoise_tiled=denoised)

    def through(self, count: bool, call: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> Any:
        """One call, timed or counted."""
        start = self.now()
        if count:
            with counting() as counter:
                found = call(*args, **options)
            self.gflop = (self.gflop or 0.0) + counter.get_total_flops() / 1e9
        else:
            found = call(*args, **options)
        self.seconds += self.now() - start
        return found


def matrix_rate(now: Callable[[], float], device: str) -> float:
    """GFLOP/s of a float32 matrix product: the best of five."""
    a, times = torch.rand(MATRIX_SIDE, MATRIX_SIDE, device=device), []
    for _ in range(5):
        start = now()
        a @ a
        times.append(now() - start)
    return 2 * MATRIX_SIDE**3 / min(times) / 1e9


def clock_of(name: str, threads: int, device: str) -> Callable[[], float]:
    """Seconds; on a GPU after everything that was asked of it."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return CLOCKS[name](threads)

    return now


def counted(case: Case) -> float:
    """Runs in a process of its own: GFLOP of the network in one enhancement."""
    source, mode, threads, _, device = case
    watch = Watch(time.perf_counter)
    watch.put(count=True)
    engine.Enhancer(threads=threads, device=device)(source, EnhanceOptions(mode=mode))
    return watch.gflop or 0.0


def network(case: Case) -> dict[str, Any]:
    """Runs in a process of its own: the network of one enhancement, then a whole one again."""
    source, mode, threads, clock, device = case
    keep_memory()
    now = clock_of(clock, threads, device)
    enhancer, watch, scan = engine.Enhancer(threads=threads, device=device), Watch(now), load(source)
    best = matrix_rate(now, device)
    watch.put(count=False)
    enhancer(scan, EnhanceOptions(mode=mode))
    first, start = replace(watch), now()
    enhancer(scan, EnhanceOptions(mode=mode))
    again = now() - start
    on_gpu = device == "cuda"
    return {
        "network_s": round(first.seconds, 3),
        "evaluations": first.evaluations,
        "again_s": round(again, 3),
        "steady_s": round(watch.seconds - first.seconds if on_gpu else first.seconds, 3),
        "foreground_voxels": watch.foreground,
        "matrix_gflops": best,
        "gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else "",
    }


def alone(job: Callable[[Case], Any], case: Case) -> Any:
    """A job in a fresh process, so that nothing is warm."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(job, case).result()


def row(side: str, case: Case, gflop: float) -> dict[str, Any]:
    """One line of the table."""
    source, mode, threads, _, device = case
    found: dict[str, Any] = {"side": "x".join(map(str, SIDES[side][0])), "mode": mode, "threads": threads}
    found |= whole(source, mode, threads, device) | alone(network, case) | {"gflop": gflop}
    each = found["foreground_voxels"] * found["evaluations"]
    rate = gflop / found["steady_s"]
    found |= {
        "kflop_per_voxel": 1e6 * gflop / each,
        "network_us_per_voxel": round(1e6 * found["steady_s"] / each, 3),
        "gflops": rate,
        "share_of_matrix_rate": rate / found["matrix_gflops"],
    }
    return found


@torch.no_grad()
def operations(side: int = 64) -> float:
    """kFLOP per voxel of one evaluation of the embedded network on a cube that is all head.

    Encoder, gate and the head that foretells the error are in it. Gated experts count as often as their gate asks for
    them, here of a phantom.
    """
    denoiser = load_bundle(None).denoiser
    base = head((side, side, side), 1.0).data_XYZ[None] / 1000
    at = torch.arange(side).float()[None]
    with counting() as counter:
        scan = base, torch.stack([base, base], 1)
        condition = make_condition(denoiser, scan, (at, at, at / 5), torch.tensor([0.01]))
        denoiser.with_error(torch.zeros_like(base), torch.tensor([1.0]), condition)
    return round(counter.get_total_flops() / base.numel() / 1e3, 1)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    digits = {
        "gflop": ".0f",
        "kflop_per_voxel": ".0f",
        "gflops": ".0f",
        "share_of_matrix_rate": ".2f",
        "network_s": ".2f",
        "again_s": ".2f",
        "seconds": ".1f",
        "cpu_s": ".1f",
    }
    lines = [f"| {' | '.join(COLUMNS.values())} |", "|---" * len(COLUMNS) + "|"]
    for found in rows:
        lines.append(f"| {' | '.join(format(found[key], digits.get(key, '')) for key in COLUMNS)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line of JSON per case, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=[name for name in SIDES if name != "huge"])
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; leave --device out")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in args.sides:
            source = written(side, Path(folder))
            for mode in args.modes:
                gflop = alone(counted, (source, mode, max(args.threads), args.clock, args.device))
                for threads in args.threads:
                    rows.append(row(side, (source, mode, threads, args.clock, args.device), gflop))
                    print(json.dumps(rows[-1]), flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "moediff", "--help"], check=True, capture_output=True)
    about = {
        "help_s": round(time.perf_counter() - start, 3),
        "kflop_per_voxel_of_a_cube": operations(),
        "clock": args.clock,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    print(table(rows), json.dumps(about), sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
