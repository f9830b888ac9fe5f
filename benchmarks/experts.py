"""Experts and gate: where the gate sends tissue, and what each expert is worth there.

    python benchmarks/experts.py --data ../shared/data [--bundle DIR] [--recipe thick5] [--json out.json]
    python benchmarks/experts.py --gate-only       # the gate in any contrast, with skull and without: minutes

Cases: label maps that no training used (13-16) as synthetic T1w scans, whose regions are known, and stripped real T1w
scans of val/, whose regions come from tissue classification. With --gate-only: the same label maps with the order of
tissues of T1w, T2w and FLAIR, stripped and as whole heads. Axes: X Y Z voxels, E experts, N voxels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from common import HELD_OUT, label_map, markdown, mean, parser_of, report, validation_scan, write_rows
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import prepare
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import BACKGROUND, REGIONS, region_map, scan_regions
from moediff.anatomy.synthesis import SynthesisSettings, synthesise
from moediff.core.config import rng_for
from moediff.core.geometry import crop
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import encode
from moediff.model.bundle import Bundle

REAL = ("fsf_T1w",)  # the only T1w scan of val/ with distinct tissues: the others have their skull, or an agent in them
ATTEMPTS = 200  # synthetic scans, one of which has the contrast that is wanted
EVERY = 3  # voxels; rank statistics are taken on a subset
SUBSET = (slice(None, None, EVERY),) * 3
SEPARATION = 1.1  # least ratio of neighbouring tissues' intensities
Order = Callable[[float, float, float], bool]  # of the medians of white matter, grey matter and fluid
CONTRASTS: dict[str, Order] = {
    "T1w": lambda white, grey, fluid: white > SEPARATION * grey > SEPARATION**2 * fluid,
    "T2w": lambda white, grey, fluid: fluid > SEPARATION * grey > SEPARATION**2 * white,
    "FLAIR": lambda white, grey, fluid: grey > SEPARATION * white > SEPARATION**2 * fluid,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sharp scan and the region of every voxel.

    Args:
        name: of the scan or its kind.
        key: of the randomness of its degradation.
    """

    name: str
    key: tuple[object, ...]
    scan: Volume
    regions_XYZ: Tensor


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """How well the gate's weights separate regions in one case.

    Args:
        auc: area under the ROC curve by region.
        load: mean weight by expert.
        accuracy: share of voxels whose expert of largest weight is that of their region.
    """

    case: str
    auc: dict[str, float]
    load: dict[str, float]
    accuracy: float

    @property
    def macro_auc(self) -> float:
        """Mean over regions."""
        return mean(list(self.auc.values()))


@dataclass(frozen=True, kw_only=True)
class ExpertRow(GateRow):
    """Gate and experts in one case.

    Args:
        rmse: by region, then by expert run alone; "aggregate" is all of them together.
        same_first_other_noise, same_first_shifted: share of voxels whose expert of largest weight stays.
    """

    rmse: dict[str, dict[str, float]]
    same_first_other_noise: float
    same_first_shifted: float


def synthetic_scan(labels_XYZ: Tensor, order: Order, *key: object, stripped: bool = True) -> Tensor:
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


def expert_cases(data: Path, recipe: str) -> Iterator[Case]:
    """Synthetic and real T1w scans, stripped."""
    for number in HELD_OUT:
        volume, labels = label_map(data, number)
        scan = volume.with_data(synthetic_scan(labels, t1w, "experts", number))
        regions = region_map(labels, volume.spacing_mm)
        regions[scan.data_XYZ <= 0] = BACKGROUND
        name = f"labels {number}"
        yield Case(name=name, key=(name, recipe), scan=scan, regions_XYZ=regions)
    for name in REAL:
        scan = validation_scan(data, name)
        real_regions = scan_regions(scan.data_XYZ, scan.spacing_mm)
        if real_regions is not None:
            yield Case(name=name, key=(name, recipe), scan=scan, regions_XYZ=real_regions)


def gate_cases(data: Path) -> Iterator[Case]:
    """Synthetic scans of every contrast, with skull and without."""
    for number in HELD_OUT:
        volume, labels = label_map(data, number)
        regions = region_map(labels, volume.spacing_mm)
        for (contrast, order), stripped in product(CONTRASTS.items(), (True, False)):
            scan = volume.with_data(synthetic_scan(labels, order, "gate", number, stripped, stripped=stripped))
            known = regions.masked_fill(scan.data_XYZ <= 0, BACKGROUND)
            kind = f"{contrast}, {'brain only' if stripped else 'whole head'}"
            yield Case(name=kind, key=("gate", number), scan=scan, regions_XYZ=known)


def auc(score_N: Tensor, positive_N: Tensor) -> float:
    """Area under the ROC curve by ranks; ties share their mean rank."""
    _, which, count = score_N.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    rank_N = (last - (count.double() - 1) / 2)[which]
    yes, no = float(positive_N.sum()), float((~positive_N).sum())
    return (float(rank_N[positive_N].sum()) - yes * (yes + 1) / 2) / max(yes * no, 1)


def gate_row(case: str, gate_NE: Tensor, region_N: Tensor, experts: Sequence[str]) -> GateRow:
    """Statistics of the gate's weights in voxels of known region."""
    return GateRow(
        case=case,
        auc={region: auc(gate_NE[:, k], region_N == k) for k, region in enumerate(REGIONS)},
        load=dict(zip(experts, gate_NE.mean(0).tolist(), strict=True)),
        accuracy=float((gate_NE.argmax(-1) == region_N).double().mean()),
    )


def evaluate_gate(bundle: Bundle, case: Case, recipe: str) -> GateRow:
    """The gate alone on one scan, degraded and prepared as `enhance` does it."""
    low = degrade(case.scan, NAMED[recipe], rng_for(0, *case.key))
    context = encode(bundle.denoiser, prepare(low, case.scan.grid, bundle.config.prepare), sparse=False)
    gate = context.gate_weights()
    gate_XYZE = torch.stack([gate.expert_XYZ(k, case.scan.shape) for k in range(len(REGIONS))], -1)
    known = ((case.regions_XYZ != BACKGROUND) & (gate_XYZE.sum(-1) > 0))[SUBSET]
    return gate_row(case.name, gate_XYZE[SUBSET][known], case.regions_XYZ[SUBSET][known], REGIONS)


def same_first(one_XYZE: Tensor, other_XYZE: Tensor, known_XYZ: Tensor) -> float:
    """Share of voxels whose expert of largest weight is the same in both."""
    return float((one_XYZE.argmax(-1) == other_XYZE.argmax(-1))[known_XYZ].double().mean())


def evaluate_experts(enhancer: Enhancer, case: Case, recipe: str) -> ExpertRow:
    """Gate and experts on one case."""
    scan, regions = case.scan, case.regions_XYZ
    low = degrade(scan, NAMED[recipe], rng_for(0, *case.key))
    result = enhancer(low, EnhanceOptions(like=scan.grid, sparse=False, single_experts=True))
    known = (regions != BACKGROUND) & result.mask_XYZ
    gate = gate_row(
        case.name, result.gate_XYZE[SUBSET][known[SUBSET]], regions[SUBSET][known[SUBSET]], result.expert_names
    )
    assert result.single_experts_XYZE is not None
    results = {"aggregate": result.volume.data_XYZ}
    results |= {expert: result.single_experts_XYZE[..., k] for k, expert in enumerate(result.expert_names)}
    plain = EnhanceOptions(like=scan.grid, sparse=False)
    noisy = enhancer(degrade(scan, NAMED[recipe], rng_for(1, *case.key)), plain)
    shifted = enhancer(crop(low, (1, 1, 0), (low.shape[0] - 1, low.shape[1] - 1, low.shape[2])), plain)
    return ExpertRow(
        **vars(gate),
        rmse={
            region: {name: rmse(data, scan.data_XYZ, known & (regions == index)) for name, data in results.items()}
            for index, region in enumerate(REGIONS)
        },
        same_first_other_noise=same_first(result.gate_XYZE, noisy.gate_XYZE, known),
        same_first_shifted=same_first(result.gate_XYZE, shifted.gate_XYZE, known),
    )


def rmse(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor) -> float:
    """Root mean square error inside the mask."""
    return float((pred_XYZ - truth_XYZ)[mask_XYZ].double().square().mean().sqrt())


def expert_tables(rows: Sequence[ExpertRow]) -> str:
    """Markdown: the gate, then error of every expert over that of the aggregate, by region (mean of cases)."""
    experts = list(rows[0].load)
    header = [
        "case",
        *(f"AUC {r}" for r in REGIONS),
        "macro",
        *(f"load {n}" for n in experts),
        "accuracy",
        "same first expert: noise, shift",
    ]
    lines = []
    for row in rows:
        values = [*row.auc.values(), row.macro_auc, *row.load.values(), row.accuracy]
        same = f"{row.same_first_other_noise:.2f}, {row.same_first_shifted:.2f}"
        lines.append([row.case, *(f"{value:.2f}" for value in values), same])
    ratios = []
    for region in REGIONS:
        values = [mean([row.rmse[region][name] / row.rmse[region]["aggregate"] for row in rows]) for name in experts]
        ratios.append([region, *(f"**{v:.3f}**" if v == min(values) else f"{v:.3f}" for v in values)])
    return f"{markdown(header, lines)}\n\n{markdown(['RMSE over the aggregate', *experts], ratios)}"


def gate_table(rows: Sequence[GateRow]) -> str:
    """Markdown: a line per kind of scan, means over label maps; in brackets the worst macro AUC."""
    header = [
        "kind of scan",
        *(f"AUC {r}" for r in REGIONS),
        "macro (worst)",
        *(f"load {r}" for r in REGIONS),
        "accuracy",
    ]
    lines = []
    for kind in dict.fromkeys(row.case for row in rows):
        own = [row for row in rows if row.case == kind]
        aucs, loads = (
            [f"{mean([values[region] for values in each]):.2f}" for region in REGIONS]
            for each in ([row.auc for row in own], [row.load for row in own])
        )
        macro = [row.macro_auc for row in own]
        accuracy = f"{mean([row.accuracy for row in own]):.2f}"
        lines.append([kind, *aucs, f"{mean(macro):.2f} ({min(macro):.2f})", *loads, accuracy])
    return markdown(header, lines)


def parsed() -> argparse.Namespace:
    """Options of the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", default="thick5")
    parser.add_argument("--gate-only", action="store_true", help="the gate in every contrast, no experts")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Print a line per case, then the tables."""
    args = parsed()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    rows: list[GateRow] = []
    experts: list[ExpertRow] = []
    if args.gate_only:
        for case in gate_cases(args.data):
            rows.append(evaluate_gate(enhancer.bundle, case, args.recipe))
            report(rows[-1])
    else:
        for case in expert_cases(args.data, args.recipe):
            experts.append(evaluate_experts(enhancer, case, args.recipe))
            report(experts[-1])
    print(expert_tables(experts) if experts else gate_table(rows))
    write_rows(args.json, [*rows, *experts], bundle=enhancer.bundle.sha256, recipe=args.recipe)


if __name__ == "__main__":
    main()
