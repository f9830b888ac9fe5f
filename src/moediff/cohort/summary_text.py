"""Summary of a run in words: every failure with its reason, and the command that repeats just these."""

from __future__ import annotations

from moediff.cohort.progress import failure_text
from moediff.cohort.tasks import Summary
from moediff.core.errors import printable

MOST_NAMES = 20  # failures that are printed one by one; the index and the journal hold all


def describe(summary: Summary, again: str) -> str:
    """The lines that end a run with failures; the runner's own last line has the counts.

    Args:
        again: command that repeats the failed scans.
    """
    not_begun = f", {summary.not_run} not begun" if summary.not_run else ""
    lines = [f"moediff: {len(summary.failures)} of {summary.total} scans failed{not_begun}:"]
    for failure in summary.failures[:MOST_NAMES]:
        tries = f", tried {failure.attempts} times" if failure.attempts > 1 else ""
        lines.append(f"  {failure_text(failure)}{tries}; log: {printable(failure.log)}")
    if len(summary.failures) > MOST_NAMES:
        lines.append(f"  and {len(summary.failures) - MOST_NAMES} more: see the index page")
    lines.append(f"again, only these: {again}")
    return "\n".join(lines)
