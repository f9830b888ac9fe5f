"""`moediff report`: pages that show scans enhanced earlier."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli import SOME_FAILED
from moediff.cli.options import (
    INPUT,
    OUTPUT,
    Command,
    add_command,
    option,
    overwrite_option,
    quiet_option,
    report_size_option,
)
from moediff.cli.reading import TRUST_INTENSITIES, reading_options, scan_path
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.report.data import ReportFiles

FILES = ("input", "truth", "uncertainty", "experts", "differences", "lesions")  # that belong to one result
SINGLE = ("output", *FILES, "trust", "volume", "series")  # what is said of one result


OPTIONS = {
    INPUT: (
        option(
            "results",
            type=scan_path,
            nargs="+",
            metavar="RESULT",
            help="enhanced NIfTI with its JSON sidecar beside it, or a folder of such",
        ),
        option("--input", type=Path, help="the scan that was enhanced (default: the one that the sidecar names)"),
        *reading_options("of the input: "),
        option("--truth", type=Path, help="the true scan: adds PSNR and SSIM"),
        TRUST_INTENSITIES,
        option("--uncertainty", type=Path, help="what `enhance --uncertainty` wrote"),
        option("--experts", type=Path, help="what `enhance --experts` wrote"),
        option("--differences", type=Path, help="what `enhance --differences` wrote: each expert's own changes"),
        option("--lesions", type=Path, help="mask of outlined lesions, on any grid"),
    ),
    OUTPUT: (
        option(
            "-o", "--output", type=Path, metavar="HTML", help="page (default: <stem>_report.html beside the result)"
        ),
        option(
            "--index", type=Path, metavar="HTML", help="also write a page that lists all: thumbnails, numbers, outliers"
        ),
        report_size_option(),
        overwrite_option("existing pages"),
        quiet_option("nothing"),
    ),
}


def add(commands: Commands) -> None:
    """Declare the command."""
    command = Command(
        name="report",
        summary="show enhanced scans as HTML pages",
        description=f"Write one self-contained, offline HTML page for each enhanced scan. {RESEARCH_ONLY}",
        options=OPTIONS,
        examples=(
            "moediff report sub-01_desc-sr_T2w.nii.gz",
            "moediff report ours.nii.gz --input low.nii.gz --truth sharp.nii.gz",
            "moediff report derivatives/ --index index.html             # a page for every result, and a list",
        ),
        call=report_command,
    )
    parser = add_command(commands, command)
    parser.set_defaults(usage_error=parser.error)


def report_command(args: argparse.Namespace) -> int:
    """Check every page's place, then draw one after the other, and the index last."""
    given = [f"--{name}" for name in SINGLE if _said(getattr(args, name))]
    if (len(args.results) > 1 or args.index is not None) and given:
        _refuse_shared(args, given)
    from moediff.core.errors import MoeDiffError, printable
    from moediff.core.extras import require_modules
    from moediff.report.cohort import cohort_entry, results_of, write_index
    from moediff.report.data import from_files
    from moediff.report.embed import SIZES
    from moediff.report.page import write_page

    tune_allocator()
    require_modules("jinja2")
    results = results_of(args.results)
    if len(results) > 1 and given:  # a folder may hold several
        _refuse_shared(args, given)
    pages = _pages(args, results)
    entries, failed = [], 0
    for scan, page in zip(results, pages, strict=True):
        try:
            scans = from_files(_files(scan, args))
            write_page(scans, page, overwrite=args.overwrite, size=SIZES[args.report_size])
            if args.index is not None:
                entries.append(cohort_entry(scans, page))
        except MoeDiffError as error:
            if len(results) == 1:
                raise
            print(f"moediff: no page for {printable(scan)}: {error}", file=sys.stderr)
            failed += 1
            continue
        if not args.quiet:
            print(page)
    if entries and args.index is not None:
        write_index(entries, args.index, overwrite=args.overwrite)
        if not args.quiet:
            print(args.index)
    return SOME_FAILED if failed else 0


def _said(value: object) -> bool:
    return value is not None and value is not False  # 0 is the number of a volume


def _refuse_shared(args: argparse.Namespace, given: list[str]) -> None:
    args.usage_error(f"{', '.join(given)}: give these with one RESULT and no --index")


def _files(scan: Path, args: argparse.Namespace) -> ReportFiles:
    from moediff.report.data import ReportFiles, maps_beside, source_beside

    maps = maps_beside(scan)
    return ReportFiles(
        scan=scan,
        source=args.input or source_beside(scan, trust=args.trust, index=args.volume),
        trust=args.trust,
        index=args.volume,
        series=args.series,
        truth=args.truth,
        uncertainty=args.uncertainty or maps.get("uncertainty"),
        experts=args.experts or maps.get("experts"),
        differences=args.differences or maps.get("differences"),
        lesions=args.lesions,
        trust_intensities=args.trust_intensities,
    )


def _pages(args: argparse.Namespace, results: list[Path]) -> list[Path]:
    from moediff.core.errors import CannotCreate
    from moediff.inference.outputs import OutputPaths
    from moediff.io.naming import stem_of
    from moediff.io.scans import check_free

    pages = [args.output or scan.with_name(f"{stem_of(scan)}_report.html") for scan in results]
    written = [*pages, *([args.index] if args.index is not None else [])]
    every = [page.resolve() for page in written]
    if len(set(every)) < len(every):
        raise CannotCreate("two pages would get the same name; name each result once, and the index otherwise")
    read = [*results, *(getattr(args, name) for name in FILES)]
    taken = {path.resolve() for path in read if path is not None}
    taken |= {OutputPaths(scan=scan).sidecar.resolve() for scan in results}
    for page in written:
        if page.resolve() in taken:
            raise CannotCreate(f"{page}: the page would replace a file it is made from; choose another name")
        check_free(page, overwrite=args.overwrite)
    return pages
