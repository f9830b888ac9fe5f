"""Batches drawn ahead in threads are those drawn one by one, and the source's errors come through."""

from __future__ import annotations

import threading
import time

import pytest

from moediff.core.errors import DataError
from moediff.training.prefetch import Prefetcher


class Counting:
    """A source whose batch is its own name; even steps take longer, so threads finish out of order."""

    def __init__(self, bad: int = -1) -> None:
        self.bad, self.drawn, self.threads = bad, [], set()

    def batch(self, step: int, size: int) -> tuple[str, int, int]:
        if step % 2 == 0:
            time.sleep(0.01)
        self.drawn.append(step)
        self.threads.add(threading.get_ident())
        if step == self.bad:
            raise DataError(f"step {step} is not finite")
        return "batch", step, size


def wait_for(source: Counting, steps: set[int]) -> None:
    """Until these steps were drawn, at most half a minute."""
    end = time.monotonic() + 30
    while set(source.drawn) != steps and time.monotonic() < end:
        time.sleep(0.002)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_every_step_gets_its_own_batch(workers):
    source = Counting()
    with Prefetcher(source, 4, workers) as ahead:
        assert [ahead.batch(step) for step in range(7)] == [("batch", step, 4) for step in range(7)]
    assert sorted(source.drawn) == sorted(set(source.drawn))  # nothing is drawn twice


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_begins_anywhere(workers):
    with Prefetcher(Counting(), 1, workers) as ahead:
        assert [ahead.batch(step)[1] for step in (40, 41, 42)] == [40, 41, 42]


def test_without_workers_nothing_is_drawn_ahead():
    source = Counting()
    with Prefetcher(source, 1, 0) as ahead:
        ahead.batch(0)
    assert source.drawn == [0] and source.threads == {threading.get_ident()}


def test_workers_draw_that_many_batches_ahead_in_other_threads():
    source = Counting()
    with Prefetcher(source, 1, 2) as ahead:
        ahead.batch(0)
        wait_for(source, {0, 1, 2})
        assert set(source.drawn) == {0, 1, 2}
        ahead.batch(1)
        wait_for(source, {0, 1, 2, 3})
        assert set(source.drawn) == {0, 1, 2, 3}
    assert threading.get_ident() not in source.threads


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.fault(50)
def test_an_error_comes_at_its_own_step(workers):
    with Prefetcher(Counting(bad=2), 1, workers) as ahead:
        assert [ahead.batch(step)[1] for step in (0, 1)] == [0, 1]
        with pytest.raises(DataError, match="step 2 is not finite"):
            ahead.batch(2)
        assert ahead.batch(3)[1] == 3


def test_leaving_ends_the_threads():
    before = threading.active_count()
    with Prefetcher(Counting(), 1, 3) as ahead:
        ahead.batch(0)
        assert threading.active_count() > before
    assert threading.active_count() == before
