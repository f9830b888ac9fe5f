"""The command line: what it prints, where it writes, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import build_parser, main
from moediff.core.config import rng_for
from moediff.inference.memory_estimate import STARTED_MIB
from moediff.io.scans import load, save


@pytest.fixture
def scan(tmp_path: Path, make_phantom) -> Path:
    """A phantom head of 4x4x8 mm."""
    truth = make_phantom((44, 50, 40), (4.0, 4.0, 4.0))
    path = tmp_path / "sub-01_T2w.nii.gz"
    save(degrade(truth, thick_slices(2, 0.01, "thick2"), rng_for(0)), path)
    return path


@pytest.fixture
def enhance(scan: Path, bundle: Path):
    """`enhance(*options)` -> exit code of `moediff enhance` at 4 mm."""

    def run(*options: str) -> int:
        size = [] if {"--voxel-size", "--like"} & set(options) else ["--voxel-size", "4"]
        return main(["enhance", str(scan), "--bundle", str(bundle), *size, *options])

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_help_needs_no_torch():
    code = "import sys; from moediff.cli.main import build_parser; build_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    shown = subprocess.run([sys.executable, "-m", "moediff", "--help"], capture_output=True, text=True, check=True)
    assert "enhance" in shown.stdout and "not for diagnostic use" in shown.stdout


def test_the_default_name_and_the_sidecar(enhance, scan, capsys):
    assert enhance() == 0
    assert names(scan.parent) == {scan.name, "sub-01_desc-sr_T2w.nii.gz", "sub-01_desc-sr_T2w.json"}
    said = capsys.readouterr()
    assert "sub-01_desc-sr_T2w.nii.gz" in said.out and "Research use only" in said.out
    assert "\x1b" not in said.err and "denoising" not in said.err  # no progress bar where stderr is no terminal
    record = json.loads((scan.parent / "sub-01_desc-sr_T2w.json").read_text())
    assert record["input"]["spacing_mm"] == pytest.approx([4, 4, 8])
    assert record["output"]["spacing_mm"] == pytest.approx([4, 4, 4])
    assert record["weights"]["name"] == "small" and len(record["weights"]["sha256"]) == 64


def test_quiet_prints_nothing(enhance, capsys):
    assert enhance("-q") == 0
    assert capsys.readouterr() == ("", "")


def test_json_prints_the_record_and_nothing_else(enhance, scan, capsys):
    assert enhance("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((scan.parent / "sub-01_desc-sr_T2w.json").read_text())
    assert {key: written[key] for key in printed} == printed


def test_a_dry_run_writes_nothing(enhance, scan, capsys):
    assert enhance("--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["output"] == [44, 50, 40]
    assert STARTED_MIB < plan["peak_memory_mib"] < STARTED_MIB + 100  # 88,000 voxels add little to a started process
    assert plan["files"][0].endswith("sub-01_desc-sr_T2w.nii.gz")
    assert names(scan.parent) == {scan.name}


@pytest.mark.parametrize("option", [["--device", "tpu"], ["--device", "cuda:99"], ["--threads", "0"]])
def test_a_dry_run_refuses_what_a_run_would(option, enhance, capsys):
    assert enhance("--dry-run", *option) == enhance(*option) == 78
    first, second = capsys.readouterr().err.splitlines()
    assert first == second


def test_like_lands_exactly_on_the_reference(enhance, scan, tmp_path, make_phantom):
    turned = torch.tensor([[0.0, -4, 0, 90], [3.9, 0, 0, -95], [0, 0, 5, -80], [0, 0, 0, 1]], dtype=torch.float64)
    reference = make_phantom((46, 43, 33), affine=turned)
    save(reference, tmp_path / "ref.nii.gz")
    assert enhance("--like", str(tmp_path / "ref.nii.gz"), "-q") == 0
    result = nib.load(scan.parent / "sub-01_desc-sr_T2w.nii.gz")
    assert result.shape == (46, 43, 33)
    np.testing.assert_allclose(result.affine, turned.numpy(), atol=1e-4)


@pytest.mark.parametrize(("size", "shape"), [(["4"], (44, 50, 40)), (["4", "2", "4"], (44, 100, 40))])
def test_one_or_three_voxel_sizes(size, shape, enhance, capsys):
    assert enhance("--dry-run", "--voxel-size", *size) == 0
    assert tuple(json.loads(capsys.readouterr().out)["output"]) == shape


def test_a_scan_after_a_list_of_numbers_is_refused_with_its_right_place(scan, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["enhance", "--voxel-size", "4", str(scan)])
    assert f"argument --voxel-size: {str(scan)!r} is no number of mm: name the scan before" in capsys.readouterr().err


def test_nothing_is_overwritten_without_the_option(enhance, scan, capsys):
    taken = scan.parent / "sub-01_desc-sr_T2w.nii.gz"
    taken.write_bytes(b"mine")
    assert enhance() == 73
    assert "--overwrite" in capsys.readouterr().err and taken.read_bytes() == b"mine"
    assert enhance("--overwrite", "-q") == 0
    assert load(taken).volume.shape == (44, 50, 40)


def test_the_input_is_never_replaced(enhance, scan, capsys):
    before = scan.read_bytes()
    assert enhance("-o", str(scan), "--overwrite") == 73
    assert "replace the input" in capsys.readouterr().err and scan.read_bytes() == before


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("quiet", [True, False])
def test_old_settings_of_a_recipe_are_named_in_one_line(quiet, tmp_path, capsys):
    (tmp_path / "old.toml").write_text("[model.denoiser]\nvector = 8\n[model.denoiser.trunk]\nwidth = 8\n")
    main(["train", str(tmp_path / "old.toml"), *(["-q"] if quiet else [])])
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    names = "model.denoiser.vector is now model.denoiser.embedding_width; model.denoiser.trunk is now"
    assert len(lines) == (not quiet) and all(line.startswith("moediff: warning: ") and names in line for line in lines)


def test_the_seed_decides_the_sample(enhance, tmp_path):
    def sampled(name: str, seed: int) -> np.ndarray:
        options = ("--mode", "detail", "--steps", "2", "--seed", str(seed), "-o", str(tmp_path / name), "-q")
        assert enhance(*options) == 0
        return nib.load(tmp_path / name).get_fdata()

    first = sampled("a.nii.gz", 5)
    assert np.array_equal(first, sampled("b.nii.gz", 5))
    assert not np.allclose(first, sampled("c.nii.gz", 6))


def test_single_experts_and_differences_are_written(enhance, scan):
    each, differences = scan.parent / "each.nii.gz", scan.parent / "differences.nii.gz"
    assert enhance("-q", "--single-experts", str(each), "--differences", str(differences)) == 0
    shape = load(scan.parent / "sub-01_desc-sr_T2w.nii.gz").volume.shape
    assert nib.load(each).shape == (*shape, 4) and nib.load(differences).shape == (*shape, 8)


def test_uncertainty_of_a_sample_needs_samples(enhance, scan, tmp_path, capsys):
    assert enhance("--mode", "detail", "--uncertainty", str(tmp_path / "sd.nii.gz")) == 78
    assert "--samples" in capsys.readouterr().err and names(scan.parent) == {scan.name}


@pytest.mark.parametrize(
    "options", [("--device", "gpu"), ("--threads", "0"), ("--voxel-size", "0.01"), ("--steps", "1")]
)
def test_impossible_options_end_with_78(options, enhance, scan):
    assert enhance(*options) == 78
    assert names(scan.parent) == {scan.name}


def test_a_missing_scan_ends_with_66(tmp_path, capsys):
    assert main(["enhance", str(tmp_path / "none.nii.gz")]) == 66
    assert "none.nii.gz" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["enhance", "adapt", "report", "degrade --recipe thick5"])
def test_an_empty_name_is_not_the_current_folder(command, capsys):
    """As "$scan" is where the variable was misspelt."""
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), ""])
    assert ended.value.code == 2 and "the name is empty" in capsys.readouterr().err


def test_an_empty_scan_ends_with_65(tmp_path, bundle, capsys):
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 20), np.float32), np.diag([4, 4, 4, 1])), tmp_path / "e.nii.gz")
    assert main(["enhance", str(tmp_path / "e.nii.gz"), "--bundle", str(bundle)]) == 65
    assert capsys.readouterr().err.count("\n") == 1
    assert names(tmp_path) == {"e.nii.gz"}


def test_several_volumes_need_a_choice(tmp_path, bundle, scan, capsys):
    image = nib.load(scan)
    pair = np.stack([image.get_fdata(), 2 * image.get_fdata()], -1).astype(np.float32)
    nib.save(nib.Nifti1Image(pair, image.affine), tmp_path / "pair.nii.gz")
    command = ["enhance", str(tmp_path / "pair.nii.gz"), "--bundle", str(bundle), "--voxel-size", "4", "-q"]
    assert main(command) == 65
    assert "--volume" in capsys.readouterr().err
    assert main([*command, "--volume", "1"]) == 0


@pytest.mark.fault(46)
def test_an_interruption_ends_with_130(scan, monkeypatch, capsys):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moediff.cli.enhance.enhance_command", stop)
    assert main(["enhance", str(scan)]) == 130
    assert "nothing partial" in capsys.readouterr().err


def test_an_internal_fault_is_printed_in_one_line(scan, monkeypatch, capsys):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("halo")

    monkeypatch.setattr("moediff.cli.enhance.enhance_command", broken)
    assert main(["enhance", str(scan)]) == 70
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [["--debug", "enhance"], ["enhance", "--debug"]])
def test_debug_shows_the_traceback_and_ends_with_the_same_code(words, tmp_path, capsys):
    assert main([*words, str(tmp_path / "none.nii.gz")]) == 66
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("moediff: ") and "none.nii.gz" in said


def test_debug_is_accepted_after_every_command():
    for words in (["dicom", "list", "x"], ["bundle", "info"], ["train", "x"], ["report", "x"]):
        assert build_parser().parse_args([*words, "--debug"]).debug
        assert not build_parser().parse_args(words).debug


def test_row48_no_memory_anywhere_ends_with_75(scan, monkeypatch, capsys):
    def large(*_: object) -> None:
        torch.empty(10**15)

    monkeypatch.setattr("moediff.cli.enhance.enhance_command", large)
    assert main(["enhance", str(scan)]) == 75
    assert "memory ran out" in capsys.readouterr().err


@pytest.mark.fault(49)
def test_bundle_info_prints_the_manifest_and_refuses_altered_weights(bundle, tmp_path, capsys):
    assert main(["bundle", "info", str(bundle)]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"] == {"name": "small"}
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert main(["bundle", "info", str(copy)]) == 78
    assert "checksum" in capsys.readouterr().err


@pytest.mark.fault(51)
def test_a_bare_environment_is_enough(bundle, scan, tmp_path):
    """No HOME, no terminal, C locale, a clock that was wrong, no network, a name that is not ASCII."""
    named = scan.rename(tmp_path / "köpf 1_T2w.nii.gz")
    os.utime(named, (4e9, 4e9))  # the year 2096
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from moediff.cli.main import main\n"
        f"sys.exit(main(['enhance', {str(named)!r}, '--bundle', {str(bundle)!r}, '--voxel-size', '4']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert {"köpf 1_desc-sr_T2w.nii.gz", "köpf 1_desc-sr_T2w.json"} <= names(tmp_path)
