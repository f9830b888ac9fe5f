"""`moediff report`: pages that show scans enhanced earlier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moediff import RESEARCH_ONLY
from moediff.memory import keep_memory

if TYPE_CHECKING:
    from moediff.commands import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "report",
        help="show enhanced scans as HTML pages",
        description=f"Write one self-contained, offline HTML page for each enhanced scan. {RESEARCH_ONLY}",
    )
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULT", help="enhanced NIfTI with its JSON sidecar beside it")
    add("-o", "--output", type=Path, metavar="HTML", help="page (default: <stem>_report.html beside the result)")
    add("--input", type=Path, help="the scan that was enhanced")
    add("--truth", type=Path, help="the true scan: adds PSNR and SSIM")
    add("--uncertainty", type=Path, help="what `enhance --uncertainty` wrote")
    add("--experts", type=Path, help="what `enhance --experts` wrote")
    add("--overwrite", action="store_true", help="replace existing pages")
    add("-q", "--quiet", action="store_true", help="do not print the pages' names")
    parser.set_defaults(call=report_command, usage_error=parser.error)


def report_command(args: argparse.Namespace) -> int:
    """Check every page's place, then draw one after the other."""
    single = ("output", "input", "truth", "uncertainty", "experts")
    given = [f"--{name}" for name in single if getattr(args, name) is not None]
    if len(args.results) > 1 and given:
        args.usage_error(f"{', '.join(given)}: give these with one RESULT only")
    from moediff.report.page import require_jinja2, write_page
    from moediff.report.scans import ReportFiles, from_files

    keep_memory()
    require_jinja2()
    pages = _pages(args)
    for scan, page in zip(args.results, pages, strict=True):
        files = ReportFiles(scan=scan, source=args.input, truth=args.truth, uncertainty=args.uncertainty,
                            experts=args.experts)  # fmt: skip
        write_page(from_files(files), page, overwrite=args.overwrite)
        if not args.quiet:
            print(page)
    return 0


def _pages(args: argparse.Namespace) -> list[Path]:
    from moediff.errors import CannotCreate
    from moediff.inference.outputs import OutputPaths, stem_of
    from moediff.volume.io import check_free

    pages = [args.output or scan.with_name(f"{stem_of(scan)}_report.html") for scan in args.results]
    every = [page.resolve() for page in pages]
    if len(set(every)) < len(every):
        raise CannotCreate("two results would get the same page; name each result once")
    read = [*args.results, args.input, args.truth, args.uncertainty, args.experts]
    taken = {path.resolve() for path in read if path is not None}
    taken |= {OutputPaths(scan=scan).sidecar.resolve() for scan in args.results}
    for page in pages:
        if page.resolve() in taken:
            raise CannotCreate(f"{page}: the page would replace a file it is made from; choose another name")
        check_free(page, overwrite=args.overwrite)
    return pages
