"""Write a benchmark's tables into documents, so that no number in them is typed by hand.

    python scripts/benchmark_tables.py benchmark/results.json docs/benchmarks.md README.md --plot docs/images/time.svg

Replaces what stands between `<!-- benchmark NAME -->` and `<!-- end -->`; see `moediff.evaluation.document` for names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moediff.evaluation.document import filled, tables
from moediff.evaluation.summary import means, with_gains

HASH = "moediff"  # of the picture's identifiers, so that equal results give equal files


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Gain against seconds, a dot per method, a panel per recipe."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    found = [row for row in means(rows) if row["gain_psnr"] is not None]
    recipes = list(dict.fromkeys(row["recipe"] for row in found))
    with rc_context({"svg.hashsalt": HASH, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(2.4 * len(recipes) + 0.6, 2.8))
        panels = figure.subplots(1, len(recipes), sharey=True, squeeze=False)[0]
        for panel, recipe in zip(panels, recipes, strict=True):
            panel.axhline(0, color="0.7", linewidth=0.8)
            for row in (row for row in found if row["recipe"] == recipe):
                at = row["seconds"], row["gain_psnr"]
                panel.plot(*at, "o", markersize=4)
                panel.annotate(row["method"], at, xytext=(4, 3), textcoords="offset points")
            panel.set(xscale="log", title=recipe, xlabel="whole process, seconds")
            panel.margins(x=0.3)
        panels[0].set_ylabel("gain over interpolation, PSNR (dB)")
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Fill every document and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("documents", type=Path, nargs="*")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    args = parser.parse_args()
    record = json.loads(args.results.read_text(encoding="utf-8"))
    rows = with_gains(record["rows"])
    blocks = tables(rows, record["focus"], record["about"])
    for document in args.documents:
        document.write_text(filled(document.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
