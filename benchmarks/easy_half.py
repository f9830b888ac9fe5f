"""What a cheaper expert for the easy half of a head could save, and what it may lose at most.

Tokens (cubes of 4 voxels) of the head are sorted by the predicted error. Two bounds for any expert on the easy half:

- quality: the easy half is left to interpolation. A cheap expert loses less than that, in proportion to the gain that
  it does not reach.
- time: the costly backbone must still see what the hard half looks at. With the reach of the network around every hard
  token, this share of the head has to be computed anyway.

    python benchmarks/easy_half.py --side 128
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from common import RECIPES, SCANS, every_head, markdown, mean, parser_of, write_rows
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.geometry import resample
from moediff.core.morphology import dilated
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

TOKEN = 4  # voxels


@dataclass(frozen=True)
class Row:
    """One head and recipe.

    Args:
        gain_db: of the result over the better interpolation.
        hard_only_gain_db: the same where the easy half of tokens is interpolated.
        computed: share of the head's tokens within the network's reach of a hard one.
        within_quarter: share of them within a quarter of that reach.
    """

    scan: str
    recipe: str
    gain_db: float
    hard_only_gain_db: float
    computed: float
    within_quarter: float


def token_means(values_XYZ: Tensor) -> Tensor:
    """Mean over tokens; what is left at the far faces is dropped."""
    return F.avg_pool3d(values_XYZ[None, None].float(), TOKEN)[0, 0]


def judged(enhancer: Enhancer, name: str, recipe: str, truth: Volume) -> Row:
    """One head degraded by one recipe."""
    low = degrade(truth, NAMED[recipe], rng_for(0, name, recipe))
    result = enhancer(low, EnhanceOptions(like=truth.grid))
    assert result.uncertainty is not None
    mask = head_mask(truth.data_XYZ)
    plain = [resample(low, truth.grid, kernel).data_XYZ for kernel in ("cubic", "zero-fill")]
    scored = [psnr(one, truth.data_XYZ, mask, data_range(truth.data_XYZ, mask)) for one in plain]
    best = scored.index(max(scored))
    head_xyz, error_xyz = token_means(mask) > 0.5, token_means(result.uncertainty.data_XYZ)
    hard_xyz = head_xyz & (error_xyz > error_xyz[head_xyz].median())
    hard_XYZ = torch.zeros_like(mask)
    whole = hard_xyz.repeat_interleave(TOKEN, 0).repeat_interleave(TOKEN, 1).repeat_interleave(TOKEN, 2)
    hard_XYZ[: whole.shape[0], : whole.shape[1], : whole.shape[2]] = whole
    mixed = torch.where(hard_XYZ, result.volume.data_XYZ, plain[best])
    ours, partly = (
        psnr(one, truth.data_XYZ, mask, data_range(truth.data_XYZ, mask)) for one in (result.volume.data_XYZ, mixed)
    )
    reach = -(-enhancer.bundle.config.denoiser.reach_voxels // TOKEN)
    shares = [float((dilated(hard_xyz, r) & head_xyz).sum() / head_xyz.sum()) for r in (reach, -(-reach // 4))]
    gains = round(ours - scored[best], 3), round(partly - scored[best], 3)
    return Row(name, recipe, *gains, round(shares[0], 3), round(shares[1], 3))


def main() -> None:
    """Print means over persons."""
    parser = parser_of(__doc__, recipes=RECIPES, side=128)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    args = parser.parse_args()
    enhancer = Enhancer(args.bundle)
    rows = every_head(args, partial(judged, enhancer))
    lines = []
    for recipe in args.recipes:
        same = [row for row in rows if row.recipe == recipe]
        gains = [mean([row.gain_db for row in same]), mean([row.hard_only_gain_db for row in same])]
        shares = [mean([row.computed for row in same]), mean([row.within_quarter for row in same])]
        lines.append([recipe, *(f"{gain:+.2f}" for gain in gains), *(f"{100 * share:.0f} %" for share in shares)])
    print(f"{args.side}^3 voxels, weights {enhancer.bundle.sha256[:8]}; mean of {len(args.scans)}\n")
    print(markdown(["recipe", "gain", "hard half only", "within reach", "within a quarter of it"], lines))
    write_rows(args.json, rows, sha256=enhancer.bundle.sha256, side=args.side)


if __name__ == "__main__":
    main()
