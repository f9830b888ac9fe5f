"""Keep the last bundle of a training in a small form, from which a later training goes on at the same place.

Weights are stored in half precision, half as large; the place in the schedule stands in the bundle's provenance. To go
on, on any machine: copy the folder to the `bundle` of the recipe's `out`, and run the recipe with --resume.

    python scripts/keep_progress.py runs/default recipes/progress
    cp -r recipes/progress runs/default/bundle && moediff train recipes/default.toml --resume
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from moediff.core.errors import InputMissing
from moediff.io.atomic import whole_folder
from moediff.io.tensors import save_tensors
from moediff.model.bundle import MANIFEST, WEIGHTS, load_bundle, read_manifest, sha256_of
from moediff.training.provenance import stage_records, stages_table

MOST_BYTES = 10_000_000


def latest(run: Path) -> Path:
    """The bundle that was saved last by any stage.

    Raises:
        InputMissing: there is none.
    """
    bundles = [folder for folder in run.glob("*/bundle") if (folder / MANIFEST).is_file()]
    if not bundles:
        raise InputMissing(f"{run}: no stage has saved a bundle; name the `out` of a recipe")
    return max(bundles, key=lambda folder: (folder / MANIFEST).stat().st_mtime)


def keep(bundle: Path, target: Path) -> None:
    """Write the bundle in half precision; an older one is replaced."""
    weights = load_bundle(bundle).denoiser.state_dict()
    manifest = read_manifest(bundle)
    with whole_folder(target, overwrite=True) as hidden:
        save_tensors({name: weight.to(torch.float16) for name, weight in weights.items()}, hidden / WEIGHTS)
        if (size := (hidden / WEIGHTS).stat().st_size) > MOST_BYTES:
            raise SystemExit(f"{size} bytes are too many for the repository; at most {MOST_BYTES}")
        manifest["sha256"] = sha256_of(hidden / WEIGHTS)
        (hidden / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Keep it, and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the `out` of a recipe")
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    bundle = latest(args.run)
    keep(bundle, args.target)
    print(stages_table(stage_records(read_manifest(args.target)["provenance"])))


if __name__ == "__main__":
    main()
