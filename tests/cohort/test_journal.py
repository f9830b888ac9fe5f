"""Journals of several runs: the order of their names and of what they say."""

from __future__ import annotations

from moediff.cohort.journal import Entry, Journal, journals
from moediff.cohort.results import failed_scans


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
    assert failed_scans(tmp_path / "mended") == []
    write(tmp_path / "broken", ("failed", 20.0))
    write(tmp_path / "broken", ("done", 10.0))
    assert [scan.name for scan in failed_scans(tmp_path / "broken")] == ["sub-01_T1w"]
