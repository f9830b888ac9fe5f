"""`moediff cohort`: look at a run of many scans from another terminal."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.cli.options import INPUT, OUTPUT, Command, add_actions, add_command, option

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.cohort.tally import RunStatus

MOST_NAMES = 10  # of scans under way that are listed


def add(commands: Commands) -> None:
    """Declare the command."""
    actions = add_actions(commands, "cohort", "look at a run of many scans", "Look at a run of many scans.")
    status = Command(
        name="status",
        summary="what is done, failed and running",
        description="What is done, failed and running, how fast, and how long it will take; also after the run.",
        options={
            INPUT: (option("folder", type=Path, metavar="DIR", help="output folder of the run, or its work folder"),),
            OUTPUT: (option("--json", action="store_true", help="print JSON instead of text"),),
        },
        examples=("moediff cohort status derivatives/",),
        call=status_command,
    )
    add_command(actions, status)


def status_command(args: argparse.Namespace) -> int:
    """Print the state of every living run, and of the latest."""
    from moediff.cohort.tally import runs_of

    runs = runs_of(args.folder)
    if args.json:
        print(json.dumps([_record(run) for run in runs], indent=2, default=str))
    else:
        print("\n\n".join(_text(run) for run in runs))
    return 0


def _record(run: RunStatus) -> dict[str, object]:
    tally, now = run.tally, time.time()
    return {
        "journal": run.journal,
        "state": run.state,
        "total": tally.total,
        "done": tally.done,
        "skipped": tally.skipped,
        "failures": [asdict(failure) for failure in tally.failures],
        "under_way": sorted(tally.under_way),
        "retried": tally.retried,
        "workers_lost": tally.workers_lost,
        "scans_per_hour": tally.per_hour(now),
        "seconds_left": tally.left_s(now) if run.alive else None,
    }


def _text(run: RunStatus) -> str:
    from moediff.cohort.progress import failure_text
    from moediff.cohort.tally import duration_text

    tally, now = run.tally, time.time()
    lines = [f"{_title(run)}: {run.state}", tally.counts_text(now if run.alive else _last_s(run))]
    if tally.retried or tally.workers_lost:
        lines.append(f"{tally.retried} attempts were repeated, {tally.workers_lost} workers were lost")
    if run.alive:
        oldest = sorted(tally.under_way.items(), key=lambda item: item[1])
        lines += [f"running: {name} since {duration_text(now - since)}" for name, since in oldest[:MOST_NAMES]]
        lines += [f"running: {len(oldest) - MOST_NAMES} more"] if len(oldest) > MOST_NAMES else []
    lines += [f"{failure_text(failure)}; log: {failure.log}" for failure in tally.failures]
    return "\n".join(lines)


def _title(run: RunStatus) -> str:
    begun = run.tally.begun
    if begun is None:
        return run.journal.name
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begun.time_s))
    return f"run of {when} on {begun.host}, process {begun.pid}, {begun.workers} workers ({begun.runner})"


def _last_s(run: RunStatus) -> float:
    return run.tally.latest.time_s if run.tally.latest else 0.0
