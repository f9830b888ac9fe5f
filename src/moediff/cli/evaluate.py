"""`moediff evaluate`: how close predictions are to their references."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff._version import RESEARCH_ONLY
from moediff.cli import SOME_FAILED
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.evaluation.evaluate import EvaluateOptions
    from moediff.evaluation.pairs import Pair

EXTRA = ("input", "mask", "labels", "lesions", "uncertainty")  # files that a pair may have besides


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
    which.add_argument("--pairs", type=Path, metavar="CSV", help=f"columns pred,ref[,{','.join(EXTRA)}]")
    which.add_argument("--pred-bids", type=Path, metavar="DIR", help="BIDS folder of predictions (needs --ref-bids)")
    add("--ref-bids", type=Path, metavar="DIR", help="BIDS folder of references, names alike but for desc, res, ...")
    add("--ref", type=Path, help="reference (truth), NIfTI")
    add("--input", type=Path, metavar="LR", help="low-resolution input: adds data consistency")
    add("--mask", type=Path, help="judge where this is above 0.5 (default: the reference's head)")
    add("--labels", type=Path, help="label map on the reference's grid: judge every label too")
    add("--regions", action="store_true", help="judge by region too (deep white matter, cortex, junction, rest)")
    add("--lesions", type=Path, help="lesion mask on the reference's grid: contrast, volume, lost and invented lesions")
    add("--uncertainty", type=Path, metavar="SD", help="standard deviations of the prediction: adds their calibration")
    add("--tissues", action="store_true", help="tissue volumes and Dice even where --metrics chooses")
    add(
        "--perceptual", type=Path, metavar="FILE", help="weights for LPIPS and DISTS (safetensors; see docs/metrics.md)"
    )
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
    if bool(args.pred_bids) != bool(args.ref_bids):
        args.usage_error("--pred-bids and --ref-bids need each other")
    if not args.pred and any(getattr(args, key) for key in ("ref", *EXTRA)):
        args.usage_error(f"a list or folders name every file: leave --ref, --{', --'.join(EXTRA)} out")
    if args.labels and args.regions:
        args.usage_error("--labels and --regions both say by which parts to judge: choose one")
    from moediff.evaluation.pairs import judge

    tune_allocator()
    options = _options(args)
    pairs, left = _pairs(args)
    _check_outputs(args, pairs)
    if not args.pred:
        return _many(pairs, left, options, args)
    record = judge(pairs[0], options)
    _write([record], record, args)
    if not args.quiet:
        _say(record)
    return 0


def _pairs(args: argparse.Namespace) -> tuple[list[Pair], list[dict[str, Any]]]:
    """What is to be judged, and records of what has no partner."""
    from moediff.evaluation.bids import match
    from moediff.evaluation.pairs import Pair, read_pairs

    if args.pairs:
        return read_pairs(args.pairs), []
    if args.pred_bids:
        return match(args.pred_bids, args.ref_bids)
    return [Pair(**{key: getattr(args, key) for key in ("pred", "ref", *EXTRA)})], []


def _options(args: argparse.Namespace) -> EvaluateOptions:
    from moediff.evaluation.evaluate import EvaluateOptions
    from moediff.evaluation.metrics.perceptual import load_perceptual
    from moediff.evaluation.metrics.registry import metric_names

    return EvaluateOptions(
        perceptual=load_perceptual(args.perceptual) if args.perceptual else None,
        metrics=metric_names(args.metrics),
        fit=not args.no_fit,
        resample=args.resample,
        regions=args.regions,
        tissues=args.tissues or args.metrics is None,
    )


def _check_outputs(args: argparse.Namespace, pairs: list[Pair]) -> None:
    from moediff.core.errors import CannotCreate
    from moediff.io.scans import check_free

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
    from moediff.evaluation.pairs import as_csv, as_json
    from moediff.io.scans import write_text

    if args.csv is not None:
        write_text(as_csv(rows), args.csv, overwrite=args.overwrite)
    if args.json is not None:
        write_text(as_json(record), args.json, overwrite=args.overwrite)


def _many(pairs: list[Pair], left: list[dict[str, Any]], options: EvaluateOptions, args: argparse.Namespace) -> int:
    from moediff.evaluation.pairs import as_csv, judge_all

    def tell(line: str) -> None:
        if not args.quiet:
            print(f"moediff: {line}", file=sys.stderr)

    for record in left:
        tell(f"not judged: {', '.join(record['files'].values())}: {record['error']}")
    records = [*judge_all(pairs, options, tell), *left]
    _write(records, records, args)
    if args.csv is None and args.json is None and not args.quiet:
        print(as_csv(records), end="")
    return SOME_FAILED if any("error" in record for record in records) else 0


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5g}"


def _say(record: dict[str, Any]) -> None:
    for warning in record["warnings"]:
        print(f"moediff: warning: {warning}", file=sys.stderr)
    rows = dict(record["metrics"])
    if record["consistency"]:
        rows |= {f"consistency_{key}": value for key, value in record["consistency"].items() if key != "assumed"}
    for name, value in rows.items():
        print(f"{name:<30}{_number(value)}")
    for name, part in (record["parts"] or {}).items():
        print(f"{name:<30}" + "  ".join(f"{key} {_number(value)}" for key, value in part.items()))
    for name, part in (record["tissues"] or {}).items():
        print(f"{name + ' (tissue)':<30}" + "  ".join(f"{key} {_number(value)}" for key, value in part.items()))
    for name, value in (record["lesions"] or {}).items():
        if name != "each":
            print(f"{'lesions_' + name:<30}{_number(value)}")
    for name, part in (record["uncertainty"] or {}).items():
        print(f"{'uncertainty, ' + name:<30}" + "  ".join(f"{key} {_number(value)}" for key, value in part.items()))
    for name, why in record["not_computed"].items():
        print(f"{name:<30}not computed: {why}")
    print(RESEARCH_ONLY)
