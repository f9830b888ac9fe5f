"""Does routing pay? Small networks, trained alike from nothing: mixture of experts against one uniform denoiser.

    python benchmarks/ablation.py --data ../shared/data --out runs/ablation [--minutes 8] [--seeds 3] [--designs]

Every network gets the same minutes of CPU time (one thread) on the same data in two halves of equal schedule. "experts"
is a uniform denoiser in the first half and branched in the second; "equal compute" is a uniform denoiser whose own
layers are as wide as makes an evaluation cost the same operations, "equal parameters" one that holds as many weights.
The gate's teachers (label-map regions, agreement with the truth, balance of the load) are left out by turns, and with
`--designs` other designs of the experts tried, on the first seed. Run it again to go on where it stopped.
OUT/ablation.md holds the tables, OUT/ablation.png the figure.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ablation_judging import VAL, Crop, crops, results
from ablation_tables import write
from ablation_training import Design, own_kflop, parameters, trained, uniform, width_for

from moediff.memory import keep_memory

Result = dict[str, Any]  # one network of one seed: name, cost, and a row per crop
EXPERTS = Design()
WITHOUT = {"region": 0.0, "agreement": 0.0, "balance": 0.0}
TEACHERS = {
    "experts": EXPERTS,
    "no teacher": replace(EXPERTS, **WITHOUT),
    "regions only": replace(EXPERTS, **{**WITHOUT, "region": EXPERTS.region}),
    "agreement only": replace(EXPERTS, **{**WITHOUT, "agreement": EXPERTS.agreement}),
    "balance only": replace(EXPERTS, **{**WITHOUT, "balance": EXPERTS.balance}),
}
RIVALS = ("equal compute", "equal parameters")


def networks(seed: int, held_out: list[Crop], args: argparse.Namespace) -> list[Result]:
    """Experts and both rivals of one seed, and what each was after its first half."""

    def halves(name: str, first: Design, second: Design) -> tuple[Result, Result]:
        half = f"{name} half"
        pair = ((half, first), (name, replace(second, after=half)))
        before, after = (results(n, trained(n, design, seed, args), seed, held_out) for n, design in pair)
        return after, before

    plain = uniform(EXPERTS.width)
    moe, before = halves("experts", plain, EXPERTS)
    aims = {"equal compute": (own_kflop, own_kflop(plain) + moe["kflop"] - before["kflop"]),
            "equal parameters": (parameters, parameters(EXPERTS))}  # fmt: skip
    found = [moe, before]
    for name in RIVALS:
        width = width_for(*aims[name])
        found += halves(name, uniform(width), uniform(width, f"{name} half"))
    return found


def others(designs: dict[str, Design], held_out: list[Crop], args: argparse.Namespace) -> list[Result]:
    """Second halves of the first seed under other designs."""
    return [results(name, trained(name, design, 0, args), 0, held_out) for name, design in designs.items()]


def main() -> None:
    """Train what is missing, judge it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--minutes", type=float, default=8, help="of training, every network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--designs", action="store_true", help="try other designs of the experts too")
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    held_out = crops(args.data)
    found = [row for seed in range(args.seeds) for row in networks(seed, held_out, args)]
    found += others({name: design for name, design in TEACHERS.items() if name != "experts"}, held_out, args)
    if args.designs:
        found += others(DESIGNS, held_out, args)
    (args.out / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(write(args.out, VAL, tuple(TEACHERS)))


if __name__ == "__main__":
    main()
