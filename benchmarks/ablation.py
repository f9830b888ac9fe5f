"""Does routing pay? Small networks, trained alike from nothing: mixture of experts against one uniform denoiser.

    python benchmarks/ablation.py --data ../shared/data --out runs/ablation [--minutes 8] [--seeds 3]
        [--designs] [--search]

Every network gets the same minutes of CPU time (one thread) on the same data in two halves of equal schedule. "experts"
is a uniform denoiser in the first half and branched in the second; "equal compute" is a uniform denoiser whose own
layers are as wide as makes an evaluation cost the same operations, "equal parameters" one that holds as many weights;
"four plain views" are experts that all see the shared features as they are.
The gate's teachers (label-map regions, agreement with the truth, balance of the load) are left out by turns, on the
first seed; with `--designs` other designs of the experts are tried there, with `--search` other ways to train one
denoiser. Run it again to go on where it stopped. OUT/ablation.md holds the tables, OUT/ablation.png the figure.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ablation_judging import VAL, Crop, crops, results, timed_crop, times
from ablation_tables import write
from ablation_training import VIEWS, Design, folder, parameters, trained, uniform, width_for

from moediff.core.memory import keep_memory
from moediff.model.denoiser import TrunkConfig

Result = dict[str, Any]  # one network of one seed: name, cost, and a row per crop
HALF = uniform(160)  # the first half, from eight persons and four label maps
GOING_ON = uniform(160, "experts half")  # "equal compute"
EXPERTS = Design(top_k=1, expert=0.0, probe_every=4)
WITHOUT: dict[str, Any] = {"region": 0.0, "agreement": 0.0, "balance": 0.0}
TEACHERS: dict[str, Design] = {
    "experts": EXPERTS,
    "no teacher": replace(EXPERTS, **WITHOUT),
    "regions only": replace(EXPERTS, **{**WITHOUT, "region": EXPERTS.region}),
    "agreement only": replace(EXPERTS, **{**WITHOUT, "agreement": EXPERTS.agreement}),
    "balance only": replace(EXPERTS, **{**WITHOUT, "balance": EXPERTS.balance}),
}
COMPARED = ("experts", "four plain views", "equal compute", "equal parameters")
BALANCED = TEACHERS["balance only"]  # the one teacher that does not say how many experts there are
PLAIN = ("plain",) * 4
SMALL = TrunkConfig(width=16, deep_width=32)  # a quarter of the operations: where capacity is short
TINY = TrunkConfig(width=8, deep_width=16)  # a tenth
DESIGNS: dict[str, Design] = {
    "first design": Design(),
    "top 2 light": Design(expert=0.1, probe_every=4),
    "only experts learn": replace(EXPERTS, agreement=0.0, only=("experts", "gate")),
    "wider uniform half": uniform(232),  # of the operations of two experts of four
    "wider uniform": uniform(232, "wider uniform half"),
    "two experts": replace(BALANCED, views=("detail", "plain")),
    "eight experts": replace(BALANCED, views=VIEWS * 2),
    "small uniform half": uniform(64, trunk=SMALL),
    "small experts": replace(EXPERTS, width=64, trunk=SMALL, after="small uniform half"),
    "small uniform": uniform(64, "small uniform half", SMALL),
    "small experts, half the rate": replace(EXPERTS, width=64, trunk=SMALL, after="small uniform half", rate=2e-3),
    "small uniform, half the rate": replace(uniform(64, "small uniform half", SMALL), rate=2e-3),
    "tiny half": uniform(32, trunk=TINY),
    "tiny experts": replace(EXPERTS, views=PLAIN, width=32, trunk=TINY, after="tiny half"),
    "tiny uniform": uniform(32, "tiny half", TINY),
}
SEARCH: dict[str, Design] = {  # how one uniform denoiser is trained
    "with gradient term": replace(GOING_ON, gradient=1.0),
    "average over 50 steps": replace(GOING_ON, ema=0.98),
    "average over 200 steps": replace(GOING_ON, ema=0.995),
    "share at sigma_max 0.7": replace(GOING_ON, share_at_max=0.7),
    "share at sigma_max 1": replace(GOING_ON, share_at_max=1.0),
    "half from two persons": replace(HALF, learned_from=("M2208", "forrest", "labels/")),
    "half from four persons": replace(HALF, learned_from=("M2208", "forrest", "pysynthsr", "mrgd", "labels/")),
    "half from label maps": replace(HALF, learned_from=("labels/",)),
    "half from real scans": replace(HALF, learned_from=("train/",)),
}


def plan() -> dict[str, Design]:
    """Every half of the main comparison, each after the one that it goes on from."""
    wide = width_for(parameters, parameters(EXPERTS))
    return {
        "experts half": uniform(EXPERTS.width),
        "experts": EXPERTS,
        "four plain views": replace(EXPERTS, views=PLAIN),
        "equal compute": uniform(EXPERTS.width, "experts half"),
        "equal parameters half": uniform(wide),
        "equal parameters": uniform(wide, "equal parameters half"),
    }


def compared(designs: dict[str, Design], seed: int, held_out: list[Crop], args: argparse.Namespace) -> list[Result]:
    """Train and judge these halves of one seed, or judge those that are there."""
    if args.kept:
        designs = {name: designs[name] for name in designs if (folder(name, seed, args) / "done").is_file()}
    bundles = [(name, trained(name, design, seed, args)) for name, design in designs.items()]
    return [results(name, bundle, seed, held_out, again=args.again) for name, bundle in bundles]


def timed(rows: list[Result], held_out: list[Crop], args: argparse.Namespace) -> None:
    """Add what an evaluation of each of these networks takes."""
    folders = [folder(row["network"], row["seed"], args) / "bundle" for row in rows]
    for row, spent in zip(rows, times(folders, timed_crop(held_out)), strict=True):
        row["us"] = spent


def main() -> None:
    """Train what is missing, judge it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--minutes", type=float, default=8, help="of training, every network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--designs", action="store_true", help="try other designs of the experts too")
    parser.add_argument("--search", action="store_true", help="try other ways to train a uniform denoiser too")
    parser.add_argument("--again", action="store_true", help="judge again, after a change to what judges")
    parser.add_argument("--kept", action="store_true", help="train nothing: tables of the networks that are there")
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    held_out = crops(args.data)
    found = [row for seed in range(args.seeds) for row in compared(plan(), seed, held_out, args)]
    for seed in range(args.seeds):
        main_ones = [row for row in found if row["seed"] == seed and row["network"] in COMPARED]
        timed(main_ones, held_out, args)
    found += compared({name: design for name, design in TEACHERS.items() if name != "experts"}, 0, held_out, args)
    for wanted, more in ((args.designs, DESIGNS), (args.search, SEARCH)):
        found += compared(more, 0, held_out, args) if wanted else []
    (args.out / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(write(args.out, VAL, tuple(TEACHERS), (*DESIGNS, *SEARCH)))


if __name__ == "__main__":
    main()
