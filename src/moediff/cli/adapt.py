"""`moediff adapt`: self-supervised fine-tuning of the weights on thick-slice scans."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff._version import RESEARCH_ONLY
from moediff.cli.options import (
    EXPERT,
    INPUT,
    OUTPUT,
    SPEED,
    Command,
    add_command,
    bundle_option,
    device_option,
    option,
    overwrite_option,
    quiet_option,
    seed_option,
)
from moediff.cli.reading import TRUST_INTENSITIES, read, reading_options, scan_path
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moediff.cli import Commands


OPTIONS = {
    INPUT: (
        option(
            "scans",
            type=scan_path,
            nargs="+",
            metavar="SCAN",
            help="thick-slice scans, one or several of the same protocol",
        ),
        *reading_options(),
        TRUST_INTENSITIES,
    ),
    OUTPUT: (
        option("-o", "--output", type=Path, required=True, metavar="FOLDER", help="model folder to write"),
        overwrite_option("an existing model folder"),
        quiet_option("no progress and no summary"),
    ),
    SPEED: (
        option("--steps", type=int, default=100, metavar="N", help="training steps; 100 take 1-3 minutes on two cores"),
        device_option(),
        option("--processes", type=int, default=0, metavar="N", help="share the work (default: all GPUs or cores)"),
    ),
    EXPERT: (
        bundle_option("model folder to begin with"),
        seed_option("everything random"),
    ),
}


def add(commands: Commands) -> None:
    """Declare the command."""
    command = Command(
        name="adapt",
        summary="fine-tune the weights on your thick-slice scans; no sharp scan needed",
        description="Write a model folder for scans of one protocol and contrast: self-supervised fine-tuning on what "
        f"is sharp in the plane of thick slices. Use it with `moediff enhance --bundle FOLDER`. {RESEARCH_ONLY}",
        options=OPTIONS,
        examples=(
            "moediff adapt sub-*/anat/*_FLAIR.nii.gz -o flair5/",
            "moediff enhance sub-01_FLAIR.nii.gz --bundle flair5/",
        ),
        call=adapt_command,
    )
    add_command(commands, command)


def adapt_command(args: argparse.Namespace) -> int:
    """Fine-tune, and print where the bundle is."""
    from moediff.core.device import parse_device
    from moediff.inference.options import EnhanceOptions
    from moediff.model.bundle import check_free, load_bundle
    from moediff.training.adapt import AdaptOptions, adapt, plans_of

    tune_allocator()
    check_free(args.output, overwrite=args.overwrite)
    options = AdaptOptions(steps=args.steps, seed=args.seed, device=args.device, processes=args.processes)
    progress = not args.quiet and sys.stderr.isatty()
    scans = [read(scan, args) for scan in args.scans]
    start = load_bundle(args.bundle, parse_device(args.device))
    plans = plans_of(scans, EnhanceOptions(trust_intensities=args.trust_intensities))
    adapted = adapt(scans, start, options, plans=plans, out=args.output, progress=progress)
    if not args.quiet:
        print(f"{args.output}\n{_gain(adapted.provenance)}\n{RESEARCH_ONLY}")
    return 0


def _gain(provenance: Mapping[str, Any]) -> str:
    """What the fine-tuning brought, on patches of the scans' own planes that it did not learn from."""
    before, after = provenance["adapted"]["error_over_interpolation"]
    change = 1 - after / before
    verdict = f"{change:.1%} less than before" if change > 0 else "no gain: use the weights that it began with"
    return f"squared error over that of interpolation: {before:.3f} before, {after:.3f} after ({verdict})"
