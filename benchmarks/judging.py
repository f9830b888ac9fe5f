"""Time and memory of `moediff evaluate` on a pair of 224x224x208 voxels, and of metrics alone.

    python benchmarks/judging.py [--threads 2] [--json out.json]

The pair is a phantom brain of three tissues with noise, so that anyone can run it, and the same blurred. "default" is
every metric and tissues. Processor time counts all cores together: on N free cores the wall time lies between it and
its Nth part; on a busy machine wall time says more about the other work.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from moediff.benchmark.process_meter import run_measured
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.io.scans import save

SHAPE = (224, 224, 208)
SHELLS = ((0.86, 200.0), (0.80, 550.0), (0.66, 800.0))  # radius and intensity of fluid, grey and white matter
CHOICES: dict[str, tuple[str, ...]] = {
    "default": (),
    "psnr and ssim": ("--metrics", "psnr,ssim"),
    "psnr": ("--metrics", "psnr"),
}


def pair(folder: Path) -> tuple[Path, Path]:
    """Files of the prediction and the reference."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = (x.square() + y.square() + z.square()).sqrt() * (1 + 0.04 * torch.sin(14 * x) * torch.cos(13 * y))
    brain = torch.zeros(SHAPE)
    for reach, intensity in SHELLS:
        brain[radius < reach] = intensity
    noisy = (brain + 15 * torch.randn(SHAPE, generator=rng_for(0, "judging")) * (brain > 0)).clamp_min(0)
    blurred = F.avg_pool3d(noisy[None, None], 3, 1, 1)[0, 0]
    files = folder / "pred.nii.gz", folder / "ref.nii.gz"
    for data_XYZ, file in zip((blurred, noisy), files, strict=True):
        save(Volume(data_XYZ, torch.eye(4, dtype=torch.float64)), file)
    return files


def main() -> None:
    """Print a line per choice of metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pred, ref = pair(folder)
        for choice, options in CHOICES.items():
            command = [
                sys.executable,
                "-m",
                "moediff.cli.main",
                "evaluate",
                "--pred",
                str(pred),
                "--ref",
                str(ref),
                *options,
            ]
            env = {"OMP_NUM_THREADS": str(args.threads)}
            found = run_measured(command, limit_s=3600, log=folder / "log", env=env)
            if found.exit_code:
                raise SystemExit((folder / "log").read_text())
            rows.append({"metrics": choice} | {key: getattr(found, key) for key in ("seconds", "cpu_s", "peak_mib")})
            print(f"{choice}: {found.seconds:.1f} s, CPU {found.cpu_s:.1f} s, {found.peak_mib:.0f} MiB", flush=True)
    if args.json:
        about = {"threads": args.threads, "torch": torch.__version__, "machine": platform.machine()}
        args.json.write_text(json.dumps({"rows": rows} | about, indent=1))


if __name__ == "__main__":
    main()
