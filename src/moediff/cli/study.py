"""`moediff study`: blinded comparison of results by human readers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli.options import (
    INPUT,
    OUTPUT,
    Command,
    OneOf,
    Option,
    add_actions,
    add_command,
    option,
    quiet_option,
    seed_option,
)

if TYPE_CHECKING:
    from moediff.cli import Commands

FOLDER = option("folder", type=Path, metavar="DIR", help="folder of the study")
KEY = option("--key", type=Path, metavar="FILE", help="the key's file (default: DIR.key.json beside the folder)")
QUIET = quiet_option("nothing")


def _new_folder(ending: str) -> Option:
    return option(
        "-o", "--output", type=Path, metavar="DIR", help=f"new folder (default: DIR.{ending} beside the study)"
    )


def _output_folder(args: argparse.Namespace, ending: str) -> Path:
    """The folder that was named, or the study's with an ending; refused where it exists."""
    from moediff.io.atomic import check_new_folder

    output: Path = args.output or args.folder.resolve().with_name(f"{args.folder.resolve().name}.{ending}")
    check_new_folder(output)
    return output


CREATE_OPTIONS: dict[str, tuple[Option | OneOf, ...]] = {
    INPUT: (
        OneOf(
            (
                option(
                    "--results",
                    nargs="+",
                    metavar="METHOD=PATH",
                    help="a method's name and its result, a file or a folder of files named alike but for `_desc-...`",
                ),
                option(
                    "--cases",
                    type=Path,
                    metavar="CSV",
                    help="a table: columns case, input, reference, lesions, and one for each method",
                ),
            )
        ),
        option("--input", type=Path, nargs="+", default=[], metavar="PATH", help="the scans that were enhanced"),
        option(
            "--reference", type=Path, nargs="+", default=[], metavar="PATH", help="reference scans, if there are any"
        ),
        option(
            "--lesions",
            type=Path,
            nargs="+",
            default=[],
            metavar="PATH",
            help="masks of outlined lesions; a case without a mask has none",
        ),
    ),
    OUTPUT: (
        option("folder", type=Path, metavar="DIR", help="new folder for the study"),
        KEY,
        QUIET,
    ),
    "trials": (
        option("--readers", nargs="+", required=True, metavar="NAME", help="readers' names or initials, for you alone"),
        option(
            "--tasks",
            nargs="+",
            default=["choice"],
            metavar="TASK",
            help="any of choice, scores, search (default: choice)",
        ),
        option("--training", type=int, default=1, metavar="N", help="cases for training, not analysed"),
        option("--repeats", type=float, default=0.2, metavar="SHARE", help="share of trials shown twice"),
        option(
            "--catches", type=float, default=0.1, metavar="SHARE", help="share of catch trials among forced choices"
        ),
        option("--no-ties", action="store_true", help="readers must prefer one of two images"),
        option("--session-trials", type=int, default=60, metavar="N", help="forced choices in one session"),
        option("--washout-days", type=int, default=14, metavar="N", help="days between sessions, shown to readers"),
        option("--seed", type=int, metavar="N", help="seed of order and sides; keep it secret (default: drawn)"),
    ),
    "display": (
        option("--title", default="Reader study", help="title shown to readers"),
        option(
            "--show",
            nargs="*",
            choices=("input", "reference"),
            default=["input", "reference"],
            help="scans to show beside the results (default: both)",
        ),
        option("--plane", choices=("axial", "coronal", "sagittal"), default="axial", help="plane of the slices"),
        option(
            "--slices",
            type=int,
            default=32,
            metavar="N",
            help="number of slices at most, evenly spaced",
        ),
        option("--window", choices=("locked", "free"), default="locked", help="whether readers may change brightness"),
        option("--match-intensity", action="store_true", help="fit each result's intensities to the input's"),
    ),
}

ANALYSE_OPTIONS: dict[str, tuple[Option | OneOf, ...]] = {
    INPUT: (FOLDER, KEY),
    OUTPUT: (
        _new_folder("analysis"),
        QUIET,
    ),
    "analysis": (
        option("--unfinished", action="store_true", help="open the key although readers have trials left"),
        option("--fixed-readers", action="store_true", help="intervals for these readers, not for readers like them"),
        option(
            "--tolerance-mm",
            type=float,
            default=3.0,
            metavar="MM",
            help="a mark this close to an outline hits it",
        ),
        seed_option("the bootstrap"),
    ),
}

PLAN_OPTIONS: dict[str, tuple[Option | OneOf, ...]] = {
    OUTPUT: (option("--json", action="store_true", help="print JSON instead of a table"), QUIET),
    "sizes": (
        option(
            "--readers",
            type=int,
            nargs="+",
            default=[3, 5, 8],
            metavar="N",
            help="readers to try (default: 3 5 8)",
        ),
        option(
            "--cases",
            type=int,
            nargs="+",
            default=[10, 20, 40],
            metavar="N",
            help="cases to try (default: 10 20 40)",
        ),
        option("--power", type=float, default=0.8, metavar="SHARE", help="wanted power"),
    ),
    "what is expected": (
        option(
            "--preference",
            type=float,
            default=0.65,
            metavar="SHARE",
            help="share of comparisons that the better method wins",
        ),
        option("--ties", type=float, default=0.2, metavar="SHARE", help="'no difference' between equal methods"),
        option("--methods", type=int, default=2, metavar="N", help="number of methods; one is better than the others"),
        option(
            "--reader-sd",
            type=float,
            default=0.3,
            metavar="SD",
            help="spread of log-strengths between readers",
        ),
        option("--case-sd", type=float, default=0.3, metavar="SD", help="spread of log-strengths between cases"),
        option("--simulations", type=int, default=200, metavar="N", help="simulations of each size"),
        seed_option("the simulation"),
    ),
}

SERVE_OPTIONS: dict[str, tuple[Option | OneOf, ...]] = {
    INPUT: (
        FOLDER,
        option(
            "--new-link", nargs="+", default=[], metavar="READER", help="end these readers' sessions; print new links"
        ),
    ),
    "network": (
        option(
            "--host", default="127.0.0.1", help="address to listen on; others than loopback need encryption in front"
        ),
        option("--port", type=int, default=8765, metavar="N", help="0 takes a free one"),
        option("--public-name", metavar="NAME", help="host name or https:// address in links, where it is another one"),
    ),
}

EXPORT_OPTIONS: dict[str, tuple[Option | OneOf, ...]] = {
    INPUT: (FOLDER,),
    OUTPUT: (
        _new_folder("offline"),
        QUIET,
    ),
}

MERGE_OPTIONS: dict[str, tuple[Option | OneOf, ...]] = {
    INPUT: (
        FOLDER,
        option("files", type=Path, nargs="+", metavar="JSON", help="files of answers from offline pages"),
        QUIET,
    ),
}


def add(commands: Commands) -> None:
    """Declare the command and its actions."""
    actions = add_actions(
        commands,
        "study",
        "compare results by blinded human readers",
        f"Create, show and analyse a blinded reader study. {RESEARCH_ONLY}",
    )
    for command in _commands():
        add_command(actions, command)


def _commands() -> tuple[Command, ...]:
    """The actions in the order of a study."""
    return (
        Command(
            name="plan",
            summary="how many readers and cases a study needs",
            description="Simulate studies of several sizes and print how many of them find the difference.",
            options=PLAN_OPTIONS,
            examples=("moediff study plan --readers 3 5 --cases 20 40",),
            call=plan_command,
        ),
        Command(
            name="create",
            summary="make a study from results",
            description=f"Render results to blinded images and draw each reader's trials. {RESEARCH_ONLY}",
            options=CREATE_OPTIONS,
            examples=(
                "moediff study create my-study --results ours=ours/ cubic=cubic/ --readers anna ben",
                "moediff study create my-study --cases cases.csv --readers anna ben --tasks choice search",
            ),
            call=create_command,
        ),
        Command(
            name="serve",
            summary="show a study to its readers",
            description=f"Serve a study to browsers and print a one-time link for each reader. {RESEARCH_ONLY}",
            options=SERVE_OPTIONS,
            examples=("moediff study serve my-study", "moediff study serve my-study --new-link anna"),
            call=serve_command,
        ),
        Command(
            name="export-html",
            summary="make one offline file for each reader",
            description=f"Write a page for each reader that needs no server and saves answers as JSON. {RESEARCH_ONLY}",
            options=EXPORT_OPTIONS,
            examples=("moediff study export-html my-study -o pages/",),
            call=export_command,
        ),
        Command(
            name="merge",
            summary="add answers of offline pages",
            description="Add the answers of offline pages to a study.",
            options=MERGE_OPTIONS,
            examples=("moediff study merge my-study answers-anna.json",),
            call=merge_command,
        ),
        Command(
            name="analyse",
            summary="analyse the answers of a study",
            description=f"Open the key, and write strengths, rates, agreement and a page. {RESEARCH_ONLY}",
            options=ANALYSE_OPTIONS,
            examples=("moediff study analyse my-study -o analysis/",),
            call=analyse_command,
        ),
    )


def create_command(args: argparse.Namespace) -> int:
    """Make a study."""
    from moediff.cli.terminal import progress_bar
    from moediff.study.cases import cases_from_options, cases_from_table
    from moediff.study.create import StudyOptions, create_study
    from moediff.study.design import DesignOptions
    from moediff.study.records import INPUT, LESIONS, REFERENCE, key_beside
    from moediff.study.render import RenderOptions

    others = {INPUT: args.input, REFERENCE: args.reference, LESIONS: args.lesions}
    cases = cases_from_table(args.cases) if args.cases else cases_from_options(args.results, others)
    options = StudyOptions(
        readers=tuple(args.readers),
        title=args.title,
        seed=args.seed,
        context=tuple(args.show),
        window=args.window,
        washout_days=args.washout_days,
        design=DesignOptions(
            tasks=tuple(args.tasks),
            training=args.training,
            repeats=args.repeats,
            catches=args.catches,
            ties=not args.no_ties,
            session_trials=args.session_trials,
        ),
        render=RenderOptions(plane=args.plane, slices=args.slices, match_intensity=args.match_intensity),
    )
    key_path = args.key or key_beside(args.folder)
    with progress_bar(quiet=args.quiet) as progress:
        study, key = create_study(args.folder, key_path, cases, options, progress)
    if not args.quiet:
        for case in cases:
            for role in options.context:
                if others[role] and role not in case.others:
                    print(f"moediff: warning: {case.name}: no --{role} has its name, so none is shown", file=sys.stderr)
        for case_key in key.cases:
            for warning in case_key.warnings:
                print(f"moediff: warning: {case_key.name}: {warning}", file=sys.stderr)
        for reader, trials in study.readers.items():
            print(f"{reader}: {len(trials)} trials, sessions: {trials[-1].session}")
        print(f"repetitions at least {study.least_gap} trials apart")
        print(f"{args.folder}\n{key_path} (the key: keep it from readers until they have finished)\n{RESEARCH_ONLY}")
    return 0


def analyse_command(args: argparse.Namespace) -> int:
    """Open the key and analyse."""
    from moediff.core.errors import ConfigError
    from moediff.core.extras import require_modules
    from moediff.io.atomic import whole_folder
    from moediff.study.analyse import AnalysisOptions, analyse, unblinded
    from moediff.study.answers import AnswerStore
    from moediff.study.publish import publish
    from moediff.study.records import key_beside, read_key, read_study

    require_modules("jinja2", extra="study")
    study = read_study(args.folder)
    output = _output_folder(args, "analysis")
    with AnswerStore(args.folder, study) as store:
        left, answers = store.unfinished(), store.answers()
    if left and not args.unfinished:
        who = ", ".join(f"{reader} {number}" for reader, number in left.items())
        raise ConfigError(f"trials are left ({who}): wait, or open the key now (--unfinished), which ends the blinding")
    key = read_key(args.key or key_beside(args.folder), study)
    options = AnalysisOptions(
        readers="fixed" if args.fixed_readers else "random", tolerance_mm=args.tolerance_mm, seed=args.seed
    )
    judged = unblinded(study, key, answers)
    analysis = analyse(study, key, judged, options)
    with whole_folder(output, overwrite=False) as hidden:
        files = publish(analysis, judged, hidden)
    if not args.quiet:
        print("\n".join(str(output / file.name) for file in files))
    return 0


def plan_command(args: argparse.Namespace) -> int:
    """Print the power of every size."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from moediff.cli.terminal import progress_bar
    from moediff.study.plan import Assumptions, plan_sizes, smallest

    names = ("preference", "ties", "methods", "reader_sd", "case_sd", "simulations", "seed")
    assumptions = Assumptions(**{name: getattr(args, name) for name in names})
    with progress_bar(quiet=args.quiet) as progress:
        rows = plan_sizes(assumptions, args.readers, args.cases, progress)
    if args.json:
        print(json.dumps({"assumptions": asdict(assumptions), "sizes": [asdict(row) for row in rows]}, indent=1))
        return 0
    table = Table("readers", "cases", "answers of a reader", "power", "95 %", "half width (log-strength)", box=None)
    for row in rows:
        interval = f"{row.power.low:.2f} to {row.power.high:.2f}"
        cells = (str(row.readers), str(row.cases), str(row.answers), f"{row.power.value:.2f}", interval)
        table.add_row(*cells, f"{row.half_width:.2f}")
    Console().print(table)
    enough = smallest(rows, args.power)
    if enough is None:
        print(f"no size reaches a power of {args.power:g}: try more readers or cases")
    else:
        print(f"fewest answers for a power of {args.power:g}: {enough.readers} readers, {enough.cases} cases")
    return 0


def _public_address(name: str, port: int) -> tuple[str, str]:
    """Host name that readers use, and how their links begin; a whole address is taken as it is.

    Raises:
        ConfigError: an address that is none of a web server.
    """
    if "://" not in name:
        return name, f"http://{f'[{name}]' if ':' in name else name}:{port}"
    from urllib.parse import urlsplit

    from moediff.core.errors import ConfigError

    parts = urlsplit(name)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError(
            f"--public-name is {name!r}, expected a host name or an address like https://study.org: give one"
        )
    return parts.hostname, name.rstrip("/")


def serve_command(args: argparse.Namespace) -> int:
    """Print links and serve until stopped."""
    from moediff.core.extras import require_modules

    require_modules("starlette", "uvicorn", what="the server", extra="study")
    from moediff.study.answers import AnswerStore
    from moediff.study.links import waiting_link
    from moediff.study.records import read_study
    from moediff.study.server import LOOPBACK, StudyServer, bind, links_to_send, serve

    study = read_study(args.folder)
    with AnswerStore(args.folder, study) as store, bind(args.host, args.port) as listening:
        if args.host not in LOOPBACK:
            note = "other machines can connect, and without encryption: put a server with TLS in front"
            print(f"moediff: warning: {note}", file=sys.stderr)
        name, address = _public_address(args.public_name or args.host, listening.getsockname()[1])
        for reader, word in links_to_send(store, tuple(args.new_link)).items():
            made_at = waiting_link(store, reader)
            known = f"the link made on {made_at[:10]} has not been opened" if made_at else "has started"
            print(f"{reader}  {f'{address}/start/{word}' if word else f'{known}; a new link: --new-link'}", flush=True)
        print(f"serving {args.folder} (Ctrl-C ends it; answers are kept)", flush=True)
        serve(StudyServer(args.folder, store).app((args.host, name)), listening)
    return 0


def export_command(args: argparse.Namespace) -> int:
    """Write one page a reader."""
    from moediff.io.atomic import whole_folder, write_text
    from moediff.study.offline import file_name, offline_page
    from moediff.study.records import read_study

    study = read_study(args.folder)
    output = _output_folder(args, "offline")
    with whole_folder(output, overwrite=False) as hidden:
        for reader in study.readers:
            write_text(offline_page(args.folder, study, reader), hidden / file_name(study, reader))
    if not args.quiet:
        for reader in study.readers:
            print(f"{reader}  {output / file_name(study, reader)}")
    return 0


def merge_command(args: argparse.Namespace) -> int:
    """Add answers."""
    from moediff.study.answers import AnswerStore
    from moediff.study.offline import merge
    from moediff.study.records import read_study

    study = read_study(args.folder)
    with AnswerStore(args.folder, study) as store:
        for path in args.files:
            reader, new = merge(store, path)
            if not args.quiet:
                print(f"{reader}: {new} new answers, {store.done(reader)} of {len(study.readers[reader])}")
    return 0
