"""How long a very large cohort takes on a cluster: a simulation fed with what was measured here (docs/scale.md).

Measured: processor time, memory and bytes of single scans (cohort_scans.py), and what the controlling program spends on
a task (cohort_runs.py). Assumed, and therefore options: nodes, cores, shared storage, failures, lost workers.

    python benchmarks/cohort_simulation.py --write docs/scale.md
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from cohort_runs import SCAN_S

HERE = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is assumed.

    Args:
        scans: of the cohort.
        nodes, cores, memory_gb: machines, and each one's.
        storage_mb_s: what the shared storage reads and writes in all, millions of bytes a second.
        core_speed: of a core, as a multiple of one here.
        wait_s: from asking for a job to its start.
        walltime_s: of a job; a worker that reaches it is replaced, and its scan begins anew.
        replace_s: until a lost worker is noticed and replaced.
        failing: share of scans that fail, halfway.
        killing: share of scans whose worker dies halfway (and which then succeed).
    """

    scans: int = 100_000
    nodes: int = 64
    cores: int = 32
    memory_gb: int = 128
    storage_mb_s: float = 2000.0
    core_speed: float = 1.0
    wait_s: float = 60.0
    walltime_s: float = 4 * 3600.0
    replace_s: float = 25.0
    failing: float = 0.01
    killing: float = 0.001


@dataclass(frozen=True)
class Scan:
    """Measured cost of one scan."""

    start_s: float
    work_s: float
    peak_mib: int
    read_mb: float
    written_mb: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of one simulation.

    Args:
        hours: wall time.
        workers: processes, over all nodes.
        busy: share of the workers' time that went into scans.
        controller: share of the time that the controlling program was busy.
        storage: share of the time that the storage was busy.
        read_tb, written_tb: in all.
        core_years: processor time of all scans.
        workers_lost: how many were lost and replaced.
    """

    hours: float
    workers: int
    busy: float
    controller: float
    storage: float
    read_tb: float
    written_tb: float
    core_years: float
    workers_lost: int

    @property
    def bottleneck(self) -> str:
        """What is busiest."""
        shares = {"cores": self.busy, "the controlling program": self.controller, "storage": self.storage}
        return max(shares, key=lambda name: shares[name])


class Queue:
    """Something that serves one at a time: storage, or the controlling program."""

    def __init__(self) -> None:
        self.free_s = 0.0
        self.busy_s = 0.0

    def serve(self, now_s: float, seconds: float) -> float:
        """When a request of this length ends that comes now."""
        self.free_s = max(self.free_s, now_s) + seconds
        self.busy_s += seconds
        return self.free_s


def workers_of(cluster: Cluster, scans: list[Scan]) -> int:
    """As `share_machine` does it on every node: bound by cores and by memory."""
    most_mb = max(scan.peak_mib for scan in scans)
    return cluster.nodes * min(cluster.cores, cluster.memory_gb * 1024 // most_mb)


def simulate(cluster: Cluster, scans: list[Scan], controller_s: float, seed: int = 0) -> Result:
    """Event by event: a worker gets a scan from the controlling program, reads it, works, writes, and asks again.

    Args:
        cluster: what is assumed.
        scans: measured ones, from which the cohort is drawn.
        controller_s: what the controlling program spends on one task.
        seed: of the draws.
    """
    run = _Simulation(cluster, scans, controller_s, random.Random(seed))
    run.run()
    workers, end_s = run.workers, run.end_s
    return Result(
        hours=end_s / 3600,
        workers=workers,
        busy=run.worked_s / (workers * end_s),
        controller=run.controller.busy_s / end_s,
        storage=run.storage.busy_s / end_s,
        read_tb=run.read_mb / 1e6,
        written_tb=run.written_mb / 1e6,
        core_years=run.worked_s / (365.25 * 86400),
        workers_lost=run.workers_lost,
    )


class _Simulation:
    """Events in the order of their times: a worker asks for a scan, or has something to write."""

    def __init__(self, cluster: Cluster, scans: list[Scan], controller_s: float, rng: random.Random) -> None:
        self.cluster, self.scans, self.controller_s, self.rng = cluster, scans, controller_s, rng
        self.storage, self.controller = Queue(), Queue()
        self.workers = workers_of(cluster, scans)
        self.began_s = [cluster.wait_s] * self.workers  # of each worker's job
        self.fresh = set(range(self.workers))
        self.waiting = cluster.scans
        self.worked_s = self.read_mb = self.written_mb = self.end_s = 0.0
        self.workers_lost = 0
        self.events = [(cluster.wait_s, number, 0.0) for number in range(self.workers)]  # when, worker, MB to write

    def run(self) -> None:
        """Until no scan waits and nothing is under way."""
        heapq.heapify(self.events)
        while self.events:
            now_s, number, writing_mb = heapq.heappop(self.events)
            if writing_mb:
                self.written_mb += writing_mb
                now_s = self.storage.serve(now_s, writing_mb / self.cluster.storage_mb_s)
                self.end_s = max(self.end_s, now_s)
                heapq.heappush(self.events, (now_s, number, 0.0))
            elif self.waiting:
                self.waiting -= 1
                heapq.heappush(self.events, self._work(now_s, number))

    def _work(self, now_s: float, number: int) -> tuple[float, int, float]:
        """One scan up to the moment of writing; the next event of this worker."""
        cluster, scan = self.cluster, self.rng.choice(self.scans)
        now_s = self.controller.serve(now_s, self.controller_s)
        self.read_mb += scan.read_mb
        now_s = self.storage.serve(now_s, scan.read_mb / cluster.storage_mb_s)
        start_s = scan.start_s / cluster.core_speed if number in self.fresh else 0.0
        self.fresh.discard(number)
        work_s, draw = scan.work_s / cluster.core_speed, self.rng.random()
        killed = draw < cluster.killing or now_s + start_s + work_s > self.began_s[number] + cluster.walltime_s
        failed = draw < cluster.killing + cluster.failing
        work_s /= 2 if killed or failed else 1
        self.worked_s += work_s
        now_s += start_s + work_s
        self.end_s = max(self.end_s, now_s)
        if killed:
            self.waiting, self.workers_lost = self.waiting + 1, self.workers_lost + 1
            self.fresh.add(number)
            now_s += cluster.replace_s + cluster.wait_s
            self.began_s[number] = now_s
        return now_s, number, 0.0 if killed or failed else scan.written_mb


def scans_of(rows: list[dict[str, Any]]) -> list[Scan]:
    """Of cohort_scans.py; the time to start is that of the first, whose worker was new."""
    start_s = max(row["started_s"] for row in rows)
    return [Scan(start_s, r["scan_s"], r["peak_mib"], r["read_mb"], r["written_mb"]) for r in rows]


VARIANTS: dict[str, dict[str, float]] = {
    "as assumed": {},
    "a quarter of the storage": {"storage_mb_s": 500.0},
    "a twentieth of the storage": {"storage_mb_s": 100.0},
    "cores twice as fast": {"core_speed": 2.0},
    "10 % fail, 1 % kill their worker": {"failing": 0.1, "killing": 0.01},
    "jobs of 30 minutes": {"walltime_s": 1800.0},
    "jobs wait an hour": {"wait_s": 3600.0},
    "one node": {"nodes": 1},
}


def table(cluster: Cluster, scans: list[Scan], controller_s: float) -> str:
    """Markdown."""
    lines = [
        "| variant | hours | workers | cores at work | storage busy | program busy | workers lost | busiest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, change in VARIANTS.items():
        result = simulate(replace(cluster, **change), scans, controller_s)  # type: ignore[arg-type]
        lines.append(
            f"| {name} | {result.hours:.2g} | {result.workers} | {percent(result.busy)} | {percent(result.storage)} "
            f"| {percent(result.controller)} | {result.workers_lost} | {result.bottleneck} |"
        )
    return "\n".join(lines)


def text_of(cluster: Cluster, scans: list[Scan], findings: dict[str, float]) -> str:
    """The generated part of docs/scale.md."""
    controller_s = findings["controller_ms_a_task_dask"] / 1000
    result = simulate(cluster, scans, controller_s)
    works = [scan.work_s for scan in scans]
    start_s, peak_mib = scans[0].start_s, max(scan.peak_mib for scan in scans)
    read_mb, written_mb = mean(scan.read_mb for scan in scans), mean(scan.written_mb for scan in scans)
    lines = (
        f"Fed with {len(scans)} measured scans: {min(works):.0f} to {max(works):.0f} s of one core each (mean",
        f"{mean(works):.0f}, median {median(works):.0f}), {start_s:.1f} s until a new worker is ready, at most",
        f"{peak_mib} MiB a worker, {read_mb:.1f} MB read and {written_mb:.1f} MB written a scan,",
        f"{controller_s * 1000:.2g} ms of the controlling program a task.",
        "",
        f"**{cluster.scans:,} scans on {cluster.nodes} nodes** of {cluster.cores} cores and {cluster.memory_gb} GB,",
        f"with storage of {cluster.storage_mb_s / 1000:g} GB a second, jobs that start after {cluster.wait_s:.0f} s",
        f"and {percent(cluster.failing, 0)} failing scans: **{result.hours:.2g} hours** on {result.workers} workers",
        f"({result.core_years:.2g} core years), {result.read_tb:.2g} TB read, {result.written_tb:.2g} TB written.",
        f"Busiest: {result.bottleneck}.",
        "",
        table(cluster, scans, controller_s),
        "",
    )
    return "\n".join(lines)


def scans_table(rows: list[dict[str, Any]]) -> str:
    """Measured scans as Markdown."""
    lines = [
        "| scan | result, voxels | s of one core | peak so far, MiB | read, MB | written, MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        shape = "x".join(str(n) for n in row["shape"])
        lines.append(
            f"| {row['scan'].removesuffix('.nii.gz')} | {shape} | {row['scan_s']:.0f} | {row['peak_mib']} "
            f"| {row['read_mb']:.1f} | {row['written_mb']:.1f} |"
        )
    return "\n".join([*lines, ""])


RUNS = {
    "large": "{tasks} scans of {task_s:g} s, {workers} processes",
    "small": "{tasks} scans of {task_s:g} s, {workers} processes",
    "resumed": "{tasks} scans, all done before, {workers} processes",
    "one worker": "{tasks} scans of {task_s:g} s, {workers} process",
    "two workers": "{tasks} scans of {task_s:g} s, {workers} processes",
    "dask large": "{tasks} scans of {task_s:g} s, {workers} workers of Dask",
    "dask short": "{tasks} scans of {task_s:g} s, {workers} workers of Dask",
    "dask single": "the same, one a message",
    "dask resumed": "{tasks} scans, all done before, {workers} workers of Dask",
}


def runs_table(record: dict[str, Any]) -> str:
    """Measured runs as Markdown, and what follows from them."""
    lines = [
        "| run | wall, s | overhead | start, s | a scan, ms | controlling program: s, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for key, text in RUNS.items():
        run = record["runs"][key]
        share = percent(run["overhead_share"]) if run["task_s"] else ""
        lines.append(
            f"| {text.format(**run)} | {run['wall_s']:.1f} | {share} | {run['start_s']:.1f} | {run['scan_ms']:.1f} "
            f"| {run['controller_s']:.1f}, {run['controller_mib']:.0f} |"
        )
    measured = record["findings"]
    faster, more_mib = (
        2 * measured["efficiency_from_one_to_two_workers"],
        measured["controller_mib_more_for_ten_times_as_many"],
    )
    of_a_scan = percent(measured["overhead_share_of_a_scan"], 2)
    lines += [
        "",
        "Overhead is the time of all workers, from their start on, beyond what the scans themselves took: how long",
        "a worker takes, once, until it is at its first scan (start), and what each scan adds, with waiting for the",
        f"last ones. From one worker to two the rate grows {faster:.2f} times. Ten times as many scans need",
        f"{more_mib:g} MiB more in the controlling program. A scan of {SCAN_S:g} s has an overhead of {of_a_scan},",
        "and its share of the start. Dask gets several short scans in one message, and long ones one by one.",
        "",
    ]
    return "\n".join(lines)


def percent(share: float, digits: int = 1) -> str:
    """A share in words."""
    return f"{100 * share:.{digits}f} %"


def written(page: str, part: str, text: str) -> str:
    """A page with new text between the marks of one part."""
    begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->\n"
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]


def main() -> None:
    """Simulate, print, and write into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans-json", type=Path, default=HERE / "cohort_scans.json")
    parser.add_argument("--runs-json", type=Path, default=HERE / "cohort.json")
    parser.add_argument("--scans", type=int, default=Cluster.scans)
    parser.add_argument("--nodes", type=int, default=Cluster.nodes)
    parser.add_argument("--storage-mb-s", type=float, default=Cluster.storage_mb_s)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="between its marks")
    args = parser.parse_args()
    cluster = Cluster(scans=args.scans, nodes=args.nodes, storage_mb_s=args.storage_mb_s)
    rows, record = json.loads(args.scans_json.read_text()), json.loads(args.runs_json.read_text())
    parts = {
        "scans": scans_table(rows),
        "runs": runs_table(record),
        "simulation": text_of(cluster, scans_of(rows), record["findings"]),
    }
    print("\n\n".join(parts.values()))
    if args.write:
        page = args.write.read_text(encoding="utf-8")
        for part, text in parts.items():
            page = written(page, part, text)
        args.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
