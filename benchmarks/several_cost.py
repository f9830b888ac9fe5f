"""Time and memory of several scans of a whole head against one, as whole commands.

    python benchmarks/several_cost.py --scans seg3d_T1w [--design "3 planes 5 mm"] [--json out.json]

`one_scan` enhances the first scan to the grid of the sharp head, `all_scans` all of them to the same grid, each in a
process of its own and on one thread: threads that wait for each other on a busy machine spin.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from common import SCANS, markdown, parser_of, validation_scan
from several_simulation import DESIGNS, simulate

from moediff.benchmark.process_meter import Measured, run_measured
from moediff.io.scans import save

LIMIT_S = 1800.0


@dataclass(frozen=True)
class CostRow:
    """One head: the voxels of the result, and what each command took."""

    scan: str
    design: str
    shape: tuple[int, ...]
    one_scan: Measured
    all_scans: Measured


def measure(data: Path, name: str, design: str, folder: Path, bundle: Path | None) -> CostRow:
    """Simulate, and run both commands."""
    whole = validation_scan(data, name)
    simulated = simulate(whole, max(whole.shape), DESIGNS[design], 0)
    like, scans = folder / "like.nii.gz", [folder / f"scan{index}.nii.gz" for index in range(len(simulated.scans))]
    save(simulated.truth, like)
    for volume, path in zip(simulated.scans, scans, strict=True):
        save(volume, path)
    weights = [] if bundle is None else ["--bundle", str(bundle)]

    def run(inputs: list[Path], out: str) -> Measured:
        words = [
            "enhance",
            *map(str, inputs),
            "-o",
            str(folder / f"{out}.nii.gz"),
            "--like",
            str(like),
            "--threads",
            "1",
            "-q",
            *weights,
        ]
        log = folder / f"{out}.log"
        measured = run_measured([sys.executable, "-m", "moediff", *words], limit_s=LIMIT_S, log=log, env={})
        if measured.exit_code != 0:
            raise SystemExit(f"moediff enhance ended with {measured.exit_code}: {measured.fault or log.read_text()}")
        return measured

    return CostRow(name, design, simulated.truth.shape, run(scans[:1], "one_scan"), run(scans, "all_scans"))


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__)
    parser.add_argument("--scans", nargs="+", default=[SCANS[-1]])
    parser.add_argument("--design", default=next(iter(DESIGNS)), choices=list(DESIGNS))
    args = parser.parse_args()
    rows = []
    for name in args.scans:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(args.data, name, args.design, Path(folder), args.bundle))
    header = ["person", "voxels", "one scan, CPU s", "MiB", "together, CPU s", "MiB", "times one"]
    lines = [
        [row.scan, "x".join(map(str, row.shape))]
        + [f"{value:.0f}" for run in (row.one_scan, row.all_scans) for value in (run.cpu_s, run.peak_mib)]
        + [f"{row.all_scans.cpu_s / row.one_scan.cpu_s:.1f}"]
        for row in rows
    ]
    print(markdown(header, lines))
    if args.json is not None:
        content = {"rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
