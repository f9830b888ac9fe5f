"""What one scan of a cohort costs on this machine: processor time on one thread, memory, bytes read and written.

Processor time and not wall time, so that other work on the machine counts for little. docs/scale.md is drawn from it:

    python benchmarks/cohort_scans.py SCAN... --json benchmarks/results/cohort_scans.json
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import Outcome, RunnerOptions, Task

if TYPE_CHECKING:
    from moediff.inference.enhancer import Enhancer


@dataclass(frozen=True)
class OneScan:
    """A scan, and where its result goes."""

    source: Path
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one scan cost.

    Args:
        scan: its name.
        shape: of the result.
        started_s: processor time until the model was ready; 0 where the worker had it already.
        scan_s: processor time of reading, enhancing and writing.
        wall_s: of the same.
        peak_mib: peak resident memory of the worker so far.
        read_mb, written_mb: size of input and of result with sidecar, millions of bytes.
    """

    scan: str
    shape: tuple[int, ...]
    started_s: float
    scan_s: float
    wall_s: float
    peak_mib: int
    read_mb: float
    written_mb: float


@cache
def enhancer() -> Enhancer:
    """The embedded model, once a process."""
    from moediff.inference.enhancer import Enhancer

    return Enhancer(threads=1)


def enhance_scan(task: Task) -> Outcome:
    """Enhance with default options, and leave the costs beside the result."""
    from moediff.core.memory import tune_allocator
    from moediff.inference.options import EnhanceOptions
    from moediff.inference.outputs import OutputPaths
    from moediff.inference.run import EnhanceRequest, enhance_to

    spec = task.spec
    assert isinstance(spec, OneScan)
    begun = 0.0 if not enhancer.cache_info().currsize else time.process_time()
    tune_allocator()
    model = enhancer()
    ready, clock = time.process_time(), time.monotonic()
    outputs = OutputPaths(scan=spec.folder / f"{task.name}_desc-sr.nii.gz")
    result = enhance_to(
        EnhanceRequest(source=spec.source, options=EnhanceOptions(), outputs=outputs), lambda _planned: model
    )
    written = sum(path.stat().st_size for path in spec.folder.glob(f"{task.name}_desc-sr.*"))
    cost = Cost(
        scan=spec.source.name,
        shape=result.volume.grid.shape,
        started_s=round(ready - begun, 2),
        scan_s=round(time.process_time() - ready, 2),
        wall_s=round(time.monotonic() - clock, 2),
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 2**20),
        read_mb=round(spec.source.stat().st_size / 1e6, 2),
        written_mb=round(written / 1e6, 2),
    )
    (spec.folder / f"{task.name}.cost").write_text(json.dumps(asdict(cost)))
    return Outcome("done")


def main() -> None:
    """Measure one scan after the other; those in the file already are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    known = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    missing = [path for path in args.scans if path.name not in {row["scan"] for row in known}]
    import cohort_scans  # by its name: workers cannot import from "__main__"

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = [Task(f"scan-{n:03d}", cohort_scans.OneScan(path, folder)) for n, path in enumerate(missing)]
        options = RunnerOptions(folder=folder / "logs", processes=1, threads=1)
        summary = run_tasks(tasks, cohort_scans.enhance_scan, options)
        assert not summary.failures, summary.failures
        costs = known + [json.loads(path.read_text()) for path in sorted(folder.glob("*.cost"))]
    text = json.dumps(costs, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
