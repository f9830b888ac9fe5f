"""Scans that a result was made from, as its sidecar lists them, matched with files that were loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moediff.acquisition.point_spread import Samplings
from moediff.core.errors import DataError, GeometryError, printable
from moediff.evaluation.several_scans import InputScan
from moediff.inference.sidecar import samplings_of, stated_sampling
from moediff.inference.sidecar_parts import GridRecord
from moediff.io.loaded import LoadedScan
from moediff.registration.rigid import Rigid

REPAIR = "enhance the scans again, or remove the sidecar, so that they are registered anew"
SPACING_MM = 1e-3  # by which a file's voxel size may differ from the recorded one


@dataclass(frozen=True)
class RecordedScan:
    """A scan of several as the sidecar lists it; see `ScanRecord`."""

    name: str
    grid: GridRecord
    transform: Rigid
    gain: float | None
    sampling: Samplings | None
    left_out: str | None

    def is_of(self, scan: LoadedScan) -> bool:
        """Whether a loaded scan has this grid."""
        stored = scan.stored_grid
        apart = (abs(a - b) for a, b in zip(self.grid.spacing_mm, stored.spacing_mm, strict=True))
        return self.grid.shape == tuple(stored.shape) and max(apart) < SPACING_MM


def recorded_scans(record: Mapping[str, Any]) -> list[RecordedScan]:
    """What a sidecar says of several scans; nothing for the result of a single one.

    Args:
        record: from `read_sidecar`.

    Raises:
        DataError: the list is damaged.
    """
    try:
        scans = [_recorded(dict(one)) for one in record.get("scans") or ()]
    except (TypeError, ValueError, KeyError, RuntimeError, GeometryError) as error:
        raise DataError(f"the list of scans in the sidecar is damaged: {REPAIR}") from error
    if scans and scans[0].sampling is None:  # earlier sidecars recorded that of the first scan alone
        scans[0] = RecordedScan(**{**vars(scans[0]), "sampling": stated_sampling(record)})
    return scans


def _recorded(values: Mapping[str, Any]) -> RecordedScan:
    grid = values["input"]
    (i, j, k), (x, y, z) = map(int, grid["shape"]), map(float, grid["spacing_mm"])
    gain = values.get("gain")
    left_out = values.get("left_out")
    if gain is not None and not 0 < float(gain) < float("inf"):
        raise ValueError
    return RecordedScan(
        name=str(values["name"]),
        grid=GridRecord((i, j, k), (x, y, z)),
        transform=_rigid(values["transform"]),
        gain=None if gain is None else float(gain),
        sampling=samplings_of(values.get("sampling")),
        left_out=None if left_out is None else str(left_out),
    )


def _rigid(rows: Sequence[Sequence[float]]) -> Rigid:
    """The rotation nearest to one that was rounded when it was written."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    left, sizes, right = torch.linalg.svd(matrix[:3, :3])
    if matrix.shape != (4, 4) or not bool(torch.isfinite(matrix).all()) or float((sizes - 1).abs().max()) > 1e-3:
        raise ValueError
    matrix[:3, :3] = left @ right
    return Rigid(matrix)


def matched(loaded: Sequence[tuple[str, LoadedScan]], recorded: Sequence[RecordedScan]) -> list[InputScan]:
    """Loaded scans with what the sidecar says of them; scans of one name are taken in the order of their record.

    Args:
        loaded: names and scans.
        recorded: from `recorded_scans`; nothing leaves all to registration.

    Raises:
        DataError: a scan is not in the list, or has another grid there.
    """
    if not recorded:
        return [InputScan(name, scan.volume) for name, scan in loaded]
    left, result = list(recorded), []
    for name, scan in loaded:
        named = [one for one in left if one.name == name]
        fits = [one for one in named if one.is_of(scan)]
        if not fits:
            raise DataError(_unlisted(name, scan, named, recorded))
        one = fits[0]
        left.remove(one)
        result.append(InputScan(name, scan.volume, one.transform, one.gain, one.sampling, one.left_out))
    return result


def _unlisted(name: str, scan: LoadedScan, named: Sequence[RecordedScan], recorded: Sequence[RecordedScan]) -> str:
    if named:
        there, here = named[0].grid, GridRecord.of(scan.stored_grid)
        return (
            f"input {printable(name)} has {_grid(here)}, the sidecar says {_grid(there)}: it is another file than the "
            "one that the result was made from"
        )
    names = ", ".join(printable(one.name) for one in recorded)
    return (
        f"input {printable(name)} is not among the scans that the sidecar lists ({names}), or it is named more often "
        "than there: name those"
    )


def _grid(grid: GridRecord) -> str:
    shape, spacing = (" x ".join(f"{n:g}" for n in numbers) for numbers in (grid.shape, grid.spacing_mm))
    return f"{shape} voxels of {spacing} mm"
