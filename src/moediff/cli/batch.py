"""`moediff batch`: many scans that are in no BIDS dataset."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli import cohort_options as shared
from moediff.cli.cohort_run import Cohort, run_cohort
from moediff.cli.enhance import enhance_options
from moediff.cli.options import EXPERT, INPUT, OUTPUT, QUALITY, SPEED, Command, add_command, option
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.cohort.batch_inputs import BatchScan
    from moediff.cohort.tasks import Task


def _one_series(text: str) -> str:
    if "," in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} names several series, and each scan becomes a result of its own here: `moediff enhance` makes "
            "one of several"
        )
    return text


OPTIONS = {
    INPUT: (
        option("inputs", nargs="*", metavar="INPUT", help="scan, folder of scans, DICOM folder, or quoted pattern"),
        option(
            "--list", type=Path, action="append", default=[], metavar="FILE", help="text file with one input per line"
        ),
        option("--series", type=_one_series, metavar="N", help="which DICOM series of each folder, by number or UID"),
        *shared.READING,
        *shared.refused(shared.INSTEAD | shared.NOT_IN_BATCH),
    ),
    OUTPUT: (
        option(
            "-o",
            "--output",
            type=Path,
            required=True,
            metavar="FOLDER",
            help="folder of the results; subfolders are kept",
        ),
        *shared.GRID,
        *shared.MAPS,
        *shared.PAGES,
    ),
    **shared.RUNNING,
    QUALITY: shared.QUALITY,
    SPEED: shared.speed_options(),
    EXPERT: shared.EXPERT,
}
EXAMPLES = (
    "moediff batch scans/ -o enhanced/                      # every scan in the folder and below",
    'moediff batch "scans/*/flair*.nii.gz" -o enhanced/ --dry-run',
    "moediff batch --list scans.txt -o enhanced/ --nprocs 2 --nthreads 2",
)


def add(commands: Commands) -> None:
    """Declare the command."""
    add_command(
        commands,
        Command(
            name="batch",
            summary="super-resolve many scans",
            description=f"Super-resolve many scans that are in no BIDS dataset. {RESEARCH_ONLY}",
            options=OPTIONS,
            examples=EXAMPLES,
            call=batch_command,
        ),
    )


def batch_command(args: argparse.Namespace) -> int:
    """Check everything, enhance what is not done, and write the pages."""
    from moediff.cohort.batch_inputs import find_inputs, mixed_folders
    from moediff.cohort.bids_dataset import LOGS
    from moediff.cohort.results import batch_results
    from moediff.cohort.work import make_folder
    from moediff.core.errors import printable

    tune_allocator()
    logs = args.work_dir or args.output / LOGS
    scans = find_inputs(args.inputs, args.list, args.output)
    if (mixed := mixed_folders(scans)) and not args.quiet:
        first = printable(mixed[0])
        what = (
            "folders hold DICOM files and other scans" if len(mixed) > 1 else "folder holds DICOM files and other scans"
        )
        print(f"moediff: {len(mixed)} {what}, all are enhanced: {first}", file=sys.stderr)
    again = shlex.join(["moediff", *shared.without_option(args.words, "--redo")])  # what is done is passed over
    cohort = Cohort(
        out=args.output,
        logs=logs,
        tasks=_tasks(scans, logs, args),
        results=lambda: batch_results(args.output),
        prepare=lambda: make_folder(args.output),
        again=lambda summary: again,
        gone=lambda source: not os.path.lexists(logs / source),
    )
    return run_cohort(cohort, args)


def _tasks(scans: list[BatchScan], logs: Path, args: argparse.Namespace) -> list[Task]:
    from moediff.cohort.batch_placement import BatchPlacement
    from moediff.cohort.tasks import Task
    from moediff.cohort.work import ScanSpec, task_name
    from moediff.inference.sidecar import path_between
    from moediff.io.dicom.files import is_dicom_export

    model, options, maps = shared.model_choice(args), enhance_options(args), shared.maps_wanted(args)
    return [
        Task(
            task_name(str(scan.relative)),
            ScanSpec(
                source=scan.source,
                placement=BatchPlacement(scan, out=args.output, maps=maps, viewer=args.viewer),
                model=model,
                options=options,
                reading=shared.reading(args, args.series),
                viewer_size=args.report_size,
                redo=args.redo,
            ),
            source="" if is_dicom_export(scan.source) else path_between(scan.source, logs) or "",
        )
        for scan in scans
    ]
