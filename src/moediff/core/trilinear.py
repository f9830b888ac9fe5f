"""Trilinear reading of a volume at many points, and its transpose, on all threads.

torch's `grid_sample` runs the volumes of a batch side by side, but a single one on one thread. So the points are made a
batch whose members share the volume; the transpose adds each part of the points to the few planes that it touches.

Axes: X Y Z voxels of the volume; N parts of the points; A B C points of a part; 3 coordinates, those along Z first, -1
and 1 at the outer faces.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 12  # planes of points that are spread at once; more touch more planes, fewer touch them more often


def read_trilinear(data_XYZ: Tensor, at_NABC3: Tensor, outside: str = "zeros") -> Tensor:
    """Values [N, A, B, C] at points; outside the volume 0, or with "border" the edge's."""
    source = data_XYZ.expand(len(at_NABC3), 1, -1, -1, -1)
    return F.grid_sample(source, at_NABC3, padding_mode=outside, align_corners=False)[:, 0]


def spread_trilinear(values_ABC: Tensor, at_ABC3: Tensor, onto_XYZ: Tensor) -> None:
    """Add to a volume the transpose of `read_trilinear` (zeros outside) of values at points.

    The sums do not depend on the number of threads. It takes at most the memory of the volume beside the points.
    """
    whole = len(at_ABC3) // PART * PART
    parts = [(values_ABC[whole:][None], at_ABC3[whole:][None])] if whole < len(at_ABC3) else []
    if whole:
        values_NABC = values_ABC[:whole].reshape(-1, PART, *values_ABC.shape[1:])
        parts.insert(0, (values_NABC, at_ABC3[:whole].reshape(-1, PART, *at_ABC3.shape[1:])))
    for values_NABC, at_NABC3 in parts:
        first, planes = _touched(at_NABC3, len(onto_XYZ))
        together = max(1, len(onto_XYZ) // planes)
        for start in range(0, len(first), together):
            some = slice(start, start + together)
            _spread(values_NABC[some], at_NABC3[some], first[some], onto_XYZ, planes)


def _touched(at_NABC3: Tensor, size: int) -> tuple[list[int], int]:
    """The first plane of the volume that each part touches, and how many the widest of them does.

    The points lie on a lattice, so the extremes are at its corners.
    """
    ends = [0, -1]
    corners_N = at_NABC3[:, ends][:, :, ends][:, :, :, ends][..., 2].double().flatten(1)
    index_N = ((corners_N + 1) * size - 1) / 2
    low = index_N.amin(1).floor().clamp(0, size - 1).int()
    planes = int((index_N.amax(1).floor().int() + 2 - low).clamp(1, size).max())
    return low.clamp_max(size - planes).tolist(), planes


def _spread(values_NABC: Tensor, at_NABC3: Tensor, first: list[int], onto_XYZ: Tensor, planes: int) -> None:
    shape = (planes, *onto_XYZ.shape[1:])
    starts = torch.tensor(first, dtype=at_NABC3.dtype, device=at_NABC3.device)
    inside_NABC3 = at_NABC3.clone()
    along_NABC = inside_NABC3[..., 2]  # from faces of the volume to those of the planes
    along_NABC.add_(1).mul_(len(onto_XYZ)).sub_(2 * starts[:, None, None, None]).div_(planes).sub_(1)
    # only its shape matters, but its values are multiplied: tiny ones, as unwritten memory holds, take 30 times as long
    like = onto_XYZ.new_zeros(1).expand(len(first), 1, *shape)
    # what autograd calls, without the forward pass that its public form needs
    back = torch.ops.aten.grid_sampler_3d_backward(values_NABC[:, None], like, inside_NABC3, 0, 0, False, [True, False])
    for start, added in zip(first, back[0][:, 0], strict=True):
        onto_XYZ[start : start + planes] += added
