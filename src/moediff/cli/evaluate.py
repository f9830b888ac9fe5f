"""`moediff evaluate`: compare predictions with their references."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli import SOME_FAILED
from moediff.cli.options import (
    INPUT,
    OUTPUT,
    QUALITY,
    Command,
    OneOf,
    add_command,
    option,
    overwrite_option,
    quiet_option,
)
from moediff.cli.reading import TRUST_INTENSITIES
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moediff.cli import Commands
    from moediff.evaluation.evaluate import EvaluateOptions
    from moediff.evaluation.pairs import Pair
    from moediff.evaluation.records import Evaluation, ScanConsistency, Unjudged

NAME_WIDTH = 36  # of the printed table
MOST_UNGROUPED = 6  # more metrics are printed family by family
BETTER = {"higher": "higher is better", "lower": "lower is better", "near 1": "1 is right", "none": ""}
EXTRA = ("input", "mask", "labels", "lesions", "uncertainty")  # files that a pair may have besides


OPTIONS = {
    INPUT: (
        OneOf(
            (
                option("--pred", type=Path, metavar="FILE", help="prediction, NIfTI (needs --ref)"),
                option("--pairs", type=Path, metavar="CSV", help=f"columns pred,ref[,{','.join(EXTRA)}]"),
                option("--pred-bids", type=Path, metavar="DIR", help="BIDS folder of predictions (needs --ref-bids)"),
            )
        ),
        option("--ref", type=Path, metavar="FILE", help="reference (truth), NIfTI"),
        option(
            "--ref-bids", type=Path, metavar="DIR", help="BIDS folder of references; desc, res and the like may differ"
        ),
        option(
            "--input",
            type=Path,
            nargs="+",
            metavar="LR",
            help="low-resolution input, or all that the result was made from: adds data consistency",
        ),
        option(
            "--mask",
            type=Path,
            metavar="FILE",
            help="evaluate inside this mask (default: the reference's head)",
        ),
        option(
            "--labels", type=Path, metavar="FILE", help="label map on the reference's grid: evaluate every label too"
        ),
        option(
            "--lesions",
            type=Path,
            metavar="FILE",
            help="lesion mask on the reference's grid: contrast, volume, false negatives and positives",
        ),
        option(
            "--uncertainty", type=Path, metavar="SD", help="standard deviations of the prediction: adds calibration"
        ),
        TRUST_INTENSITIES,
    ),
    OUTPUT: (
        option("--json", type=Path, metavar="OUT", help="write the full record"),
        option("--csv", type=Path, metavar="OUT", help="write one row per pair"),
        overwrite_option(),
        quiet_option("no table and no warnings"),
    ),
    QUALITY: (
        option(
            "--metrics",
            metavar="NAME,...",
            help="metrics, or all (default: psnr, nrmse, ssim, haarpsi, hf_ratio, spectral_distance_db)",
        ),
        option(
            "--regions", action="store_true", help="evaluate by region too: deep white matter, cortex, junction, rest"
        ),
        option(
            "--tissues",
            action="store_true",
            help="add tissue volumes and Dice (default: unless --metrics names some)",
        ),
        option(
            "--perceptual",
            type=Path,
            metavar="FILE",
            help="weights for LPIPS and DISTS (safetensors; see docs/metrics.md)",
        ),
        option("--resample", action="store_true", help="allow predictions on another grid than their reference"),
        option("--no-intensity-fit", action="store_true", help="leave intensities as they are: no gain and offset"),
    ),
}


def add(commands: Commands) -> None:
    """Declare the command."""
    command = Command(
        name="evaluate",
        summary="compare predictions with references",
        description=f"Compare one prediction with its reference, or every pair of a list. {RESEARCH_ONLY}",
        options=OPTIONS,
        examples=(
            "moediff evaluate --pred ours.nii.gz --ref sharp.nii.gz --input low.nii.gz",
            "moediff evaluate --pred ours.nii.gz --ref sharp.nii.gz --input ax.nii.gz sag.nii.gz   # made of both",
            "moediff evaluate --pred ours.nii.gz --ref sharp.nii.gz --regions --json scores.json",
            "moediff evaluate --pairs pairs.csv --csv scores.csv        # columns pred,ref",
            "moediff evaluate --pred-bids derivatives/ --ref-bids bids/ --csv scores.csv",
        ),
        call=evaluate_command,
    )
    parser = add_command(commands, command)
    parser.set_defaults(usage_error=parser.error)


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
    _write(record, args)
    if not args.quiet:
        _say(record)
    return 0


def _pairs(args: argparse.Namespace) -> tuple[list[Pair], list[Unjudged]]:
    """What is to be judged, and records of what has no partner."""
    from moediff.evaluation.bids import match
    from moediff.evaluation.pairs import Pair, read_pairs

    if args.pairs:
        return read_pairs(args.pairs), []
    if args.pred_bids:
        return match(args.pred_bids, args.ref_bids)
    others = {key: getattr(args, key) for key in ("pred", "ref", *EXTRA) if key != "input"}
    return [Pair(input=tuple(args.input or ()), **others)], []


def _options(args: argparse.Namespace) -> EvaluateOptions:
    from moediff.evaluation.evaluate import EvaluateOptions
    from moediff.evaluation.metrics.perceptual import load_perceptual
    from moediff.evaluation.metrics.registry import USUAL, metric_names

    return EvaluateOptions(
        perceptual=load_perceptual(args.perceptual) if args.perceptual else None,
        metrics=USUAL if args.metrics is None else metric_names(args.metrics),
        fit=not args.no_intensity_fit,
        resample=args.resample,
        trust_intensities=args.trust_intensities,
        regions=args.regions,
        tissues=args.tissues or args.metrics in (None, "all"),
    )


def _check_outputs(args: argparse.Namespace, pairs: list[Pair]) -> None:
    from moediff.core.errors import CannotCreate
    from moediff.io.naming import sidecar_of
    from moediff.io.scans import check_free

    outputs = [path for path in (args.json, args.csv) if path is not None]
    scans = [path for pair in pairs for path in pair.files.values()]
    sidecars = [path for path in map(sidecar_of, scans) if os.path.isfile(path)]  # False too for too long a name
    lists = [path for path in (args.pairs, args.perceptual) if path is not None]
    inputs = {path.resolve() for path in (*scans, *sidecars, *lists)}
    for path in outputs:
        if path.resolve() in inputs:
            raise CannotCreate(f"{path}: the output would replace an input or its sidecar; choose another name")
        check_free(path, overwrite=args.overwrite)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise CannotCreate("--json and --csv name the same file; give each its own")


def _write(record: Evaluation | Sequence[Evaluation | Unjudged], args: argparse.Namespace) -> None:
    from moediff.evaluation.records import Evaluation, as_csv, as_json
    from moediff.io.scans import write_text

    if args.csv is not None:
        write_text(as_csv([record] if isinstance(record, Evaluation) else record), args.csv, overwrite=args.overwrite)
    if args.json is not None:
        write_text(as_json(record), args.json, overwrite=args.overwrite)


def _many(pairs: list[Pair], left: list[Unjudged], options: EvaluateOptions, args: argparse.Namespace) -> int:
    from moediff.evaluation.pairs import judge_all
    from moediff.evaluation.records import Unjudged, as_csv

    def tell(line: str) -> None:
        if not args.quiet:
            print(f"moediff: {line}", file=sys.stderr)

    for record in left:
        tell(f"not judged: {', '.join(record.files.values())}: {record.error}")
    records = [*judge_all(pairs, options, tell), *left]
    _write(records, args)
    if args.csv is None and args.json is None and not args.quiet:
        print(as_csv(records), end="")
    return SOME_FAILED if any(isinstance(record, Unjudged) for record in records) else 0


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5g}"


def _say(record: Evaluation) -> None:
    for warning in record.warnings:
        print(f"moediff: warning: {warning}", file=sys.stderr)
    _say_metrics(record.metrics)
    rows: dict[str, float] = {}
    if record.data_consistency is not None:
        rows["data_consistency_rms_over_range"] = record.data_consistency.rms_over_range
        rows["data_consistency_noise_over_range"] = record.data_consistency.noise_over_range
    for name, value in rows.items():
        print(f"{name:<{NAME_WIDTH}}{_number(value)}")
    _say_inputs(record.inputs)
    _say_each(record.regions or {}, "{}")
    _say_each(record.tissues or {}, "{} (tissue)")
    for name, value in vars(record.lesions).items() if record.lesions is not None else ():
        if name != "each":
            print(f"{'lesions_' + name:<{NAME_WIDTH}}{_number(value)}")
    _say_each(record.uncertainty or {}, "uncertainty, {}")
    for name, why in record.not_computed.items():
        print(f"{name:<{NAME_WIDTH}}not computed: {why}")
    print(RESEARCH_ONLY)


def _say_metrics(metrics: Mapping[str, float]) -> None:
    """A line per metric with its unit and direction; families apart, in the order of the table."""
    from itertools import groupby

    from moediff.evaluation.metrics.registry import METRIC_TABLE

    def family(name: str) -> str:
        return METRIC_TABLE[name].family if name in METRIC_TABLE else "perceptual"

    for number, (_, names) in enumerate(groupby(metrics, family)):
        if number and len(metrics) > MOST_UNGROUPED:
            print()
        for name in names:
            known = METRIC_TABLE.get(name)
            unit, better = (known.unit, BETTER[known.better]) if known else ("", "")
            print(f"{name:<{NAME_WIDTH}}{_number(metrics[name]):<12}{unit:<6}{better}".rstrip())


def _say_inputs(inputs: Sequence[ScanConsistency]) -> None:
    """A line per input of several."""
    from moediff.core.errors import printable

    for one in inputs:
        cells = f"rms_over_range {one.rms_over_range}  noise_over_range {one.noise_over_range}"
        said = cells if one.left_out is None else f"left out: {one.left_out}"
        print(f"{'  ' + printable(one.name):<{NAME_WIDTH}}{said}")


def _say_each(scores: Mapping[str, object], title: str) -> None:
    """A line per region or tissue."""
    for name, one in scores.items():
        cells = "  ".join(f"{key} {_number(value)}" for key, value in vars(one).items())
        print(f"{title.format(name):<{NAME_WIDTH}}{cells}")
