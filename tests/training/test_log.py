"""The log: one row a step under the right columns, also when a run goes on with other terms of the loss."""

from __future__ import annotations

import csv
from pathlib import Path

from moediff.training.log import Log, Progress, StagePosition


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_rows_follow_each_other_over_a_resumed_run(tmp_path):
    for step in (1, 2):
        with Log(tmp_path, quiet=True) as log:
            log.step(step, 0.1, {"loss": 0.5 * step, "aggregate": float("nan")}, 3.0)
            log.validation(step, {"mean/iso2": 1.23456})
    assert [(row["step"], row["loss"], row["aggregate"]) for row in rows(tmp_path / "losses.csv")] == [
        ("1", "0.5", "nan"),
        ("2", "1.0", "nan"),
    ]
    assert rows(tmp_path / "validation.csv")[1] == {"step": "2", "case": "mean/iso2", "gain_db": "1.235"}


def test_a_term_that_comes_or_goes_keeps_every_value_under_its_name(tmp_path):
    for step, parts in enumerate(
        ({"loss": 1.0}, {"loss": 2.0, "shift_consistency": 0.7}, {"loss": 3.0, "balance": 0.1})
    ):
        with Log(tmp_path, quiet=True) as log:
            log.step(step, 0.0, parts, 1.0)
    found = rows(tmp_path / "losses.csv")
    assert [row["loss"] for row in found] == ["1.0", "2.0", "3.0"]
    assert [(row["shift_consistency"], row["balance"]) for row in found] == [("", ""), ("0.7", ""), ("", "0.1")]
    assert not list(tmp_path.glob(".*"))


def test_steps_that_are_taken_again_stand_once(tmp_path):
    """A killed run has logged more steps than its checkpoint knows."""
    for since, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        with Log(tmp_path, quiet=True, since=since) as log:
            for step in steps:
                log.step(step, 0.0, {"loss": float(step)}, 1.0)
                log.validation(step, {"mean/iso2": 1.0})
        if since == 0:
            with (tmp_path / "losses.csv").open("a") as handle:
                handle.write("5.0,1")  # killed in the middle of a row
    for name in ("losses.csv", "validation.csv"):
        assert [row["step"] for row in rows(tmp_path / name)] == ["1", "2", "3", "4", "5"]


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_a_minute_without_a_terminal(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("moediff.training.log.time.monotonic", clock)
    with Progress(StagePosition("experts", 2, 9, minutes_after=60.0)) as progress:
        for minute in range(3):
            for second in (1, 31, 61):
                clock.now = 1000.0 + 60 * minute + second
                progress.update((60 * minute + second) / 600, f"step {60 * minute + second}, loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "experts (2/9) 10%; step 61, loss 0.5; 0:09 h left, 1:09 h in all",
        "experts (2/9) 20%; step 121, loss 0.5; 0:08 h left, 1:08 h in all",
        "experts (2/9) 30%; step 181, loss 0.5; 0:07 h left, 1:07 h in all",
    ]


def test_quiet_says_nothing_and_a_run_that_goes_on_knows_its_pace(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("moediff.training.log.time.monotonic", clock)
    with Progress(StagePosition(), quiet=True) as progress:
        clock.now += 600
        progress.update(0.5, "step 1")
    assert capsys.readouterr().err == ""
    later = Progress(StagePosition(), share=0.5)
    clock.now += 600
    assert later.left(0.75) == "0:10 h left" and later.left(0.5) == ""


def test_the_last_validation_stands_beside_the_loss(tmp_path, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("moediff.training.log.time.monotonic", clock)
    with Log(tmp_path, quiet=False) as log:
        log.validation(3, {"a/iso2": 9.9, "mean/iso2": 0.714})
        clock.now += 61
        log.step(4, 0.5, {"loss": 0.25}, 61.0)
    assert capsys.readouterr().err == "training 50%; step 4 loss 0.250, gain iso2 +0.71 dB; 0:01 h left\n"
