"""`moediff bundle`: print and verify a model bundle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.cli.options import INPUT, Command, add_actions, add_command, option

if TYPE_CHECKING:
    from moediff.cli import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    actions = add_actions(commands, "bundle", "print and verify a model bundle", "Print and verify a model bundle.")
    info = Command(
        name="info",
        summary="print stages, config, provenance and checksum",
        description="Verify a bundle's checksums; print its manifest, and the stages of its training as a table.",
        options={
            INPUT: (
                option("path", type=Path, nargs="?", metavar="FOLDER", help="model folder (default: the embedded one)"),
            )
        },
        examples=("moediff bundle info", "moediff bundle info runs/default/bundle"),
        call=bundle_info,
    )
    add_command(actions, info)


def bundle_info(args: argparse.Namespace) -> int:
    """Print a bundle's manifest after verifying its weights."""
    from moediff.core.errors import prefix_errors
    from moediff.model.bundle import WEIGHTS, embedded_path, load_bundle, read_manifest
    from moediff.training.provenance import stage_records, stages_table

    folder = args.path or embedded_path()
    load_bundle(folder)
    with prefix_errors(folder):
        manifest = read_manifest(folder)
        if table := stages_table(stage_records(manifest["provenance"])):
            print(table, file=sys.stderr)  # the table is for people, what follows for programs too
        print(json.dumps(manifest | {"bytes": (folder / WEIGHTS).stat().st_size}, indent=2))
    return 0
