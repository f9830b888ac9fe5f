"""Placement across contrasts: where a sharp scan of another contrast lies in a thick one, and whether it is its head.

Mutual information of equally blurred copies leads near, edges of the enhanced thick scan refine (`edges`).

Axes: X Y Z voxels of the enhanced scan.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from moediff.core.geometry import field_of_view_mask
from moediff.core.volume import Volume
from moediff.registration.align import middle_mm
from moediff.registration.edges import EdgeMatch, align_edges
from moediff.registration.mutual_information import blurred, common_blur_mm, register
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm

LEAST_AGREEMENT = 0.53  # of edges: the right guide 0.60-0.73, another head at most 0.47 (LOG.md, 2026-11-30)
MOST_APART_MM = 3.0  # between mutual information and edges: the right guide 0.5-1.1
LEAST_SHARED = 0.2  # of the scan's head, in the guide's field of view


@dataclass(frozen=True)
class Placement:
    """Where a guide lies.

    Args:
        transform: from the scan's frame to the guide's.
        agreement: of edges there, see `EdgeMatch`.
        apart_mm: between mutual information and edges, RMS over the head; None where headers were trusted.
        shared: share of the scan's head that the guide holds.
        mirrored: agreement of the guide's mirror image, roughly placed; None where headers were trusted.
    """

    transform: Rigid
    agreement: float
    apart_mm: float | None
    shared: float
    mirrored: float | None = None

    @property
    def misfit(self) -> str | None:
        """Why the guide must not be used; None where it fits."""
        if self.shared < LEAST_SHARED:
            return f"it holds {self.shared:.0%} of the scan's head, at least {LEAST_SHARED:.0%} are needed"
        if (self.mirrored or 0.0) > self.agreement:
            return (
                f"its mirror image fits better (edges agree by {self.mirrored:.2f}, not {self.agreement:.2f}): left "
                "and right are exchanged in one of the files"
            )
        if self.agreement < LEAST_AGREEMENT:
            return (
                f"its edges agree with the scan's by {self.agreement:.2f}, those of one head by {LEAST_AGREEMENT} and "
                "more: another head, or a scan that moved while it was taken"
            )
        if (self.apart_mm or 0.0) > MOST_APART_MM:
            return (
                f"its place is uncertain, two ways to register it are {self.apart_mm:.1f} mm apart ({MOST_APART_MM:g} "
                "are allowed): another head, or too little of it"
            )
        return None


def place_guide(scan: Volume, enhanced: Volume, inside_XYZ: Tensor, guide: Volume, *, registered: bool) -> Placement:
    """Where the guide lies, by mutual information of blurred copies and then by edges.

    Args:
        scan: the thick scan, RAS+.
        enhanced: what the network made of it.
        inside_XYZ: the head in that.
        guide: RAS+.
        registered: False trusts the headers and only compares.

    Raises:
        ConfigError: SimpleITK is not installed.
    """
    apart = mirrored = None
    if registered:
        width = common_blur_mm(scan, guide)
        pair = (blurred(scan, width), blurred(guide, width))
        coarse, estimate = _registered(pair, enhanced, inside_XYZ, guide)
        match = align_edges(enhanced, inside_XYZ, guide, coarse.transform)
        apart = (estimate.inverse @ match.transform).displacement_mm(grid_centre_mm(enhanced.grid))
        mirror, pair = guide.with_data(guide.data_XYZ.flip(0)), (pair[0], pair[1].with_data(pair[1].data_XYZ.flip(0)))
        mirrored = _registered(pair, enhanced, inside_XYZ, mirror)[0].agreement
    else:
        match = align_edges(enhanced, inside_XYZ, guide, IDENTITY, search="none")
    seen_XYZ = field_of_view_mask(match.transform.placed_grid(guide.grid), enhanced.grid)
    shared = float((seen_XYZ & inside_XYZ).sum() / inside_XYZ.sum().clamp_min(1))
    return Placement(match.transform, match.agreement, apart, shared, mirrored)


def _registered(
    pair: tuple[Volume, Volume], enhanced: Volume, inside_XYZ: Tensor, guide: Volume
) -> tuple[EdgeMatch, Rigid]:
    """The best coarse match by edges, and where mutual information of the two blurred copies began it."""
    fixed, moving = pair
    best, begun = EdgeMatch(IDENTITY, -1.0), IDENTITY
    for start in _starts(fixed, moving):
        estimate = register(fixed, moving, start)
        match = align_edges(enhanced, inside_XYZ, guide, estimate, search="coarse")
        if match.agreement > best.agreement:
            best, begun = match, estimate
        if best.agreement >= LEAST_AGREEMENT:
            break
    return best, begun


def _starts(fixed: Volume, moving: Volume) -> list[Rigid]:
    """Where the headers place the guide, and with the middles of the heads together."""
    middles = Rigid.of((0, 0, 0), [b - a for a, b in zip(middle_mm(fixed), middle_mm(moving), strict=True)])
    shared = float(field_of_view_mask(moving.grid, fixed.grid).float().mean())
    return [IDENTITY, middles] if shared > LEAST_SHARED / 2 else [middles]
