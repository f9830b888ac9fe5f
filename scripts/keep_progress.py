"""Keep how far a training has come in a small form, from which a later training goes on at the same place.

Every bundle that the rest of the recipe needs is kept: of the stage in progress, and of finished ones that later ones
begin with or average. Weights are rounded to half precision, half as large; the place in the schedule stands in each
bundle's provenance. Folders are those of a run, so that a copy of them is one that goes on, on any machine. Gains in
validation so far are added to a table of the whole run (--curve). Move an older run away first:

    python scripts/keep_progress.py runs/default recipes/progress
    mkdir -p runs && mkdir runs/default && cp -r recipes/progress/. runs/default
    moediff train recipes/default.toml --resume
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

import torch

from moediff.core.errors import CannotCreate, InputMissing
from moediff.io.atomic import whole_file, whole_folder
from moediff.io.tensors import save_tensors
from moediff.model.bundle import MANIFEST, WEIGHTS, load_bundle, read_manifest, sha256_of
from moediff.training.engine import needed_stages
from moediff.training.provenance import stage_records, stages_table
from moediff.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parent.parent
CURVE = ROOT / "benchmarks" / "default_run.csv"  # of recipes/default.toml
MOST_BYTES = 10_000_000  # of all weights together


def keep(recipe: Recipe, target: Path) -> list[str]:
    """Write the bundles that the rest of a recipe needs; what was kept there before is replaced. Returns their stages.

    Raises:
        InputMissing: no stage has saved a bundle.
        CannotCreate: other things lie in the target.
    """
    names = needed_stages(recipe)
    if not names:
        raise InputMissing(f"{recipe.out}: no stage has saved a bundle; name the `out` of a recipe")
    others = [path for path in target.glob("*") if not (path / "bundle" / MANIFEST).is_file()]
    if others and not (target / MANIFEST).is_file():  # one bundle alone, as it was kept before
        raise CannotCreate(f"{others[0]} is no kept stage, and would be removed; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(target, overwrite=True) as hidden:
        for name in names:
            write_rounded(recipe.out / name / "bundle", hidden / name / "bundle")
        if (size := sum(file.stat().st_size for file in hidden.rglob(WEIGHTS))) > MOST_BYTES:
            raise SystemExit(f"{size} bytes are too many for the repository; at most {MOST_BYTES}")
    return names


def keep_curve(recipe: Recipe, table: Path) -> None:
    """Add mean validation gains (dB) of every stage's folder to a table: stage, step, and a column for each recipe.

    Rows that the table holds of parts whose folders are gone stay.
    """
    rows = {(row["stage"], int(row["step"])): row for row in _rows(table)}
    for stage in recipe.stages:
        for row in _rows(recipe.out / stage.name / "validation.csv"):
            kind, _, name = row["case"].partition("/")
            if kind == "mean":
                key = (stage.name, int(row["step"]))
                rows.setdefault(key, {"stage": stage.name, "step": row["step"]})[name] = f"{float(row['gain_db']):.2f}"
    if not rows:
        return
    order = [stage.name for stage in recipe.stages]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    with whole_file(table, overwrite=True) as hidden, hidden.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows, key=lambda key: (order.index(key[0]), key[1])))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rounded(bundle: Path, target: Path) -> None:
    """A bundle with its weights in half precision; its last stage names the weights that they are rounded from."""
    weights, manifest = load_bundle(bundle).denoiser.state_dict(), read_manifest(bundle)
    target.mkdir(parents=True)
    save_tensors({name: weight.to(torch.float16) for name, weight in weights.items()}, target / WEIGHTS)
    sha256 = sha256_of(target / WEIGHTS)
    if sha256 != manifest["sha256"]:  # rounded weights that were not trained on stay what they are
        manifest["provenance"]["stages"][-1]["rounded_from"] = manifest["sha256"]
    text = json.dumps(manifest | {"sha256": sha256}, indent=1)
    (target / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def main() -> None:
    """Keep it, and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the `out` of a recipe")
    parser.add_argument("target", type=Path)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "default.toml", help="default: %(default)s")
    parser.add_argument("--curve", type=Path, default=CURVE, help="CSV; default: %(default)s")
    args = parser.parse_args()
    recipe = replace(load_recipe(args.recipe), out=args.run)
    *_, last = keep(recipe, args.target)
    keep_curve(recipe, args.curve)
    print(stages_table(stage_records(read_manifest(args.target / last / "bundle")["provenance"])))


if __name__ == "__main__":
    main()
