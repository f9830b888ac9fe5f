"""Where the time of a training step goes: voxels a second, and the share of every part.

    python benchmarks/training.py [--device cuda] [--config configs/default.toml] [--batch 12 --patch 32] [--steps 10]
    python benchmarks/training.py --precision bfloat16   # where the processor multiplies bfloat16 fast

Patches are cut from a phantom, so anyone can run it; what is drawn, the network and the losses are the configuration's.
Parts are timed one after the other, each to its end (a GPU is waited for), so their sum is the time of a step without
overlap; "overlapped" is the real loop, with examples drawn ahead where there is a GPU. On a CPU the clock is CPU time,
of one thread by default, which other work does not stretch. "needed examples/s" is what the network alone
would take; it starves where the example makers give less.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moediff.acquisition.degrade import reference_intensity
from moediff.core.config import rng_for
from moediff.core.memory import keep_memory
from moediff.training import patches as dataset
from moediff.training.cache import Head
from moediff.training.config import TrainConfig, load_config
from moediff.training.patches import PatchSource
from moediff.training.prefetch import Ahead
from moediff.training.step import Draws, batch_loss
from moediff.training.trainer import Trainer

SIDE = 160  # of the phantom
EXAMPLE = ("augmented", "degrade", "prepare")  # called by PatchSource.example; the rest of an example is "cut"


class Clock:
    """Adds up the time of named parts, outermost first."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.total = device, defaultdict[str, float](float)

    def now(self) -> float:
        """Seconds; on a GPU after everything that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.total[name] += self.now() - start

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        def timed(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return call(*args, **options)

        return timed


def phantom() -> Head:
    """A textured ball."""
    axes = [torch.linspace(-1, 1, SIDE)] * 3
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    tissue = 0.5 + 0.15 * torch.sin(22 * x) * torch.cos(19 * y) * torch.cos(17 * z)
    data = torch.where(x**2 + y**2 + z**2 < 0.9, tissue, torch.zeros(()))
    region = (4 * torch.rand(SIDE, SIDE, SIDE, generator=rng_for(0))).to(torch.uint8)
    return Head(data.half(), (data > 0).nonzero()[::100], reference_intensity(data), region, 1.0)


def parts_of_steps(trainer: Trainer, source: PatchSource, batch: int, steps: int) -> dict[str, float]:
    """Seconds a step of every part, after one step that is not counted."""
    clock, state, config = Clock(trainer.accelerator.device), trainer.state, trainer.config
    plain = {name: getattr(dataset, name) for name in EXAMPLE}
    for step in range(steps + 1):
        if step == 1:
            clock.total.clear()
            for name, call in plain.items():
                setattr(dataset, name, clock.wrapped(name, call))
        with clock.part("examples"):
            drawn = source.batch(step, batch).to(clock.device)
        with clock.part("forward"), trainer.autocast():
            loss, _ = batch_loss(state.denoiser, drawn, Draws(config.model.process, rng_for(0, step)), config.loss)
        with clock.part("backward"):
            state.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.clip)
        with clock.part("optimiser"):
            state.optimiser.step()
        with clock.part("average"):
            trainer._average()
    for name, call in plain.items():
        setattr(dataset, name, call)
    parts = {name: seconds / steps for name, seconds in clock.total.items()}
    parts["cut"] = parts.pop("examples") - sum(parts[name] for name in EXAMPLE)
    return parts


def overlapped(trainer: Trainer, source: PatchSource, batch: int, steps: int, workers: int) -> float:
    """Seconds a step of the real loop."""
    clock = Clock(trainer.accelerator.device)
    with Ahead(source, batch, workers, clock.device) as ahead:
        trainer.step(ahead.batch(0))
        start = clock.now()
        for step in range(1, steps + 1):
            trainer.step(ahead.batch(step))
        return (clock.now() - start) / steps


def measured(config: TrainConfig, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One batch and patch size."""
    own = {"out": args.out, "device": args.device, "precision": args.precision}
    trainer = Trainer(replace(config, start=None, minutes=None, phases=(), **own))
    head = phantom().to(torch.device("cpu") if args.examples == "cpu" else device)
    source = PatchSource(
        heads=[head],
        patch=args.patch,
        seed=0,
        settings=config.model.prepare,
        ranges=config.recipes,
        augment=config.augment,
    )
    parts = parts_of_steps(trainer, source, args.batch, args.steps)
    whole = sum(parts.values())
    voxels = args.batch * args.patch**3
    network = sum(parts[name] for name in ("forward", "backward", "optimiser", "average"))
    examples = whole - network
    loop = overlapped(trainer, source, args.batch, args.steps, args.workers)
    return {
        "batch": args.batch,
        "patch": args.patch,
        "ms_a_step": round(1e3 * whole, 1),
        "voxels_a_second": round(voxels / whole),
        "overlapped_voxels_a_second": round(voxels / loop),
        "busy": round(network / loop, 3),
        "share": {name: round(seconds / whole, 3) for name, seconds in parts.items()},
        "ms_an_example": round(1e3 * examples / args.batch, 2),
        "needed examples/s": round(args.batch / network, 1),
        "given examples/s": round(args.batch / examples, 1),
    }


def main() -> None:
    """Print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().parent.parent / "configs/default.toml")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--examples", choices=["device", "cpu"], default="device", help="where examples are made")
    parser.add_argument("--precision", choices=["auto", "fast", "float32", "bfloat16"], default="auto")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--workers", type=int, help="threads that draw ahead (default: 0 on a CPU, half the cores on a GPU)"
    )
    parser.add_argument("--out", default="benchmark-training", help="a folder that may be made; nothing is left there")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    on_cuda = args.device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; leave --device out")
    args.workers = args.workers if args.workers is not None else (os.cpu_count() or 1) // 2 if on_cuda else 0
    row = measured(load_config(args.config), args, torch.device(args.device))
    name = torch.cuda.get_device_name() if on_cuda else f"CPU, {args.threads} thread(s)"
    row |= {"device": name, "precision": args.precision, "torch": torch.__version__, "workers": args.workers}
    print(json.dumps(row, indent=1))
    if args.json:
        args.json.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
