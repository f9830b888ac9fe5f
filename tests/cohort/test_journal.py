"""Journals of several runs: the order of their names and of what they say."""

from __future__ import annotations

from fake_work import Fake, fake_work

from moediff.cohort.journal import Entry, Journal, journals
from moediff.cohort.results import failed_scans
from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import RunnerOptions, Task


def never(source: str) -> bool:
    return False


def write(folder, *entries: tuple[str, float]) -> None:
    journal = Journal(folder)
    for event, time_s in entries:
        journal.write(Entry(event=event, time_s=time_s, task="sub-01_T1w"))
    journal.close()


def test_journals_of_one_second_sort_by_their_start(tmp_path):
    made = []
    for _ in range(20):
        journal = Journal(tmp_path)
        journal.close()
        made.append(journal.path)
    assert journals(tmp_path) == made


def test_the_last_attempt_counts_also_where_runs_overlapped(tmp_path):
    write(tmp_path / "mended", ("done", 20.0))
    write(tmp_path / "mended", ("failed", 10.0))
    assert failed_scans(tmp_path / "mended", never) == []
    write(tmp_path / "broken", ("failed", 20.0))
    write(tmp_path / "broken", ("done", 10.0))
    assert [scan.name for scan in failed_scans(tmp_path / "broken", never)] == ["sub-01_T1w"]


def test_a_failed_scan_that_is_gone_fails_no_more(tmp_path):
    tasks = [Task(f"sub-0{n}_T1w", Fake(tmp_path, fault="data"), source) for n, source in enumerate(("", "a", "b"))]
    run_tasks(tasks, fake_work, RunnerOptions(folder=tmp_path / "logs", runner="serial", quiet=True))
    assert [scan.name for scan in failed_scans(tmp_path / "logs", lambda source: source != "b")] == [
        "sub-00_T1w",
        "sub-02_T1w",
    ]
