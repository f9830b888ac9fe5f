"""Two runs with one output, on file systems with locks and without (Lustre without `-o flock`): one wins."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moediff.core.errors import CannotCreate, OutputFailed, TryAgain
from moediff.io.lock import lock_of, output_lock, register_outputs
from moediff.io.lock_file import LockFile, Note, this_machine
from moediff.io.scans import write_text

pytestmark = pytest.mark.fault(47)


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK], ids=errno.errorcode.get)
def no_locks(request, monkeypatch) -> None:
    """A file system that knows no locks."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def every(tmp_path: Path) -> list[Path]:
    """A scan and its sidecar."""
    return [tmp_path / "a.nii.gz", tmp_path / "a.json"]


@pytest.fixture(scope="module")
def ended() -> int:
    """Number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        pass
    return process.pid


def left(every: list[Path], **changes: object) -> None:
    """The lock of a process that was killed after it had written its scan."""
    note = {"host": "node-1", "machine": this_machine(), "outputs": {p.name: None for p in every}}
    lock_of(every[0]).write_text(json.dumps({**note, **changes}))
    every[0].write_text("unfinished")


def test_row47_without_locks_a_second_run_is_refused_and_removes_nothing(no_locks, every, tmp_path):
    hidden = tmp_path / ".moediff-0-1.tmp"
    with output_lock(every):
        register_outputs(every)
        write_text("new", every[0])
        hidden.write_text("half")
        told = rf"another run is making this file.*process {os.getpid()} on "
        with pytest.raises(TryAgain, match=told) as refused, output_lock(every):
            pass
        assert f"delete {lock_of(every[0]).name} in the same folder" in str(refused.value)
        assert every[0].read_text() == "new" and hidden.exists() and lock_of(every[0]).exists()
        write_text("new", every[1])
    assert not lock_of(every[0]).exists() and every[1].exists()


def test_row47_without_locks_the_lock_of_an_ended_process_is_taken_over(no_locks, every, ended, tmp_path):
    left(every, pid=ended)
    with output_lock(every):
        assert not every[0].exists()
        assert Note.of(os.open(lock_of(every[0]), os.O_RDONLY)).pid == os.getpid()
        with pytest.raises(TryAgain), output_lock(every):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [{"machine": "another"}, {"pid": os.getpid()}, {"pid": 1}, {"pid": 0}, {"pid": -1}, {"pid": 2**80}, {"pid": "x"}],
    ids=["another machine", "this process", "1", "0", "-1", "too large", "no number"],
)
def test_row47_without_locks_what_may_be_at_work_is_left(no_locks, changes, every, ended, tmp_path):
    left(every, **{"pid": ended, **changes})
    with pytest.raises(TryAgain, match=r"if that was killed, delete \.moediff-.*\.lock"), output_lock(every):
        pass
    assert every[0].read_text() == "unfinished" and lock_of(every[0]).exists() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{", '{"outputs": {}, "pid": Infinity}', "[" * 60_000],
    ids=["empty", "list", "number", "cut", "infinite", "deep"],
)
def test_row47_without_locks_a_file_that_names_no_process_is_left(no_locks, text, every):
    lock_of(every[0]).write_text(text)
    with pytest.raises(TryAgain, match="a process that it does not name"), output_lock(every):
        pass
    assert lock_of(every[0]).read_text() == text


def test_row47_without_locks_one_of_many_takes_over(every, ended, monkeypatch):
    """All have seen that the process has ended before the first of them goes on."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    together, all_refused, outcomes = threading.Barrier(8), threading.Event(), []
    has_ended = Note.ended.fget
    monkeypatch.setattr(Note, "ended", property(lambda note: has_ended(note) and together.wait(10) >= 0))
    left(every, pid=ended)

    def run() -> None:
        try:
            with output_lock(every):
                outcomes.append("done")
                all_refused.wait(10)
        except TryAgain:
            outcomes.append("refused")
            if outcomes.count("refused") == 7:
                all_refused.set()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", *["refused"] * 7]
    assert list(every[0].parent.iterdir()) == []


def test_row47_a_run_whose_lock_was_deleted_by_hand_does_not_write_beside_the_next(tmp_path):
    path = tmp_path / "a.lock"
    first = LockFile.acquire(path, "busy")
    path.unlink()
    first.register({"a.json": None})  # nobody took it meanwhile
    second = LockFile.acquire(path, "busy")
    with pytest.raises(TryAgain, match="busy"):
        first.register({"a.json": None})
    first.release()
    assert path.exists()
    second.release()
    assert not path.exists()


def test_a_folder_that_cannot_be_locked_is_named(every, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(CannotCreate, match=r"a\.nii\.gz: .*Input/output error\): choose another one"),
        output_lock(every),
    ):
        pass


def test_a_full_disk_is_named_and_leaves_nothing(every, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OutputFailed, match="free some space"), output_lock(every):
            pass
        assert list(tmp_path.iterdir()) == []
        left(every, pid=1)
        with pytest.raises(OutputFailed), output_lock(every):
            pass
    with output_lock(every):  # what was unfinished is still known
        assert not every[0].exists()
