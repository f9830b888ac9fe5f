"""Are small lesions still seen? Spheres of 1-5 mm put into sharp scans, which are degraded, then restored.

    python benchmarks/small_lesions.py --data ../shared/data [--bundle NAME=DIR ...] [--json out.json]

Lesions lie where the scan is even (white matter, mostly), brighter or darker than what is around them by a share of
its intensity. An observer measures the mean over the sphere minus the mean of a shell around it. A lesion counts as
detected if that contrast has the lesion's sign and exceeds what 95 % of the same places show in the same restoration
of the same scan without lesions; "invented" is the share of lesion-free places that look like a lesion by the sharp
scan's threshold (0.05 is chance). Axes: X Y Z voxels, N sites.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from common import RECIPES, enhancers_of, parser_of, predictions, validation_scan
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import head_mask

SCANS = ("M2307_T2w", "fsf_T1w", "ljms07_FLAIR")
SIZES_MM = (1, 2, 3, 4, 5)
CONTRASTS = (0.15, 0.3)  # of the intensity around
SITES, APART_MM = 200, 13.0
EVEN = 0.3  # sites lie among this share of the head's voxels, those whose surroundings vary least
REACH_MM = 7.0  # of the box that a site's sphere and shell are measured in


def even_sites(truth: Volume, rng: torch.Generator) -> list[tuple[int, int, int]]:
    """Up to SITES voxels with even surroundings, APART_MM from each other, in random order."""
    size = max(3, round(9 / truth.spacing_mm[0]) // 2 * 2 + 1)

    def mean(value_XYZ: Tensor) -> Tensor:
        return F.avg_pool3d(value_XYZ[None, None], size, 1, size // 2)[0, 0]

    data, head = truth.data_XYZ, head_mask(truth.data_XYZ)
    inner = mean(head.float()) > 0.999
    level = mean(data)
    spread = (mean(data.square()) - level.square()).clamp_min(0).sqrt() / level.clamp_min(1e-6)
    tissue = inner & (level > 0.4 * data[inner].median())
    places = (tissue & (spread < torch.quantile(spread[tissue][::7], EVEN))).nonzero()
    places = places[torch.randperm(len(places), generator=rng)[:20_000]]
    chosen: list[Tensor] = []
    spacing = torch.tensor(truth.spacing_mm)
    for place in places:
        if all(float(((place - other) * spacing).norm()) >= APART_MM for other in chosen):
            chosen.append(place)
        if len(chosen) == SITES:
            break
    return [(int(p[0]), int(p[1]), int(p[2])) for p in chosen]


def box_around(site: tuple[int, int, int], volume: Volume) -> tuple[tuple[slice, ...], Tensor]:
    """The voxels near a site, and how far each lies from it in mm."""
    box, axes = [], []
    for at, n, spacing in zip(site, volume.shape, volume.spacing_mm, strict=True):
        reach = round(REACH_MM / spacing)
        box.append(slice(max(at - reach, 0), min(at + reach + 1, n)))
        axes.append((torch.arange(box[-1].start, box[-1].stop) - at) * spacing)
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return tuple(box), (x.square() + y.square() + z.square()).sqrt()


def contrast(volume: Volume, site: tuple[int, int, int], size_mm: float) -> float:
    """Mean over the sphere (at least the middle voxel) minus mean of a shell 2-5 mm outside it."""
    box, far = box_around(site, volume)
    data, radius = volume.data_XYZ[box], max(size_mm / 2, 0.6 * min(volume.spacing_mm))
    shell = (far > size_mm / 2 + 2) & (far < size_mm / 2 + 5)
    return float(data[far <= radius].mean() - data[shell].mean())


def with_lesions(truth: Volume, planted: list[dict[str, Any]]) -> Volume:
    """The scan with spheres whose rims are as soft as its voxels."""
    data = truth.data_XYZ.clone()
    for lesion in planted:
        box, far = box_around(lesion["site"], truth)
        inside = ((lesion["size"] / 2 - far) / min(truth.spacing_mm) + 0.5).clamp(0, 1)
        level = float(truth.data_XYZ[box][far < 4].mean())
        data[box] += lesion["contrast"] * level * inside
    return truth.with_data(data.clamp_min(0))


def plan(truth: Volume, name: str) -> list[dict[str, Any]]:
    """A lesion for every site: sizes, contrasts and signs by turns."""
    rng = rng_for(0, "small lesions", name)
    kinds = [(size, sign * c) for c in CONTRASTS for sign in (1, -1) for size in SIZES_MM]
    return [
        {"site": site, "size": kinds[i % len(kinds)][0], "contrast": kinds[i % len(kinds)][1]}
        for i, site in enumerate(even_sites(truth, rng))
    ]


def restored(truth: Volume, recipe: str, name: str, args: Any, enhancers: Any) -> Iterator[tuple[str, Volume]]:
    """The sharp scan itself, then every method's result from its degraded version."""
    yield "sharp scan", truth
    low = degrade(truth, NAMED[recipe], rng_for(0, name, recipe))
    yield from predictions(low, truth, enhancers, args.modes)


def judged(clean: Volume, lesioned: Volume, planted: list[dict[str, Any]], sharp: dict[int, float]) -> dict[str, Any]:
    """Detection by size and contrast, kept contrast, and invented ones; `sharp` holds the sharp scan's thresholds."""
    rows, false = [], []
    for size in SIZES_MM:
        null_N = torch.tensor([contrast(clean, lesion["site"], size) for lesion in planted]).abs()
        threshold = float(null_N.quantile(0.95))
        sharp.setdefault(size, threshold)
        false.append(float((null_N > sharp[size]).float().mean()))
        for lesion in (lesion for lesion in planted if lesion["size"] == size):
            sign = 1 if lesion["contrast"] > 0 else -1
            seen = contrast(lesioned, lesion["site"], size)
            change = seen - contrast(clean, lesion["site"], size)
            rows.append(
                {
                    "size": size,
                    "contrast": lesion["contrast"],
                    "change": sign * change,
                    "detected": sign * seen > threshold,
                }
            )
    return {"lesions": rows, "invented": sum(false) / len(false)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: share detected by size, weak and strong, over all scans; contrast kept; places that look like one."""
    methods, recipes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("method", "recipe"))
    heads = [f"{size} mm" for size in SIZES_MM]
    lines = [f"| recipe | method | {' | '.join(heads)} | contrast kept | invented |", "|---" * (len(heads) + 4) + "|"]
    for recipe in recipes:
        kept_by: dict[str, float] = {}
        for method in methods:
            some = [row for row in rows if row["method"] == method and row["recipe"] == recipe]
            all_lesions = [lesion for row in some for lesion in row["lesions"]]
            kept_by[method] = sum(lesion["change"] / row["span"] for row in some for lesion in row["lesions"])
            cells = []
            for size in SIZES_MM:
                for_size = [
                    [x["detected"] for x in all_lesions if x["size"] == size and abs(x["contrast"]) == c]
                    for c in CONTRASTS
                ]
                cells.append(" / ".join(f"{sum(found) / max(len(found), 1):.2f}" for found in for_size))
            invented = sum(row["invented"] for row in some) / len(some)
            kept = kept_by[method] / kept_by[methods[0]]
            lines.append(f"| {recipe} | {method} | {' | '.join(cells)} | {kept:.2f} | {invented:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per scan, recipe and method, then the table."""
    parser = parser_of(__doc__, recipes=RECIPES, bundle=False)
    parser.add_argument("--bundle", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--modes", nargs="+", default=["faithful", "detail"])
    args = parser.parse_args()
    tune_allocator()
    enhancers, rows = enhancers_of(args.bundle), []
    for name in SCANS:
        truth = validation_scan(args.data, name)
        planted = plan(truth, name)
        lesioned, span = with_lesions(truth, planted), float(truth.data_XYZ[head_mask(truth.data_XYZ)].median())
        print(f"{name}: {len(planted)} lesions", file=sys.stderr)
        for recipe in args.recipes:
            sharp: dict[int, float] = {}
            pairs = zip(
                restored(truth, recipe, name, args, enhancers),
                restored(lesioned, recipe, name, args, enhancers),
                strict=True,
            )
            for (method, clean), (_, marked) in pairs:
                rows.append(
                    {
                        "scan": name,
                        "recipe": recipe,
                        "method": method,
                        "span": span,
                        **judged(clean, marked, planted, sharp),
                    }
                )
                share = sum(x["detected"] for x in rows[-1]["lesions"]) / len(planted)
                print(f"{name} {recipe} {method}: {share:.2f} detected", file=sys.stderr)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"bundle": enhancers["embedded"].bundle.sha256, "rows": rows}))


if __name__ == "__main__":
    main()
