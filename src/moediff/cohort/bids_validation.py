"""Validation of a BIDS dataset before a run, by the official validator where it is installed (extra `bids`).

The validator sees what the run reads: the files in the dataset's root folder, and the folders of scans of the chosen
participants, linked in a temporary folder. So neither functional scans nor other participants take its time or stop a
run. It is given neither the network nor leave to write. Scans themselves are checked one by one as they are read, so
empty files and links that were never fetched are no errors here.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from moediff.cohort.bids_index import Index, anat_folders
from moediff.core.errors import DataError, OutputFailed, printable
from moediff.io.atomic import write_text

SKIP = "--skip-bids-validation"
STAMP = "validated.txt"  # in the folder of logs: which files were found valid
LONGEST_S = 900.0
SHOWN = 3  # errors that the message names
# Each scan answers for its own content, and participants that were not chosen are not linked.
NOT_HERE = ("EMPTY_FILE", "SYMLINK_BROKEN", "PARTICIPANT_ID_MISMATCH")
OPTIONS = ("--format", "json", "--ignoreNiftiHeaders", "--ignoreWarnings")
ABSENT = (
    "the dataset was not validated: pip install 'moediff-sr[bids]' brings the official BIDS validator "
    f"({SKIP} leaves this line out)"
)


@dataclass(frozen=True)
class Validation:
    """What came of it.

    Args:
        files_sha256: checksum of names, sizes and times of the files that were found valid; empty where nothing was
            validated.
        note: a sentence for the user, or none.
    """

    files_sha256: str = ""
    note: str = ""

    def remember(self, logs: Path) -> None:
        """Leave a mark, so that the next run on the same files begins at once."""
        if self.files_sha256 and not _known(logs, self.files_sha256):
            logs.mkdir(parents=True, exist_ok=True)
            write_text(self.files_sha256 + "\n", logs / STAMP, overwrite=True)


def validate(root: Path, index: Index, logs: Path) -> Validation:
    """Let the official validator look at what a run reads of a dataset, unless it has before.

    Args:
        root: of the dataset.
        index: its scans that are wanted.
        logs: folder in which `Validation.remember` left its mark.

    Raises:
        DataError: the validator finds errors; the message names the first.
    """
    if find_spec("bids_validator_deno") is None or find_spec("deno") is None:
        return Validation(note=ABSENT)
    links = list(_links(root, sorted({scan.participant for scan in index.scans})))
    checksum = _files_sha256(root, links)
    if _known(logs, checksum):
        return Validation(checksum)
    with tempfile.TemporaryDirectory(prefix="moediff-bids-") as name:
        linked, own = Path(name, "dataset"), Path(name, "deno")
        _link(root, linked, links)
        try:
            errors = [error for error in _errors(linked, own) if error[0] not in NOT_HERE]
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            return Validation(note=f"the dataset was not validated: the BIDS validator did not run ({error})")
    if errors:
        raise DataError(f"{printable(root)}: {_sentence(errors)}")
    return Validation(checksum)


def _sentence(errors: list[tuple[str, str]]) -> str:
    first = "; ".join(printable(f"{code} {path}".strip()) for code, path in errors[:SHOWN])
    what = f"{len(errors)} errors, the first: {first}" if len(errors) > SHOWN else f"errors: {first}"
    return f"the official BIDS validator finds {what}: repair them, or go on without this check ({SKIP})"


def _links(root: Path, participants: Iterable[str]) -> Iterator[PurePosixPath]:
    """Paths that the validator sees: files of the root, JSON files above scans, and folders of scans."""
    yield from (PurePosixPath(entry.name) for entry in _sorted(root) if entry.is_file())
    for label in participants:
        for folder in anat_folders(root, f"sub-{label}"):
            yield from (folder.parent / entry.name for entry in _sorted(root / folder.parent) if entry.is_file())
            if (root / folder).is_dir():
                yield folder


def _sorted(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _files_sha256(root: Path, links: Iterable[PurePosixPath]) -> str:
    """Checksum of names, sizes and times; links to what was never fetched count as themselves."""
    digest = hashlib.sha256()
    for link in links:
        path = root / link
        for file in [Path(entry.path) for entry in _sorted(path)] if path.is_dir() else [path]:
            try:
                state = file.stat()
            except OSError:
                state = file.lstat()
            digest.update(os.fsencode(f"{link} {file.name} {state.st_size} {state.st_mtime_ns}\n"))
    return digest.hexdigest()


def _known(logs: Path, checksum: str) -> bool:
    try:
        return (logs / STAMP).read_text(encoding="utf-8").strip() == checksum
    except (OSError, ValueError):
        return False


def _link(root: Path, folder: Path, links: Iterable[PurePosixPath]) -> None:
    """Raises OutputFailed: the temporary folder is full."""
    try:
        for link in links:
            (folder / link).parent.mkdir(parents=True, exist_ok=True)
            (folder / link).symlink_to((root / link).resolve())
    except OSError as error:
        raise OutputFailed(
            f"{printable(folder)}: no room for the links of the BIDS validator ({error.strerror}): set TMPDIR to "
            f"another folder, or leave it out ({SKIP})"
        ) from error


def _errors(folder: Path, own: Path) -> Iterator[tuple[str, str]]:
    """Code and place of every error that the validator finds in a folder; `own` is for files of its own.

    Raises:
        OSError, subprocess.SubprocessError, ValueError, KeyError: it cannot be run, or says something else.
    """
    import bids_validator_deno
    from deno import find_deno_bin

    bundle = Path(bids_validator_deno.__file__).parent / "bids-validator.js"
    # `bids-validator-deno` itself may use the network and write files: here it may do neither.
    command = [os.fsdecode(find_deno_bin()), "run", "--no-prompt", "--allow-read", "--allow-env", str(bundle)]
    environment = {**os.environ, "DENO_NO_UPDATE_CHECK": "1", "DENO_DIR": str(own), "NO_COLOR": "1"}
    done = subprocess.run(
        [*command, str(folder), *OPTIONS],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LONGEST_S,
        check=False,
    )
    if not done.stdout.strip():
        raise ValueError(done.stderr.decode(errors="replace").strip().splitlines()[-1:] or f"code {done.returncode}")
    for issue in json.loads(done.stdout)["issues"]["issues"]:
        if issue.get("severity") == "error":
            yield str(issue["code"]), str(issue.get("location") or "")
