"""Where the gate sends tissue, and what each expert is worth there.

    python benchmarks/experts.py --data ../shared/data [--bundle DIR] [--recipe thick5] [--json out.json]

Cases: label maps kept out of training (13-16) as synthetic T1w scans, whose regions are known, and stripped real T1w
scans of val/, whose regions come from tissue classification. Axes: X Y Z voxels, E experts, N voxels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import BACKGROUND, REGIONS, region_map, scan_regions
from moediff.anatomy.synthesis import SynthesisSettings, synthesise
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise, crop
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

HELD_OUT = (13, 14, 15, 16)
REAL = ("fsf_T1w",)  # the only val/ T1w whose regions can be told: the others have their skull or an agent in them
ATTEMPTS = 200  # synthetic scans of which one has the contrast that is wanted
Order = Callable[[float, float, float], bool]  # of the medians of white matter, grey matter and fluid
EVERY = 3  # voxels; rank statistics are taken on a subset


def first_scan(labels_XYZ: Tensor, order: Order, *key: object, stripped: bool = True) -> Tensor:
    """The first synthetic scan of a label map whose tissues have this order; `key` is that of its randomness."""
    settings = SynthesisSettings(plausible=1.0, stripped=float(stripped), lesions=0)
    for attempt in range(ATTEMPTS):
        data = synthesise(labels_XYZ, rng_for(0, *key, attempt), settings)
        if order(*(float(data[labels_XYZ == label].median()) for label in (2, 3, 4))):
            return data
    raise RuntimeError(f"no such order of tissues in {ATTEMPTS} synthetic scans")


def t1w(white: float, grey: float, fluid: float) -> bool:
    """White matter is brightest."""
    return white > 1.1 * grey > 1.1 * fluid


def cases(data: Path) -> Iterator[tuple[str, Volume, Tensor]]:
    """Name, sharp scan and regions."""
    for number in HELD_OUT:
        volume, _ = canonicalise(load(data / "labels" / f"training_seg_{number}.nii.gz").volume)
        labels = volume.data_XYZ.round().to(torch.int32)
        scan = volume.with_data(first_scan(labels, t1w, "experts", number))
        regions = region_map(labels, volume.spacing_mm)
        regions[scan.data_XYZ <= 0] = BACKGROUND
        yield f"labels {number}", scan, regions
    for name in REAL:
        volume, _ = canonicalise(load(data / "val" / f"{name}.nii.gz").volume)
        found = scan_regions(volume.data_XYZ, volume.spacing_mm)
        if found is not None:
            yield name, volume, found


def auc(score_N: Tensor, positive_N: Tensor) -> float:
    """Area under the ROC curve by ranks; ties share their mean rank."""
    _, which, count = score_N.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    rank_N = (last - (count.double() - 1) / 2)[which]
    yes, no = float(positive_N.sum()), float((~positive_N).sum())
    return (float(rank_N[positive_N].sum()) - yes * (yes + 1) / 2) / max(yes * no, 1)


def gate_scores(gate_NE: Tensor, region_N: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """How well the gate's weights tell regions, how much each expert, by its name, does, and the share named right."""
    return {
        "auc": {region: auc(gate_NE[:, k], region_N == k) for k, region in enumerate(REGIONS)},
        "load": dict(zip(names, gate_NE.mean(0).tolist(), strict=True)),
        "named_right": float((gate_NE.argmax(-1) == region_N).double().mean()),
    }


def same_first(one_XYZE: Tensor, other_XYZE: Tensor, known_XYZ: Tensor) -> float:
    """Share of voxels that keep the expert of largest weight."""
    return float((one_XYZE.argmax(-1) == other_XYZE.argmax(-1))[known_XYZ].double().mean())


def judged(enhancer: Enhancer, scan: Volume, regions_XYZ: Tensor, recipe: str, name: str) -> dict[str, Any]:
    """Gate and experts on one case."""
    low = degrade(scan, NAMED[recipe], rng_for(0, name, recipe))
    options = EnhanceOptions(like=scan.grid, sparse=False, each_expert=True)
    result = enhancer(low, options)
    known = (regions_XYZ != BACKGROUND) & result.mask_XYZ
    sub = slice(None, None, EVERY)
    gate_NE, region_N = result.gate_XYZE[sub, sub, sub][known[sub, sub, sub]], regions_XYZ[sub, sub, sub]
    region_N = region_N[known[sub, sub, sub]]
    each = result.each_XYZE
    assert each is not None
    error = {
        region: {
            "aggregate": _rmse(result.volume.data_XYZ, scan.data_XYZ, known & (regions_XYZ == index)),
            **{
                expert: _rmse(each[..., k], scan.data_XYZ, known & (regions_XYZ == index))
                for k, expert in enumerate(result.expert_names)
            },
        }
        for index, region in enumerate(REGIONS)
    }
    plain = EnhanceOptions(like=scan.grid, sparse=False)
    noisy = enhancer(degrade(scan, NAMED[recipe], rng_for(1, name, recipe)), plain)
    shifted = enhancer(crop(low, (1, 1, 0), (low.shape[0] - 1, low.shape[1] - 1, low.shape[2])), plain)
    return {
        "case": name,
        **gate_scores(gate_NE, region_N, result.expert_names),
        "rmse": error,
        "same_first_other_noise": same_first(result.gate_XYZE, noisy.gate_XYZE, known),
        "same_first_shifted": same_first(result.gate_XYZE, shifted.gate_XYZE, known),
    }


def _rmse(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor) -> float:
    return float((pred_XYZ - truth_XYZ)[mask_XYZ].double().square().mean().sqrt())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: gate, then error of every expert over that of the aggregate, region by region (mean of cases)."""
    names = list(rows[0]["load"])
    lines = [
        f"| case | {' | '.join(f'AUC {r}' for r in REGIONS)} | macro | {' | '.join(f'load {n}' for n in names)} "
        "| named right | same first: noise, shift |",
        "|---" * (len(REGIONS) + len(names) + 4) + "|",
    ]
    for row in rows:
        values = [*row["auc"].values(), sum(row["auc"].values()) / len(REGIONS), *row["load"].values()]
        lines.append(
            f"| {row['case']} | {' | '.join(f'{v:.2f}' for v in values)} | {row['named_right']:.2f} "
            f"| {row['same_first_other_noise']:.2f}, {row['same_first_shifted']:.2f} |"
        )
    lines += ["", f"| RMSE over the aggregate's | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for region in REGIONS:
        ratios = [
            sum(row["rmse"][region][name] / row["rmse"][region]["aggregate"] for row in rows) / len(rows)
            for name in names
        ]
        best = min(ratios)
        lines.append(f"| {region} | {' | '.join(f'**{r:.3f}**' if r == best else f'{r:.3f}' for r in ratios)} |")
    return "\n".join(lines)


def asked(about: str | None) -> argparse.Namespace:
    """Data, bundle, recipe and where rows go, from the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--recipe", default="thick5")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Print a line per case, then the tables."""
    args = asked(__doc__)
    keep_memory()
    enhancer, rows = Enhancer(args.bundle), []
    for name, scan, regions in cases(args.data):
        rows.append(judged(enhancer, scan, regions, args.recipe, name))
        print(json.dumps(rows[-1]), file=sys.stderr)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"bundle": enhancer.bundle.sha256, "recipe": args.recipe, "rows": rows}))


if __name__ == "__main__":
    main()
