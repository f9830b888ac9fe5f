"""`moediff bids`: a whole BIDS dataset, with the command line of BIDS Apps."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff._version import RESEARCH_ONLY
from moediff.cli import cohort_options as shared
from moediff.cli.cohort_run import Cohort, run_cohort, write_pages
from moediff.cli.enhance import enhance_options
from moediff.cli.options import EXPERT, INPUT, OUTPUT, QUALITY, SPEED, Command, add_command, option
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.cohort.bids_index import Index, Selection
    from moediff.cohort.bids_validation import Validation
    from moediff.cohort.tasks import Summary, Task


LEVELS = ("participant", "group")
OPTIONS = {
    INPUT: (
        option("bids_dir", type=Path, metavar="BIDS_DIR", help="root folder of a BIDS dataset"),
        option("out_dir", type=Path, metavar="OUT_DIR", help="folder of the results, a BIDS derivative"),
        option("level", choices=LEVELS, help="participant: enhance scans; group: renew the pages of all results"),
        option(
            "--participant-label",
            "--participant_label",
            nargs="+",
            default=[],
            metavar="LABEL",
            help="only these, with or without sub-",
        ),
        option(
            "--session-label",
            "--session_label",
            nargs="+",
            default=[],
            metavar="LABEL",
            help="only these, with or without ses-",
        ),
        option(
            "--suffix",
            nargs="+",
            default=["T1w", "T2w", "FLAIR"],
            metavar="SUFFIX",
            help="contrasts, by the last part of the name (default: T1w T2w FLAIR)",
        ),
        option("--combine", choices=("run", "acq"), help="several scans that differ in run- or acq- become one result"),
        option("--bids-filter-file", type=Path, metavar="JSON", help="only scans with these entities, as in fMRIPrep"),
        option(
            "--skip-bids-validation",
            action="store_true",
            help="neither validate the dataset nor ask for its description",
        ),
        option("--no-align", action="store_true", help="--combine: trust headers, do not register the scans"),
        *shared.READING,
        *shared.refused(shared.INSTEAD | shared.NOT_IN_BIDS),
    ),
    OUTPUT: (*shared.GRID, *shared.MAPS, *shared.PAGES),
    **shared.RUNNING,
    QUALITY: shared.QUALITY,
    SPEED: shared.speed_options(),
    EXPERT: shared.EXPERT,
}
EXAMPLES = (
    "moediff bids study/ study/derivatives/moediff participant",
    "moediff bids study/ out/ participant --participant-label 01 02 --suffix FLAIR",
    "moediff bids study/ out/ participant --dry-run         # what would be done, and what is done already",
    "moediff bids study/ out/ participant --runner slurm --nprocs 50 --partition short --nthreads 4 --mem-mb 6000",
    "moediff bids study/ out/ group                         # the pages of all results",
)


def add(commands: Commands) -> None:
    """Declare the command."""
    add_command(
        commands,
        Command(
            name="bids",
            summary="super-resolve a BIDS dataset",
            description=f"Super-resolve the scans of a BIDS dataset into a BIDS derivative. {RESEARCH_ONLY}",
            options=OPTIONS,
            examples=EXAMPLES,
            call=bids_command,
        ),
    )


def bids_command(args: argparse.Namespace) -> int:
    """Check everything, enhance what is not done, and write the pages."""
    from moediff.cohort.bids_dataset import LOGS, check_apart, open_dataset
    from moediff.cohort.bids_index import index_dataset, left_out
    from moediff.cohort.results import bids_results, failed_scans
    from moediff.core.errors import InputMissing, printable
    from moediff.registration.mutual_information import require_registration

    tune_allocator()
    root, out = args.bids_dir, args.out_dir
    logs = args.work_dir or out / LOGS
    if args.level == "group":
        if not out.is_dir():
            raise InputMissing(f"{printable(out)}: no such folder: enhance scans first (participant)")
        write_pages(out, bids_results(out), failed_scans(logs, left_out(root)), quiet=args.quiet)
        return 0
    check_apart(root, out)
    if args.combine:
        require_registration()
    source = _description(args)
    index = index_dataset(root, _selection(args))
    _say_index(index, args)
    validation = _validation(index, logs, args)

    def prepare() -> None:
        open_dataset(out, root, source)
        validation.remember(logs)

    cohort = Cohort(
        out=out,
        logs=logs,
        tasks=_tasks(index, args),
        results=lambda: bids_results(out),
        prepare=prepare,
        again=lambda summary: _again(summary, args),
        gone=left_out(root),
    )
    return run_cohort(cohort, args)


def _description(args: argparse.Namespace) -> dict[str, Any]:
    """The dataset's description; without validation, an empty one where it cannot be read."""
    from moediff.cohort.bids_dataset import read_description
    from moediff.core.errors import MoeDiffError

    try:
        return read_description(args.bids_dir)
    except MoeDiffError:
        if args.skip_bids_validation:
            return {}
        raise


def _validation(index: Index, logs: Path, args: argparse.Namespace) -> Validation:
    """What the official validator finds, if it is wanted and there."""
    from moediff.cohort.bids_validation import Validation, validate

    result = Validation() if args.skip_bids_validation else validate(args.bids_dir, index, logs)
    if result.note and not args.quiet:
        print(f"moediff: {result.note}", file=sys.stderr)
    return result


def _selection(args: argparse.Namespace) -> Selection:
    from moediff.cohort.bids_filters import read_filters
    from moediff.cohort.bids_index import Selection

    return Selection(
        participants=tuple(args.participant_label),
        sessions=tuple(args.session_label),
        suffixes=tuple(args.suffix),
        filters=read_filters(args.bids_filter_file) if args.bids_filter_file else (),
    )


def _tasks(index: Index, args: argparse.Namespace) -> list[Task]:
    from moediff.cohort.bids_combine import combined, single
    from moediff.cohort.bids_names import source_key
    from moediff.cohort.bids_placement import BidsPlacement
    from moediff.cohort.tasks import Task
    from moediff.cohort.work import ScanSpec, task_name

    model, options, maps = shared.model_choice(args), enhance_options(args), shared.maps_wanted(args)
    groups = combined(index.scans, args.combine) if args.combine else [single(scan) for scan in index.scans]
    specs = (
        ScanSpec(
            source=group.first.path,
            others=tuple(scan.path for scan in group.scans[1:]),
            placement=BidsPlacement(group, out=args.out_dir, maps=maps, viewer=args.viewer),
            model=model,
            options=options,
            reading=shared.reading(args),
            viewer_size=args.report_size,
            redo=args.redo,
        )
        for group in groups
    )
    return [
        Task(task_name(str(source_key(group.name))), spec, source=str(group.first.relative))
        for group, spec in zip(groups, specs, strict=True)
    ]


def _say_index(index: Index, args: argparse.Namespace) -> None:
    """What is left out, and why."""
    if args.quiet:
        return
    missing = sum(not scan.fetched for scan in index.scans)
    dicom = f"; sub-{', sub-'.join(index.dicom[:5])} with DICOM files: convert them first" if index.dicom else ""
    lines = [
        (len(index.without), f"participants without a matching scan: sub-{', sub-'.join(index.without[:5])}{dicom}"),
        (index.ignored, "scans left out by .bidsignore"),
        (missing, "scans not fetched (links without content): get them with `datalad get`; the others go on"),
    ]
    for count, text in lines:
        if count:
            print(f"moediff: {count} {text}", file=sys.stderr)


def _again(summary: Summary, args: argparse.Namespace) -> str:
    """The command that repeats the participants with failures; their scans that are done are passed over."""
    labels = sorted({failure.name.partition("_")[0].removeprefix("sub-") for failure in summary.failures})
    words = shared.without_option(args.words, "--participant-label", "--participant_label", "--redo")
    return shlex.join(["moediff", *words, "--participant-label", *labels])
