"""Scans, methods, command-line options and output that the benchmark scripts share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from moediff.core.geometry import centre_crop, resample
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")
SCANS = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")  # of val/
RECIPES = ("thick5", "low1.5", "iso2")
HELD_OUT = (13, 14, 15, 16)  # numbers of the label maps that no training used
SVG_SALT = "moediff"  # of identifiers in a picture, so that equal results give equal files


def parser_of(
    description: str | None, *, recipes: Sequence[str] = (), side: int | None = None, bundle: bool = True
) -> argparse.ArgumentParser:
    """A parser with the options that most scripts have.

    Args:
        description: the script's docstring.
        recipes: defaults of --recipes, which is left out when empty.
        side: default of --side, which is left out when None.
        bundle: whether there is a --bundle.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    if bundle:
        parser.add_argument("--bundle", type=Path, help="default: the embedded weights")
    if recipes:
        parser.add_argument("--recipes", nargs="+", default=list(recipes))
    if side is not None:
        parser.add_argument("--side", type=int, default=side, help="of a crop, voxels")
    parser.add_argument("--json", type=Path)
    return parser


def validation_scan(data: Path, name: str) -> Volume:
    """A sharp scan of val/."""
    return load(data / "val" / f"{name}.nii.gz").volume


def label_map(data: Path, number: int) -> tuple[Volume, torch.Tensor]:
    """A label map as a volume, and its whole numbers [X, Y, Z]."""
    volume = load(data / "labels" / f"training_seg_{number:02d}.nii.gz").volume
    return volume, volume.data_XYZ.round().to(torch.int32)


def enhancers_of(bundles: Sequence[str]) -> dict[str, Enhancer]:
    """The embedded bundle and those given as NAME=DIR."""
    return {"embedded": Enhancer()} | {
        name: Enhancer(Path(folder)) for name, folder in (given.split("=", 1) for given in bundles)
    }


def predictions(
    low: Volume, truth: Volume, enhancers: dict[str, Enhancer], modes: Sequence[str]
) -> Iterator[tuple[str, Volume]]:
    """Method and result on the truth's grid."""
    for kernel in ("cubic", "zero-fill"):
        yield kernel, resample(low, truth.grid, kernel)
    for name, enhancer in enhancers.items():
        for mode in modes:
            yield f"{name} {mode}", enhancer(low, EnhanceOptions(like=truth.grid, mode=mode)).volume


def middle_of_head(data: Path, name: str, side: int) -> Volume:
    """The middle cube of a sharp scan of val/, without negative voxels."""
    scan = centre_crop(validation_scan(data, name), side)
    return scan.with_data(scan.data_XYZ.float().clamp_min(0))


def every_head(args: argparse.Namespace, judged: Callable[[str, str, Volume], Row]) -> list[Row]:
    """A row for every person and recipe of the command line: `judged(name, recipe, truth)`; each is reported."""
    rows = []
    for name in args.scans:
        truth = middle_of_head(args.data, name, args.side)
        for recipe in args.recipes:
            rows.append(judged(name, recipe, truth))
            report(rows[-1])
    return rows


def report(row: DataclassInstance) -> None:
    """A finished row as a line of JSON on standard error."""
    print(json.dumps(asdict(row)), file=sys.stderr, flush=True)


def write_rows(path: Path | None, rows: Sequence[DataclassInstance], **about: object) -> None:
    """Rows and what they depend on as JSON, where a file was named."""
    if path is not None:
        record = about | {"rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [f"| {' | '.join(cells)} |" for cells in (header, *lines)]
    return "\n".join([rows[0], "|---" * len(header) + "|", *rows[1:]])


def mean(values: Sequence[float]) -> float:
    """The mean of at least one number."""
    return sum(values) / len(values)
