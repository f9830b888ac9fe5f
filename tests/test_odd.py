"""Odd situations, through the command line: a sentence and the right exit code, and nothing harmed."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import main
from moediff.cohort.journal import Journal
from moediff.core.config import rng_for
from moediff.core.memory import is_out_of_memory
from moediff.inference.enhancer import MAX_THREADS, Enhancer
from moediff.io.scans import load, save
from processes import prepared_context, run_without_stream


@pytest.fixture
def scan(tmp_path: Path, make_phantom) -> Path:
    """A phantom head of 4x4x8 mm, alone in its folder."""
    path = tmp_path / "scan.nii.gz"
    save(degrade(make_phantom((44, 50, 40), (4.0, 4.0, 4.0)), thick_slices(2, 0.01, "thick2"), rng_for(0)), path)
    return path


@pytest.fixture
def enhance(scan: Path, bundle: Path, capsys):
    """`enhance(*options)` -> exit code, what was said on standard error."""

    def run(*options: str) -> tuple[int, str]:
        size = [] if "--like" in options else ["--voxel-size", "4"]
        code = main(["enhance", str(scan), "--bundle", str(bundle), *size, "-q", *options])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def never(monkeypatch) -> None:
    """No model is loaded: what is wrong is seen before any work."""

    def load_none(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Enhancer, "__init__", load_none)


@pytest.mark.fault(44)
@pytest.mark.parametrize("option", ["--output", "--mask", "--experts", "--differences"])
@pytest.mark.parametrize("name", ["made.txt", "made.img", "made", ""])
def test_a_name_of_another_kind_is_refused_before_any_work(option, name, enhance, scan, never):
    target = str(scan.parent / name) if name else ""
    code, said = enhance(option, target)
    assert code == 73 and said.count("\n") == 1 and (name or ".") in said
    assert [path.name for path in scan.parent.iterdir()] == [scan.name]


@pytest.mark.fault(44)
def test_a_reference_grid_is_not_replaced(enhance, scan, make_phantom, never):
    reference = scan.with_name("ref.nii.gz")
    save(make_phantom((44, 50, 40), (4.0, 4.0, 4.0)), reference)
    before = reference.read_bytes()
    code, said = enhance("--like", str(reference), "-o", str(reference), "--overwrite")
    assert code == 73 and "ref.nii.gz: the output would replace the input" in said and reference.read_bytes() == before


@pytest.mark.fault(44)
@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_device_or_pipe_is_not_replaced(option, enhance, scan, never):
    pipe = scan.with_name("pipe.nii.gz")
    os.mkfifo(pipe)
    code, said = enhance(option, str(pipe), "--overwrite")
    assert code == 73 and "pipe.nii.gz: this is a device or a pipe" in said and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.fault(33)
def test_a_scan_without_a_head_is_named(tmp_path, bundle, capsys):
    data = np.zeros((40, 40, 40), np.float32)
    data[20, 20, 20] = 1
    nib.save(nib.Nifti1Image(data, np.diag([4.0, 4, 4, 1])), tmp_path / "dot.nii.gz")
    words = ["enhance", str(tmp_path / "dot.nii.gz"), "--bundle", str(bundle), "--voxel-size", "3"]
    assert main(words) == 65
    assert "dot.nii.gz: expected a scan, found" in capsys.readouterr().err  # two values: a mask
    assert main([*words, "--trust-intensities"]) == 65
    assert "dot.nii.gz: no head found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--threads", str(MAX_THREADS + 1)), f"expected 1 to {MAX_THREADS}"),
        (("--threads", "0"), "threads is 0"),
        (("--mem-mb", "1"), "memory_mb (--mem-mb) is 1, expected 64"),
        (("--steps", "1"), "steps is 1, expected 2 to 64"),
        (("--samples", "99"), "samples is 99, expected 1 to 64"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_a_setting_out_of_range_is_refused_with_its_limits(words, sentence, enhance, scan):
    code, said = enhance(*words)
    assert code == 78 and sentence in said and [path.name for path in scan.parent.iterdir()] == [scan.name]


@pytest.mark.fault(40)
def test_an_uncertainty_map_that_does_not_exist_adds_a_warning(enhance, scan):
    """What an earlier run left under its name would be taken for this result's."""
    spread = scan.with_name("sd.nii.gz")
    spread.write_text("of another run")
    code = main(["enhance", str(scan), "--voxel-size", "8", "--uncertainty", str(spread), "--overwrite", "-q"])
    record = json.loads(scan.with_name("scan_desc-sr.json").read_text())
    assert code == 0 and not spread.exists() and record["uncertainty"]["kind"] == "none"
    assert any("no uncertainty map was written" in warning for warning in record["warnings"])


@pytest.mark.parametrize("mode", ["faithful", "detail"])
def test_differences_from_a_sample_are_refused_before_any_work(mode, enhance, scan):
    code, said = enhance("--mode", mode, "--differences", str(scan.with_name("d.nii.gz")), "--dry-run")
    assert code == (78 if mode == "detail" else 0)
    assert mode == "faithful" or ("--differences" in said and "--mode detail" in said and said.count("\n") == 1)


def test_what_is_printed_is_what_the_sidecar_says(scan, bundle, capsys):
    assert main(["enhance", str(scan), "--bundle", str(bundle), "--voxel-size", "4", "-q", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(scan.with_name("scan_desc-sr.json").read_text()) and len(printed["experts"]) == 4


def test_half_precision_on_a_processor(scan, enhance):
    results = []
    for name in ("float32", "bfloat16"):
        out = scan.with_name(f"{name}.nii.gz")
        assert enhance("--dtype", name, "-o", str(out))[0] == 0
        results.append(load(out).volume.data_XYZ)
        assert json.loads(scan.with_name(f"{name}.json").read_text())["settings"]["dtype"] == name
    gap = (results[0] - results[1]).square().mean().sqrt() / results[0].max()
    assert 0 < float(gap) < 1e-3


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=repr,
)
def test_row48_what_says_that_memory_ran_out(error):
    assert (
        is_out_of_memory(error)
        and not is_out_of_memory(ImportError("no module named x"))
        and not is_out_of_memory(OSError(28, "No space"))
    )


def without_all_streams(words: list[str]) -> int:
    """Exit code of the program, started by a shell."""
    line = shlex.join([sys.executable, "-m", "moediff", *words])
    return subprocess.run(["bash", "-c", f"{line} <&- >&- 2>&-"]).returncode


def without_stream(number: int, words: list[str]) -> int:
    """Exit code of the command in a process that has everything imported."""
    process = prepared_context().Process(target=run_without_stream, args=(number, words))
    process.start()
    process.join()
    return process.exitcode


CLOSINGS = {"stdout": partial(without_stream, 1), "stderr": partial(without_stream, 2), "all": without_all_streams}


@pytest.mark.fault(51)
@pytest.mark.parametrize("call", CLOSINGS.values(), ids=CLOSINGS.keys())
def test_closed_streams_do_no_harm(call, scan, bundle):
    assert call(["enhance", str(scan), "--bundle", str(bundle), "--voxel-size", "4"]) == 0
    assert {path.name for path in scan.parent.iterdir()} == {scan.name, "scan_desc-sr.nii.gz", "scan_desc-sr.json"}
    assert load(scan.with_name("scan_desc-sr.nii.gz")).volume.shape == (44, 50, 40)


@pytest.mark.fault(45)
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no full device here")
def test_what_was_printed_must_arrive(tmp_path):
    """A sentence that cannot be printed changes no exit code; `status` starts fastest of what prints."""
    journal = Journal(tmp_path)
    journal.write(journal.first(total=1, workers=1, runner="serial"))
    journal.close()
    status = f"{sys.executable} -m moediff cohort status {tmp_path}"
    words = f"{status}/nowhere 2>/dev/full; [ $? = 66 ] || exit 99; exec {status} >/dev/full"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.returncode == 74 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


@pytest.mark.fault(51)
def test_a_current_folder_that_is_gone(scan):
    words = f"mkdir {scan.parent}/gone && cd {scan.parent}/gone && rmdir ../gone && {sys.executable} -m moediff"
    done = subprocess.run(["bash", "-c", f"{words} enhance {scan}"], capture_output=True, text=True)
    assert done.returncode == 66 and "change to another one" in done.stderr.splitlines()[-1]


@pytest.fixture
def closed(monkeypatch, tmp_path):
    """`closed(path)`: the system refuses it from now on, to root as well."""

    def close(path: Path) -> Path:
        def refusing(real):
            def call(given=".", *args, **options):
                if isinstance(given, str | os.PathLike) and Path(given) == path:
                    raise PermissionError(13, "Permission denied", str(given))
                return real(given, *args, **options)

            return call

        monkeypatch.setattr(os, "scandir", refusing(os.scandir))
        monkeypatch.setattr(Path, "read_text", refusing(Path.read_text))
        monkeypatch.setattr(Path, "open", refusing(Path.open))
        monkeypatch.setattr(Path, "lstat", refusing(Path.lstat))
        return path

    return close


CLOSED = {
    "a scan": (["enhance", "{closed}"], 66, "check name and permissions"),
    "an output": (["enhance", "{scan}", "-o", "{closed}", "--voxel-size", "4"], 73, "the folder cannot be read"),
    "a recipe": (["degrade", "{scan}", "--recipe", "{closed}", "-o", "{scan}.nii"], 66, "cannot be read"),
    "a configuration": (["train", "{closed}"], 66, "cannot be read"),
    "pairs": (["evaluate", "--pairs", "{closed}"], 66, "cannot be read"),
}


@pytest.mark.fault(45)
@pytest.mark.parametrize(("words", "code", "sentence"), CLOSED.values(), ids=CLOSED.keys())
def test_what_may_not_be_read_is_named(words, code, sentence, scan, closed, capsys):
    path = scan.with_name("closed.json" if "--recipe" in words else "closed.nii.gz")
    if code == 66:
        path.write_bytes(scan.read_bytes())
    closed(path)
    assert main([word.format(scan=scan, closed=path) for word in words]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and path.name in said and sentence in said and "Permission denied" in said


@pytest.mark.fault(49)
@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors"])
def test_a_bundle_that_may_not_be_read(name, bundle, closed, capsys):
    closed(bundle / name)
    assert main(["bundle", "info", str(bundle)]) == 78
    assert "the bundle cannot be read (Permission denied)" in capsys.readouterr().err


@pytest.mark.fault(43)
def test_a_part_of_an_export_that_may_not_be_read(tmp_path, closed, capsys):
    """Its slices would be missing."""
    (tmp_path / "export" / "part").mkdir(parents=True)
    closed(tmp_path / "export" / "part")
    assert main(["dicom", "list", str(tmp_path / "export")]) == 66
    assert "check name and permissions" in capsys.readouterr().err


def test_voxel_sizes_with_commas_are_told_of_spaces(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["enhance", "scan.nii", "--voxel-size", "1,1,1"])
    assert (
        stopped.value.code == 2
        and "'1,1,1' has commas: give spaces, as in --voxel-size 1 1 1" in capsys.readouterr().err
    )


def test_a_dry_run_prints_what_a_run_would_warn_of(tmp_path, make_phantom, capsys):
    save(make_phantom((32, 36, 28), (2.0, 2.0, 2.0)), tmp_path / "small.nii.gz")
    assert main(["enhance", str(tmp_path / "small.nii.gz"), "--dry-run", "--samples", "2"]) == 0
    warnings = " ".join(json.loads(capsys.readouterr().out)["warnings"])
    assert "not a whole brain, or wrong voxel sizes" in warnings and "standard deviation of 2 samples" in warnings
    assert main(["enhance", str(tmp_path / "small.nii.gz"), "--dry-run", "--voxel-size", "2"]) == 0
    assert "already as fine" in " ".join(json.loads(capsys.readouterr().out)["warnings"])


@pytest.mark.fault(60)
@pytest.mark.parametrize(
    "words",
    [
        ["enhance", "{scan}", "-o", "{long}.nii.gz"],
        ["enhance", "{scan}", "--uncertainty", "{long}.nii.gz"],
        ["enhance", "{scan}", "--report", "{long}.html"],
        ["degrade", "{scan}", "--recipe", "thick3", "-o", "{long}.nii.gz"],
        ["evaluate", "--pred", "{scan}", "--ref", "{scan}", "--json", "{long}.json"],
        ["adapt", "{scan}", "-o", "{long}"],
        ["study", "create", "{long}", "--readers", "a", "--results", "a={scan}", "b={scan}"],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_a_name_that_is_too_long_says_so_in_every_command(words, scan, capsys):
    assert main([word.format(scan=scan, long=scan.parent / ("x" * 260)) for word in words]) == 73
    said = capsys.readouterr().err
    assert "too long" in said and "permissions" not in said
