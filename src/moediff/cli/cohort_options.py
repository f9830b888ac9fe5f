"""Options of the commands that take many scans: those of `enhance` that make sense there, and how tasks are run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.cli import enhance
from moediff.cli.options import Option, OptionTable, option, seed_option

if TYPE_CHECKING:
    from moediff.cohort.tasks import RunnerOptions
    from moediff.cohort.work import ModelChoice, Reading

RUNNERS = ("processes", "serial", "dask", "slurm", "pbs", "lsf")


def _of_enhance(group: str, *names: str) -> tuple[Option, ...]:
    """Rows of `enhance`, as they are declared there."""
    rows = [row for row in enhance.OPTIONS[group] if isinstance(row, Option)]
    return tuple(row for name in names for row in rows if name in row.names)


class Refuse(argparse.Action):
    """An option of `enhance` that many scans do not take: its sentence, and the exit code of a wrong usage."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs="?", const=const, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, _names: object, _value: object, name: str | None = None
    ) -> None:
        """End with the sentence."""
        parser.error(f"{name}: {self.const}")


ONE_BY_ONE = "it is for single scans: `moediff enhance` writes it"
ONE_GUIDE = "one guide fits one head: `moediff enhance` takes it, scan by scan"
INSTEAD = {  # options of `enhance` -> why they are not taken, or what is there instead
    "--adapt": (
        "weights of their own would make the scans of a study hard to compare: fine-tune once for a protocol with "
        "`moediff adapt`, then give these weights to all by --bundle"
    ),
    "--report": "--viewer writes such a page for every scan",
    "--single-experts": ONE_BY_ONE,
    "--differences": ONE_BY_ONE,
    "--guide": ONE_GUIDE,
    "--guide-series": ONE_GUIDE,
    "--guide-trust": ONE_GUIDE,
    "--dicom-out": "a new series is never replaced, so it cannot be done again: `moediff enhance` writes it",
    "--overwrite": "results that no longer fit are replaced without being asked; --redo replaces all",
    "--threads": "--nthreads, threads of each scan",
    "--json": "the JSON file beside each result says it",
    "--verbose": "the log of each scan says it",
}
NOT_IN_BIDS = {"--series": "`bids` reads no DICOM files: convert them, or use `moediff batch`"}
NOT_IN_BATCH = {"--no-align": "each scan becomes a result of its own here; `bids --combine` makes one of several"}


def refused(reasons: Mapping[str, str]) -> tuple[Option, ...]:
    """Rows that no help shows."""
    return tuple(
        Option((name,), {"action": Refuse, "const": why, "help": argparse.SUPPRESS}) for name, why in reasons.items()
    )


READING = _of_enhance("input", "--trust", "--volume", "--trust-intensities")
GRID = _of_enhance("output", "--voxel-size", "--like")
MAPS = (
    option("--uncertainty", action="store_true", help="also write the standard deviation of every voxel"),
    option("--experts", action="store_true", help="also write the weight of each expert, 4-D"),
    option("--mask", action="store_true", help="also write where the network worked"),
)
PAGES = (
    option("--viewer", action="store_true", help="also write an interactive page for every scan"),
    option(
        "--report-size",
        choices=("full", "small"),
        default="small",
        help="of these pages, small: at most 7 MB, with fewer grey levels; full: 25 to 45 MB for a fine head",
    ),
    option("--no-pages", action="store_true", help="write no pages (`moediff bids ... group` can write them later)"),
)
QUALITY = _of_enhance("quality", "--mode", "--tta", "--correct-slice-intensity", "--profile")
EXPERT = (
    *_of_enhance("expert", "--bundle", "--samples", "--steps", "--sampler"),
    seed_option("samples"),
    *_of_enhance("expert", "--slice-thickness", "--no-data-consistency"),
)
RUNNING: OptionTable = {
    "running": (
        option(
            "-w",
            "--work-dir",
            type=Path,
            metavar="FOLDER",
            help="journal and a log for each scan (default: logs in the output folder)",
        ),
        option("--nprocs", type=int, metavar="N", help="scans at once (default: as GPUs, or cores and memory allow)"),
        option(
            "--nthreads", type=int, metavar="N", help="threads of each scan (default: cores divided by scans at once)"
        ),
        option("--mem-mb", type=int, metavar="MB", help="memory for all together (default: what is free)"),
        option("--runner", default="processes", choices=RUNNERS, help="where scans are enhanced"),
        option("--retries", type=int, default=2, metavar="N", help="how often a temporary fault is tried again"),
        option("--stop-on-first-crash", action="store_true", help="start no further scan after the first failure"),
        option("--redo", action="store_true", help="enhance again what is done already"),
        option("--dry-run", action="store_true", help="list scans, results and what is done already, and stop"),
        option("-q", "--quiet", action="store_true", help="print no progress"),
    ),
    "cluster (--runner slurm, pbs or lsf)": (
        option("--partition", metavar="NAME", help="queue or partition"),
        option("--account", metavar="NAME", help="account or project"),
        option("--walltime", default="04:00:00", metavar="HH:MM:SS", help="longest time of one job"),
        option("--job-line", action="append", default=[], metavar="LINE", help="further line for the job script"),
        option("--job-setup", action="append", default=[], metavar="LINE", help="shell line before the worker starts"),
        option("--interface", metavar="NAME", help="network interface of the nodes, such as ib0"),
    ),
}


def speed_options() -> tuple[Option, ...]:
    """Device and precision."""
    return _of_enhance("speed", "--device", "--dtype")


def model_choice(args: argparse.Namespace) -> ModelChoice:
    """The weights, checked before any work."""
    from moediff.cohort.work import ModelChoice
    from moediff.core.errors import prefix_errors

    with prefix_errors(args.bundle or "embedded weights"):
        return ModelChoice.of(args.bundle, device=args.device, dtype=args.dtype)


def reading(args: argparse.Namespace, series: str | None = None) -> Reading:
    """How scans are read."""
    from moediff.cohort.work import Reading

    return Reading(trust=args.trust, index=args.volume, series=series)


def maps_wanted(args: argparse.Namespace) -> tuple[str, ...]:
    """Names of the maps that are written too."""
    from moediff.cohort.work import MAPS as KNOWN

    return tuple(name for name in KNOWN if getattr(args, name))


def runner_options(args: argparse.Namespace, folder: Path) -> RunnerOptions:
    """Where and how tasks run."""
    from moediff.cohort.tasks import QueueOptions, RunnerOptions

    queue = QueueOptions(
        partition=args.partition,
        account=args.account,
        walltime=args.walltime,
        directives=tuple(args.job_line),
        setup=tuple(args.job_setup),
        interface=args.interface,
    )
    return RunnerOptions(
        folder=folder,
        runner=args.runner,
        processes=args.nprocs,
        threads=args.nthreads,
        memory_mb=args.mem_mb,
        retries=args.retries,
        stop_on_first_failure=args.stop_on_first_crash,
        quiet=args.quiet,
        queue=queue,
    )


def without_option(words: Sequence[str], *names: str) -> list[str]:
    """A command line less some options that take any number of values."""
    result, dropping = [], False
    for word in words:
        if word.startswith("-"):
            dropping = word.partition("=")[0] in names
        if not dropping:
            result.append(word)
    return result
