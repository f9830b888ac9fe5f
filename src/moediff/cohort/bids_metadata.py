"""Metadata of BIDS scans: what their JSON sidecars say, by inheritance, and what of it still holds for a derivative."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from moediff.cohort.bids_index import BidsScan
from moediff.cohort.bids_names import BidsName

MAX_BYTES = 2**22  # of a sidecar that is read
MOST_LETTERS = 64  # of a value that is copied
# How the contrast came about: true of the enhanced scan too. Left out: geometry and timing of slices, matrices and
# bandwidths, which no longer hold, and everything that says who, where or when (institution, device, names, dates, what
# an operator typed).
STILL_TRUE = (
    "MagneticFieldStrength",
    "Manufacturer",
    "ManufacturersModelName",
    "ReceiveCoilName",
    "PulseSequenceType",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "SequenceName",
    "MRAcquisitionType",
    "EchoTime",
    "RepetitionTime",
    "RepetitionTimeExcitation",
    "RepetitionTimePreparation",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "MTState",
    "SpoilingState",
    "ContrastBolusIngredient",
    "NonlinearGradientCorrection",
)


def metadata_of(scan: BidsScan) -> dict[str, Any]:
    """What the JSON files of a dataset say of a scan: those nearer to it win (BIDS, inheritance principle)."""
    folders = [scan.root / parent for parent in reversed(scan.relative.parents)]  # the root comes first
    result: dict[str, Any] = {}
    for folder in folders:
        changed_ns = folder.stat().st_mtime_ns  # a file was added or left
        fitting = [(name, path) for name, path in _sidecars(folder, changed_ns) if _applies(name, scan.name)]
        for _, path in sorted(fitting, key=lambda pair: len(pair[0].entities)):
            result |= _read(path)
    return result


def still_true(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields that describe the contrast, where their values are of the usual kind."""
    return {key: metadata[key] for key in STILL_TRUE if key in metadata and _plain(metadata[key])}


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MOST_LETTERS and all(_plain(item) and not isinstance(item, list) for item in value)
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= MOST_LETTERS)


@lru_cache(maxsize=64)
def _sidecars(folder: Path, _changed_ns: int) -> Sequence[tuple[BidsName, Path]]:
    """JSON files directly in a folder that are named like sidecars; `T1w.json` has no entity."""
    result = []
    for path in sorted(folder.glob("*.json")):
        name = BidsName.parse(path.name)
        if name is not None and name.extension == ".json":
            result.append((name, path))
    return result


def _applies(sidecar: BidsName, scan: BidsName) -> bool:
    return sidecar.suffix == scan.suffix and set(sidecar.entities) <= set(scan.entities)


def _read(path: Path) -> dict[str, Any]:
    """An object of a JSON file; nothing where it cannot be read, for the scan itself may be fine."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
