"""`moediff train`: train a model from a TOML configuration."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    train = commands.add_parser("train", help="train a model from a TOML configuration")
    train.add_argument("config", type=Path, help="see configs/ in the repository")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    train.add_argument(
        "--slice", type=float, metavar="MIN", help="stop after MIN minutes with exit code 75, to --resume"
    )
    train.add_argument(
        "--minutes", type=float, metavar="MIN", help="time budget of the whole run (default: as configured)"
    )
    train.add_argument("--data", type=Path, metavar="DIR", help="where the scans lie (default: as configured)")
    train.add_argument("--processes", type=int, default=0, help="share batches among N (default: all GPUs or cores)")
    train.add_argument("-q", "--quiet", action="store_true", help="no progress")
    train.set_defaults(call=train_command)


def train_command(args: argparse.Namespace) -> int:
    """Train, and say where the bundle lies."""
    from moediff.core.errors import prefix_errors
    from moediff.core.extras import TRAINING_MODULES, require_modules
    from moediff.training.config import load_config
    from moediff.training.trainer import train

    tune_allocator()
    require_modules(*TRAINING_MODULES, what="training", extra="train")
    config = load_config(args.config)
    progress = not args.quiet and sys.stderr.isatty()
    with prefix_errors(args.config):
        if args.minutes is not None:
            config = replace(config, minutes=args.minutes)
        if args.data is not None:
            config = replace(config, data=str(args.data))
        made = train(config, processes=args.processes, resume=args.resume, progress=progress, slice_minutes=args.slice)
    print(made)
    return 0
