"""Tables and figure of benchmarks/ablation.py, from what it measured.

python benchmarks/ablation_tables.py runs/ablation        # writes ablation.md and ablation.png there
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moediff.anatomy.regions import REGIONS

Result = dict[str, Any]  # one network of one seed: name, cost, and a row per crop
OURS, PLAIN, HALF = "experts", "four plain views", "experts half"
METRICS = ("psnr", "ssim", "haarpsi")
INK = {"equal compute": "#0072b2", "equal parameters": "#d55e00"}  # colour-blind safe (Okabe & Ito)


def overall(found: Result, key: str, cases: Sequence[str]) -> float:
    """Mean of a metric over the crops of these scans."""
    values = [row[key] for row in found["rows"] if row["case"] in cases]
    return sum(values) / len(values)


def in_region(found: Result, region: str) -> float:
    """Mean PSNR in a region, over crops where it is known."""
    values = [row["regions"][region] for row in found["rows"] if region in row.get("regions", {})]
    return sum(values) / len(values)


def gate(found: Result) -> tuple[float, float, float]:
    """Mean area under the curve over crops and regions, least and greatest mean load of an expert."""
    rows = [row for row in found["rows"] if "auc" in row]
    loads = [sum(row["load"][k] for row in rows) / len(rows) for k in range(len(REGIONS))]
    return sum(row["auc"] for row in rows) / len(rows), min(loads), max(loads)


def seeds_of(results: Sequence[Result], name: str) -> dict[int, Result]:
    """One network's results by seed."""
    return {found["seed"]: found for found in results if found["network"] == name}


def gaps(results: Sequence[Result], rival: str, cases: Sequence[str], name: str = OURS) -> dict[str, list[float]]:
    """Experts minus a rival, seed by seed: every metric over `cases`, PSNR in every region."""
    ours, theirs = seeds_of(results, name), seeds_of(results, rival)
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    found = {key: [overall(a, key, cases) - overall(b, key, cases) for a, b in pairs] for key in METRICS}
    return found | {region: [in_region(a, region) - in_region(b, region) for a, b in pairs] for region in REGIONS}


def slower(results: Sequence[Result], name: str) -> float:
    """Time of an evaluation over the experts' of the same seed, mean over seeds."""
    ours, own = seeds_of(results, OURS), seeds_of(results, name)
    return sum(own[seed]["us"] / ours[seed]["us"] for seed in own) / len(own)


def told(values: Sequence[float], digits: int) -> str:
    """Mean, and every seed."""
    each = ", ".join(f"{value:+.{digits}f}" for value in values)
    return f"{sum(values) / len(values):+.{digits}f} ({each})"


def cost_table(results: Sequence[Result], cases: Sequence[str]) -> list[str]:
    """What each network is and costs: means over seeds."""
    lines = [
        "| network | seeds | parameters | kFLOP a voxel | time over experts' | steps | PSNR | SSIM | HaarPSI |",
        "|---" * 9 + "|",
    ]
    for name in (OURS, PLAIN, *INK):
        own = {seed: found for seed, found in seeds_of(results, name).items() if "us" in found}
        if not own:
            continue

        def mean(key: str, of: dict[int, Result] = own) -> float:
            return sum(found[key] for found in of.values()) / len(of)

        scores = [sum(overall(f, key, cases) for f in own.values()) / len(own) for key in METRICS]
        shape = f"{mean('parameters') / 1e6:.2f} M | {mean('kflop'):.0f} | {slower(results, name):.2f}"
        told_scores = f"{scores[0]:.2f} | {scores[1]:.4f} | {scores[2]:.4f}"
        lines.append(f"| {name} | {len(own)} | {shape} | {mean('steps'):.0f} | {told_scores} |")
    return lines


def gap_table(results: Sequence[Result], cases: Sequence[str]) -> list[str]:
    """Experts, with views of their own and without, against both rivals: mean over seeds, and each."""
    lines = [
        f"| gain | PSNR, dB | SSIM | HaarPSI | {' | '.join(f'{r}, dB' for r in REGIONS)} |",
        "|---" * (4 + len(REGIONS)) + "|",
    ]
    for name, rival in itertools.product((OURS, PLAIN), INK):
        if seeds_of(results, rival) and seeds_of(results, name):
            found = gaps(results, rival, cases, name)
            cells = [told(found[key], 2 if key not in METRICS[1:] else 4) for key in (*METRICS, *REGIONS)]
            lines.append(f"| {name} minus {rival} | {' | '.join(cells)} |")
    return lines


def teacher_table(results: Sequence[Result], cases: Sequence[str], teachers: Sequence[str]) -> list[str]:
    """The gate under each teacher, first seed."""
    lines = ["| taught by | AUC, macro | load of an expert | PSNR, dB |", "|---" * 4 + "|"]
    for name in teachers:
        found = seeds_of(results, name).get(0)
        if found is not None:
            area, least, most = gate(found)
            label = "all three" if name == OURS else name
            lines.append(f"| {label} | {area:.2f} | {least:.2f}-{most:.2f} | {overall(found, 'psnr', cases):.2f} |")
    return lines


def design_table(results: Sequence[Result], cases: Sequence[str], designs: Sequence[str]) -> list[str]:
    """Second halves that were tried, first seed, and what they went on from."""
    lines = [
        f"| network | kFLOP a voxel | steps | PSNR, dB | SSIM | HaarPSI | {' | '.join(REGIONS)} | AUC |",
        "|---" * (7 + len(REGIONS)) + "|",
    ]
    for name in designs:
        found = seeds_of(results, name).get(0)
        if found is not None:
            scores = [overall(found, key, cases) for key in METRICS]
            inside = " | ".join(f"{in_region(found, region):.2f}" for region in REGIONS)
            area = f"{gate(found)[0]:.2f}" if any("auc" in row for row in found["rows"]) else ""
            lines.append(
                f"| {name} | {found['kflop']:.0f} | {found['steps']} | {scores[0]:.3f} | {scores[1]:.4f} "
                f"| {scores[2]:.4f} | {inside} | {area} |"
            )
    return lines


def draw(results: Sequence[Result], cases: Sequence[str], path: Path) -> None:
    """Experts minus each rival, a dot a seed: overall and by region; and what an evaluation costs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.4), width_ratios=(2.6, 1), layout="constrained")
    places = ("psnr", *REGIONS)
    for shift, rival in zip((-0.12, 0.12), INK, strict=True):
        found = gaps(results, rival, cases)
        for x, place in enumerate(places):
            label = f"over {rival}" if x == 0 else None
            left.plot([x + shift] * len(found[place]), found[place], "o", color=INK[rival], alpha=0.8, label=label)
    left.axhline(0, color="grey", linewidth=0.8)
    left.set_xticks(range(len(places)), ["overall", *REGIONS])
    left.set_ylabel("gain of experts, dB PSNR")
    left.legend(frameon=False)
    names = (OURS, *INK)
    ratios = [slower(results, name) for name in names]
    right.bar(range(len(names)), ratios, color=["#009e73", *INK.values()])
    right.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=8)
    right.set_ylabel("time of an evaluation, experts = 1")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def write(out: Path, cases: Sequence[str], teachers: Sequence[str], designs: Sequence[str]) -> str:
    """Write ablation.md and ablation.png into the folder of a run; returns the tables."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    tried = design_table(results, cases, (HALF, "equal compute", OURS, PLAIN, *designs))
    parts = cost_table(results, cases), gap_table(results, cases), teacher_table(results, cases, teachers), tried
    text = "\n\n".join("\n".join(part) for part in parts) + "\n"
    (out / "ablation.md").write_text(text, encoding="utf-8")
    draw(results, cases, out / "ablation.png")
    return text


if __name__ == "__main__":
    import ablation
    from ablation_judging import VAL

    print(write(Path(sys.argv[1]), VAL, tuple(ablation.TEACHERS), (*ablation.DESIGNS, *ablation.SEARCH)))
