"""Figure of benchmarks/samplers.py: what detail costs. Distortion along x, a measure of perception in each panel.

python benchmarks/tradeoff.py samplers.json docs/images/perception.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # one crop: scan, recipe and, by plan, scores
MEASURES = {  # of perception: title of a panel, and the value of the truth where it has one
    "haarpsi": ("HaarPSI (1 is best)", None),
    "gmsd": ("GMSD (0 is best)", None),
    "spectral": ("spectral distance to truth, dB", 0.0),
    "sharpness": ("sharpness (1 is the truth's)", 1.0),
}
SOLVERS = {"euler": "#0072b2", "heun": "#009e73", "churn": "#cc79a7", "dpm++2m": "#d55e00"}  # Okabe & Ito
LEAST_DB = -2.0  # plans that lose more are left out: Heun with few evaluations falls apart
HASH = "moediff"  # of the picture's identifiers, so that equal results give equal files


def points(rows: Sequence[Row], measure: str) -> dict[str, tuple[float, float]]:
    """By plan: mean PSNR over that of `faithful`, dB, and the mean of a measure."""
    found = {}
    for plan in rows[0]["found"]:
        gains = [row["found"][plan]["psnr"] - row["found"]["faithful"]["psnr"] for row in rows]
        values = [row["found"][plan][measure] for row in rows]
        found[plan] = sum(gains) / len(rows), sum(values) / len(rows)
    return found


def lines(plans: Sequence[str]) -> dict[str, list[str]]:
    """Plans that one line joins: a solver by its evaluations, and the chosen one by its noise scale."""
    found = {solver: [p for p in plans if p.startswith(solver + " ") and " at " not in p] for solver in SOLVERS}
    return found | {"noise scale": sorted((p for p in plans if " at " in p), key=lambda p: float(p.split()[-1]))}


def draw(rows: Sequence[Row], path: Path) -> None:
    """A row of panels per recipe, one for each measure."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    with rc_context({"svg.hashsalt": HASH, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(3 * len(MEASURES), 2.7 * len(recipes)))
        panels = figure.subplots(len(recipes), len(MEASURES), squeeze=False)
        figure.set_layout_engine("constrained")
        for recipe, across in zip(recipes, panels, strict=True):
            some = [row for row in rows if row["recipe"] == recipe]
            for panel, (measure, (title, goal)) in zip(across, MEASURES.items(), strict=True):
                _panel(panel, points(some, measure), goal)
                panel.set(title=title, xlabel="PSNR against faithful, dB")
            across[0].set_ylabel(recipe)
        panels[0, 0].legend(fontsize=6)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _panel(panel: Any, found: dict[str, tuple[float, float]], goal: float | None) -> None:
    if goal is not None:
        panel.axhline(goal, color="0.7", linewidth=0.8)
    shown = {plan: point for plan, point in found.items() if point[0] > LEAST_DB}
    for name, plans in lines(list(shown)).items():
        if not plans:
            continue
        style = {"color": SOLVERS.get(name, "0.3"), "linestyle": "-" if name in SOLVERS else ":"}
        panel.plot(*zip(*(found[p] for p in plans), strict=True), "o", markersize=3, linewidth=0.8, label=name, **style)
        for plan in plans:
            panel.annotate(plan.split()[-1], found[plan], xytext=(2, 2), textcoords="offset points", fontsize=5)
    panel.plot(*found["faithful"], "k*", markersize=7, label="faithful")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"], Path(sys.argv[2]))
