"""The whole training of the embedded weights, stage by stage, in slices that can be stopped and resumed without loss.

    python scripts/train_default.py [--minutes TOTAL] [--slice MIN]

Each stage is a configuration of configs/ and begins with the bundle of the one before, the last with the average of the
two before it; then the head that foretells the error is fitted. Running the same command again goes on where it
stopped. The budget of every stage is as configured (a night on two cores), or its share of --minutes (25 on one fast
GPU). runs/final/bundle is the result; every stage keeps its best bundle by validation as well, on scans made from
label maps kept out of training. Nothing is installed into the package by itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from average_bundles import average
from moediff.errors import TryAgain
from moediff.training.settings import load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RUNS = CONFIGS.parent / "runs"
STAGES = ("uniform", "default", "longer", "wide", "home")
AVERAGED = ("longer", "wide")  # the last stage begins with their average


def command(stage: str, minutes: float | None, slice_minutes: float) -> list[str]:
    """`moediff train` for one slice of one stage."""
    budget = [] if minutes is None else ["--minutes", f"{minutes:.2f}"]
    call = [sys.executable, "-m", "moediff", "train", str(CONFIGS / f"{stage}.toml")]
    return [*call, "--resume", "--slice", str(slice_minutes), *budget]


def main() -> int:
    """Run every stage to its end; returns the exit code of the first command that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="time of all stages together (default: as configured)")
    parser.add_argument("--slice", type=float, default=9.0, help="minutes between restarts (default 9)")
    args = parser.parse_args()
    configured = {stage: load_config(CONFIGS / f"{stage}.toml").minutes or 0.0 for stage in STAGES}
    share = None if args.minutes is None else args.minutes / sum(configured.values())
    for stage in STAGES:
        if stage == STAGES[-1]:
            average(*(RUNS / name / "bundle" for name in AVERAGED), RUNS / "average" / "bundle")
        minutes = None if share is None else share * configured[stage]
        code = TryAgain.exit_code
        while code == TryAgain.exit_code:
            code = subprocess.run(command(stage, minutes, args.slice), check=False).returncode
        if code:
            return code
    head = Path(__file__).with_name("fit_error_head.py")
    bundles = [str(RUNS / name / "bundle") for name in (STAGES[-1], "final")]
    return subprocess.run([sys.executable, str(head), *bundles], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
