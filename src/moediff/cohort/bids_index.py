"""Index of a BIDS dataset: its scans, by the entities of their names; nothing but names is read.

Only `sub-*/[ses-*/]anat` is looked into, so that `derivatives`, `sourcedata` and the object store of a DataLad dataset
cost nothing. `.bidsignore` counts as the official validator reads it (the rules of .gitignore).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from moediff.cohort.bids_filters import Filter, matches
from moediff.cohort.bids_names import SCAN_EXTENSIONS, BidsName, source_key
from moediff.core.errors import DataError, InputMissing, prefix_errors, printable
from moediff.core.extras import require_modules
from moediff.io.missing import is_dangling

DATATYPE = "anat"
SUFFIXES = ("T1w", "T2w", "FLAIR")
NOT_MAGNITUDE = ("phase", "real", "imag")  # values of part-: no intensities of a head
SHOWN = 5  # names that one message lists


@dataclass(frozen=True)
class BidsScan:
    """One scan of a dataset.

    Args:
        root: the dataset's folder.
        relative: path from there.
        name: its parts.
        fetched: whether its content is here; False for a link of DataLad or git-annex to what was never fetched.
    """

    root: Path
    relative: PurePosixPath
    name: BidsName
    fetched: bool = True

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.relative

    @property
    def participant(self) -> str:
        """Label without `sub-`."""
        return self.relative.parts[0].removeprefix("sub-")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which scans are wanted; nothing given means all.

    Args:
        participants, sessions: labels, with or without `sub-` and `ses-`.
        suffixes: of file names.
        filters: what a filter file says; a scan has to match one of them.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = SUFFIXES
    filters: tuple[Filter, ...] = ()

    def wants(self, name: BidsName) -> bool:
        """Whether a scan of this name is wanted; its participant is decided by its folder."""
        sessions = {label.removeprefix("ses-") for label in self.sessions}
        if sessions and name.get("ses") not in sessions:
            return False
        magnitude = name.get("part") not in NOT_MAGNITUDE
        if self.filters:
            return any((magnitude or "part" in one) and matches(name, one, self.suffixes) for one in self.filters)
        return name.suffix in self.suffixes and magnitude


@dataclass(frozen=True)
class Index:
    """What was found.

    Args:
        scans: those wanted, in the order of their names.
        without: labels of participants without a scan that is wanted.
        dicom: labels of participants with DICOM files where scans are expected.
        ignored: how many scans `.bidsignore` leaves out.
    """

    scans: tuple[BidsScan, ...]
    without: tuple[str, ...] = ()
    dicom: tuple[str, ...] = ()
    ignored: int = 0


@dataclass
class _Search:
    scans: list[BidsScan] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    dicom: list[str] = field(default_factory=list)
    ignored: int = 0


def index_dataset(root: Path, selection: Selection) -> Index:
    """Find the scans of a dataset that are wanted.

    Raises:
        InputMissing: there is no such folder, no such participant, or no scan that is wanted.
        DataError: two scans would get one name as derivatives.
        ConfigError: pathspec is not installed.
    """
    ignores, search = _ignores(root), _Search()
    for label in _participants(root, selection):
        before = len(search.scans)
        for folder in anat_folders(root, f"sub-{label}"):
            _look_into(root, folder, label, (selection, ignores), search)
        if len(search.scans) == before:
            search.without.append(label)
    if not search.scans:
        raise InputMissing(_nothing(root, selection, search))
    _refuse_clashes(search.scans)
    dicom = tuple(label for label in search.without if label in search.dicom)
    return Index(tuple(search.scans), tuple(search.without), dicom, search.ignored)


def _participants(root: Path, selection: Selection) -> list[str]:
    """Labels in the order of their names, only those asked for.

    Raises:
        InputMissing: the folder cannot be read or has no participants, or one that was asked for is not there.
    """
    with prefix_errors(printable(root)):
        try:
            names = sorted(entry.name for entry in os.scandir(root) if entry.name.startswith("sub-") and entry.is_dir())
        except OSError as error:
            raise InputMissing(f"the folder cannot be read ({error.strerror}): name that of a BIDS dataset") from error
        there = [name.removeprefix("sub-") for name in names]
        if not there:
            raise InputMissing(
                "there are no sub-* folders here: name the root folder of a BIDS dataset; `moediff batch` takes scans "
                "in any other order"
            )
        wanted = [label.removeprefix("sub-") for label in selection.participants]
        absent = sorted(set(wanted) - set(there))
        if absent:
            raise InputMissing(f"no folder sub-{_listed(absent, ', sub-')} here: check --participant-label")
        return [label for label in there if label in set(wanted)] if wanted else there


def anat_folders(root: Path, participant: str) -> Iterator[PurePosixPath]:
    """Folders that may hold scans: directly below the participant and in its sessions."""
    yield PurePosixPath(participant, DATATYPE)
    for entry in _entries(f"{root}/{participant}"):
        if entry.name.startswith("ses-"):
            yield PurePosixPath(participant, entry.name, DATATYPE)


def _look_into(
    root: Path,
    folder: PurePosixPath,
    label: str,
    rules: tuple[Selection, Callable[[str], bool]],
    search: _Search,
) -> None:
    selection, ignores = rules
    for entry in _entries(f"{root}/{folder}"):
        if entry.name.lower().endswith((".dcm", ".ima")) and label not in search.dicom:
            search.dicom.append(label)
        name = BidsName.parse(entry.name) if entry.name.endswith(SCAN_EXTENSIONS) else None
        if name is None or name.get("sub") != label or not selection.wants(name):
            continue
        relative = f"{folder}/{entry.name}"
        if ignores(relative):
            search.ignored += 1
            continue
        fetched = not (entry.is_symlink() and is_dangling(Path(entry.path)))
        search.scans.append(BidsScan(root, PurePosixPath(relative), name, fetched))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, in the order of names; nothing where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputMissing(f"{printable(folder)}: cannot be read ({error.strerror}): check its permissions") from error


def _ignores(root: Path) -> Callable[[str], bool]:
    """Whether `.bidsignore` leaves a path out."""
    try:
        lines = (root / ".bidsignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return lambda _: False
    require_modules("pathspec", what="a dataset with a .bidsignore", extra="bids")
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines).match_file


def left_out(root: Path) -> Callable[[str], bool]:
    """Whether a path within a dataset leads to nothing any more, or `.bidsignore` leaves it out."""
    if not root.is_dir():  # not mounted: nobody knows
        return lambda _: False
    ignores = _ignores(root)
    return lambda path: ignores(path) or not os.path.lexists(root / path)


def _nothing(root: Path, selection: Selection, search: _Search) -> str:
    wanted = "the filter file" if selection.filters else f"--suffix {' '.join(selection.suffixes)}"
    where = f" of sub-{_listed(search.without, ', sub-')}" if selection.participants else ""
    sessions = f" and --session-label {' '.join(selection.sessions)}" if selection.sessions else ""
    hints = [f".bidsignore leaves {search.ignored} out"] if search.ignored else []
    if search.dicom:
        hints.append("there are DICOM files: convert them to NIfTI first, or use `moediff batch`")
    more = f" ({'; '.join(hints)})" if hints else ""
    return f"{printable(root)}: no scan{where} matches {wanted}{sessions}{more}: check these, or the names of the files"


def _refuse_clashes(scans: Sequence[BidsScan]) -> None:
    """Refuse scans whose derivatives would get one name, also where a file system ignores case."""
    first: dict[str, BidsScan] = {}
    for scan in scans:
        key = str(source_key(scan.name)).lower()  # holds participant and session, so folders need not be compared
        other = first.setdefault(key, scan)
        if other is not scan:
            both = f"{printable(str(other.relative))} and {printable(str(scan.relative))}"
            raise DataError(
                f"{both} would get the same name as results, expected names that differ in more than res-, desc-, "
                "extension or case: choose one with --bids-filter-file, or name the other in .bidsignore"
            )


def _listed(labels: Sequence[str], joint: str) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return joint.join(labels[:SHOWN]) + more
