"""Whole-process time and peak memory of `moediff enhance`, faithful, 1x1x5 mm -> 1 mm, at three sizes.

    python benchmarks/speed.py [--large] [--json out.json]

Heads are phantoms (nested ellipsoids) so that anyone can run it; the largest has 224x224x208 output voxels. --large
measures one of 512x512x416 voxels of 0.5 mm instead, from slices of 2 mm: minutes, and 6 GiB of memory. Then: floating
point operations per voxel of one evaluation, encoder and gate included (the limit is 120 kFLOP), the rate that the
network reaches with them, and its share of the rate of a large matrix product on the same threads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from moediff.config import rng_for
from moediff.model.bundle import load_bundle
from moediff.model.denoiser import make_condition
from moediff.simulate.degrade import degrade
from moediff.simulate.recipe import thick_slices
from moediff.volume.io import save
from moediff.volume.volume import Volume

SIZES = ((112, 112, 100), (160, 160, 150), (224, 224, 208))
LARGE = (512, 512, 416)


def head(shape: tuple[int, int, int], spacing_mm: float) -> Volume:
    """A textured ellipsoid head that fills the field of view as heads do."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    radius = (x / 0.78) ** 2 + (y / 0.9) ** 2 + (z / 0.95) ** 2
    tissue = 500 + 150 * torch.sin(22 * x) * torch.cos(19 * y) * torch.cos(17 * z)
    affine = torch.diag(torch.tensor([spacing_mm, spacing_mm, spacing_mm, 1], dtype=torch.float64))
    return Volume(torch.where(radius < 1, tissue, torch.zeros(())), affine)


def run(shape: tuple[int, int, int], folder: Path, threads: int) -> dict[str, Any]:
    """Enhance one phantom in a process of its own."""
    source, target = folder / f"head{shape[0]}_T1w.nii.gz", folder / f"out{shape[0]}.nii.gz"
    spacing_mm, thicker = (0.5, 4) if shape == LARGE else (1.0, 5)
    save(degrade(head(shape, spacing_mm), thick_slices(thicker, 0.01, "speed"), rng_for(0, "speed")), source)
    command = [sys.executable, "-m", "moediff", "enhance", str(source), "-o", str(target), "-q"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--threads", str(threads)])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    record = json.loads(target.with_name(target.name.removesuffix(".nii.gz") + ".json").read_text())
    voxels = shape[0] * shape[1] * shape[2]
    network_s = record["timings"]["network_s"]
    return {
        "shape": shape,
        "exit": status,
        "seconds": round(seconds, 2),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "network_s": network_s,
        "network_us_per_voxel": round(1e6 * network_s / voxels, 3),
    }


@torch.no_grad()
def operations(side: int = 64) -> dict[str, float]:
    """kFLOP per voxel of one evaluation of the embedded network on a cube that is all head.

    Convolutions, matrix products and attention are counted; a multiply-add is two operations. Gated experts count as
    often as their gate asks for them, here of a phantom.
    """
    denoiser, counter = load_bundle(None).denoiser, FlopCounterMode(display=False)
    base = head((side, side, side), 1.0).data_XYZ[None] / 1000
    at = torch.arange(side).float()[None]
    with counter:
        condition = make_condition(
            denoiser, (base, torch.stack([base, base], 1)), (at, at, at / 5), torch.tensor([0.01])
        )
        denoiser.with_error(torch.zeros_like(base), torch.tensor([1.0]), condition)
    return {"kflop_per_voxel": round(counter.get_total_flops() / base.numel() / 1e3, 1)}


def matrix_rate(threads: int, side: int = 2048) -> float:
    """GFLOP/s of a float32 matrix product: the best of five."""
    torch.set_num_threads(threads)
    a, times = torch.rand(side, side), []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times) / 1e9


def main() -> None:
    """Print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(shape, Path(folder), args.threads) for shape in ((LARGE,) if args.large else SIZES)]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "moediff", "--help"], check=True, capture_output=True)
    about = {"threads": args.threads, "torch": torch.__version__, "machine": platform.machine()}
    report: dict[str, Any] = {"rows": rows, "help_s": round(time.perf_counter() - start, 3)} | about | operations()
    best = matrix_rate(args.threads)
    for row in rows:
        row["gflops"] = round(report["kflop_per_voxel"] / row["network_us_per_voxel"], 1)
        row["share_of_matrix_rate"] = round(row["gflops"] / best, 3)
    report["matrix_gflops"] = round(best, 1)
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
