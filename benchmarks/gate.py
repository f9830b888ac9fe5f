"""Does the gate know regions in any contrast, with skull and without? The gate alone, so minutes and not an hour.

    python benchmarks/gate.py --data ../shared/data [--bundle DIR] [--recipe thick5] [--json out.json]

Label maps kept out of training (13-16) become synthetic scans with the order of tissues of T1w, T2w and FLAIR, stripped
and as whole heads; they are degraded, prepared and read as `enhance` reads them. `benchmarks/experts.py` judges the
experts too, on stripped T1w scans only. Axes: X Y Z voxels, E experts, N voxels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from experts import EVERY, HELD_OUT, Order, asked, first_scan, gate_scores
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import prepare
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import BACKGROUND, REGIONS, region_map
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.inference.tiling import frame
from moediff.io.scans import load
from moediff.model.bundle import Bundle, load_bundle

APART = 1.1  # ratio of neighbouring tissues, so that a contrast is one
CONTRASTS: dict[str, Order] = {
    "T1w": lambda white, grey, fluid: white > APART * grey > APART**2 * fluid,
    "T2w": lambda white, grey, fluid: fluid > APART * grey > APART**2 * white,
    "FLAIR": lambda white, grey, fluid: grey > APART * white > APART**2 * fluid,
}


def cases(data: Path) -> Iterator[tuple[str, int, Volume, Tensor]]:
    """Kind of scan, number of the label map, sharp scan, regions."""
    for number in HELD_OUT:
        volume, _ = canonicalise(load(data / "labels" / f"training_seg_{number}.nii.gz").volume)
        labels = volume.data_XYZ.round().to(torch.int32)
        regions = region_map(labels, volume.spacing_mm)
        for (contrast, order), stripped in product(CONTRASTS.items(), (True, False)):
            scan = volume.with_data(first_scan(labels, order, "gate", number, stripped, stripped=stripped))
            known = regions.masked_fill(scan.data_XYZ <= 0, BACKGROUND)
            yield f"{contrast}, {'brain only' if stripped else 'whole head'}", number, scan, known


def judged(bundle: Bundle, scan: Volume, regions_XYZ: Tensor, recipe: str, number: int) -> dict[str, Any]:
    """How well the gate's weights tell regions of one scan."""
    low = degrade(scan, NAMED[recipe], rng_for(0, "gate", number))
    prepared = prepare(low, scan.grid, bundle.config.prepare)
    head = frame(bundle.denoiser, prepared, sparse=False)
    gate_XYZE = torch.stack([head.weight_XYZ(k, scan.shape) for k in range(len(REGIONS))], -1)
    some = (slice(None, None, EVERY),) * 3
    known = ((regions_XYZ != BACKGROUND) & (gate_XYZE.sum(-1) > 0))[some]
    gate_NE, region_N = gate_XYZE[some][known], regions_XYZ[some][known]
    return gate_scores(gate_NE, region_N, REGIONS)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per kind of scan, means over label maps; in brackets the worst macro AUC."""
    titles = [*(f"AUC {region}" for region in REGIONS), "macro (worst)", *(f"load {r}" for r in REGIONS), "named right"]
    lines = [f"| kind of scan | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        some = [row for row in rows if row["kind"] == kind]
        macros = [sum(row["auc"].values()) / len(REGIONS) for row in some]
        each = [[sum(row[key][region] for row in some) / len(some) for region in REGIONS] for key in ("auc", "load")]
        cells = [*(f"{value:.2f}" for value in each[0]), f"{sum(macros) / len(macros):.2f} ({min(macros):.2f})"]
        cells += [f"{value:.2f}" for value in each[1]]
        cells.append(f"{sum(row['named_right'] for row in some) / len(some):.2f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    """Print the table; a line per case on standard error."""
    args = asked(__doc__)
    keep_memory()
    bundle, rows = load_bundle(args.bundle), []
    for kind, number, scan, regions in cases(args.data):
        rows.append({"kind": kind, "number": number, **judged(bundle, scan, regions, args.recipe, number)})
        print(json.dumps(rows[-1]), file=sys.stderr)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"bundle": bundle.sha256, "recipe": args.recipe, "rows": rows}))


if __name__ == "__main__":
    main()
