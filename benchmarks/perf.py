"""Time and memory of enhancing, evaluating, training and routing.

    python benchmarks/perf.py enhance [--threads 1 2] [--sides small large] [--device cuda] [--json out.json]
    python benchmarks/perf.py evaluate [--threads 2] [--json out.json]
    python benchmarks/perf.py training [--device cuda] [--config FILE] [--batch 12 --patch 32] [--json out.json]
    python benchmarks/perf.py routing --data ../shared/data [--bundle DIR] [--json out.json]
    python benchmarks/perf.py gpu [--side 192] [--json out.json]

All but routing measure phantoms, so that anyone can run them. `make gpu` runs what needs a GPU.
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
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import perf_network
import torch
import torch.nn.functional as F
from common import markdown
from perf_network import Clock, clock_of, phantom_head

from moediff.acquisition.degrade import degrade
from moediff.acquisition.point_spread import FREQUENCIES
from moediff.acquisition.recipe import thick_slices
from moediff.benchmark.flops import counting
from moediff.benchmark.process_meter import Measured, run_measured
from moediff.core.config import rng_for
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.inference import session
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import MODES, EnhanceOptions
from moediff.inference.tiling import denoise_tiled, encode
from moediff.io.scans import load, save
from moediff.model.bundle import load_bundle
from moediff.model.conditioning import NetworkInput, PerAxis
from moediff.model.routing import make_condition

ABOUT_ENHANCE = """Time, memory and operations of `moediff enhance`: 1x1x5 mm to 1 mm for 112x112x100, 160x160x150 and
224x224x208 voxels out; "huge" is 512x512x416 voxels of 0.5 mm from slices of 2 mm (minutes, and 5 GiB of memory), and
must be named. Columns:

- whole s, cpu s, peak MiB: the command in a process of its own, files and imports included.
- network s: encoder, gate and every evaluation, nothing else, in another process; the first call, as a user has it.
- again s: a second call of the same `Enhancer` in that process, the scan in memory before and the result after it.
- GFLOP: matrix products, convolutions and attention that this call ran. Experts that the gate does not choose and
  tiles without foreground do not run; a box around the head holds some air, which does.
- kFLOP: the same per foreground voxel and evaluation (limit: 120 for one).
- share: GFLOP over network s, over the rate of a 2048^3 float32 matrix product in the same process and threads.
- GPU MiB: with --device cuda, the most that tensors held there. The first call also loads kernels, so GFLOP/s
  and share are of the second.

--clock cpu counts processor time over the number of threads instead of wall time, for network and matrix product alike:
for a machine that does other work. Best run on an idle one, by the wall clock."""
ABOUT_EVALUATE = """Time and memory of `moediff evaluate` on a pair of 224x224x208 voxels, and of metrics alone.
The pair is a phantom brain of three tissues with noise, and the same blurred. "default" is every metric and tissues.
Processor time counts all cores together: on N free cores the wall time lies between it and its Nth part."""
ABOUT_TRAINING = """Where the time of a training step goes: voxels a second, and the share of every part. What is drawn,
the network and the losses are the configuration's. Parts are timed one after the other, each to its end (a GPU is
waited for), so their sum is the time of a step without overlap; "overlapped" is the real loop, with examples drawn
ahead where there is a GPU. On a CPU the clock is CPU time, of one thread by default, which other work does not stretch.
"needed examples/s" is what the network alone would take; it starves where the example makers give less."""
ABOUT_ROUTING = """What sparse routing costs and loses, and how an evaluation's time grows with the number of experts.
First table: the middle of val/ scans, mode `faithful`, with all experts everywhere ("dense"), with the two or the one
of largest weight, and with a single expert everywhere; PSNR against dense, and CPU time of an evaluation against that
of one expert. Second table: untrained networks of the embedded shape with 1 to 8 experts, whose gate chooses another
expert every few voxels. Times are the least of several turns that all variants take one after the other."""
ABOUT_GPU = """Does a GPU give what the CPU gives, and do CUDA streams for the experts pay? First table: root mean
square and largest difference of the GPU's result from the CPU's in float32, over the root mean square of what the CPU
changed of cubic interpolation. Second: an evaluation of untrained networks with 1 to 8 experts (see routing), over that
with one, the least of several turns, with a stream for each expert and one after the other."""

# Shape of the result, voxel size in mm, slice distance over it.
SIDES: dict[str, tuple[tuple[int, int, int], float, float]] = {
    "small": ((112, 112, 100), 1.0, 5),
    "middle": ((160, 160, 150), 1.0, 5),
    "large": ((224, 224, 208), 1.0, 5),
    "huge": ((512, 512, 416), 0.5, 4),
}
MATRIX_SIDE = 2048
LIMIT_S = 3600.0
COLUMNS = {  # of the table of `enhance`: title and format
    "voxels_out": ("voxels out", ""),
    "mode": ("mode", ""),
    "threads": ("threads", ""),
    "seconds": ("whole s", ".1f"),
    "cpu_s": ("cpu s", ".1f"),
    "peak_mib": ("peak MiB", ".0f"),
    "gpu_mib": ("GPU MiB", ""),
    "network_s": ("network s", ".2f"),
    "again_s": ("again s", ".2f"),
    "evaluations": ("evaluations", ""),
    "gflop": ("GFLOP", ".0f"),
    "kflop_per_voxel": ("kFLOP", ".0f"),
    "gflops": ("GFLOP/s", ".0f"),
    "share_of_matrix_rate": ("share", ".2f"),
}
T = TypeVar("T")

# --- enhance ---


@dataclass(frozen=True, kw_only=True)
class Job:
    """One enhancement to measure."""

    source: Path
    mode: str
    threads: int
    device: str
    wall: bool


@dataclass(frozen=True, kw_only=True)
class NetworkTimes:
    """Network of one enhancement, and a whole one again.

    Args:
        network_for_rate_s: of the call that GFLOP/s is taken from: the second on a GPU, whose first loads kernels.
    """

    network_s: float
    evaluations: int
    again_s: float
    network_for_rate_s: float
    foreground_voxels: int
    matrix_gflops: float
    gpu_mib: int | str


@dataclass(frozen=True, kw_only=True)
class EnhanceRow(NetworkTimes):
    """One line of the table; see `COLUMNS`."""

    voxels_out: str
    mode: str
    threads: int
    seconds: float
    cpu_s: float
    peak_mib: float
    gflop: float

    @property
    def kflop_per_voxel(self) -> float:
        """Per foreground voxel and evaluation."""
        return 1e6 * self.gflop / (self.foreground_voxels * self.evaluations)

    @property
    def gflops(self) -> float:
        """Operations a second."""
        return self.gflop / self.network_for_rate_s

    @property
    def share_of_matrix_rate(self) -> float:
        """Over the rate of a matrix product."""
        return self.gflops / self.matrix_gflops


def thick_phantom(side: str, folder: Path) -> Path:
    """The file of a phantom with thick slices."""
    shape, spacing_mm, ratio = SIDES[side]
    source = folder / f"{side}_T1w.nii.gz"
    low = degrade(phantom_head(shape, spacing_mm), thick_slices(ratio, 0.01, "speed"), rng_for(0, "speed"))
    save(low, source)
    return source


def command_times(words: Sequence[str], log: Path, env: dict[str, str] | None = None) -> Measured:
    """Time and memory of a `moediff` command."""
    command = [sys.executable, "-m", "moediff", *words]
    measured = run_measured(command, limit_s=LIMIT_S, log=log, env=env or {})
    if measured.exit_code != 0:
        raise SystemExit(f"moediff {words[0]} ended with {measured.exit_code}: {measured.fault or log.read_text()}")
    return measured


@dataclass
class NetworkMeter:
    """Stands before the engine's two calls of the network, and adds up what they take."""

    now: Clock
    seconds: float = 0.0
    evaluations: int = 0
    foreground: int = 0
    gflop: float = 0.0

    def install(self, *, count: bool) -> None:
        """Replace `encode` (encoder, gate) and `denoise_tiled` (an evaluation) in the session."""

        def metered_encode(*args: Any, **options: Any) -> Any:
            context = self.metered(count, lambda: encode(*args, **options))
            self.foreground = int(context.crop.foreground_BXYZ.sum())
            return context

        def metered_evaluation(*args: Any, **options: Any) -> Any:
            self.evaluations += 1
            return self.metered(count, lambda: denoise_tiled(*args, **options))

        for original, metered in ((encode, metered_encode), (denoise_tiled, metered_evaluation)):
            assert vars(session)[original.__name__] is original
            vars(session)[original.__name__] = metered

    def metered(self, count: bool, call: Callable[[], T]) -> T:
        """One call, timed or counted."""
        start = self.now()
        if count:
            with counting() as counter:
                result = call()
            self.gflop += counter.get_total_flops() / 1e9
        else:
            result = call()
        self.seconds += self.now() - start
        return result


def matrix_rate(now: Clock, device: str) -> float:
    """GFLOP/s of a float32 matrix product: the best of five."""
    a, times = torch.rand(MATRIX_SIDE, MATRIX_SIDE, device=device), []
    for _ in range(5):
        start = now()
        a @ a
        times.append(now() - start)
    return 2 * MATRIX_SIDE**3 / min(times) / 1e9


def count_operations(job: Job) -> float:
    """Runs in a process of its own: GFLOP of the network in one enhancement."""
    meter = NetworkMeter(time.perf_counter)
    meter.install(count=True)
    Enhancer(threads=job.threads, device=job.device)(job.source, EnhanceOptions(mode=job.mode))
    return meter.gflop


def time_network(job: Job) -> NetworkTimes:
    """Runs in a process of its own: the network of one enhancement, then a whole one again."""
    tune_allocator()
    on_gpu = job.device == "cuda"
    now = clock_of(job.device, wall=job.wall, threads=job.threads)
    enhancer, meter, scan = Enhancer(threads=job.threads, device=job.device), NetworkMeter(now), load(job.source)
    best = matrix_rate(now, job.device)
    meter.install(count=False)
    enhancer(scan, EnhanceOptions(mode=job.mode))
    first, start = replace(meter), now()
    enhancer(scan, EnhanceOptions(mode=job.mode))
    again = now() - start
    return NetworkTimes(
        network_s=round(first.seconds, 3),
        evaluations=first.evaluations,
        again_s=round(again, 3),
        network_for_rate_s=round(meter.seconds - first.seconds if on_gpu else first.seconds, 3),
        foreground_voxels=meter.foreground,
        matrix_gflops=best,
        gpu_mib=round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else "",
    )


def in_fresh_process(work: Callable[[Job], T], job: Job) -> T:
    """A measurement in a process of its own, so that nothing is warm."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, job).result()


def enhance_row(side: str, job: Job, gflop: float) -> EnhanceRow:
    """The command in one process, its network in another."""
    words = ["enhance", str(job.source), "-o", str(job.source.parent / "out.nii.gz"), "-q", "--overwrite"]
    words += ["--mode", job.mode, "--threads", str(job.threads), "--device", job.device]
    spent = command_times(words, job.source.parent / "log")
    shape = "x".join(map(str, SIDES[side][0]))
    network = in_fresh_process(time_network, job)
    return EnhanceRow(
        **vars(network),
        seconds=spent.seconds,
        cpu_s=spent.cpu_s,
        peak_mib=spent.peak_mib,
        voxels_out=shape,
        mode=job.mode,
        threads=job.threads,
        gflop=gflop,
    )


@torch.no_grad()
def operations_of_a_cube(side: int = 64) -> float:
    """kFLOP per voxel of one evaluation of the embedded network on a cube that is all head.

    Encoder, gate and uncertainty head included. Gated experts count as often as the gate chooses them, here of a
    phantom.
    """
    denoiser = load_bundle(None).denoiser
    phantom = phantom_head((side, side, side), 1.0).data_XYZ[None] / 1000
    at = torch.arange(side).float()[None]
    with counting() as counter:
        positions, sampled = PerAxis(at, at, at / 5), torch.zeros(1, 3, len(FREQUENCIES))
        scan = NetworkInput(phantom, torch.stack([phantom, phantom], 1), positions, torch.tensor([0.01]), sampled)
        condition = make_condition(denoiser, scan)
        denoiser.with_uncertainty(torch.zeros_like(phantom), torch.tensor([1.0]), condition)
    return round(counter.get_total_flops() / phantom.numel() / 1e3, 1)


def enhance(args: argparse.Namespace) -> None:
    """Print a line of JSON per case, then the table."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; leave --device out")
    rows: list[EnhanceRow] = []
    with tempfile.TemporaryDirectory() as folder:
        for side in args.sides:
            source = thick_phantom(side, Path(folder))
            for mode in args.modes:
                job = Job(source=source, mode=mode, threads=0, device=args.device, wall=args.clock == "wall")
                gflop = in_fresh_process(count_operations, replace(job, threads=max(args.threads)))
                for threads in args.threads:
                    rows.append(enhance_row(side, replace(job, threads=threads), gflop))
                    print(json.dumps(asdict(rows[-1])), flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "moediff", "--help"], check=True, capture_output=True)
    about = {
        "help_s": round(time.perf_counter() - start, 3),
        "kflop_per_voxel_of_a_cube": operations_of_a_cube(),
        "clock": args.clock,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    lines = [[format(getattr(row, key), form) for key, (_, form) in COLUMNS.items()] for row in rows]
    print(markdown([title for title, _ in COLUMNS.values()], lines), json.dumps(about), sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1))


def add_enhance_options(parser: argparse.ArgumentParser) -> None:
    """Options besides --json."""
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=[name for name in SIDES if name != "huge"])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


# --- evaluate ---

SHAPE = (224, 224, 208)
SHELLS = ((0.86, 200.0), (0.80, 550.0), (0.66, 800.0))  # radius and intensity of fluid, grey and white matter
CHOICES: dict[str, tuple[str, ...]] = {
    "default": (),
    "psnr and ssim": ("--metrics", "psnr,ssim"),
    "psnr": ("--metrics", "psnr"),
}


def phantom_pair(folder: Path) -> tuple[Path, Path]:
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


def evaluate(args: argparse.Namespace) -> None:
    """Print a line per choice of metrics."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        pred, ref = phantom_pair(Path(name))
        for choice, options in CHOICES.items():
            words = ["evaluate", "--pred", str(pred), "--ref", str(ref), *options]
            spent = command_times(words, Path(name) / "log", {"OMP_NUM_THREADS": str(args.threads)})
            rows.append({"metrics": choice, "seconds": spent.seconds, "cpu_s": spent.cpu_s, "peak_mib": spent.peak_mib})
            print(f"{choice}: {spent.seconds:.1f} s, CPU {spent.cpu_s:.1f} s, {spent.peak_mib:.0f} MiB", flush=True)
    if args.json:
        about = {"threads": args.threads, "torch": torch.__version__, "machine": platform.machine()}
        args.json.write_text(json.dumps({"rows": rows} | about, indent=1))


# --- command line ---


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Options besides --json."""
    parser.add_argument("--threads", type=int, default=2)


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], None], str, Callable[[argparse.ArgumentParser], None]]] = {
    "enhance": (enhance, ABOUT_ENHANCE, add_enhance_options),
    "evaluate": (evaluate, ABOUT_EVALUATE, add_evaluate_options),
    "training": (perf_network.training, ABOUT_TRAINING, perf_network.add_training_options),
    "routing": (perf_network.routing, ABOUT_ROUTING, perf_network.add_routing_options),
    "gpu": (perf_network.gpu, ABOUT_GPU, perf_network.add_gpu_options),
}


def main() -> None:
    """Run one sub-command."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (call, about, add_options) in COMMANDS.items():
        command = commands.add_parser(name, description=about, formatter_class=plain)
        add_options(command)
        command.add_argument("--json", type=Path)
        command.set_defaults(call=call)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
