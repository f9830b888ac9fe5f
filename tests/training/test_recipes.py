"""The recipes of the project: they can be read, learn from nobody that is judged by, and hang together."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.cli.main import main
from moediff.model.denoiser import Denoiser
from moediff.model.warm_start import begin_from
from moediff.training.manifest import read_manifest_table
from moediff.training.recipe import AVERAGE, KINDS, TRAIN, Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ["default", "gpu"]


def recipe(name: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / f"{name}.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_says_how_to_run_it(path, capsys):
    assert load_recipe(path).stages
    assert f"moediff train recipes/{path.name}" in path.read_text() or path.stem == "pairs"
    assert main(["train", str(path), "--dry-run"]) == 0
    assert "into runs" in capsys.readouterr().out.replace(str(ROOT) + "/", "")


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_recipe_goes_from_nothing_to_calibrated_weights(name):
    stages = recipe(name).stages
    assert {stage.kind for stage in stages} == set(KINDS)
    assert [stage.kind for stage in stages[-3:]] == list(KINDS[2:])
    first, *others = stages
    assert first.config.start is None and first.config.model.denoiser.gate.experts == 1
    assert all(stage.parents for stage in others)
    assert all((stage.config.minutes and stage.config.phases) or stage.config.batch for stage in stages)
    (average,) = (stage for stage in stages if stage.kind == AVERAGE)
    assert len(average.parents) == 2


def test_the_default_recipe_takes_a_day_of_two_cores():
    hours = sum(stage.config.minutes or 0 for stage in recipe("default").stages if stage.kind == TRAIN) / 60
    assert 16 <= hours <= 20


@pytest.mark.parametrize("name", WHOLE)
def test_weights_of_a_stage_fit_into_the_next(name):
    """What is prepared stays so, and every network can begin with the one before."""
    stages = {stage.name: stage for stage in recipe(name).stages}
    assert len({stage.config.model.prepare for stage in stages.values()}) == 1
    networks = dict.fromkeys(stage.config.model.denoiser for stage in stages.values())
    assert len(networks) == 2  # one denoiser, then its experts
    before, after = (Denoiser(config) for config in networks)
    begin_from(after, before)


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_learned_from_what_is_judged_by(name):
    rows = {row.path: row for row in read_manifest_table(ROOT / "data" / "manifest.csv")}
    for stage in recipe(name).stages:
        judged = {rows[path].person for path in stage.config.validation.label_maps}
        learned = {rows[scan.path].person for scan in stage.config.scans}
        assert (
            judged
            and learned.isdisjoint(judged)
            and not any(scan.path.startswith("val/") for scan in stage.config.scans)
        )
        assert set(stage.config.checksums) >= {scan.path for scan in stage.config.scans}


def test_the_gate_learns_from_many_contrasts():
    gate = next(stage for stage in recipe("default").stages if stage.name == "gate")
    copies = {scan.path: scan.copies for scan in gate.config.scans}
    assert len(copies) == 10 and sum(copies.values()) == 66
    assert sum(len(scan.spacing_mm) for stage in recipe("default").stages[:1] for scan in stage.config.scans) == 7


def test_a_dry_run_reads_nothing_and_names_what_is_missing(tmp_path, capsys):
    words = ["train", str(ROOT / "recipes" / "default.toml"), "--dry-run", "--data", str(tmp_path), "--minutes", "60"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "10 stages, 1:00 h of training" in out and "3. gate: train; 1.9811 minutes" in out
    assert "missing, with those to validate on: 20" in out and "missing: train/M2208_T2w.nii.gz" in out
    assert "loss.feature_distillation = 0.3" in out and not list(tmp_path.iterdir())
