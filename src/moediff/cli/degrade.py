"""`moediff degrade`: what a poorer acquisition would have made of a scan."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff._version import RESEARCH_ONLY, __version__
from moediff.cli.reading import add_reading, read, scan_path

if TYPE_CHECKING:
    from moediff.acquisition.recipe import Recipe
    from moediff.cli import Commands
    from moediff.core.volume import Volume
    from moediff.io.scans import Loaded


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "degrade",
        help="simulate a low-resolution scan",
        description=f"Write the scan that a poorer acquisition would have given, and its recipe. {RESEARCH_ONLY}",
    )
    add = parser.add_argument
    add("source", type=scan_path, metavar="SCAN", help="sharp scan, of any kind that `enhance` takes")
    add("--recipe", required=True, metavar="NAME|FILE", help="a named recipe (an unknown name lists them) or .json")
    add("-o", "--output", type=Path, required=True, help="low-resolution scan; its recipe lies beside it as .json")
    add("--seed", type=int, default=0, help="of noise and bias field (default 0)")
    add_reading(parser)
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("-q", "--quiet", action="store_true", help="print nothing")
    parser.set_defaults(call=degrade_command)


def degrade_command(args: argparse.Namespace) -> int:
    """Simulate one scan and write it, the sidecar last."""
    from moediff.acquisition.recipe import recipe_for
    from moediff.inference.outputs import OutputPaths, locked_outputs
    from moediff.io.lock import register_outputs
    from moediff.io.nifti.writer import codes_to_write
    from moediff.io.scans import save, write_text

    recipe, paths = recipe_for(args.recipe), OutputPaths(scan=args.output)
    loaded = read(args.source, args)
    with locked_outputs(paths, args.source, overwrite=args.overwrite, read=[Path(args.recipe)]):
        low, record = _simulate(loaded, recipe, args)
        register_outputs(paths.every())
        if args.overwrite:
            paths.sidecar.unlink(missing_ok=True)
        save(low, paths.scan, codes=codes_to_write(loaded.codes), overwrite=args.overwrite)
        write_text(json.dumps(record, indent=2) + "\n", paths.sidecar, overwrite=args.overwrite)
    if not args.quiet:
        for warning in record["warnings"]:
            print(f"moediff: warning: {warning}", file=sys.stderr)
        print(f"{paths.scan}\n{RESEARCH_ONLY}")
    return 0


def _simulate(loaded: Loaded, recipe: Recipe, args: argparse.Namespace) -> tuple[Volume, dict[str, Any]]:
    """The poorer scan, and what its sidecar says."""
    from moediff.acquisition.degrade import degrade, reference_intensity
    from moediff.core.config import rng_for

    name = loaded.stem or args.source.name  # a DICOM folder may be called like its patient
    key = (args.seed, name, recipe.name)  # the same everywhere: training's validation, benchmarks
    reference = reference_intensity(loaded.volume.data_XYZ)
    low = degrade(loaded.volume, recipe, rng_for(*key), reference=reference)
    return low, {
        "recipe": json.loads(recipe.to_json()),
        "seed": args.seed,
        "random_key": list(key),
        "noise_reference": reference,
        "input_shape": list(loaded.volume.shape),
        "input_spacing_mm": [round(s, 5) for s in loaded.volume.spacing_mm],
        "output_shape": list(low.shape),
        "output_spacing_mm": [round(s, 5) for s in low.spacing_mm],
        "warnings": list(loaded.warnings),
        "moediff": __version__,
        "note": RESEARCH_ONLY,
    }
