"""The runner: every task once, temporary faults again, others recorded, nothing stopped by them."""

import pytest
from fake_work import Fake, fake_work

from moediff.cohort.journal import read_entries
from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import Outcome, QueueOptions, RunnerOptions, Task
from moediff.core.errors import ConfigError


def fakes(folder, faults):
    return [Task(f"sub-{n:02d}_T1w", Fake(folder, fault=fault)) for n, fault in enumerate(faults, 1)]


def options(folder, **changes):
    return RunnerOptions(folder=folder / "logs", runner="serial", retry_delay_s=0, quiet=True, **changes)


def test_twelve_tasks_with_faults(tmp_path):
    tasks = fakes(tmp_path, ["", "data", "busy-once", "crash", "busy-always", *[""] * 7])
    summary = run_tasks(tasks, fake_work, options(tmp_path))
    assert (summary.done, summary.skipped, summary.not_run, summary.retried) == (9, 0, 0, 3)
    assert [(f.name, f.exit_code, f.attempts) for f in summary.failures] == [
        ("sub-02_T1w", 65, 1),
        ("sub-04_T1w", 70, 1),
        ("sub-05_T1w", 75, 3),
    ]
    assert summary.exit_code == 8
    assert "ends early: fetch it again" in summary.failures[0].reason
    assert "ZeroDivisionError" in summary.failures[1].log.read_text()
    assert "Traceback" not in summary.failures[0].log.read_text()
    assert all(len(p.read_text().splitlines()) == 1 for p in tmp_path.glob("*.result"))


def test_a_second_run_finds_everything_done(tmp_path):
    run_tasks(fakes(tmp_path, ["", ""]), fake_work, options(tmp_path))
    summary = run_tasks(fakes(tmp_path, ["", "", ""]), fake_work, options(tmp_path))
    assert (summary.done, summary.skipped, summary.exit_code) == (1, 2, 0)
    assert len(list((tmp_path / "logs").glob("journal-*"))) == 2


def test_the_journal_tells_what_happened(tmp_path):
    summary = run_tasks(fakes(tmp_path, ["busy-once", "data"]), fake_work, options(tmp_path))
    entries = list(read_entries(summary.journal))
    assert [e.event for e in entries] == ["run", "start", "retry", "start", "done", "start", "failed", "end"]
    assert entries[0].total == 2
    assert {e.task: e.exit_code for e in entries if e.event == "failed"} == {"sub-02_T1w": 65}


def test_stop_on_first_failure_starts_nothing_new(tmp_path):
    summary = run_tasks(fakes(tmp_path, ["", "data", "", ""]), fake_work, options(tmp_path, stop_on_first_failure=True))
    assert (summary.done, len(summary.failures), summary.not_run) == (1, 1, 2)


def test_an_interrupted_run_says_so_and_is_repeated(tmp_path):
    def interrupted(task):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(fakes(tmp_path, [""]), interrupted, options(tmp_path))
    (journal,) = (tmp_path / "logs").glob("journal-*")
    assert [(e.event, e.reason) for e in read_entries(journal)][-1] == ("end", "interrupted")
    assert run_tasks(fakes(tmp_path, [""]), fake_work, options(tmp_path)).done == 1


def test_two_tasks_of_one_name_are_refused_before_any_work(tmp_path):
    tasks = [Task("a", Fake(tmp_path)), Task("b", Fake(tmp_path)), Task("A", Fake(tmp_path))]
    with pytest.raises(ConfigError, match="2 tasks are named a"):
        run_tasks(tasks, fake_work, options(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "a b", "x" * 201, "ä"])
def test_names_fit_a_file_system(name):
    with pytest.raises(ConfigError, match="task name"):
        Task(name, None)


def test_wrong_settings_are_refused(tmp_path):
    for wrong in ({"runner": "cloud"}, {"processes": 0}, {"retries": -1}, {"task_memory_mb": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RunnerOptions(folder=tmp_path, **wrong)
    with pytest.raises(ConfigError, match="walltime"):
        QueueOptions(walltime="4 hours")
    with pytest.raises(ConfigError, match="only failures"):
        Outcome("done", exit_code=65)
