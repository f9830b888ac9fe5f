"""Several processes train as one: the same examples, the same average gradient, the same errors."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import nn

from moediff.core import signals
from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.diffusion.schedule import DiffusionConfig
from moediff.training import distributed
from moediff.training.distributed import agreed, average_gradients, run_together, threads_each
from moediff.training.step import Draws
from processes import is_running


def note_gradients(folder: Path) -> None:
    """Each process brings another gradient and writes what it is left with.

    The second process has none for the bias, neither has one for the layer that nobody asked.
    """
    rank = int(os.environ.get("RANK", 0))
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    layer = nn.Linear(2, 3)
    layer.weight.grad = torch.full_like(layer.weight, 1.0 + 2 * rank)
    layer.bias.grad = torch.full_like(layer.bias, 4.0) if rank == 0 else None
    idle = nn.Linear(2, 2)
    average_gradients([*layer.parameters(), *idle.parameters()])
    assert idle.weight.grad is None and idle.bias.grad is None  # zeros would let momentum move it at full rate
    torch.save((layer.weight.grad, layer.bias.grad, agreed(float(rank))), folder / f"{rank}.pt")


def test_gradients_and_numbers_are_averaged(noted):
    for rank in (0, 1):
        weight, bias, number = torch.load(noted / f"{rank}.pt")
        assert torch.equal(weight, torch.full((3, 2), 2.0)) and torch.equal(bias, torch.full((3,), 2.0))
        assert number == 0.5


def note_both(folder: Path) -> None:
    note_threads(folder)
    note_gradients(folder)


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes note that share six threads."""
    folder = tmp_path_factory.mktemp("noted")
    run_together(partial(note_both, folder), 2, 6)
    return folder


def test_alone_nothing_changes(tmp_path):
    run_together(partial(note_gradients, tmp_path), 1)
    weight, bias, number = torch.load(tmp_path / "0.pt")
    assert torch.equal(weight, torch.ones(3, 2)) and torch.equal(bias, torch.full((3,), 4.0)) and number == 0


def note_threads(folder: Path) -> None:
    (folder / os.environ.get("RANK", "alone")).write_text(str(torch.get_num_threads()))


@pytest.mark.parametrize(("limit", "each"), [(1, 1), (2, 1), (6, 3), (7, 3)])
def test_threads_are_shared_and_everybody_has_one(limit, each):
    assert threads_each(2, limit) == each and threads_each(1, limit) == limit


def test_processes_share_the_threads_they_are_given(noted):
    assert [(noted / rank).read_text() for rank in "01"] == ["3", "3"]


def test_alone_all_threads_are_taken(tmp_path):
    before = torch.get_num_threads()
    try:
        run_together(partial(note_threads, tmp_path), 1, 1)
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "alone").read_text() == "1"


def refuse() -> None:
    raise DataError("no scan here; expected one")


def stumble() -> None:
    raise ZeroDivisionError("a fault of ours")


@pytest.mark.fault(50)
def test_our_errors_come_through_as_they_are():
    with pytest.raises(DataError, match="no scan here; expected one"):
        run_together(refuse, 2)


@pytest.mark.fault(50)
def test_faults_come_through_with_their_trace():
    with pytest.raises(Exception, match="a fault of ours"):
        run_together(stumble, 2)


def wait_forever(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    while True:
        time.sleep(0.05)


def until(true: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


def together_until_killed(folder: Path) -> None:
    """As a shell's background job: SIGINT is ignored, here and in what is started from here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_together(partial(wait_forever, folder), 2)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="only Linux tells children of a parent's death")
@pytest.mark.fault(50)
def test_nobody_trains_on_when_the_parent_is_killed(tmp_path):
    parent = get_context("spawn").Process(target=together_until_killed, args=(tmp_path,))
    parent.start()
    assert until(lambda: len(list(tmp_path.iterdir())) == 2)
    members = [int(path.name) for path in tmp_path.iterdir()]
    assert all(is_running(member) for member in members)
    parent.kill()
    gone = until(lambda: not any(is_running(member) for member in members))
    for member in filter(is_running, members):
        os.kill(member, signal.SIGKILL)
    assert gone


class SlowMember:
    """A process that ends so many seconds after it was sent a signal."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end, self.killed = seconds, float("inf"), False

    def terminate(self) -> None:
        self.end = time.monotonic() + self.seconds

    def join(self, seconds: float = 60) -> None:
        until(lambda: not self.is_alive(), seconds)

    def is_alive(self) -> bool:
        return time.monotonic() < self.end

    def kill(self) -> None:
        self.killed, self.end = True, 0.0


class StoppedTogether:
    """Members whose parent is sent a signal while it waits for them."""

    def __init__(self, *seconds: float) -> None:
        self.processes = [SlowMember(one) for one in seconds]

    def join(self) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return False


@pytest.fixture
def handlers(monkeypatch):
    """The program's own, with a reminder that comes soon."""
    numbers = (*signals.SIGNALS, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(signals, "REMINDER_S", 0.2)
    monkeypatch.setattr(distributed, "restart_reminder", lambda: None)  # none shall come after the test
    signals.install_handlers()
    yield
    signals.stop_reminder()
    signals._received.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_stopped_parent_waits_for_its_members_whatever_reminds_it(handlers):
    """The lock of the run's folder ends with the parent's work."""
    together = StoppedTogether(0.5, 0.1)
    with pytest.raises(signals.Terminated):
        distributed._wait_for(together)
    assert not any(member.is_alive() or member.killed for member in together.processes)


def test_members_that_do_not_end_are_killed_after_one_wait(handlers, monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE_S", 0.2)
    together, begun = StoppedTogether(60, 60, 0), time.monotonic()
    with pytest.raises(signals.Terminated):
        distributed._wait_for(together)
    assert time.monotonic() - begun < 10
    assert [member.killed for member in together.processes] == [True, True, False]


def test_shares_of_what_is_drawn_make_up_the_whole():
    process, share = DiffusionConfig(probability_sigma_max=0.5), torch.empty(4, 3, 3, 3)
    sigma, noise = Draws(process, rng_for(1))(torch.empty(8, 3, 3, 3), 0.05)
    for rank in (0, 1):
        mine = Draws(process, rng_for(1), rank, 2)(share, 0.05)
        assert torch.equal(mine[0], sigma[4 * rank : 4 * rank + 4])
        assert torch.equal(mine[1], noise[4 * rank : 4 * rank + 4])
