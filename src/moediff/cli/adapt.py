"""`moediff adapt`: let the weights learn on from thick-slice scans themselves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli.reading import add_reading, read, scan_path
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "adapt",
        help="let the weights learn on from your thick-slice scans, no sharp scan needed",
        description="Make a model folder for scans of one protocol and contrast: the weights learn on from what is "
        f"sharp in the plane of thick slices. Use it with `moediff enhance --bundle FOLDER`. {RESEARCH_ONLY}",
    )
    add = parser.add_argument
    add(
        "scans",
        type=scan_path,
        nargs="+",
        metavar="SCAN",
        help="thick-slice scans, one or several of the same protocol",
    )
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="model folder to write")
    add("--bundle", type=Path, help="model folder to begin with (default: the embedded weights)")
    add_reading(parser)
    add("--steps", type=int, default=100, help="how long to learn (default 100, one to three minutes on two cores)")
    add("--seed", type=int, default=0, help="of everything random (default 0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--processes", type=int, default=0, help="share the work among N (default: all GPUs or cores)")
    add("--overwrite", action="store_true", help="replace an existing model folder")
    add("-q", "--quiet", action="store_true", help="no progress and no summary")
    parser.set_defaults(call=adapt_command)


def adapt_command(args: argparse.Namespace) -> int:
    """Adapt, and say where the bundle lies."""
    from moediff.core.device import parse_device
    from moediff.core.extras import TRAINING_MODULES, require_modules
    from moediff.model.bundle import check_free, load_bundle
    from moediff.training.adapt import AdaptOptions, adapt

    tune_allocator()
    require_modules(*TRAINING_MODULES, what="learning", extra="train")
    check_free(args.output, overwrite=args.overwrite)
    options = AdaptOptions(steps=args.steps, seed=args.seed, device=args.device, processes=args.processes)
    progress = not args.quiet and sys.stderr.isatty()
    scans = [read(scan, args) for scan in args.scans]
    adapt(scans, load_bundle(args.bundle, parse_device(args.device)), options, out=args.output, progress=progress)
    if not args.quiet:
        print(f"{args.output}\n{RESEARCH_ONLY}")
    return 0
