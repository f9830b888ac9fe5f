"""`moediff evaluate`: how close predictions are to their references."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff import RESEARCH_ONLY
from moediff.memory import keep_memory

if TYPE_CHECKING:
    from moediff.commands import Commands
    from moediff.evaluation.evaluate import EvaluateOptions
    from moediff.evaluation.tables import Pair

SOME_FAILED = 8


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "evaluate",
        help="compare predictions with references",
        description=f"Compare one prediction with its reference, or every pair of a list. {RESEARCH_ONLY}",
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--pred", type=Path, help="prediction, NIfTI (needs --ref)")
    which.add_argument("--pairs", type=Path, metavar="CSV", help="columns pred,ref[,input,mask,labels,lesions]")
    add("--ref", type=Path, help="reference (truth), NIfTI")
    add("--input", type=Path, metavar="LR", help="low-resolution input: adds data consistency")
    add("--mask", type=Path, help="judge where this is above 0.5 (default: the reference's head)")
    add("--labels", type=Path, help="label map on the reference's grid: judge every label too")
    add("--regions", action="store_true", help="judge by region too (deep white matter, cortex, junction, rest)")
    add("--lesions", type=Path, help="lesion mask on the reference's grid: contrast, volume, lost and invented lesions")
    add("--metrics", metavar="NAME,...", help="default: all; an unknown name lists them")
    add("--resample", action="store_true", help="allow predictions on another grid than their reference")
    add("--no-fit", action="store_true", help="leave intensities: no gain and offset")
    add("--json", type=Path, metavar="OUT", help="write the full record")
    add("--csv", type=Path, metavar="OUT", help="write one row per pair")
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("-q", "--quiet", action="store_true", help="print no table and no warnings")
    parser.set_defaults(call=evaluate_command, usage_error=parser.error)


def evaluate_command(args: argparse.Namespace) -> int:
    """Judge one pair or a list, print and write the results."""
    if args.pred and not args.ref:
        args.usage_error("--pred needs --ref")
    if args.pairs and any((args.ref, args.input, args.mask, args.labels, args.lesions)):
        args.usage_error("--pairs names every file itself: leave --ref, --input, --mask, --labels and --lesions out")
    if args.labels and args.regions:
        args.usage_error("--labels and --regions both say by which parts to judge: choose one")
    from moediff.evaluation.tables import Pair, judge, read_pairs

    keep_memory()
    options = _options(args)
    pairs = read_pairs(args.pairs) if args.pairs else None
    one = Pair(**{key: getattr(args, key) for key in ("pred", "ref", "input", "mask", "labels", "lesions")})
    _check_outputs(args, pairs or [one])
    if pairs is not None:
        return _many(pairs, options, args)
    record = judge(one, options)
    _write([record], record, args)
    if not args.quiet:
        _say(record)
    return 0


def _options(args: argparse.Namespace) -> EvaluateOptions:
    from moediff.evaluation.evaluate import METRICS, EvaluateOptions

    names = tuple(METRICS) if args.metrics is None else tuple(name.strip() for name in args.metrics.split(","))
    return EvaluateOptions(metrics=names, fit=not args.no_fit, resample=args.resample, regions=args.regions)


def _check_outputs(args: argparse.Namespace, pairs: list[Pair]) -> None:
    from moediff.errors import CannotCreate
    from moediff.volume.io import check_free

    outputs = [path for path in (args.json, args.csv) if path is not None]
    inputs = {path.resolve() for pair in pairs for path in vars(pair).values() if path is not None}
    inputs |= {args.pairs.resolve()} if args.pairs else set()
    for path in outputs:
        if path.resolve() in inputs:
            raise CannotCreate(f"{path}: the output would replace an input; choose another name")
        check_free(path, overwrite=args.overwrite)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise CannotCreate("--json and --csv name the same file; give each its own")


def _write(rows: list[dict[str, Any]], record: Any, args: argparse.Namespace) -> None:
    from moediff.evaluation.tables import as_csv, as_json
    from moediff.volume.io import write_text

    if args.csv is not None:
        write_text(as_csv(rows), args.csv, overwrite=args.overwrite)
    if args.json is not None:
        write_text(as_json(record), args.json, overwrite=args.overwrite)


def _many(pairs: list[Pair], options: EvaluateOptions, args: argparse.Namespace) -> int:
    from moediff.evaluation.tables import as_csv, judge_all

    def tell(line: str) -> None:
        if not args.quiet:
            print(f"moediff: {line}", file=sys.stderr)

    records = judge_all(pairs, options, tell)
    _write(records, records, args)
    if args.csv is None and args.json is None and not args.quiet:
        print(as_csv(records), end="")
    return SOME_FAILED if any("error" in record for record in records) else 0


def _say(record: dict[str, Any]) -> None:
    for warning in record["warnings"]:
        print(f"moediff: warning: {warning}", file=sys.stderr)
    rows = dict(record["metrics"])
    if record["consistency"]:
        rows |= {f"consistency_{key}": value for key, value in record["consistency"].items() if key != "assumed"}
    for name, value in rows.items():
        print(f"{name:<30}{value:.5g}")
    for name, part in (record["parts"] or {}).items():
        print(f"{name:<30}" + "  ".join(f"{key} {value:.5g}" for key, value in part.items()))
    for name, value in (record["lesions"] or {}).items():
        if name != "each":
            print(f"{'lesions_' + name:<30}{value:.5g}")
    print(RESEARCH_ONLY)
