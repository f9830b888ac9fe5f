"""Stopping at the end of a step: when a slice is over, and when somebody asks."""

from __future__ import annotations

import signal

import pytest

from moediff.core.errors import ConfigError, TryAgain
from moediff.training import preemption
from moediff.training.preemption import Preemption


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_a_slice_has_a_length(minutes):
    with pytest.raises(ConfigError, match="positive number"):
        Preemption(minutes)


def test_without_a_slice_it_is_never_due():
    with Preemption() as pause:
        assert not pause.due()


def test_a_slice_is_over_when_its_time_is(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    with Preemption(2) as pause:
        now[0] += 119.9
        assert not pause.due()
        now[0] += 0.2
        assert pause.due()
        with pytest.raises(TryAgain, match=r"paused at step 7, 25% done; go on with --resume"):
            pause.stop("step 7, 25% done")


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["term", "int"]
)
def test_a_signal_waits_for_the_end_of_the_step(number, ending):
    before = signal.getsignal(number)
    with Preemption() as pause:
        signal.raise_signal(number)
        assert pause.due()
        with pytest.raises(ending) as raised:
            pause.stop("step 1")
    assert signal.getsignal(number) is before
    if ending is SystemExit:
        assert raised.value.code == 143


def test_a_second_interrupt_does_not_wait():
    with Preemption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["term", "int"]
)
def test_a_signal_that_nobody_asked_about_is_raised_on_leaving(number, ending):
    """As in the last step of a stage, after which the next one must not begin."""
    before = signal.getsignal(number)
    with pytest.raises(ending) as raised, Preemption():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert number == signal.SIGINT or raised.value.code == 143


def test_a_fault_is_not_hidden_by_a_signal():
    with pytest.raises(ValueError, match="a fault"), Preemption():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("a fault")
