"""Old words that still stand as identifiers, keys or options: `python tests/words.py [FOLDER]` lists them, most first.

The field's words are in docs/glossary.md. A word counts where it is a whole identifier, or a part of one between
underscores, of what the package itself defines: functions, classes, arguments, attributes, variables and fields.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "moediff"
# Parts of identifiers that no reader of the field would search for, and what stands for them now.
PARTS = {
    "foretold": "predicted",
    "foretell": "predict",
    "told": "result, record",
    "familiar": "out-of-distribution statistics",
    "strange": "out_of_distribution",
    "strangeness": "out_of_distribution_score",
    "mirrors": "tta",
    "coarseness": "anisotropy_ratio",
    "trunk": "backbone",
    "steady": "shift_consistency",
    "steadiness": "shift_consistency",
    "probed": "expert loss interval",
    "planted": "synthetic lesion",
    "asked": "requested",
    "invented": "false_positive",
    "announce": "lock",
    "claimed": "lock",
    "catalogue": "registry",
    "stopwatch": "process_meter",
    "goal": "target",
    "evened": "corrected",
}
# Whole identifiers, where the word alone has another meaning in longer names.
WHOLE = {
    "route": "grid plan",
    "way": "grid plan",
    "near": "working grid",
    "alone": "single expert",
    "place": "paste",
    "head": "input crop, foreground bounds, training scan",
    "heads": "sources",
    "passed": "pass_through",
    "found": "result",
    "made": "result",
    "kept": "cached",
    "shown": "printable",
    "held": "lock",
    "enter": "input_projection",
    "leave": "output_projection",
    "deep": "bottleneck",
    "view": "branch",
    "views": "branches",
    "blend": "combine",
    "vector": "conditioning",
    "tables": "phase features",
    "base": "interpolated",
    "level": "noise sigma",
    "lost": "false negative",
    "share_at_max": "probability_sigma_max",
    "error_slices": "anisotropy_exponent",
    "probe_every": "expert_loss_interval",
    "expert_evenly": "normalise_expert_loss",
    "least_share": "minimum_region_share",
    "error_head": "uncertainty_head",
    "counts": "in_means",
    "Drawn": "Annotations",
    "Familiar": "out-of-distribution statistics",
    "Frame": "TileContext",
    "Head": "TrainingScan",
    "Ahead": "Prefetcher",
    "Pause": "Preemption",
}


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def stem(name: str) -> str:
    """A name without its suffix of axes: `weight_BxyzE` -> `weight`."""
    head, _, tail = name.rpartition("_")
    axes = any(letter.isupper() for letter in tail)
    return head if axes and head else name


def old_words(file: Path) -> list[str]:
    """Identifiers of a file that an old word stands in."""
    names = [stem(name) for name in defined(ast.parse(file.read_text(encoding="utf-8")))]
    own = [name for name in names if not name.startswith("__")]
    return [name for name in own if name.strip("_") in WHOLE or set(name.lower().split("_")) & set(PARTS)]


def main(folders: list[str]) -> int:
    """Print what still stands; returns 1 where anything does."""
    files = sorted(file for folder in folders or [str(SOURCE)] for file in Path(folder).rglob("*.py"))
    found = {file: Counter(old_words(file)) for file in files}
    for file, names in found.items():
        if names:
            print(f"{sum(names.values()):4d} {file}: " + ", ".join(f"{name} {n}" for name, n in names.most_common()))
    total = sum(sum(names.values()) for names in found.values())
    print(f"{total:4d} in all")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
