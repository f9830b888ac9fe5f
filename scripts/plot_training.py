"""A picture of a training: error and validation gain of every stage against time, one after the other.

    python scripts/plot_training.py RUN [RUN ...] --out training.svg

RUN is the folder of a stage (losses.csv, and validation.csv where there was one). "Error" is that of the aggregate over
the interpolation's, squared, at the highest noise level, mean over steps nearby: 1 means nothing gained. A stage of
encoder and gate alone has none.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Points = list[tuple[float, float]]  # minutes, value
WINDOW = 50  # steps averaged
INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # colour-blind safe (Okabe & Ito)


@dataclass(frozen=True)
class Stage:
    """A stage's name, minutes, errors, and gains by recipe, all by minutes from its own start."""

    name: str
    minutes: float
    error: Points
    gains: dict[str, Points]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def read_stage(folder: Path) -> Stage:
    """What a stage wrote down; raises SystemExit where there is nothing."""
    steps = _rows(folder / "losses.csv")
    if not steps:
        raise SystemExit(f"{folder}: no losses.csv with steps in it; name the folder of a training run")
    minute = {int(row["step"]): float(row["seconds"]) / 60 for row in steps}
    known = [(minute[int(row["step"])], float(row.get("aggregate") or "nan")) for row in steps]
    known = [(at, error) for at, error in known if math.isfinite(error)]
    gains: dict[str, Points] = {}
    for row in _rows(folder / "validation.csv"):
        if row["case"].startswith("mean/") and int(row["step"]) in minute:
            gains.setdefault(row["case"][5:], []).append((minute[int(row["step"])], float(row["gain_db"])))
    return Stage(folder.name, max(minute.values()), smoothed(known, WINDOW), gains)


def smoothed(points: Points, window: int) -> Points:
    """Mean over up to this many points that end at each."""
    found, total = [], 0.0
    for place, (at, value) in enumerate(points):
        total += value - (points[place - window][1] if place >= window else 0.0)
        found.append((at, total / min(place + 1, window)))
    return found


def draw(stages: Sequence[Stage], path: Path) -> None:
    """Two panels that share their minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 5.5), sharex=True, layout="constrained")
    names = sorted({name for stage in stages for name in stage.gains})
    ink = {name: INK[k % len(INK)] for k, name in enumerate(names)}
    begin, labelled = 0.0, set()
    for stage in stages:
        above.plot([begin + at for at, _ in stage.error], [value for _, value in stage.error], color="black")
        for name, points in stage.gains.items():
            label = None if name in labelled else name
            below.plot([begin + at for at, _ in points], [v for _, v in points], ".-", color=ink[name], label=label)
            labelled.add(name)
        for panel in (above, below):
            panel.axvline(begin, color="grey", linewidth=0.6)
        above.text(begin, 1.01, f" {stage.name}", transform=above.get_xaxis_transform(), fontsize=8)
        begin += stage.minutes
    above.set_ylabel("error over interpolation's")
    below.set_ylabel("validation gain, dB PSNR")
    below.set_xlabel("minutes of training")
    if labelled:
        below.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("training.svg"))
    args = parser.parse_args(words)
    draw([read_stage(run) for run in args.runs], args.out)


if __name__ == "__main__":
    main()
