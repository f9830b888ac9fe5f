"""Simulate -> train -> bundle -> enhance -> score -> picture, through the public commands, on phantoms."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import moediff
from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.evaluation.metrics.fidelity import score
from moediff.io.scans import load, save
from moediff.model.bundle import load_bundle

CONFIG = """
out = "run"
steps = {steps}
batch = 2
patch = 32
learning_rate = 5e-3
warmup_steps = 2
save_every = {save_every}
[model.denoiser]
embedding_width = 16
[model.denoiser.backbone]
width = 8
bottleneck_width = 16
[model.denoiser.encoder]
width = 16
attention_heads = 2
[model.denoiser.experts]
width = 16
[validation]
scans = ["another_T1w.nii.gz"]
recipes = ["thick3"]
[[scans]]
path = "head_T1w.nii.gz"
"""


@pytest.fixture
def project(tmp_path: Path, make_phantom) -> Path:
    save(make_phantom((48, 56, 44), (3.0, 3.0, 3.0)), tmp_path / "head_T1w.nii.gz")
    save(make_phantom((48, 56, 44), (3.0, 3.0, 3.0), seed=2), tmp_path / "another_T1w.nii.gz")
    return tmp_path


def write_config(project: Path, steps: int = 4, save_every: int = 2) -> Path:
    path = project / "tiny.toml"
    path.write_text(CONFIG.format(steps=steps, save_every=save_every))
    return path


def test_train_then_enhance_then_score(project: Path, make_phantom, capsys):
    assert main(["train", str(write_config(project, save_every=4)), "-q", "--processes", "1"]) == 0
    bundle = project / "run" / "bundle"
    assert (project / "run" / "losses.csv").read_text().count("\n") == 5
    assert "mean/thick3" in (project / "run" / "validation.csv").read_text()

    truth = make_phantom((60, 64, 56), (1.0, 1.0, 1.0), seed=1)
    save(degrade(truth, thick_slices(4, 0.01, "thick4"), rng_for(0)), project / "sub-01_T1w.nii.gz")
    code = main(
        [
            "enhance",
            str(project / "sub-01_T1w.nii.gz"),
            "--bundle",
            str(bundle),
            "--experts",
            str(project / "experts.nii.gz"),
            "--mask",
            str(project / "mask.nii.gz"),
            "--samples",
            "2",
            "--steps",
            "2",
            "--uncertainty",
            str(project / "sd.nii.gz"),
            "-q",
        ]
    )
    assert code == 0
    result = load(project / "sub-01_desc-sr_T1w.nii.gz").volume
    assert result.shape == truth.shape
    assert score(result.data_XYZ, truth.data_XYZ).psnr > 12
    record = json.loads((project / "sub-01_desc-sr_T1w.json").read_text())
    assert record["notice"] == "Research use only; not for diagnostic use."
    assert record["settings"]["mode"] == "faithful"
    weights = nib.load(project / "experts.nii.gz").get_fdata()
    inside = nib.load(project / "mask.nii.gz").get_fdata() > 0
    assert weights.shape == (*truth.shape, 4)
    assert np.allclose(weights[inside].sum(-1), 1, atol=1e-4)
    assert np.all(nib.load(project / "sd.nii.gz").get_fdata() >= 0)

    assert main(["enhance", str(project / "sub-01_T1w.nii.gz"), "--bundle", str(bundle), "-q"]) == 73  # exists
    capsys.readouterr()
    assert main(["bundle", "info", str(bundle)]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["steps"] == 4


def test_resumed_training_equals_uninterrupted(project: Path):
    from moediff.training.config import load_config
    from moediff.training.trainer import RunOptions, Trainer

    config = load_config(write_config(project, steps=4, save_every=2))
    whole = Trainer(config, RunOptions(progress=False))
    whole.run()
    (project / "run").rename(project / "whole")

    first = Trainer(config, RunOptions(progress=False))
    first.progress = lambda: min(first.state.step / 4, 1.0) if first.state.step < 2 else 1.0  # type: ignore[method-assign]
    first.run()  # as if it were killed after the checkpoint of step 2
    second = Trainer(config, RunOptions(progress=False, resume=True))
    second.run()
    assert second.state.step == 4
    for (name, ours), theirs in zip(
        second.state.average.state_dict().items(), whole.state.average.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_slices_equal_one_run(project: Path):
    from moediff.core.errors import TryAgain
    from moediff.training.config import load_config
    from moediff.training.trainer import RunOptions, train

    config = load_config(write_config(project, steps=3, save_every=100))
    train(config, RunOptions(processes=1, progress=False))
    whole = load_bundle(project / "run" / "bundle")
    (project / "run").rename(project / "whole")
    slices = 0
    for slices in range(1, 10):
        try:
            train(config, RunOptions(processes=1, resume=True, progress=False, slice_minutes=1e-9))
            break
        except TryAgain as pause:
            assert f"paused at step {slices}" in str(pause)
    assert slices == 3
    assert load_bundle(project / "run" / "bundle").sha256 == whole.sha256


@pytest.mark.parametrize("processes", [1, 2])
def test_training_that_is_stopped_saves_first(project: Path, processes: int):
    config = write_config(project, steps=1000, save_every=1000)
    command = [sys.executable, "-m", "moediff", "train", str(config), "-q", "--processes", str(processes)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    losses, end = project / "run" / "losses.csv", time.monotonic() + 180
    while not losses.is_file() and time.monotonic() < end and running.poll() is None:
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=180)
    assert running.returncode == 143, told
    steps = len(losses.read_text().splitlines()) - 1
    assert load_bundle(project / "run" / "bundle").provenance["steps"] == steps >= 1
    assert (project / "run" / "checkpoint" / "state.safetensors").is_file()


def test_python_one_call(project: Path):
    scan = load(project / "head_T1w.nii.gz").volume
    low = degrade(scan, thick_slices(3, 0.0, "thick3"), rng_for(0))
    result = moediff.enhance(low, project / "out.nii.gz", voxel_size=(3.0,))
    assert result.volume.spacing_mm == pytest.approx((3, 3, 3))
    assert load(project / "out.nii.gz").volume.shape == result.volume.shape


def test_python_writes_what_the_command_writes(project: Path, bundle: Path):
    """Every file that a NIfTI input can give, byte for byte but for the timings."""
    pytest.importorskip("jinja2")
    low = degrade(load(project / "head_T1w.nii.gz").volume, thick_slices(3, 0.0, "thick3"), rng_for(0))
    save(low, project / "low_T1w.nii.gz")
    names = {
        "--uncertainty": "sd.nii",
        "--experts": "gate.nii",
        "--mask": "mask.nii",
        "--single-experts": "each.nii",
        "--differences": "differences.nii",
        "--report": "page.html",
    }
    for where in ("command", "python"):
        (project / where).mkdir()
    words = [word for option, name in names.items() for word in (option, str(project / "command" / name))]
    words += ["-o", str(project / "command" / "out.nii"), "--bundle", str(bundle), "--voxel-size", "3"]
    assert main(["enhance", str(project / "low_T1w.nii.gz"), *words]) == 0
    fields = {option[2:].replace("-", "_"): project / "python" / name for option, name in names.items()}
    paths = moediff.OutputPaths(scan=project / "python" / "out.nii", **fields)
    moediff.enhance(project / "low_T1w.nii.gz", paths, bundle=bundle, voxel_size=(3.0,))
    written = {path.name for path in (project / "command").iterdir()}
    assert written == {"out.nii", "out.json", *names.values()}
    assert written == {path.name for path in (project / "python").iterdir()}
    for name in written - {"out.json", "page.html"}:
        assert (project / "command" / name).read_bytes() == (project / "python" / name).read_bytes(), name
    one, other = (json.loads((project / where / "out.json").read_text()) for where in ("command", "python"))
    assert one | {"timings": None} == other | {"timings": None}


def test_a_second_run_in_the_same_folder_needs_resume(project: Path, capsys):
    words = ["train", str(write_config(project, steps=2)), "-q", "--processes", "1"]
    assert main(words) == 0
    assert main(words) == 78
    assert "--resume" in capsys.readouterr().err


def test_unknown_setting_is_named(project: Path, capsys):
    path = write_config(project)
    path.write_text("stepz = 3\n" + path.read_text())
    assert main(["train", str(path)]) == 78
    assert "stepz" in capsys.readouterr().err
