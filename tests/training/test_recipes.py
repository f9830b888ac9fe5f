"""The recipes of the project: they can be read, learn from nobody that is judged by, and hang together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from moediff.cli.main import main
from moediff.model.bundle import WEIGHTS, load_bundle
from moediff.model.denoiser import Denoiser
from moediff.model.warm_start import begin_from
from moediff.training.engine import needed_stages
from moediff.training.manifest import read_manifest_table
from moediff.training.provenance import stage_records
from moediff.training.recipe import KINDS, TRAIN, Recipe, load_recipe, stored_settings

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ["default", "gpu"]
FALL = ("backbone", "experts", "detail", "detail-again")


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


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_what_a_bundle_stores_of_a_recipe_gives_every_stage_back(path):
    """Else a finished stage would be refused as changed, and the run could not be resumed."""
    recipe = load_recipe(path)
    plain = json.loads(json.dumps(recipe.plain()))
    for stage in recipe.stages:
        assert stored_settings(plain, stage.name) == json.loads(json.dumps(stage.settings())), stage.name


def test_the_default_recipe_ends_by_steps_alone():
    training = [stage.config for stage in recipe("default").stages if stage.kind == TRAIN]
    assert all(config.minutes is None and config.shares == 2 for config in training)
    assert sum(config.steps for config in training) == 72900


@pytest.mark.parametrize("name", WHOLE)
def test_no_stage_draws_the_examples_of_another_again(name):
    """Example number i depends on the seed, on i and on the list of scans."""
    drawn = [(stage.config.seed, stage.config.scans) for stage in recipe(name).stages if stage.kind == TRAIN]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("name", WHOLE)
def test_the_learning_rate_falls_once(name):
    stages = [stage.config for stage in recipe(name).stages if stage.kind == TRAIN and stage.name in FALL]
    assert [end for stage in stages for end in stage.cosine] == [0.0, 0.5, 0.5, 0.6, *(0.6, 1.0) * 2]
    assert len({stage.learning_rate for stage in stages}) == 1


@pytest.mark.parametrize("name", WHOLE)
def test_the_fall_ends_twice_from_the_same_weights_and_is_averaged(name):
    stages = {stage.name: stage for stage in recipe(name).stages}
    one, other = stages["detail"], stages["detail-again"]
    assert one.parents == other.parents == ("gate",) and stages["mean"].parents == ("detail", "detail-again")
    assert stages["specialise"].parents == ("mean",)
    differing = {key for key, value in one.settings().items() if other.settings().get(key) != value}
    assert "seed" in differing and differing <= {"seed", "out"}


def test_the_recipe_for_a_gpu_has_the_same_stages():
    default, gpu = recipe("default").stages, recipe("gpu").stages
    assert [(a.name, a.kind, a.options, a.parents) for a in default] == [
        (b.name, b.kind, b.options, b.parents) for b in gpu
    ]
    for a, b in zip(default, gpu, strict=True):
        assert (a.config.model, a.config.loss, a.config.only) == (b.config.model, b.config.loss, b.config.only)
        assert a.config.scans == b.config.scans and a.config.recipes == b.config.recipes


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
def test_the_end_of_the_fall_leaves_encoder_and_gate_alone(name):
    detail = next(stage.config for stage in recipe(name).stages if stage.name == "detail")
    parts = {part for part, _ in Denoiser(detail.model.denoiser).named_children()}
    assert parts - set(detail.only) == {"encoder", "gate", "uncertainty_head"} and set(detail.only) <= parts


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


@pytest.mark.parametrize("name", ["default", "gpu"])
def test_every_stage_that_trains_draws_examples_of_its_own(name):
    """The seed keys them: a second stage with the same one would see the first one's again."""
    stages = [stage for stage in recipe(name).stages if stage.kind == TRAIN and stage.name != "gate"]  # other scans
    assert len({stage.config.seed for stage in stages}) == len(stages) > 3


def test_a_dry_run_reads_nothing_and_names_what_is_missing(tmp_path, capsys):
    words = ["train", str(ROOT / "recipes" / "default.toml"), "--dry-run", "--data", str(tmp_path), "--steps", "729"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "10 stages, 729 steps of training" in out and "3. gate: train; 14 steps" in out
    assert "missing, with those to validate on: 20" in out and "missing: train/M2208_T2w.nii.gz" in out
    assert "loss.feature_distillation = 0.3" in out and not list(tmp_path.iterdir())


def test_the_progress_that_is_kept_goes_on_with_the_default_recipe(tmp_path):
    """Copied as docs/default-recipe.md says, recipes/progress holds what that recipe still needs, with its settings."""
    progress = ROOT / "recipes" / "progress"
    shutil.copytree(progress, tmp_path / "default")
    run = replace(recipe("default"), out=tmp_path / "default")
    stages = {stage.name: stage for stage in run.stages}
    assert needed_stages(run) == [name for name in stages if (progress / name).exists()]
    for folder in progress.iterdir():
        bundle = load_bundle(folder / "bundle")
        last, stage = stage_records(bundle.provenance)[-1], stages[folder.name]
        assert last.name == stage.name and last.steps <= stage.config.steps
        assert last.steps > 0 if stage.kind == TRAIN else last.finished
        assert bundle.config.denoiser == stage.config.model.denoiser
        assert stored_settings(bundle.provenance["recipe"], stage.name) == stage.settings()
    assert sum(file.stat().st_size for file in progress.rglob(WEIGHTS)) < 10_000_000
