"""Progress that is kept: a run stopped in any stage goes on elsewhere from a few rounded bundles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moediff.core.errors import CannotCreate, InputMissing, TryAgain
from moediff.io.scans import save
from moediff.model.bundle import load_bundle, read_manifest
from moediff.training.engine import finished_stages, needed_stages, run_recipe
from moediff.training.provenance import stage_records
from moediff.training.recipe import Recipe, load_recipe
from moediff.training.trainer import RunOptions

SMOKE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.toml"
# As in the default recipe: one stage distils what the one before knew, two begin with the same weights, for a mean.
STAGES = """
[[stages]]
name = "backbone"
[stages.model.denoiser.gate]
experts = 1
top_k = 1
[stages.model.denoiser.experts]
branches = ["plain"]
[[stages]]
name = "experts"
steps = 3
[[stages]]
name = "gate"
only = ["encoder", "gate"]
[stages.loss]
aggregate = 0.0
feature_distillation = 1.0
[[stages]]
name = "detail"
seed = 1
[[stages]]
name = "detail-again"
like = "detail"
seed = 2
[[stages]]
name = "mean"
kind = "average"
of = ["detail", "detail-again"]
"""
NEEDED = {
    "backbone": ["backbone"],
    "experts": ["experts"],
    "gate": ["experts", "gate"],
    "detail": ["gate", "detail"],
    "detail-again": ["detail", "detail-again"],
}
SHORT = RunOptions(processes=1, progress=False, resume=True, slice_minutes=1e-9, tensorboard=False)
WHOLE = replace(SHORT, slice_minutes=None)


def in_folder(folder: Path) -> Recipe:
    """The stages above with smoke.toml's network, two steps each (experts three), unvalidated; scans lie beside it."""
    folder.mkdir(exist_ok=True)
    shared, *_ = SMOKE.read_text().replace("steps = 3", "steps = 2").split("[[scans]]")
    shared = shared.replace("../runs/smoke", "run").replace('scans = ["head-5_T1w.nii.gz"]', "scans = []")
    scan = '[[scans]]\npath = "../head-1_T1w.nii.gz"\n'
    (folder / "recipe.toml").write_text(shared + scan + STAGES)
    return load_recipe(folder / "recipe.toml")


@pytest.fixture(scope="module")
def progress(tmp_path_factory: pytest.TempPathFactory, make_phantom: Callable) -> Path:
    """A folder for each stage: the run as it lay there when that stage had done its first step."""
    folder = tmp_path_factory.mktemp("progress")
    save(make_phantom((32, 32, 32), (4.0, 4.0, 4.0)), folder / "head-1_T1w.nii.gz")
    recipe = in_folder(folder / "whole")
    while not all((folder / name).is_dir() for name in NEEDED):
        with pytest.raises(TryAgain) as pause:
            run_recipe(recipe, SHORT)
        stage = str(pause.value).split(":")[0].removeprefix("stage ")
        if "paused at step 1" in str(pause.value):
            shutil.copytree(recipe.out, folder / stage / "run", ignore=shutil.ignore_patterns("checkpoint"))
    return folder


@pytest.mark.parametrize("stage", NEEDED)
def test_a_run_goes_on_from_what_was_kept_of_it_in_any_stage(stage, progress, load_script):
    recipe = in_folder(progress / stage)
    names = load_script("keep_progress").keep(recipe, progress / stage / "kept")
    assert names == needed_stages(recipe) == NEEDED[stage]
    elsewhere = in_folder(progress / f"{stage}, elsewhere")
    until = list(NEEDED).index(stage) + 3  # the two stages after it
    elsewhere = replace(elsewhere, stages=elsewhere.stages[:until])
    shutil.copytree(progress / stage / "kept", elsewhere.out)
    run_recipe(elsewhere, WHOLE)
    records = stage_records(load_bundle(elsewhere.out / "bundle").provenance)
    assert all(record.finished for record in records)
    assert [record.name for record in records if record.restarts] == [stage]  # all others were finished, or begin anew
    assert finished_stages(elsewhere) == {stage.name for stage in elsewhere.stages}  # rounded parents are the parents
    back = replace(elsewhere, out=progress / f"{stage}, back")  # and what began with rounded ones has exact parents too
    shutil.copytree(recipe.out, back.out)
    for name in [stage.name for stage in elsewhere.stages][until - 3 :]:
        shutil.copytree(elsewhere.out / name, back.out / name, dirs_exist_ok=True)
    assert finished_stages(back) == finished_stages(elsewhere)


def test_a_run_goes_on_in_many_sessions_without_the_bundle_that_its_stage_began_with(progress, load_script):
    recipe, elsewhere = in_folder(progress / "experts"), in_folder(progress / "experts, in sessions")
    load_script("keep_progress").keep(recipe, elsewhere.out)
    elsewhere = replace(elsewhere, stages=elsewhere.stages[:2])
    with pytest.raises(TryAgain, match="stage experts: paused at step 2"):
        run_recipe(elsewhere, SHORT)
    run_recipe(elsewhere, SHORT)
    before, after = (
        stage_records(load_bundle(run.out / "experts" / "bundle").provenance) for run in (recipe, elsewhere)
    )
    assert [(record.name, record.steps, len(record.restarts)) for record in after] == [
        ("backbone", 2, 0),
        ("experts", 3, 1),
    ]
    assert after[0] == before[0] and after[1].parent_sha256 == before[1].parent_sha256


def test_rounded_weights_stay_what_they_are_and_replace_older_ones(progress, load_script, tmp_path):
    script = load_script("keep_progress")
    recipe, target = in_folder(progress / "gate"), tmp_path / "kept"
    shutil.copytree(recipe.out / "backbone" / "bundle", target)  # one bundle alone, as it was kept before
    script.keep(recipe, target)
    first = read_manifest(target / "experts" / "bundle")
    full, rounded = (load_bundle(folder / "experts" / "bundle").denoiser for folder in (recipe.out, target))
    assert all(torch.allclose(a, b, atol=2e-3) for a, b in zip(full.parameters(), rounded.parameters(), strict=True))
    assert (
        stage_records(first["provenance"])[-1].rounded_from
        == read_manifest(recipe.out / "experts" / "bundle")["sha256"]
    )
    script.keep(replace(recipe, out=target), tmp_path / "again")
    assert read_manifest(tmp_path / "again" / "experts" / "bundle") == first
    script.keep(in_folder(progress / "detail"), target)
    assert sorted(path.name for path in target.iterdir()) == ["detail", "gate"]


def test_what_is_no_progress_is_neither_kept_nor_replaced(progress, load_script, tmp_path):
    keep = load_script("keep_progress").keep
    (tmp_path / "mine").mkdir()
    with pytest.raises(CannotCreate, match=r"mine is no kept stage, and would be removed; choose another folder"):
        keep(in_folder(progress / "gate"), tmp_path)
    with pytest.raises(InputMissing, match=r"no stage has saved a bundle"):
        keep(replace(in_folder(progress / "gate"), out=tmp_path / "none"), tmp_path / "kept")


def test_the_table_of_validation_outlives_the_run_it_is_of(load_script, tmp_path):
    """Gains of parts that were lost with a disk stay; those of a step that was validated again are the later ones."""
    script, recipe = load_script("keep_progress"), in_folder(tmp_path / "run")
    header = "step,case,gain_db\n"
    for name, lines in (
        ("experts", "2,head/iso2,9\n2,mean/iso2,2.504\n"),
        ("backbone", "4,mean/iso2,1.25\n4,mean/thick5,-0.1\n"),
    ):
        (recipe.out / name).mkdir(parents=True)
        (recipe.out / name / "validation.csv").write_text(header + lines)
    table = tmp_path / "curve.csv"
    table.write_text("stage,step,thick5,iso2\nbackbone,2,1.00,0.50\nbackbone,4,7.00,7.00\n")
    for _ in range(2):
        script.keep_curve(recipe, table)
        assert table.read_text() == (
            "stage,step,thick5,iso2\nbackbone,2,1.00,0.50\nbackbone,4,-0.10,1.25\nexperts,2,,2.50\n"
        )
