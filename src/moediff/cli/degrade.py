"""`moediff degrade`: simulate the low-resolution scan of a poorer acquisition."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff._version import RESEARCH_ONLY, __version__
from moediff.cli.options import INPUT, OUTPUT, Command, add_command, option, overwrite_option, quiet_option, seed_option
from moediff.cli.reading import TRUST_INTENSITIES, read, reading_options, scan_path

if TYPE_CHECKING:
    from moediff.acquisition.recipe import Recipe
    from moediff.cli import Commands
    from moediff.core.volume import Volume
    from moediff.io.scans import LoadedScan

REMEDY = (
    "degrade the scan it belongs to and resample the labels by nearest neighbour, or give `--trust-intensities` if "
    "these are intensities"
)

OPTIONS = {
    INPUT: (
        option("source", type=scan_path, metavar="SCAN", help="sharp scan, of any kind that `enhance` takes"),
        *reading_options(),
        TRUST_INTENSITIES,
    ),
    OUTPUT: (
        option(
            "-o",
            "--output",
            type=Path,
            required=True,
            help="low-resolution scan; its recipe is written beside it, .json",
        ),
        overwrite_option(),
        quiet_option("nothing"),
    ),
    "simulation": (
        option(
            "--recipe", required=True, metavar="NAME|FILE", help="a named recipe (an unknown name lists them) or .json"
        ),
        seed_option("noise and bias field"),
    ),
}


def add(commands: Commands) -> None:
    """Declare the command."""
    command = Command(
        name="degrade",
        summary="simulate a low-resolution scan",
        description=f"Write the scan that a poorer acquisition would have given, and its recipe. {RESEARCH_ONLY}",
        options=OPTIONS,
        examples=(
            "moediff degrade sharp.nii.gz --recipe thick5 -o low.nii.gz   # 5 mm slices with 1 % noise",
            "moediff degrade sharp.nii.gz --recipe low1.5 -o low.nii.gz   # voxels 1.5 times larger, 4 % noise",
        ),
        call=degrade_command,
    )
    add_command(commands, command)


def degrade_command(args: argparse.Namespace) -> int:
    """Simulate one scan and write it, the sidecar last."""
    from moediff.acquisition.recipe import recipe_for
    from moediff.core.errors import prefix_errors, printable
    from moediff.inference.outputs import OutputPaths, locked_outputs
    from moediff.io.label_check import require_intensities
    from moediff.io.lock import register_outputs
    from moediff.io.nifti.writer import codes_to_write
    from moediff.io.scans import save, write_text

    recipe, paths = recipe_for(args.recipe), OutputPaths(scan=args.output)
    loaded = read(args.source, args)
    if not args.trust_intensities:
        with prefix_errors(printable(args.source)):
            require_intensities(loaded, REMEDY)
    with locked_outputs(paths, args.source, overwrite=args.overwrite, read=[Path(args.recipe)]):
        low, sidecar = _simulate(loaded, recipe, args)
        register_outputs(paths.every())
        if args.overwrite:
            paths.sidecar.unlink(missing_ok=True)
        save(low, paths.scan, codes=codes_to_write(loaded.codes), overwrite=args.overwrite)
        write_text(json.dumps(asdict(sidecar), indent=2) + "\n", paths.sidecar, overwrite=args.overwrite)
    if not args.quiet:
        for warning in sidecar.warnings:
            print(f"moediff: warning: {warning}", file=sys.stderr)
        print(f"{paths.scan}\n{RESEARCH_ONLY}")
    return 0


@dataclass(frozen=True, kw_only=True)
class DegradeSidecar:
    """The JSON beside a simulated scan; `--recipe` reads its recipe back.

    Args:
        recipe: as in a recipe file.
        seed: as given.
        random_key: what the random numbers were keyed by.
        noise_reference: the intensity that noise is a share of.
        input_shape, input_spacing_mm, output_shape, output_spacing_mm: both grids, in the axis order of their files.
        warnings: the sentences on the terminal.
    """

    recipe: dict[str, Any]
    seed: int
    random_key: tuple[int, str, str]
    noise_reference: float
    input_shape: tuple[int, ...]
    input_spacing_mm: tuple[float, ...]
    output_shape: tuple[int, ...]
    output_spacing_mm: tuple[float, ...]
    warnings: tuple[str, ...]
    moediff: str = __version__
    note: str = RESEARCH_ONLY


def _simulate(loaded: LoadedScan, recipe: Recipe, args: argparse.Namespace) -> tuple[Volume, DegradeSidecar]:
    """The low-resolution scan and its sidecar."""
    from moediff.acquisition.degrade import degrade, reference_intensity
    from moediff.core.config import rng_for
    from moediff.io.voxels import without_outliers

    name = loaded.stem or args.source.name  # a DICOM folder may be called like its patient
    key = (args.seed, name, recipe.name)  # the same everywhere: training's validation, benchmarks
    scan = loaded.stored  # a recipe's axes are those of the file
    scan = scan.with_data(without_outliers(scan.data_XYZ))  # one of them would ring through the whole head
    reference = reference_intensity(scan.data_XYZ)
    low = degrade(scan, recipe, rng_for(*key), reference=reference)
    return low, DegradeSidecar(
        recipe=json.loads(recipe.to_json()),
        seed=args.seed,
        random_key=key,
        noise_reference=reference,
        input_shape=scan.shape,
        input_spacing_mm=tuple(round(s, 5) for s in scan.spacing_mm),
        output_shape=low.shape,
        output_spacing_mm=tuple(round(s, 5) for s in low.spacing_mm),
        warnings=loaded.warnings,
    )
