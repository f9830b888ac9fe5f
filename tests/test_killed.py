"""Killed, interrupted, beside another run, on a full disk: nothing partial is taken for a result, and running again
finishes with the same bytes."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

import moediff
from interrupts import heed_interrupts
from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import main
from moediff.core import signals
from moediff.core.config import rng_for
from moediff.core.errors import MoeDiffError, OutputFailed, TryAgain
from moediff.inference import outputs
from moediff.inference.enhancer import Enhancer
from moediff.io.lock import lock_of, output_lock
from moediff.io.scans import save
from processes import prepared_context

RESULT, SIDECAR, MASK = "scan_desc-sr.nii.gz", "scan_desc-sr.json", "mask.nii.gz"


@pytest.fixture
def command(tmp_path, make_phantom, bundle) -> list[str]:
    """`moediff enhance` of a small phantom, which takes about a second."""
    truth = make_phantom((44, 50, 40), (4.0, 4.0, 4.0))
    save(degrade(truth, thick_slices(2, 0.01, "thick2"), rng_for(0)), tmp_path / "scan.nii.gz")
    return [
        "enhance",
        str(tmp_path / "scan.nii.gz"),
        "--bundle",
        str(bundle),
        "--voxel-size",
        "4",
        "-q",
        "--mask",
        str(tmp_path / MASK),
        "--threads",
        "1",
    ]


@pytest.fixture(scope="module")
def prepared():
    return prepared_context()


def contents(folder: Path) -> dict[str, bytes]:
    """What a user sees, sidecars without their timings."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    if SIDECAR in found:
        found[SIDECAR] = json.dumps({**json.loads(found[SIDECAR]), "timings": None}).encode()
    return found


def forget(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "scan.nii.gz":
            path.unlink()


def ended(prepared, work: Callable, arguments: tuple, wait: float | None = None) -> int:
    """Exit code of a process, which is killed where it works for longer than `wait` seconds."""
    process = prepared.Process(target=work, args=arguments)
    process.start()
    process.join(wait)
    process.kill()
    process.join()
    return process.exitcode


@pytest.mark.fault(46)
def test_killed_at_any_moment(command, tmp_path, prepared, pytestconfig, figures):
    """Only kills of a process at work count; one that comes too late is tried again, sooner."""
    ended(prepared, int, ())  # the first process waits until everything is imported
    start = time.monotonic()
    ended(prepared, main, (command,))
    lasts, whole = time.monotonic() - start, contents(tmp_path)
    assert {SIDECAR, RESULT, MASK} <= whole.keys()
    rng, kills, hits = random.Random(7), pytestconfig.getoption("--kills"), 0
    for _ in range(4 * kills):
        if hits == kills:
            break
        forget(tmp_path)
        wait = rng.uniform(0, lasts)
        hit = ended(prepared, main, (command,), wait) == -signal.SIGKILL
        hits += hit
        lasts = lasts if hit else wait
        figures["kills survived, of"] += hit
        left = contents(tmp_path)
        assert left.items() <= whole.items()  # every visible file is whole
        assert hit or SIDECAR in left
        if SIDECAR in left:
            assert left == whole
        else:
            assert main(command) == 0
        assert contents(tmp_path) == whole
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] in ([], [lock_of(tmp_path / RESULT).name])
        figures["kills survived"] += hit
    assert hits == kills


STEPS = ("save", "write_text", "register_outputs")


def dying(step: str, after: int, command: list[str]) -> None:
    """Run, and be killed before or after one step of writing."""
    real = getattr(outputs, step)

    def deadly(*args: object, **options: object) -> None:
        if after:
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(outputs, step, deadly)
    main(command)


@pytest.mark.fault(46)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [0, 1])
def test_killed_between_two_files(step, after, command, tmp_path, prepared):
    """The moments that random kills rarely meet: before or after each file gets its name."""
    assert main(command) == 0
    whole = contents(tmp_path)
    forget(tmp_path)
    process = prepared.Process(target=dying, args=(step, after, command))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = contents(tmp_path)
    assert left.items() <= whole.items() and (SIDECAR in left) == (step == "write_text" and after == 1)
    assert main(command) == (73 if SIDECAR in left else 0)
    assert contents(tmp_path) == whole


ENDS = {
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "SIGTERM": (signals.Terminated(143), 143),
    "disk full": (OutputFailed("no room"), 74),
    "fault": (RuntimeError("drawing failed"), 70),
}


@pytest.mark.fault(46)
@pytest.mark.parametrize(("end", "code"), ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("files", [0, 1, 2])
def test_broken_off_between_two_files(end, code, files, command, tmp_path, monkeypatch):
    """Before the scan, the mask or the sidecar: what was written goes, and running again finishes."""
    real, left = {step: getattr(outputs, step) for step in ("save", "write_text")}, [files]

    def ending(step: str, *args: object, **options: object) -> None:
        if not left[0]:
            raise end
        left[0] -= 1
        real[step](*args, **options)

    with monkeypatch.context() as patched:
        for step in real:
            patched.setattr(outputs, step, partial(ending, step))
        assert main(command) == code
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
    assert main(command) == 0 and {SIDECAR, RESULT, MASK} <= contents(tmp_path).keys()


@pytest.mark.fault(46)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_politely(number, code, command, tmp_path):
    """In the middle of the work: our hidden files go too."""
    slow = [*command, "--mode", "detail", "--steps", "64", "--samples", "64"]
    with subprocess.Popen(
        [sys.executable, "-m", "moediff", *slow], stderr=subprocess.PIPE, preexec_fn=heed_interrupts
    ) as process:
        lock = lock_of(tmp_path / RESULT)
        while not lock.exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == code and b"Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


@pytest.mark.fault(47)
def test_a_second_run_on_one_output_says_so(command, tmp_path, capsys):
    with output_lock([tmp_path / RESULT]):
        assert main(command) == 75
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and RESULT in said and "another run is making this file: wait for it" in said
    assert main(command) == 0


@pytest.mark.fault(47)
def test_of_many_runs_on_one_output_one_wins(command, tmp_path, prepared, capfd):
    processes = [prepared.Process(target=exiting, args=(command,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = sorted(process.exitcode for process in processes)
    assert codes[0] == 0 and set(codes[1:]) <= {73, 75}  # too early or too late
    after = contents(tmp_path)
    forget(tmp_path)
    assert main(command) == 0 and contents(tmp_path) == after


def exiting(command: list[str]) -> None:
    sys.exit(main(command))


def enhancing(scan: Path, target: Path, bundle: Path, ready: Event) -> None:
    """Call the Python function with a model that waits for the other process; ends with the error's exit code."""
    real = Enhancer.__call__

    def waiting(self: Enhancer, *args: object, **options: object) -> object:
        ready.wait(30)
        return real(self, *args, **options)

    Enhancer.__call__ = waiting
    try:
        moediff.enhance(scan, target, bundle=bundle, voxel_size=(4.0,))
    except MoeDiffError as error:
        ready.set()
        sys.exit(error.exit_code)


@pytest.mark.fault(47)
def test_of_two_python_calls_on_one_target_one_wins(command, tmp_path, bundle, prepared):
    """The first holds the lock until the second has been refused with TryAgain."""
    ready = prepared.Event()
    arguments = (tmp_path / "scan.nii.gz", tmp_path / RESULT, bundle, ready)
    processes = [prepared.Process(target=enhancing, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [0, TryAgain.exit_code]
    assert contents(tmp_path).keys() == {"scan.nii.gz", RESULT, SIDECAR}


@pytest.mark.fault(46)
def test_a_python_call_that_fails_while_writing_leaves_nothing(command, tmp_path, bundle, monkeypatch):
    """As the command: the lock, the maps and the scan go where the sidecar could not be written."""

    def full(*_: object, **__: object) -> None:
        raise OutputFailed("no room")

    monkeypatch.setattr(outputs, "write_text", full)
    paths = moediff.OutputPaths(scan=tmp_path / RESULT, mask=tmp_path / MASK)
    with pytest.raises(OutputFailed):
        moediff.enhance(tmp_path / "scan.nii.gz", paths, bundle=bundle, voxel_size=(4.0,))
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


@pytest.mark.fault(45)
def test_a_disk_that_fills_up_leaves_nothing(command, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert main(command) == 74
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "free some space" in said
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


@pytest.mark.fault(45)
@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_closed_folder_is_named(command, tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o555)
    assert main([*command, "-o", str(tmp_path / "closed" / "out.nii.gz")]) == 73
    assert "is not writable" in capsys.readouterr().err
    assert list((tmp_path / "closed").iterdir()) == []


@pytest.mark.fault(46)
def test_only_our_own_unfinished_files_are_cleared(tmp_path):
    """A lock file that somebody planted removes nothing that this run would not write."""
    every = [tmp_path / "a.nii.gz", tmp_path / "a.json"]
    (tmp_path / "precious").write_text("mine")
    lock_of(every[0]).write_text(json.dumps(["precious", "../precious", "a.nii.gz", "a.json"]))
    every[0].write_text("unfinished")
    with output_lock(every):
        assert not every[0].exists() and (tmp_path / "precious").read_text() == "mine"
    assert not lock_of(every[0]).exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '[1, "a"]', "\xff", "null"])
def test_a_damaged_note_clears_nothing(text, tmp_path):
    every = [tmp_path / "a.nii.gz", tmp_path / "a.json"]
    every[0].write_text("mine")
    lock_of(every[0]).write_bytes(text.encode("latin-1"))
    with output_lock(every):
        assert every[0].read_text() == "mine"


def test_a_complete_result_is_not_removed(tmp_path):
    every = [tmp_path / "a.nii.gz", tmp_path / "a.json"]
    for path in every:
        path.write_text("done")
    lock_of(every[0]).write_text(json.dumps([path.name for path in every]))
    with output_lock(every):
        assert all(path.exists() for path in every)


def test_the_steps_that_are_interrupted_exist():
    assert all(hasattr(outputs, step) for step in STEPS)
