"""BIDS: what the JSON beside a NIfTI scan, and the scan's own name, say about its voxels.

Only numbers and coded words are read, none of them personal, and nothing of the text is printed but those words.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moediff.io.naming import sidecar_of, stem_of

MAX_BYTES = 2**22
PARTS = {"phase": "PHASE", "real": "REAL", "imag": "IMAGINARY"}  # of the entity `part` -> DICOM's word


@dataclass(frozen=True)
class BidsSidecar:
    """What a BIDS sidecar says.

    Args:
        image_type: DICOM's ImageType; from the name's entity `part` where there is no other.
        thickness_mm: of slices.
        distance_mm: of slices.
    """

    image_type: tuple[str, ...] = ()
    thickness_mm: float | None = None
    distance_mm: float | None = None


def read_bids(scan: Path) -> BidsSidecar:
    """The sidecar of a scan; what is absent, or cannot be read, says nothing."""
    record = _record(sidecar_of(scan))
    kinds = record.get("ImageType")
    image_type = tuple(str(word) for word in kinds) if isinstance(kinds, list) else ()
    parts = [entity.removeprefix("part-") for entity in stem_of(scan).split("_") if entity.startswith("part-")]
    if parts and parts[0] in PARTS:
        image_type = ("", "", PARTS[parts[0]])
    return BidsSidecar(image_type, _positive(record, "SliceThickness"), _positive(record, "SpacingBetweenSlices"))


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _positive(record: dict[str, Any], key: str) -> float | None:
    value = record.get(key)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return abs(float(value)) if number and value else None
