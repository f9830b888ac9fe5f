"""`moediff bundle`: print and verify a model bundle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moediff.cli import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    bundle = commands.add_parser("bundle", help="print and verify a model bundle").add_subparsers(
        required=True, metavar="ACTION"
    )
    info = bundle.add_parser("info", help="print stages, config, provenance and checksum")
    info.add_argument("path", type=Path, nargs="?", help="bundle folder (default: the embedded one)")
    info.set_defaults(call=bundle_info)


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
