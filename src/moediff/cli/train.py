"""`moediff train`: train a model by a recipe."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli.options import INPUT, OUTPUT, SPEED, Command, add_command, option, quiet_option
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.training.recipe import Recipe


OPTIONS = {
    INPUT: (
        option("config", type=Path, metavar="RECIPE", help="TOML file; see recipes/ in the repository"),
        option("--data", type=Path, metavar="DIR", help="folder of the scans (default: as the recipe says)"),
    ),
    OUTPUT: (
        option("--resume", action="store_true", help="continue where an earlier run stopped"),
        option("--dry-run", action="store_true", help="print stages, settings and missing files, and stop"),
        quiet_option("no progress"),
    ),
    SPEED: (
        option("--slice", type=float, metavar="MIN", help="stop after MIN minutes with exit code 75, to --resume"),
        option("--minutes", type=float, metavar="MIN", help="time of all stages (default: as the recipe says)"),
        option("--steps", type=int, metavar="N", help="steps of all stages (default: as the recipe says)"),
        option("--processes", type=int, default=0, metavar="N", help="share batches (default: all GPUs or cores)"),
    ),
}


def add(commands: Commands) -> None:
    """Declare the command."""
    command = Command(
        name="train",
        summary="train a model by a recipe (a TOML file)",
        description=f"Run all stages of a training recipe; finished ones are kept. {RESEARCH_ONLY}",
        options=OPTIONS,
        examples=(
            "moediff train recipes/default.toml --dry-run",
            "moediff train recipes/default.toml --resume                # also after an interruption",
            "moediff enhance scan.nii.gz --bundle runs/default/bundle",
        ),
        call=train_command,
    )
    add_command(commands, command)


def train_command(args: argparse.Namespace) -> int:
    """Train, and say where the bundle lies."""
    from moediff.core.errors import prefix_errors
    from moediff.core.extras import TRAINING_MODULES, require_modules

    tune_allocator()
    if not args.dry_run:
        require_modules(*TRAINING_MODULES, what="training", extra="train")
    recipe = _recipe(args)
    with prefix_errors(args.config):
        if args.dry_run:
            from moediff.training.dry_run import dry_run

            print(dry_run(recipe))
            return 0
        from moediff.training.engine import run_recipe
        from moediff.training.trainer import RunOptions

        options = RunOptions(
            processes=args.processes, resume=args.resume, progress=not args.quiet, slice_minutes=args.slice
        )
        print(os.path.normpath(run_recipe(recipe, options)))
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes; settings under former names are named on standard error."""
    from moediff.core.errors import prefix_errors
    from moediff.training.recipe import load_recipe, with_data, with_minutes, with_steps

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recipe = load_recipe(args.config)
    for warning in caught if not args.quiet else ():
        print(f"moediff: warning: {warning.message}", file=sys.stderr)
    with prefix_errors(args.config):
        if args.minutes is not None:
            recipe = with_minutes(recipe, args.minutes)
        if args.steps is not None:
            recipe = with_steps(recipe, args.steps)
        if args.data is not None:
            recipe = with_data(recipe, args.data)
    return recipe
