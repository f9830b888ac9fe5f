"""Edge registration across contrasts: agreement of normalised gradient fields (Haber & Modersitzki 2006, MICCAI).

Mutual information of blurred copies finds a scan of another contrast to within half a millimetre to one. Edges lie at
the same place in all contrasts, whatever their sign, and place it ten times better:

    maximise over rigid motions the mean of (n . m)^2,    n = grad / sqrt(|grad|^2 + e^2), e the mean |grad|

over points of the head. Coordinates are RAS+ mm; gradients are those along the axes of the fixed scan.

Axes: X Y Z voxels of the fixed scan, P points, three coordinates or components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from moediff.core.geometry import band_limit, bounds_in, crop, resample, with_spacing
from moediff.core.trilinear import read_trilinear
from moediff.core.volume import Volume
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm

COARSE_MM, FINE_MM = (0.8, 0.4, 0.2), (0.2, 0.1, 0.05)  # steps of the search along one parameter at a time
THINNED = 8  # the coarse search looks at one point in so many
SWEEPS = 10  # over the six parameters at each step
LEVER_MM = 40.0  # a rotation moves a point so far from the centre by a step
POINTS = 120_000
MARGIN_VOX = 10  # of the moving scan around the fixed one
Search = Literal["coarse", "fine", "none"]


@dataclass(frozen=True)
class EdgeMatch:
    """Where edges put a scan.

    Args:
        transform: from the fixed scan's frame to the moving one's.
        agreement: mean squared cosine between edges of the two, weighted by their strength; 1 is perfect, 1/3 chance.
    """

    transform: Rigid
    agreement: float


@dataclass(frozen=True)
class _Edges:
    """Edges of the fixed scan at points, and the moving scan near them.

    Args:
        fixed_P3: normalised gradients.
        points_P3: places, mm.
        steps_33: one voxel of the fixed scan along each of its axes, mm; a row an axis.
        moving: in the fixed scan's frame, refined.
    """

    fixed_P3: Tensor
    points_P3: Tensor
    steps_33: Tensor
    moving: Volume

    def thinned(self) -> _Edges:
        """The same at fewer points."""
        return replace(self, fixed_P3=self.fixed_P3[::THINNED], points_P3=self.points_P3[::THINNED])

    def moved_P3(self, motion: Rigid) -> Tensor:
        """Normalised gradients of the moving scan after one more motion, by central differences of trilinear reads."""
        back = torch.linalg.inv(self.moving.affine) @ motion.matrix
        scale = 2 / torch.tensor(self.moving.shape, dtype=torch.float64)  # -1 and 1 are the outer faces
        middle_P3 = (self.points_P3 @ (back[:3, :3].T * scale) + (back[:3, 3] + 0.5) * scale - 1).float()
        steps_33 = (self.steps_33 @ back[:3, :3].T * scale).float()
        at_6P3 = torch.cat([middle_P3 + steps_33[:, None], middle_P3 - steps_33[:, None]]).flip(-1)
        ahead_3P, behind_3P = read_trilinear(self.moving.data_XYZ, at_6P3[:, None, None], "border")[:, 0, 0].split(3)
        return normalised((ahead_3P - behind_3P).T / 2)

    def score(self, motion: Rigid) -> float:
        """What is maximised."""
        return float((self.fixed_P3 * self.moved_P3(motion)).sum(-1).square().mean())

    def agreement(self, motion: Rigid) -> float:
        """The same over what it would be if all edges were parallel."""
        moved_P3 = self.moved_P3(motion)
        best = (self.fixed_P3.square().sum(-1) * moved_P3.square().sum(-1)).mean()
        return float((self.fixed_P3 * moved_P3).sum(-1).square().mean() / best.clamp_min(1e-12))


def normalised(gradient_P3: Tensor) -> Tensor:
    """n: directions of gradients, shorter where they are weaker than most."""
    square_P = gradient_P3.square().sum(-1)
    return gradient_P3 / (square_P + square_P.sqrt().mean().square() + 1e-20).sqrt()[:, None]


def align_edges(
    fixed: Volume, inside_XYZ: Tensor, moving: Volume, start: Rigid, *, search: Search = "fine"
) -> EdgeMatch:
    """Refine where a sharp scan of another contrast lies.

    Args:
        fixed: an enhanced scan, RAS+.
        inside_XYZ: its head.
        moving: the sharp scan, RAS+.
        start: from the fixed scan's frame to the moving one's.
        search: "coarse" begins up to two millimetres away and ends within 0.2, where "fine" begins; "none" only
            measures the agreement at the start.
    """
    edges = _edges(fixed, inside_XYZ, start.placed_volume(moving))
    if edges is None:
        return EdgeMatch(start, 0.0)
    motion = IDENTITY
    if search != "none":
        centre_mm = grid_centre_mm(fixed.grid)
        points, steps_mm = (edges, FINE_MM) if search == "fine" else (edges.thinned(), COARSE_MM)
        motion = _motion(_climbed(points, centre_mm, steps_mm), centre_mm)
    return EdgeMatch(start @ motion, round(edges.agreement(motion), 4))


def _edges(fixed: Volume, inside_XYZ: Tensor, moving: Volume) -> _Edges | None:
    """None where the two scans have nothing in common."""
    around = _around(moving, fixed)
    index_P3 = inside_XYZ.nonzero()
    if around is None or not len(index_P3):
        return None
    points_P3 = index_P3.double() @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    back = torch.linalg.inv(around.affine)
    at_P3 = points_P3 @ back[:3, :3].T + back[:3, 3]
    seen_P = ((at_P3 > 0) & (at_P3 < torch.tensor(around.shape) - 1)).all(-1)
    if not bool(seen_P.any()):
        return None
    chosen = seen_P.nonzero()[:, 0]
    chosen = chosen[:: max(1, len(chosen) // POINTS)]
    gradient = torch.stack(torch.gradient(fixed.data_XYZ), -1)
    x, y, z = index_P3[chosen].unbind(-1)
    return _Edges(normalised(gradient[x, y, z]), points_P3[chosen], fixed.affine[:3, :3].T.contiguous(), around)


def _around(moving: Volume, fixed: Volume) -> Volume | None:
    """The part of a scan around another one, refined to half the other's voxels; None where there is none."""
    ends = [
        (max(int(low) - MARGIN_VOX, 0), min(int(high) + MARGIN_VOX + 1, n))
        for (low, high), n in zip(bounds_in(moving.grid, fixed.grid), moving.shape, strict=True)
    ]
    if any(stop - start < 2 for start, stop in ends):
        return None
    part = crop(moving, [start for start, _ in ends], [stop - start for start, stop in ends])
    part = band_limit(part, fixed.grid)
    half = min(fixed.spacing_mm) / 2
    return resample(part, with_spacing(part.grid, [min(size, half) for size in part.spacing_mm]))


def _motion(values: Sequence[float], centre_mm: Sequence[float]) -> Rigid:
    """Three rotations, as how far they move a point at LEVER_MM, and three shifts."""
    angles = torch.tensor(values[:3], dtype=torch.float64).div(LEVER_MM).rad2deg().tolist()
    return Rigid.of(angles, values[3:], centre_mm)


def _climbed(edges: _Edges, centre_mm: Sequence[float], steps_mm: Sequence[float]) -> Sequence[float]:
    """Six values of the largest score, by search along one at a time."""
    best, top = [0.0] * 6, edges.score(IDENTITY)
    for step in steps_mm:
        for _ in range(SWEEPS):
            before = top
            for parameter in range(6):
                for sign in (1, -1):
                    trial = list(best)
                    trial[parameter] += sign * step
                    score = edges.score(_motion(trial, centre_mm))
                    if score > top:
                        best, top = trial, score
                        break
            if top == before:
                break
    return best
