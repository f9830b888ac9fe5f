"""Workers that a queue took away: no attempt of the task; and how a job's state is read."""

import pytest
from fake_work import Fake, fake_work

from moediff.cohort import queue_jobs, runner
from moediff.cohort.attempt import Attempt, run_attempt
from moediff.cohort.journal import read_entries
from moediff.cohort.queue_jobs import PREEMPTED, Jobs, ask_slurm
from moediff.cohort.tasks import Outcome, RunnerOptions, Task
from moediff.cohort.workers import Report


class OftenPreempted:
    """One worker, whose queue takes it away so many times before each task is done."""

    count = slots = 1

    def __init__(self, times: int, preempted: bool) -> None:
        self.left, self.preempted, self.attempt = times, preempted, None

    def submit(self, attempt: Attempt) -> None:
        self.attempt = attempt

    def wait(self, timeout_s: float) -> list[Report]:
        attempt, self.attempt = self.attempt, None
        if attempt is None:
            return []
        if self.left:
            self.left -= 1
            return [Report(attempt.task, Outcome("failed", 75, PREEMPTED), worker_lost=True, preempted=self.preempted)]
        return [Report(attempt.task, run_attempt(attempt))]

    def close(self) -> None:
        return


@pytest.mark.parametrize("preempted", [True, False])
def test_preemptions_are_no_attempts(preempted, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "HELD_DELAY_S", 0.0)
    monkeypatch.setattr(runner, "start_workers", lambda options, tasks: OftenPreempted(5, preempted))
    options = RunnerOptions(folder=tmp_path / "logs", retries=2, retry_delay_s=0, quiet=True)
    summary = runner.run_tasks([Task("sub-01_T1w", Fake(tmp_path))], fake_work, options)
    events = [(entry.event, entry.attempt) for entry in read_entries(summary.journal) if entry.event != "lost"]
    if preempted:
        assert (summary.done, summary.retried, summary.workers_lost) == (1, 0, 5)
        assert events.count(("start", 1)) == 6 and ("start", 2) not in events
    else:
        assert (summary.done, summary.retried, len(summary.failures)) == (0, 2, 1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("JobId=7 JobName=moediff JobState=CANCELLED Restarts=0", True),
        ("JobId=7 JobState=PENDING Reason=BeginTime Restarts=1", True),
        ("JobId=7 JobState=RUNNING Restarts=1", True),  # begun anew already
        ("JobId=7 JobState=PREEMPTED Restarts=0", True),
        ("JobId=7 JobState=RUNNING Restarts=0", False),  # the worker died within its job
        ("JobId=7 JobState=OUT_OF_MEMORY Restarts=0", False),
        ("JobId=7 JobState=TIMEOUT Restarts=0", False),
        ("", False),
    ],
)
def test_the_state_of_a_job_says_who_ended_it(said, expected):
    jobs = Jobs(lambda job: said if job == "7" else "")
    jobs.note("SLURMCluster-0", "7")
    assert jobs.ended_by_queue("SLURMCluster-0") is expected
    assert not jobs.ended_by_queue("SLURMCluster-9") and not Jobs(None).ended_by_queue("SLURMCluster-0")


def test_a_job_that_is_ending_is_asked_again(monkeypatch):
    monkeypatch.setattr(queue_jobs, "AGAIN_S", 0.0)
    answers = iter(
        ["JobState=COMPLETING Restarts=0", "JobState=COMPLETING Restarts=0", "JobState=CANCELLED Restarts=0"]
    )
    jobs = Jobs(lambda job: next(answers))
    jobs.note("w", "7")
    assert jobs.ended_by_queue("w")


def test_one_restart_counts_once():
    jobs = Jobs(lambda job: "JobState=RUNNING Restarts=1")
    jobs.note("w", "7")
    assert [jobs.ended_by_queue("w") for _ in range(2)] == [True, False]


def test_without_slurm_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_slurm("7") == ""
