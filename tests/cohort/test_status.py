"""Progress of a run, and its status from another process."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_work import Fake, fake_work

from moediff.cli.main import main
from moediff.cohort import progress as progress_module
from moediff.cohort.journal import Entry, Journal, alive, read_entries
from moediff.cohort.progress import Lines
from moediff.cohort.runner import run_tasks
from moediff.cohort.tally import Tally, duration_text, runs_of, tally_of
from moediff.cohort.tasks import RunnerOptions, Task
from moediff.core.errors import InputMissing, OutputFailed


def entries(*rows):
    """Rows of event, time, task as entries."""
    return [Entry(event=event, time_s=when, task=task, total=10 if event == "run" else 0) for event, when, task in rows]


def test_rate_and_time_left_do_not_count_what_was_there_already():
    tally = Tally(Path("x"))
    for entry in entries(
        ("run", 1000, ""),
        ("start", 1000, "a"),
        ("skipped", 1050, "a"),
        ("start", 1050, "b"),
        ("done", 1150, "b"),
        ("start", 1150, "c"),
        ("done", 1250, "c"),
        ("start", 1250, "d"),
    ):
        tally.add(entry)
    assert (tally.done, tally.skipped, tally.finished, list(tally.under_way)) == (2, 1, 3, ["d"])
    assert tally.per_hour(1250) == pytest.approx(36)  # 2 in 200 s
    assert tally.left_s(1250) == pytest.approx(700)  # 7 more
    text = "3 of 10 scans, 2 done, 1 there already, 36 scans an hour, about 12 min left"
    assert tally.counts_text(1250) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (89, "89 s"), (600, "10 min"), (5400, "1 h 30 min"), (7200, "2 h"), (200_000, "2 d 7 h")],
)
def test_durations_in_words(seconds, text):
    assert duration_text(seconds) == text


def test_a_journal_is_alive_while_it_is_open_and_never_shows_half_a_line(tmp_path):
    journal = Journal(tmp_path)
    journal.write(journal.first(total=2, workers=1, runner="serial"))
    assert alive(journal.path)
    with journal.path.open("ab") as file:
        file.write(b'{"event":"done","ti')  # as a reader may see a growing file
    assert [entry.event for entry in read_entries(journal.path)] == ["run"]
    journal.close()
    assert not alive(journal.path)


def test_a_full_disk_leaves_no_half_line_and_one_sentence(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.write(journal.first(total=1, workers=1, runner="serial"))
    before, write = journal.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:10]))
    with pytest.raises(OutputFailed, match="the disk is full"):
        journal.write(Entry(event="start", time_s=1.0, task="a"))
    assert journal.path.read_bytes() == before
    journal.close()


def test_status_of_a_finished_run(tmp_path, capsys):
    tasks = [Task("sub-01_T1w", Fake(tmp_path)), Task("sub-02_T1w", Fake(tmp_path, fault="data"))]
    run_tasks(tasks, fake_work, RunnerOptions(folder=tmp_path / "logs", runner="serial", quiet=True))
    for folder in (tmp_path, tmp_path / "logs"):
        assert main(["cohort", "status", str(folder)]) == 0
        out = capsys.readouterr().out
        assert "(serial): finished" in out and "2 of 2 scans, 1 done, 1 failed" in out
        assert "sub-02_T1w failed (exit code 65): the file ends early: fetch it again; log: " in out
    assert main(["cohort", "status", "--json", str(tmp_path)]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["state"], record["done"], record["failures"][0]["exit_code"]) == ("finished", 1, 65)
    assert tally_of(Path(record["journal"])).ended.seconds >= 0


def test_status_of_a_run_that_lives_and_of_one_that_was_killed(tmp_path, capsys):
    program = (
        "import sys, time; from pathlib import Path; from moediff.cohort.journal import Journal, Entry\n"
        f"j = Journal(Path({str(tmp_path)!r})); j.write(j.first(total=5, workers=2, runner='processes'))\n"
        "j.write(Entry(event='start', time_s=time.time() - 180, task='sub-07_T1w')); print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.readline()
    assert main(["cohort", "status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "2 workers (processes): running" in out and "running: sub-07_T1w since 3 min" in out
    run.kill()
    run.communicate()
    assert main(["cohort", "status", str(tmp_path)]) == 0
    assert "killed, or running on a machine whose locks are not seen here" in capsys.readouterr().out


def test_a_folder_without_runs_is_named(tmp_path, capsys):
    with pytest.raises(InputMissing):
        runs_of(tmp_path)
    assert main(["cohort", "status", str(tmp_path / "nowhere")]) == 66
    assert "no run has left a journal here" in capsys.readouterr().err


def test_without_a_terminal_one_line_a_minute(monkeypatch):
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    lines, tally = Lines(), Tally(Path("x"))
    tally.add(Entry(event="run", time_s=time.time(), total=10))
    for clock[0] in range(0, 181, 5):
        lines.show(tally)
    lines.close(tally)
    assert stream.getvalue().splitlines() == ["moediff: 0 of 10 scans, 0 done"] * 4
