"""Scans that become one result: those of a visit and contrast that differ only in one entity (`bids --combine`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moediff.cohort.bids_index import BidsScan
from moediff.cohort.bids_names import BidsName, source_key

ENTITIES = ("run", "acq")  # by which scans of one head are distinguished


@dataclass(frozen=True)
class BidsGroup:
    """Scans of one head and contrast that become one result.

    Args:
        scans: the first gives the result its grid.
        name: what the result is named after: the first scan's name, without the entity where several are combined.
    """

    scans: tuple[BidsScan, ...]
    name: BidsName

    @property
    def first(self) -> BidsScan:
        """The scan whose grid and folder count."""
        return self.scans[0]


def single(scan: BidsScan) -> BidsGroup:
    """A scan by itself."""
    return BidsGroup((scan,), scan.name)


def combined(scans: Sequence[BidsScan], entity: str) -> list[BidsGroup]:
    """Groups of scans whose names differ in this entity only, in the order of their first scans."""
    groups: dict[BidsName, list[BidsScan]] = {}
    for scan in scans:
        groups.setdefault(source_key(scan.name.without(entity)), []).append(scan)
    several = [BidsGroup(tuple(group), group[0].name.without(entity)) for group in groups.values() if len(group) > 1]
    return [*several, *(single(group[0]) for group in groups.values() if len(group) == 1)]
