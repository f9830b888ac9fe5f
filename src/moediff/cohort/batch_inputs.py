"""Inputs of a batch run: files, folders, patterns and lists, and where the result of each goes.

Folders are kept as they are: `DIR/a/b/scan.nii.gz` becomes `OUT/a/b/scan_desc-sr.nii.gz`. A folder of DICOM files is
one scan, and NIfTI files among them are scans of their own; any other folder stands for the scans in it and below.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moediff.core.errors import ConfigError, DataError, InputMissing, prefix_errors, printable
from moediff.io.missing import is_apple_double, is_dangling, why_missing
from moediff.io.naming import default_output, files_of, stem_of, suffix_of

DICOM_SUFFIXES = (".dcm", ".ima")
ZIP = ".zip"
SHOWN = 3  # names that one message lists
# Scans and maps as batch and BIDS runs name them; `2` where a result was enhanced again.
MADE_BY_US = re.compile(r"_desc-(?:(?:sr|srstd|srmask|experts)2?(?:_|$)|(?:sr|experts)[^_]*_(?:mask|probseg|dseg)$)")


@dataclass(frozen=True)
class BatchScan:
    """One input.

    Args:
        source: the file, or the folder of a DICOM series.
        relative: the result's path below the output folder, without maps and suffix: `a/b/scan`.
    """

    source: Path
    relative: Path


def find_inputs(inputs: Iterable[str], lists: Iterable[Path], out: Path) -> list[BatchScan]:
    """Every scan that the command line names, each once, in the order of their places.

    Args:
        inputs: files, folders, or patterns as a shell knows them (`**` goes through folders).
        lists: text files with one input a line; empty lines and lines that begin with `#` do not count.
        out: the output folder; scans in it are results and no inputs, unless it or a folder in it is named as one.

    Raises:
        InputMissing: an input is not there, a pattern matches nothing, or a folder holds no scan.
        DataError: two scans would get one name.
    """
    matches = [scan for text in (*inputs, *_lines(lists)) for scan in _scans(text, out.resolve())]
    single = [scan.source.absolute().parent for scan in matches if scan.anchor is None]
    common = Path(os.path.commonpath(single)) if single else Path()
    scans = {str(scan.source.absolute()): _placed(scan.source, scan.anchor or common) for scan in matches}
    if not scans:
        raise InputMissing("no input was named: give files, folders, patterns or --list")
    ordered = sorted(scans.values(), key=lambda scan: str(scan.relative))
    _refuse_clashes(ordered)
    return ordered


def mixed_folders(scans: Sequence[BatchScan]) -> list[Path]:
    """Folders of DICOM files with further scans among them."""
    folders = [scan.source for scan in scans if scan.source.is_dir()]
    inside = {parent for scan in scans for parent in scan.source.absolute().parents}
    return [folder for folder in folders if folder.absolute() in inside]


@dataclass(frozen=True)
class _Match:
    """A scan, and the folder that its place is counted from; None: the one that all files named singly share."""

    source: Path
    anchor: Path | None


def _lines(lists: Iterable[Path]) -> Iterator[str]:
    for path in lists:
        with prefix_errors(printable(path)):
            try:
                text = path.read_text(encoding="utf-8", errors="surrogateescape")
            except OSError as error:
                raise InputMissing(f"the list cannot be read ({error.strerror}): check its name") from error
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                yield os.path.join(path.parent, line.strip()) if not os.path.isabs(line.strip()) else line.strip()


def _scans(text: str, out: Path) -> Iterator[_Match]:
    """What one word names; a file of this name comes before a pattern."""
    path = Path(text)
    if not text:
        raise ConfigError("an input's name is empty, expected that of a scan: is a shell variable unset?")
    if os.path.lexists(path):
        yield from _below(path, out)
        return
    if not glob.has_magic(text):
        raise InputMissing(f"{printable(path)}: {why_missing(path, 'file or folder')}")
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
    anchor = _fixed_part(text)
    among = not _is_below(anchor, out)  # results may lie beside the scans where both have one folder
    usable = [match for match in matches if _may_be_enhanced(match) and not (among and _is_below(match, out))]
    if not usable:
        raise InputMissing(
            f"{printable(text)}: no scan matches this pattern, results of this program aside: check it, and quote it "
            "in a shell"
        )
    for match in usable:
        yield from _below(match, out, anchor)


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path is a folder, resolved, or lies in it."""
    return path.resolve().is_relative_to(folder)


def _may_be_enhanced(path: Path) -> bool:
    """Whether a pattern's match is a folder, or a scan that is no result of this program."""
    return path.is_dir() or (_is_scan(path) and not MADE_BY_US.search(stem_of(path)))


def _fixed_part(pattern: str) -> Path:
    """The folders of a pattern before its first star: places are counted from there."""
    parts = Path(pattern).parts
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]) if fixed else Path()


def _below(path: Path, out: Path, anchor: Path | None = None) -> Iterator[_Match]:
    """A file, a DICOM folder, or the scans below any other folder.

    Args:
        anchor: folder that places are counted from; None: the folder that was named.
    """
    if not path.is_dir():
        yield _Match(path, anchor)
        return
    if _holds_dicom(path):
        if path.name in ("", ".."):  # a folder named by dots has a name once it is resolved
            path = path.resolve()
        yield _Match(path, anchor)
        yield from _walk(path, out, anchor or path.parent, dicom=False)
        return
    scans = list(_walk(path, out, anchor or path))
    if not scans and anchor is None:
        raise InputMissing(f"{printable(path)}: no scan in this folder or below: expected NIfTI, MGH or DICOM files")
    yield from scans


def _walk(folder: Path, out: Path, anchor: Path, *, dicom: bool = True) -> Iterator[_Match]:
    """Scans in a folder and below; in one of DICOM files, which all belong to it, those in other formats."""
    for here, folders, names in os.walk(folder, followlinks=False):
        usable = []
        for name in sorted(folders):
            inner = Path(here, name)
            if name.startswith(".") or inner.resolve() == out:
                continue
            if dicom and _holds_dicom(inner):
                yield _Match(inner, anchor)
                yield from _walk(inner, out, anchor, dicom=False)
            else:
                usable.append(name)
        folders[:] = usable
        for name in sorted(names):
            file = Path(here, name)
            if _is_scan(file) and not MADE_BY_US.search(stem_of(file)):
                yield _Match(file, anchor)


def _is_scan(path: Path) -> bool:
    """Whether a file's name is that of a scan; of a pair, the header's counts."""
    if path.name.startswith("._") and is_apple_double(path):
        return False
    if suffix_of(path) is None or not (path.is_file() or is_dangling(path)):
        return False
    return files_of(path)[0].name == path.name


def _holds_dicom(folder: Path) -> bool:
    """Whether files directly in a folder are named as DICOM."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(DICOM_SUFFIXES) for entry in entries)
    except OSError:
        return False


def _placed(source: Path, anchor: Path) -> BatchScan:
    relative = Path(os.path.relpath(source.absolute(), anchor.absolute()))
    stem = source.name if source.is_dir() else stem_of(source)
    return BatchScan(source, relative.parent / stem)


def _refuse_clashes(scans: Sequence[BatchScan]) -> None:
    """Refuse scans whose results would get one name, also where a file system ignores case."""
    first: dict[str, BatchScan] = {}
    for scan in scans:
        other = first.setdefault(str(default_output(scan.relative, scan.relative.name)).lower(), scan)
        if other is not scan:
            raise DataError(
                f"{printable(other.source)} and {printable(scan.source)} would get the same name as results, expected "
                "names that differ in more than desc-, format or case: rename one"
            )
