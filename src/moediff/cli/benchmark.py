"""`moediff benchmark`: compare methods on the same degraded scans, as tables and one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli import SOME_FAILED
from moediff.cli.options import (
    EXPERT,
    INPUT,
    OUTPUT,
    QUALITY,
    SPEED,
    Command,
    add_command,
    device_option,
    option,
    quiet_option,
)
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moediff.benchmark.cases import Case
    from moediff.benchmark.methods import Method
    from moediff.benchmark.records import BenchmarkRow
    from moediff.benchmark.run import Settings
    from moediff.cli import Commands

METHODS = ("linear", "cubic", "lanczos", "zero-fill", "tv", "faithful", "detail")
RECIPES = ("thick5", "low1.5", "iso2")
FOCUS = "faithful"


OPTIONS = {
    INPUT: (
        option("--data", type=Path, metavar="DIR", help="sharp scans are in DIR/val (default: nilearn's MNI152 scan)"),
        option("--scans", nargs="+", default=[], metavar="NAME|FILE", help="only these of DIR/val, or other files"),
        option("--pairs", type=Path, metavar="CSV", help="instead: heads measured twice, columns input,ref[,lesions]"),
        option("--recipes", nargs="+", metavar="NAME|FILE", help=f"how to degrade (default: {' '.join(RECIPES)})"),
        option(
            "--seeds",
            nargs="+",
            type=int,
            default=[0],
            metavar="N",
            help="seeds of noise, bias field and samples (default: 0)",
        ),
        option(
            "--exclude-from-means",
            nargs="*",
            default=[],
            metavar="NAME",
            help="scans that tables list but means leave out",
        ),
    ),
    OUTPUT: (
        option(
            "-o", "--output", type=Path, required=True, metavar="OUTDIR", help="results; a second run continues there"
        ),
        option("--no-pictures", action="store_true", help="draw no picture per row"),
        quiet_option("no table and no progress"),
    ),
    "methods": (
        option(
            "--methods",
            nargs="+",
            default=list(METHODS),
            metavar="METHOD",
            help=f"any of {', '.join(METHODS)}; NAME=FOLDER; NAME='command {{input}} {{output}}' (default: all these)",
        ),
        option("--focus", metavar="NAME", help=f"compare the others with this one (default: {FOCUS}, else the last)"),
    ),
    QUALITY: (
        option("--metrics", metavar="NAME,...", help="metrics (default: all; an unknown name lists them)"),
        option("--no-intensity-fit", action="store_true", help="leave intensities as they are: no gain and offset"),
    ),
    SPEED: (
        device_option("cpu"),
        option("--threads", type=int, metavar="N", help="CPU threads of every method"),
        option("--timeout", type=float, default=3600, metavar="S", help="stop a method after this many seconds"),
    ),
    EXPERT: (option("--flops", action="store_true", help="count operations of our methods, each in a second run"),),
}


def add(commands: Commands) -> None:
    """Declare the command."""
    command = Command(
        name="benchmark",
        summary="compare methods on degraded scans",
        description=f"Degrade sharp scans, let every method restore them, and evaluate all alike. {RESEARCH_ONLY}",
        options=OPTIONS,
        examples=(
            "moediff benchmark -o out/                              # on nilearn's MNI152 scan",
            "moediff benchmark --data DIR -o out/                   # every scan of DIR/val",
            "moediff benchmark --scans a_T1w.nii.gz --recipes thick5 --methods cubic faithful -o out/",
            "moediff benchmark --scans a_T1w.nii.gz --methods faithful 'other=run-other {input} {output}' -o out/",
        ),
        call=benchmark_command,
    )
    add_command(commands, command)


def benchmark_command(args: argparse.Namespace) -> int:
    """Run what is not done yet, then write and print everything."""
    from moediff.benchmark.aggregate import with_gains
    from moediff.benchmark.methods import parse_methods
    from moediff.benchmark.run import run_benchmark
    from moediff.core.extras import require_modules
    from moediff.report.benchmark_page import NEEDED, draw_case

    require_modules(*NEEDED)
    tune_allocator()
    methods, settings, cases = parse_methods(args.methods), _settings(args), _cases(args)
    focus = _focus(args.focus, methods)

    def progress(line: str) -> None:
        if not args.quiet:
            print(f"moediff: {line}", file=sys.stderr, flush=True)

    draw = None if args.no_pictures else draw_case
    rows = with_gains(run_benchmark(methods, cases, settings, args.output, draw=draw, progress=progress))
    _write(rows, focus if args.focus else _working(focus, methods, rows), settings, args)
    return SOME_FAILED if any(row.error for row in rows) else 0


def _settings(args: argparse.Namespace) -> Settings:
    from moediff.benchmark.run import Settings
    from moediff.core.errors import ConfigError
    from moediff.evaluation.evaluate import EvaluateOptions
    from moediff.evaluation.metrics.registry import metric_names

    if not args.timeout > 0 or (args.threads is not None and args.threads < 1):
        raise ConfigError(f"--timeout {args.timeout:g} must be above 0 s, and --threads at least 1")
    judging = EvaluateOptions(metrics=metric_names(args.metrics), fit=not args.no_intensity_fit, resample=True)
    threads = {} if args.threads is None else {"threads": args.threads}
    return Settings(device=args.device, limit_s=args.timeout, flops=args.flops, judging=judging, **threads)


def _cases(args: argparse.Namespace) -> list[Case]:
    from moediff.acquisition.recipe import recipe_for
    from moediff.benchmark.cases import MEASURED, Case, find_pairs, find_scans
    from moediff.core.errors import ConfigError

    if len(set(args.seeds)) < len(args.seeds):
        raise ConfigError("two seeds are the same; results could not be distinguished")
    if args.pairs is not None:
        if args.data is not None or args.scans or args.recipes:
            raise ConfigError("--pairs brings its own scans, already acquired; leave out --data, --scans and --recipes")
        pairs = find_pairs(args.pairs, args.exclude_from_means)
        return [Case(scan, MEASURED, seed) for scan in pairs for seed in args.seeds]
    scans = find_scans(args.data, args.scans, args.exclude_from_means)
    recipes = [recipe_for(name) for name in args.recipes or RECIPES]
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise ConfigError("two recipes share a name; results could not be distinguished")
    return [Case(scan, recipe, seed) for recipe in recipes for scan in scans for seed in args.seeds]


def _focus(name: str | None, methods: Sequence[Method]) -> str:
    from moediff.core.errors import ConfigError

    names = [method.name for method in methods]
    if name is None:
        return FOCUS if FOCUS in names else names[-1]
    if name not in names:
        raise ConfigError(f"--focus {name!r} is not among the methods {', '.join(names)}")
    return name


def _working(focus: str, methods: Sequence[Method], rows: list[BenchmarkRow]) -> str:
    """The default focus, or the last method that ever succeeded: nothing compares with one that always fails."""
    done = {row.method for row in rows if not row.error}
    return next((name for name in (focus, *(method.name for method in reversed(methods))) if name in done), focus)


def _write(rows: list[BenchmarkRow], focus: str, settings: Settings, args: argparse.Namespace) -> None:
    from moediff.benchmark.aggregate import differences, lesion_sums, losses, means, region_means
    from moediff.benchmark.markdown_tables import markdown, rows_csv
    from moediff.benchmark.records import Results, about_this_machine
    from moediff.benchmark.run import PICTURES
    from moediff.io.scans import write_text
    from moediff.report.benchmark_page import page

    results = Results(
        about=about_this_machine(settings.threads, settings.device, args.seeds),
        focus=focus,
        rows=tuple(rows),
        means=tuple(means(rows)),
        differences=tuple(differences(rows, focus)),
        regions=tuple(region_means(rows)),
        lesions=tuple(lesion_sums(rows)),
        losses=tuple(losses(rows, focus)),
    )
    write_text(rows_csv(rows), args.output / "results.csv", overwrite=True)
    write_text(results.to_json(), args.output / "results.json", overwrite=True)
    write_text(page(rows, results.about, focus, args.output / PICTURES), args.output / "index.html", overwrite=True)
    if not args.quiet:
        print(f"{markdown(rows, focus)}\n\n{args.output / 'index.html'}\n{RESEARCH_ONLY}")
