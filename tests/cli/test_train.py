"""`moediff train`, as a user meets it."""

from __future__ import annotations

from pathlib import Path

from moediff.cli.main import main


def test_parts_that_are_not_installed_are_named_before_any_work(tmp_path: Path, monkeypatch, capsys):
    config = tmp_path / "mine.toml"
    config.write_text('steps = 1\n[[scans]]\npath = "scan.nii.gz"\n')
    monkeypatch.setattr("moediff.core.extras.find_spec", lambda name: None)
    assert main(["train", str(config)]) == 78
    said = capsys.readouterr().err
    assert "training needs tensorboard" in said and "moediff-sr[train]" in said
    assert said.count("\n") == 1


def test_former_settings_are_named_in_one_line_and_work(tmp_path: Path, capsys):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    config = tmp_path / "mine.toml"
    config.write_text('rate = 1e-3\nsteps = 1\n[loss]\nsteady = 0.5\n[[scans]]\npath = "scan.nii.gz"\n')
    assert main(["train", str(config), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "rate is now learning_rate; loss.steady is now loss.shift_consistency" in err
    assert "one stage, 1 steps of training, into" in out and "1 files to learn from" in out and "all are there" in out


def test_a_dry_run_needs_no_parts_for_training(tmp_path: Path, monkeypatch, capsys):
    config = tmp_path / "mine.toml"
    config.write_text('steps = 1\n[[scans]]\npath = "scan.nii.gz"\n')
    monkeypatch.setattr("moediff.core.extras.find_spec", lambda name: None)
    assert main(["train", str(config), "--dry-run"]) == 0
    assert "missing: scan.nii.gz" in capsys.readouterr().out
