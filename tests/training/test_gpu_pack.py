"""The pack for a GPU without a network: it holds all that its recipe learns from, and says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moediff.cli.main import main
from moediff.training.engine import check_sources
from moediff.training.manifest import read_manifest_table
from moediff.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train_on_gpu.sh"
LEFT_OUT = {"train/forrest_T1w.nii.gz", "train/vsseg001_T1c.nii.gz"}


def script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = {"DATA": str(folder / "data"), "PACK": str(folder / "pack"), "PYTHON_THERE": sys.executable}
    return subprocess.run([str(SCRIPT), *words], env=os.environ | settings, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of files that hold nothing but their names."""
    folder = tmp_path_factory.mktemp("gpu")
    for row in read_manifest_table(ROOT / "data" / "manifest.csv"):
        path = folder / "data" / row.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row.path)
    assert script(folder, "data").returncode == 0
    return folder / "pack"


def test_every_stage_has_its_files_in_the_pack(pack, capsys):
    recipe, whole = load_recipe(pack / "recipe.toml"), load_recipe(ROOT / "recipes" / "gpu.toml")
    for stage, other in zip(recipe.stages, whole.stages, strict=True):
        check_sources(stage)
        assert stage.config.scans == tuple(scan for scan in other.config.scans if scan.path not in LEFT_OUT)
    assert main(["train", str(pack / "recipe.toml"), "--dry-run"]) == 0
    assert "16 files to learn from" in (said := capsys.readouterr().out) and "all are there" in said


def test_training_there_stops_where_a_file_is_missing(pack, tmp_path):
    (pack / "data" / "labels" / "training_seg_05.nii.gz").rename(tmp_path / "away")
    done = script(pack.parent, "check", str(tmp_path))
    (tmp_path / "away").rename(pack / "data" / "labels" / "training_seg_05.nii.gz")
    assert done.returncode == 66 and "missing: labels/training_seg_05.nii.gz" in done.stderr
    assert "pack again" in done.stderr


def test_what_is_said_at_the_end_has_the_same_minutes():
    """Minutes are settings: with other ones finished stages would be refused."""
    first, last = (line for line in SCRIPT.read_text().splitlines() if "--resume" in line)
    assert '--minutes "$minutes"' in first and "--resume --minutes $minutes" in last
