"""Time of the network in this process: rules of routing, numbers of experts, GPU against CPU, parts of a training step.

Sub-commands of perf.py; what each measures is in `perf.py COMMAND --help`. Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from common import RECIPES, SCANS, markdown, mean, report, validation_scan
from torch import Tensor

from moediff.acquisition.degrade import degrade, reference_intensity
from moediff.acquisition.prepare import Prepared, prepare
from moediff.acquisition.recipe import NAMED, thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import TileContext, encode
from moediff.model import experts as experts_module
from moediff.model.bundle import Bundle
from moediff.model.config import GateConfig
from moediff.model.denoiser import Denoiser
from moediff.model.execution import side_by_side
from moediff.training import patches as patches_module
from moediff.training.cache import TrainingScan
from moediff.training.config import TrainConfig, load_config
from moediff.training.patches import PatchSource
from moediff.training.prefetch import Prefetcher
from moediff.training.step import Draws, batch_loss
from moediff.training.trainer import Trainer

RULES = {"dense": (4, 0.0), "top 2": (2, 0.1), "top 1": (1, 0.1)}  # top_k, threshold
COUNTS = (1, 2, 4, 8)
TURNS = 5
TRAINING_SIDE = 160  # of the phantom that patches are cut from
EXAMPLE = ("augmented", "degrade", "prepare")  # called by PatchSource.example; the rest of an example is "cut"
Clock = Callable[[], float]
Seconds = dict[str, float]
P = ParamSpec("P")
R = TypeVar("R")


def clock_of(device: str, *, wall: bool, threads: int = 1) -> Clock:
    """Seconds, of processor time over the number of threads where not of the wall; a GPU's work is waited for."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() if wall else time.process_time() / threads

    return now


def phantom_head(shape: tuple[int, int, int], spacing_mm: float) -> Volume:
    """A textured ellipsoid that fills the field of view as heads do."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = (x / 0.78) ** 2 + (y / 0.9) ** 2 + (z / 0.95) ** 2
    tissue = 500 + 150 * torch.sin(22 * x) * torch.cos(19 * y) * torch.cos(17 * z)
    affine = torch.diag(torch.tensor([spacing_mm, spacing_mm, spacing_mm, 1], dtype=torch.float64))
    return Volume(torch.where(radius < 1, tissue, torch.zeros(())), affine)


# --- routing ---


def with_rule(bundle: Bundle, top_k: int, threshold: float) -> Bundle:
    """The same weights under another rule of routing."""
    config = bundle.config.denoiser
    gate = replace(config.gate, top_k=min(top_k, config.gate.experts), threshold=threshold)
    network = Denoiser(replace(config, gate=gate))
    network.load_state_dict(bundle.denoiser.state_dict())
    return replace(bundle, denoiser=network.eval(), config=replace(bundle.config, denoiser=network.config))


def least_seconds(work: dict[str, Callable[[], object]], now: Clock) -> Seconds:
    """Seconds of every piece of work, the least of several turns that all take one after the other."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(TURNS):
        for name, piece in work.items():
            start = now()
            piece()
            best[name] = min(best[name], now() - start)
    return best


def evaluation(denoiser: Denoiser, context: TileContext, sigma: float) -> Callable[[], object]:
    """One evaluation at this noise sigma, from what was computed once for the scan."""
    x = torch.zeros_like(context.condition.interpolated_BXYZ)
    return lambda: denoiser(x, torch.tensor([sigma], device=x.device), context.condition)


@torch.no_grad()
def seconds_by_rule(variants: dict[str, Bundle], prepared: Prepared) -> Seconds:
    """CPU seconds of an evaluation under every rule of routing, and with each expert everywhere."""
    first = next(iter(variants.values()))
    sigma = first.config.diffusion.sigma_max * first.config.denoiser.sigma_data
    work = {name: evaluation(b.denoiser, encode(b.denoiser, prepared), sigma) for name, b in variants.items()}
    context = encode(first.denoiser, prepared)
    for index, branch in enumerate(first.config.denoiser.experts.branches):
        work[f"only {branch}"] = evaluation(first.denoiser, context.single_expert(index), sigma)
    return least_seconds(work, clock_of("cpu", wall=False))


@torch.no_grad()
def seconds_by_count(bundle: Bundle, prepared: Prepared, now: Clock) -> dict[str, Seconds]:
    """Seconds of an evaluation for every number of experts, one or two of them a voxel, where the bundle lies."""
    shape, device = bundle.config.denoiser, next(bundle.denoiser.parameters()).device
    branches = shape.experts.branches * max(COUNTS)
    work: dict[str, dict[str, Callable[[], object]]] = {"top 1": {}, "top 2": {}}
    for name, top_k in (("top 1", 1), ("top 2", 2)):
        for count in COUNTS:
            gate = GateConfig(experts=count, top_k=min(top_k, count), threshold=0.0)
            torch.manual_seed(0)
            experts = replace(shape.experts, branches=branches[:count])
            network = Denoiser(replace(shape, gate=gate, experts=experts)).eval()
            network.gate.log_scale.data.fill_(30.0)  # untrained tokens differ little: this spreads them over experts
            context = encode(network.to(device), prepared)
            work[name][str(count)] = evaluation(network, context, bundle.config.diffusion.sigma_max * shape.sigma_data)
    return {name: least_seconds(pieces, now) for name, pieces in work.items()}


@dataclass(frozen=True, kw_only=True)
class RoutingRow:
    """PSNR of one case by rule of routing."""

    scan: str
    recipe: str
    psnr: dict[str, float]


def routing_case(args: argparse.Namespace, scan: str, recipe: str) -> tuple[Volume, Volume]:
    """Truth and its degraded scan."""
    truth = centre_crop(validation_scan(args.data, scan), args.side)
    return truth, degrade(truth, NAMED[recipe], rng_for(0, scan, recipe))


def routing_rows(variants: dict[str, Bundle], args: argparse.Namespace) -> list[RoutingRow]:
    """PSNR of every rule of routing on every case."""
    enhancers, rows = {name: Enhancer(bundle) for name, bundle in variants.items()}, []
    for scan in args.scans:
        for recipe in args.recipes:
            truth, low = routing_case(args, scan, recipe)
            mask = head_mask(truth.data_XYZ)
            span = data_range(truth.data_XYZ, mask)
            results = {name: enhancer(low, EnhanceOptions(like=truth.grid)) for name, enhancer in enhancers.items()}
            values = {name: psnr(r.volume.data_XYZ, truth.data_XYZ, mask, span) for name, r in results.items()}
            rows.append(RoutingRow(scan=scan, recipe=recipe, psnr=values))
            report(rows[-1])
    return rows


def routing_tables(rows: Sequence[RoutingRow], seconds: Seconds, by_count: dict[str, Seconds]) -> str:
    """Markdown: loss and cost of every rule, then cost by the number of experts."""
    single = {name: value for name, value in seconds.items() if name.startswith("only ")}
    one = mean(list(single.values()))
    recipes = list(dict.fromkeys(row.recipe for row in rows))
    lines = []
    for name in RULES:
        gaps = [[r.psnr[name] - r.psnr["dense"] for r in rows if r.recipe == recipe] for recipe in recipes]
        cells = [f"{mean(own):+.3f} ({min(own):+.3f} at worst)" for own in gaps]
        lines.append([name, *cells, f"{seconds[name] / one:.2f}"])
    rules = markdown(["routing", *(f"{r}, dB against dense" for r in recipes), "time over one expert's"], lines)
    spread = ", ".join(f"{name} {value / one:.2f}" for name, value in single.items())
    count_table = markdown(
        ["time over one expert's", *(f"{n} experts" for n in COUNTS)],
        [[name, *(f"{v / each[str(COUNTS[0])]:.2f}" for v in each.values())] for name, each in by_count.items()],
    )
    return f"{rules}\n\nOne expert everywhere, over their mean: {spread}.\n\n{count_table}"


def routing(args: argparse.Namespace) -> None:
    """Print the tables of routing."""
    tune_allocator()
    torch.set_num_threads(args.threads)
    bundle = Enhancer(args.bundle).bundle
    variants = {name: with_rule(bundle, *rule) for name, rule in RULES.items()}
    truth, low = routing_case(args, args.scans[0], args.recipes[0])
    prepared = prepare(low, truth.grid, bundle.config.prepare)
    seconds = seconds_by_rule(variants, prepared)
    by_count = seconds_by_count(bundle, prepared, clock_of("cpu", wall=False))
    rows = routing_rows(variants, args)
    print(f"\n{routing_tables(rows, seconds, by_count)}")
    if args.json:
        record = {
            "bundle": bundle.sha256,
            "seconds": seconds,
            "counts": by_count,
            "rows": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def add_routing_options(parser: argparse.ArgumentParser) -> None:
    """Options besides --json."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--side", type=int, default=96, help="of a crop, voxels")
    parser.add_argument("--threads", type=int, default=1)


# --- gpu ---


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The GPU's result minus the CPU's in float32, over the RMS of what the CPU changed of cubic interpolation."""

    rms: float
    largest: float
    seconds: float


def differences(low: Volume) -> dict[str, Difference]:
    """By precision on the GPU; seconds are those of the second time."""
    now = clock_of("cuda", wall=True)
    expected = Enhancer(device="cpu")(low, EnhanceOptions()).volume
    change = float((expected.data_XYZ - resample(low, expected.grid).data_XYZ).square().mean().sqrt())
    measured = {}
    for dtype in ("float32", "bfloat16"):
        enhancer = Enhancer(device="cuda", dtype=dtype)
        enhancer(low, EnhanceOptions())
        start = now()
        result = enhancer(low, EnhanceOptions()).volume.data_XYZ
        seconds, gap = now() - start, result - expected.data_XYZ
        rms, largest = float(gap.square().mean().sqrt()), float(gap.abs().max())
        measured[dtype] = Difference(rms=rms / change, largest=largest / change, seconds=round(seconds, 3))
    return measured


def one_after_the_other(works: Sequence[Callable[[], Tensor]], device: torch.device) -> Iterator[Tensor]:
    """Stands in for `side_by_side`: everything in the caller's stream."""
    for work in works:
        yield work()


def seconds_by_streams(low: Volume, like: Volume) -> dict[str, dict[str, Seconds]]:
    """Seconds of an evaluation by the number of experts, with a stream for each expert and without."""
    bundle = Enhancer(device="cuda").bundle
    prepared = prepare(low.to("cuda"), like.grid, bundle.config.prepare)
    measured = {}
    for name, run in (("streams", side_by_side), ("one after the other", one_after_the_other)):
        vars(experts_module)[side_by_side.__name__] = run
        measured[name] = seconds_by_count(bundle, prepared, clock_of("cuda", wall=True))
    vars(experts_module)[side_by_side.__name__] = side_by_side
    return measured


def gpu(args: argparse.Namespace) -> None:
    """Print the tables of a GPU against the CPU."""
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; this compares one with the CPU")
    like = phantom_head((args.side,) * 3, 1.0)
    low = degrade(like, thick_slices(4, 0.01, "gpu"), rng_for(0, "gpu"))
    gaps, by_streams = differences(low), seconds_by_streams(low, like)
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "side": args.side}
    lines = [[dtype, f"{gap.rms:.1e}", f"{gap.largest:.1e}", str(gap.seconds)] for dtype, gap in gaps.items()]
    print(markdown(["precision on the GPU", "rms", "largest", "s, scan and result in memory"], lines), end="\n\n")
    ratios = [
        [rule, how, *(f"{value / seconds[str(COUNTS[0])]:.2f}" for value in seconds.values())]
        for how, rules in by_streams.items()
        for rule, seconds in rules.items()
    ]
    print(
        markdown(["experts a voxel", "how", *(f"{n} experts" for n in COUNTS)], ratios), json.dumps(about), sep="\n\n"
    )
    if args.json:
        record = {"about": about, "differences": {k: asdict(v) for k, v in gaps.items()}, "counts": by_streams}
        args.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def add_gpu_options(parser: argparse.ArgumentParser) -> None:
    """Options besides --json."""
    parser.add_argument("--side", type=int, default=192, help="of the head, voxels of 1 mm")


# --- training ---


class PartTimes:
    """Sums of the time of named parts, outermost first."""

    def __init__(self, now: Clock) -> None:
        self.now, self.total = now, defaultdict[str, float](float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds what happens inside."""
        start = self.now()
        yield
        self.total[name] += self.now() - start

    def wrapped(self, name: str, call: Callable[P, R]) -> Callable[P, R]:
        """The same function, its time added."""

        def timed(*args: P.args, **options: P.kwargs) -> R:
            with self.part(name):
                return call(*args, **options)

        return timed


def training_scan() -> TrainingScan:
    """The phantom as trainings hold a scan."""
    data = phantom_head((TRAINING_SIDE,) * 3, 1.0).data_XYZ / 1000
    region = (4 * torch.rand(data.shape, generator=rng_for(0))).to(torch.uint8)
    return TrainingScan(data.half(), (data > 0).nonzero()[::100], reference_intensity(data), region, 1.0)


def parts_of_steps(trainer: Trainer, source: PatchSource, now: Clock, batch: int, steps: int) -> Seconds:
    """Seconds a step of every part, after one step that is not counted."""
    times, state, config = PartTimes(now), trainer.state, trainer.config
    plain = {name: getattr(patches_module, name) for name in EXAMPLE}
    for step in range(steps + 1):
        if step == 1:
            times.total.clear()
            for name, call in plain.items():
                setattr(patches_module, name, times.wrapped(name, call))
        with times.part("examples"):
            drawn = source.batch(step, batch).to(trainer.member.device)
        with times.part("forward"), trainer.autocast():
            loss, _ = batch_loss(state.denoiser, drawn, Draws(config.model.diffusion, rng_for(0, step)), config.loss)
        with times.part("backward"):
            state.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.gradient_clip)
        with times.part("optimiser"):
            state.optimiser.step()
        with times.part("average"):
            trainer._average()
    for name, call in plain.items():
        setattr(patches_module, name, call)
    parts = {name: seconds / steps for name, seconds in times.total.items()}
    parts["cut"] = parts.pop("examples") - sum(parts[name] for name in EXAMPLE)
    return parts


def overlapped(trainer: Trainer, source: PatchSource, now: Clock, args: argparse.Namespace) -> float:
    """Seconds a step of the real loop."""
    with Prefetcher(source, args.batch, args.workers, trainer.member.device) as prefetcher:
        trainer.step(prefetcher.batch(0))
        start = now()
        for step in range(1, args.steps + 1):
            trainer.step(prefetcher.batch(step))
        return (now() - start) / args.steps


def measure_training(config: TrainConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Times of one batch and patch size, as they are printed."""
    own = {"out": args.out, "device": args.device, "precision": args.precision}
    trainer = Trainer(replace(config, start=None, minutes=None, phases=(), **own))
    now = clock_of(args.device, wall=args.device == "cuda")
    source = PatchSource(
        scans=[training_scan().to(torch.device("cpu" if args.examples == "cpu" else args.device))],
        patch=args.patch,
        seed=0,
        settings=config.model.prepare,
        ranges=config.recipes,
        augment=config.augment,
    )
    parts = parts_of_steps(trainer, source, now, args.batch, args.steps)
    step, voxels = sum(parts.values()), args.batch * args.patch**3
    network = sum(parts[name] for name in ("forward", "backward", "optimiser", "average"))
    loop = overlapped(trainer, source, now, args)
    return {
        "batch": args.batch,
        "patch": args.patch,
        "ms_a_step": round(1e3 * step, 1),
        "voxels_a_second": round(voxels / step),
        "overlapped_voxels_a_second": round(voxels / loop),
        "busy": round(network / loop, 3),
        "share": {name: round(seconds / step, 3) for name, seconds in parts.items()},
        "ms_an_example": round(1e3 * (step - network) / args.batch, 2),
        "needed examples/s": round(args.batch / network, 1),
        "given examples/s": round(args.batch / (step - network), 1),
    }


def training(args: argparse.Namespace) -> None:
    """Print the times of a training step as JSON."""
    tune_allocator()
    torch.set_num_threads(args.threads)
    on_cuda = args.device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; leave --device out")
    args.workers = args.workers if args.workers is not None else (os.cpu_count() or 1) // 2 if on_cuda else 0
    record = measure_training(load_config(args.config), args)
    name = torch.cuda.get_device_name() if on_cuda else f"CPU, {args.threads} thread(s)"
    record |= {"device": name, "precision": args.precision, "torch": torch.__version__, "workers": args.workers}
    print(json.dumps(record, indent=1))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Options besides --json."""
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().parents[1] / "recipes" / "default.toml")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--examples", choices=["device", "cpu"], default="device", help="where examples are computed")
    parser.add_argument("--precision", choices=["auto", "fast", "float32", "bfloat16"], default="auto")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, help="threads that draw ahead (default: 0, or half the cores on a GPU)")
    parser.add_argument("--out", default="benchmark-training", help="a folder that may be created; nothing stays there")
