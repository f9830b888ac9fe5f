"""`moediff train`, as a user meets it."""

from __future__ import annotations

from pathlib import Path

from moediff.cli.main import main


def test_parts_that_are_not_installed_are_named_before_any_work(tmp_path: Path, monkeypatch, capsys):
    config = tmp_path / "mine.toml"
    config.write_text('steps = 1\n[[scans]]\npath = "scan.nii.gz"\n')
    monkeypatch.setattr("moediff.core.extras.find_spec", lambda name: None)
    assert main(["train", str(config)]) == 78
    told = capsys.readouterr().err
    assert "training needs accelerate and tensorboard" in told and "moediff-sr[train]" in told
    assert told.count("\n") == 1
