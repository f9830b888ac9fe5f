"""On a GPU: does it give what the CPU gives, and do experts in streams of their own pay?

    python benchmarks/gpu.py [--side 192] [--json out.json]

The head is a phantom, so that anyone can run it. First table: root mean square and largest difference of the GPU's
result from the CPU's in float32, over the root mean square of what the CPU changed of cubic interpolation. Second: an
evaluation of untrained networks of the embedded shape with 1 to 8 experts (see sparse.py), over that with one, the
least of several turns, with a stream for each expert and one after the other.

`make gpu` runs this, speed.py and training.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from sparse import COUNTS, times_by_count
from speed import clock_of, head
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import prepare
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.model import experts
from moediff.model.execution import side_by_side

WAYS = ("float32", "bfloat16")
now = clock_of("wall", 1, "cuda")


def differences(low: Volume) -> dict[str, dict[str, float]]:
    """Of results in every precision from the CPU's in float32, over what that changed; and seconds, the second time."""
    wanted = Enhancer(device="cpu")(low, EnhanceOptions()).volume
    change = float((wanted.data_XYZ - resample(low, wanted.grid).data_XYZ).square().mean().sqrt())
    found = {}
    for dtype in WAYS:
        enhancer = Enhancer(device="cuda", dtype=dtype)
        enhancer(low, EnhanceOptions())
        start = now()
        result = enhancer(low, EnhanceOptions()).volume.data_XYZ
        seconds, gap = now() - start, result - wanted.data_XYZ
        found[dtype] = {
            "rms": float(gap.square().mean().sqrt()) / change,
            "largest": float(gap.abs().max()) / change,
            "seconds": round(seconds, 3),
        }
    return found


def one_after_the_other(works: Sequence[Callable[[], Tensor]], device: torch.device) -> Iterator[Tensor]:
    """What stands in for `side_by_side`: the stream that asks does everything."""
    for work in works:
        yield work()


def by_count(low: Volume, like: Volume) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of an evaluation by the number of experts, with streams and without."""
    bundle = Enhancer(device="cuda").bundle
    prepared = prepare(low.to("cuda"), like.grid, bundle.config.prepare)
    found = {}
    for name, way in (("streams", side_by_side), ("one after the other", one_after_the_other)):
        vars(experts)["side_by_side"] = way
        found[name] = times_by_count(bundle, prepared, now)
    vars(experts)["side_by_side"] = side_by_side
    return found


def tables(gaps: dict[str, dict[str, float]], counts: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown."""
    lines = ["| precision on the GPU | rms | largest | s, scan and result in memory |", "|---|---|---|---|"]
    lines += [
        f"| {dtype} | {gap['rms']:.1e} | {gap['largest']:.1e} | {gap['seconds']} |" for dtype, gap in gaps.items()
    ]
    lines += [
        "",
        f"| experts a voxel | how | {' | '.join(f'{n} experts' for n in COUNTS)} |",
        "|---" * (len(COUNTS) + 2) + "|",
    ]
    for how, routes in counts.items():
        for route, seconds in routes.items():
            first = seconds[str(COUNTS[0])]
            lines.append(f"| {route} | {how} | {' | '.join(f'{value / first:.2f}' for value in seconds.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=192, help="of the head, voxels of 1 mm")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; this compares one with the CPU")
    like = head((args.side,) * 3, 1.0)
    low = degrade(like, thick_slices(4, 0.01, "gpu"), rng_for(0, "gpu"))
    gaps, counts = differences(low), by_count(low, like)
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "side": args.side}
    print(tables(gaps, counts), json.dumps(about), sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps({"about": about, "differences": gaps, "counts": counts}, indent=1))


if __name__ == "__main__":
    main()
