"""A BIDS derivative dataset: its folder, `dataset_description.json` and `.bidsignore`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from moediff._version import __version__
from moediff.core.errors import CannotCreate, DataError, InputMissing, prefix_errors, printable
from moediff.io.atomic import write_text

DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.10.0"
GENERATOR = "MoEDiff-SR"
PURPOSE = "Super-resolution of brain MRI. Research use only."
SOURCE = "raw"  # name of the source dataset in BIDS URIs
LOGS = "logs"
IGNORED = ("*.html", "**/figures", "**/figures/**", f"{LOGS}/", "**/.moediff-*")
README = """Scans enhanced by MoEDiff-SR, one folder a participant. Research use only; not for diagnostic use.

Open index.html to see all of them: pictures, numbers, scans that stand out, and scans that failed. Each JSON file says
from which scan a result was made, with which weights and settings, and what the program warned of.
"""


def read_description(root: Path) -> dict[str, Any]:
    """The description of the dataset that is read.

    Raises:
        InputMissing: there is none.
        DataError: it is no JSON with the fields that BIDS requires.
    """
    remedy = "repair it, or go on without this check (--skip-bids-validation)"
    with prefix_errors(printable(root)):
        try:
            content = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputMissing(
                f"{DESCRIPTION} cannot be read ({error.strerror}), expected the root folder of a BIDS dataset: {remedy}"
            ) from error
        except ValueError as error:
            raise DataError(f"{DESCRIPTION} is not JSON ({error}): {remedy}") from error
        missing = [key for key in ("Name", "BIDSVersion") if not isinstance(content, dict) or key not in content]
        if missing:
            raise DataError(f"{DESCRIPTION} lacks {' and '.join(missing)}: {remedy}")
        return dict(content)


def check_apart(root: Path, out: Path) -> None:
    """Refuse to write derivatives among the scans they come from.

    Raises:
        CannotCreate: the output is the dataset itself, or lies in a participant's folder or in its `sourcedata`.
    """
    inside = out.resolve()
    if root.resolve() != inside and root.resolve() not in inside.parents:
        return
    first = inside.relative_to(root.resolve()).parts[:1]
    if not first or first[0].startswith("sub-") or first[0] in ("sourcedata", "rawdata"):
        raise CannotCreate(
            f"{printable(out)}: results would lie among the scans: choose a folder of their own, such as "
            f"{printable(root / 'derivatives' / 'moediff')}"
        )


def open_dataset(out: Path, root: Path, source: dict[str, Any]) -> None:
    """Make the folder of a derivative, or take one that this program made from the same dataset.

    Args:
        out: the folder.
        root: the dataset that is read.
        source: its description.

    Raises:
        CannotCreate: there are other things in the folder, or it cannot be written.
        OutputFailed: the disk is full.
    """
    with prefix_errors(printable(out)):
        try:
            out.mkdir(parents=True, exist_ok=True)
            others = [name for name in os.listdir(out) if not name.startswith(".") and name != LOGS]
        except OSError as error:
            raise CannotCreate(f"the folder cannot be made ({error.strerror}): choose another one") from error
        present = _ours(out)
        if others and present is None:
            raise CannotCreate("there are other things in this folder: choose a new one")
        link = _link(root, out)
        if present is not None and present.get("DatasetLinks", {}).get(SOURCE) != link:
            raise CannotCreate("this folder holds results of another dataset: choose a new one for each")
    description = _description(source, link, present)
    if description != present:
        write_text(json.dumps(description, indent=2) + "\n", out / DESCRIPTION, overwrite=True)
    for name, text in ((".bidsignore", "\n".join(IGNORED) + "\n"), ("README", README)):
        if not (out / name).exists():
            write_text(text, out / name, overwrite=True)


def _link(root: Path, out: Path) -> str:
    """Where the source dataset lies, from the derivative's folder: both can be moved together."""
    return Path(os.path.relpath(root.resolve(), out.resolve())).as_posix()


def _ours(out: Path) -> dict[str, Any] | None:
    """The description of a derivative that this program made."""
    try:
        content = json.loads((out / DESCRIPTION).read_text(encoding="utf-8"))
        makers = [entry["Name"] for entry in content["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(content) if GENERATOR in makers else None


def _description(source: dict[str, Any], link: str, present: dict[str, Any] | None) -> dict[str, Any]:
    """What the file says; versions that wrote here before stay listed."""
    maker = {
        "Name": GENERATOR,
        "Version": __version__,
        "Description": PURPOSE,
    }
    before = [] if present is None else [entry for entry in present["GeneratedBy"] if entry != maker]
    origin = {"DOI": source["DatasetDOI"]} if isinstance(source.get("DatasetDOI"), str) else {"URL": link}
    licence = {"License": source["License"]} if isinstance(source.get("License"), str) else {}
    return {
        "Name": f"Enhanced scans of {source.get('Name', 'a dataset')}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        **licence,
        "GeneratedBy": [*before, maker],
        "SourceDatasets": [origin],
        "DatasetLinks": {SOURCE: link},
    }
