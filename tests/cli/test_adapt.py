"""`moediff adapt` and `enhance --adapt`, as a user meets them."""

from __future__ import annotations

import json
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
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.io.scans import save
from moediff.model.bundle import load_bundle
from moediff.training.adapt import AdaptOptions


@pytest.fixture
def scan(tmp_path: Path, make_phantom) -> Path:
    """A phantom head of 1x1x4 mm."""
    path = tmp_path / "sub-01_T2w.nii.gz"
    save(degrade(make_phantom((56, 60, 48), (1.0, 1.0, 1.0)), thick_slices(4, 0.01, "thick4"), rng_for(0)), path)
    return path


def test_a_scan_gives_a_model_folder_that_enhance_takes(scan, bundle, tmp_path, monkeypatch, capsys):
    """No TensorBoard must be installed: it draws curves of long trainings; a fine-tuning prints two numbers."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    made = tmp_path / "mine"
    options = ["--bundle", str(bundle), "--steps", "2", "--processes", "1"]
    assert main(["adapt", str(scan), "-o", str(made), *options]) == 0
    folder, gain, _ = capsys.readouterr().out.splitlines()
    before, after = load_bundle(made).provenance["adapted"]["error_over_interpolation"]
    assert folder == str(made)
    assert gain.startswith(f"squared error over that of interpolation: {before:.3f} before, {after:.3f} after (")
    assert load_bundle(made).provenance["adapted"]["scans"] == 1
    assert main(["enhance", str(scan), "--bundle", str(made), "-o", str(tmp_path / "out.nii.gz"), "-q"]) == 0
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["weights"]["adapted"]["slice_factors"] == [4.0]
    assert main(["enhance", str(scan), "--bundle", str(bundle), "--adapt", "--dry-run"]) == 0


def test_a_volume_of_a_4d_file_is_chosen_as_in_enhance(scan, bundle, tmp_path, capsys):
    image = nib.load(scan)
    both = nib.Nifti1Image(np.stack([image.get_fdata(dtype=np.float32)] * 2, -1), image.affine)
    nib.save(both, tmp_path / "both_T2w.nii.gz")
    command = ["adapt", str(tmp_path / "both_T2w.nii.gz"), "-o", str(tmp_path / "mine"), "--bundle", str(bundle)]
    assert main(command) == 65 and "--volume" in capsys.readouterr().err
    assert main([*command, "--volume", "1", "--steps", "1", "--processes", "1"]) == 0
    assert load_bundle(tmp_path / "mine").provenance["adapted"]["steps"] == 1


def test_an_existing_model_folder_stays(scan, bundle, tmp_path, capsys):
    before = load_bundle(bundle).sha256
    assert main(["adapt", str(scan), "-o", str(bundle)]) == 73
    assert "a model bundle is there already" in capsys.readouterr().err
    assert load_bundle(bundle).sha256 == before


def test_a_scan_of_thin_slices_is_refused_in_one_sentence(make_phantom, bundle, tmp_path, capsys):
    thin = tmp_path / "thin_T1w.nii.gz"
    save(make_phantom((48, 56, 44), (2.0, 2.0, 2.0)), thin)
    for command in (
        ["adapt", "-o", str(tmp_path / "mine")],
        ["enhance", "--adapt", "-o", str(tmp_path / "out.nii.gz")],
    ):
        assert main([command[0], str(thin), "--bundle", str(bundle), *command[1:]]) == 65
        told = capsys.readouterr().err
        assert "thin_T1w.nii.gz: slices are 1 times as thick" in told and told.count("\n") == 1
    assert not (tmp_path / "mine").exists() and not (tmp_path / "out.nii.gz").exists()


def test_enhance_adapts_and_says_so(scan, bundle, tmp_path, monkeypatch):
    plain, adapted = tmp_path / "plain.nii.gz", tmp_path / "adapted.nii.gz"
    monkeypatch.setattr("moediff.training.adapt.AdaptOptions", partial(AdaptOptions, steps=2))
    for path, more in ((plain, []), (adapted, ["--adapt", "--threads", "1"])):
        assert main(["enhance", str(scan), "--bundle", str(bundle), "-o", str(path), "-q", *more]) == 0
    told = [json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text()) for path in (plain, adapted)]
    assert told[1]["weights"]["adapted"]["from_sha256"] == told[0]["weights"]["sha256"] != told[1]["weights"]["sha256"]
    before, after = (torch.from_numpy(nib.load(path).get_fdata()) for path in (plain, adapted))
    assert before.shape == after.shape and not torch.equal(before, after)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_limit_the_learning_too(threads, scan, bundle, tmp_path, monkeypatch):
    seen = []

    def learning(scans, weights, chosen, **_):
        seen.append(chosen.threads)
        raise ConfigError("enough")

    before = torch.get_num_threads()
    monkeypatch.setattr("moediff.training.adapt.adapt", learning)
    command = ["enhance", str(scan), "--bundle", str(bundle), "-o", str(tmp_path / "out.nii.gz"), "-q", "--adapt"]
    try:
        assert main([*command, "--threads", str(threads)]) == ConfigError.exit_code and seen == [threads]
    finally:
        torch.set_num_threads(before)
