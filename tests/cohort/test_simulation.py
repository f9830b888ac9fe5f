"""The simulation of very large cohorts: cases whose answer is known without it, and its page."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("cohort_simulation")


def run(simulation, scan=(0.0, 100.0, 1024, 1.0, 1.0), controller_s=0.0, **changes):
    cluster = {"scans": 400, "nodes": 2, "cores": 4, "wait_s": 0.0, "failing": 0.0, "killing": 0.0}
    chosen = simulation.Cluster(**cluster | {"storage_mb_s": 1e9, "walltime_s": 1e9} | changes)
    return simulation.simulate(chosen, [simulation.Scan(*scan)], controller_s)


def test_without_limits_the_cores_are_all_that_counts(simulation):
    result = run(simulation)
    assert result.workers == 8
    assert result.hours * 3600 == pytest.approx(400 / 8 * 100)
    assert result.busy == pytest.approx(1) and result.bottleneck == "cores"
    assert result.core_years * 365.25 * 86400 == pytest.approx(40_000)


def test_memory_bounds_the_workers(simulation):
    assert run(simulation, scan=(0.0, 100.0, 2048, 1.0, 1.0), memory_gb=6).workers == 2 * 3


def test_slow_storage_is_the_bottleneck(simulation):
    result = run(simulation, scan=(0.0, 1.0, 1024, 50.0, 150.0), storage_mb_s=100.0)
    assert result.hours * 3600 == pytest.approx(400 * 2.0, rel=0.01)
    assert result.bottleneck == "storage" and result.written_tb == pytest.approx(0.06)


def test_a_slow_controlling_program_is_the_bottleneck(simulation):
    result = run(simulation, scan=(0.0, 1.0, 1024, 1.0, 1.0), controller_s=0.5)
    assert result.hours * 3600 == pytest.approx(400 * 0.5, rel=0.01)
    assert result.bottleneck == "the controlling program"


def test_start_and_wait_count_once_a_worker(simulation):
    result = run(simulation, scan=(10.0, 100.0, 1024, 1.0, 1.0), wait_s=60.0)
    assert result.hours * 3600 == pytest.approx(60 + 10 + 5000)


def test_every_scan_is_finished_whatever_is_lost(simulation):
    result = run(simulation, killing=0.2, walltime_s=1000.0)
    assert result.written_tb * 1e6 == pytest.approx(400)
    assert result.workers_lost > 400 * 0.15


def test_the_page_is_what_the_script_writes(simulation):
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    rows = json.loads((RESULTS / "cohort_scans.json").read_text(encoding="utf-8"))
    record = json.loads((RESULTS / "cohort.json").read_text(encoding="utf-8"))
    assert simulation.written(page, "scans", simulation.scans_table(rows)) == page
    assert simulation.written(page, "runs", simulation.runs_table(record)) == page
    for name in ("overhead_share_of_a_scan", "overhead_share_processes", "overhead_share_dask"):
        assert record["findings"][name] < 0.01, name
    assert (
        record["findings"]["resume_s_processes"] < 30
        and record["findings"]["efficiency_from_one_to_two_workers"] > 0.85
    )
