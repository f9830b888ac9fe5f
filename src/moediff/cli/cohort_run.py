"""Running a cohort from the command line: dry run, tasks, pages, and the summary that ends it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli.cohort_options import runner_options

if TYPE_CHECKING:
    from moediff.cohort.results import FailedScan, Result
    from moediff.cohort.tasks import Summary, Task


@dataclass(frozen=True)
class Cohort:
    """What a command runs.

    Args:
        out: folder of the results.
        logs: folder of journal and logs.
        tasks: one a scan.
        results: lists what is in the output folder, for the pages.
        prepare: makes the output folder, once it is certain that something is run.
        again: the command that repeats what failed.
        gone: whether the source of an earlier task is to be enhanced no more: deleted, or left out.
    """

    out: Path
    logs: Path
    tasks: Sequence[Task]
    results: Callable[[], Iterable[Result]]
    prepare: Callable[[], None]
    again: Callable[[Summary], str]
    gone: Callable[[str], bool]


def run_cohort(cohort: Cohort, args: argparse.Namespace) -> int:
    """Run what is not done, write the pages, and say what became of it; returns the exit code."""
    from moediff.cohort.memory_need import task_memory_mb
    from moediff.cohort.results import failed_scans
    from moediff.cohort.runner import run_tasks
    from moediff.cohort.summary_text import describe
    from moediff.cohort.work import enhance_task
    from moediff.core.extras import require_modules

    if args.dry_run:
        return _dry_run(cohort.tasks)
    if not args.no_pages:
        require_modules("jinja2", what="the pages (leave them out with --no-pages)", extra="bids")
    cohort.prepare()
    options = replace(runner_options(args, cohort.logs), task_memory_mb=task_memory_mb(cohort.tasks), gpus=_gpus(args))
    summary = run_tasks(cohort.tasks, enhance_task, options)
    if summary.failures:
        print(describe(summary, cohort.again(summary)), file=sys.stderr)
    if not args.no_pages:
        write_pages(cohort.out, cohort.results(), failed_scans(cohort.logs, cohort.gone), quiet=args.quiet)
    if not args.quiet:
        print(RESEARCH_ONLY)
    return summary.exit_code


def _gpus(args: argparse.Namespace) -> tuple[str, ...]:
    """Those of this machine; workers of Dask all take the first one, and a queue's jobs have their own."""
    from moediff.core.device import visible_gpus

    if args.runner not in ("processes", "dask"):
        return ()
    gpus = visible_gpus(args.device)
    return gpus if args.runner == "processes" else gpus[:1]


def _dry_run(tasks: Sequence[Task]) -> int:
    from moediff.cohort.plan import planned_line

    for task in tasks:
        print(planned_line(task))
    return 0


def write_pages(out: Path, results: Iterable[Result], failures: Sequence[FailedScan], *, quiet: bool) -> None:
    """Renew the pages, and say how many."""
    from moediff.cohort import pages
    from moediff.core.errors import printable

    written = pages.write_pages(out, results, failures)
    if not quiet:
        print(f"{printable(written.index)}: {written.scans} scans, {written.pages} pages, {written.renewed} drawn anew")
