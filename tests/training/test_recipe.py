"""Recipes: stages read from one file, what each changes, and recipes that build on others."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.core.errors import ConfigError, InputMissing, MoeDiffWarning
from moediff.training.calibrate import Calibration, HeadFit
from moediff.training.config import over
from moediff.training.recipe import (
    Average,
    changed,
    load_recipe,
    stored_settings,
    with_data,
    with_minutes,
    with_steps,
)

RECIPE = """
out = "../runs/mine"
data = "scans"
steps = 70
minutes = 10.0
[loss]
region = 0.3
[[scans]]
path = "one.nii.gz"

[[stages]]
name = "backbone"
minutes = 30.0
[stages.model.denoiser.gate]
experts = 1
top_k = 1
[stages.model.denoiser.experts]
branches = ["plain"]

[[stages]]
name = "experts"
only = ["experts"]
[stages.loss]
expert = 4.0

[[stages]]
name = "mean"
kind = "average"
of = ["backbone", "experts"]

[[stages]]
name = "head"
kind = "fit uncertainty head"
patches = 7

[[stages]]
name = "scale"
kind = "calibrate"
recipes = ["iso2"]
"""
MANIFEST = f"""path,role,person,licence,source,url,sha256,spacing_mm,weight,copies
train/a.nii.gz,train,a,CC0,somewhere,,{"a" * 64},0.7 1.0,1.5,
labels/b.nii.gz,labels,b,MIT,elsewhere,,{"b" * 64},,0.25,2
labels/c.nii.gz,validation,c,MIT,elsewhere,,{"c" * 64},,,
val/d.nii.gz,validation,d,MIT,elsewhere,,{"d" * 64},,,
"""


def written(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_stages_state_what_changes_and_share_the_rest(tmp_path):
    recipe = load_recipe(written(tmp_path / "recipes", RECIPE))
    backbone, experts, mean, head, scale = recipe.stages
    assert [stage.name for stage in recipe.stages] == ["backbone", "experts", "mean", "head", "scale"]
    assert (backbone.config.minutes, backbone.config.steps, backbone.config.loss.region) == (30.0, 70, 0.3)
    assert backbone.config.model.denoiser.gate.experts == 1 and experts.config.model.denoiser.gate.experts == 4
    assert experts.config.minutes == 10.0 and experts.config.only == ("experts",)
    assert (experts.config.loss.expert, experts.config.loss.region) == (4.0, 0.3)
    assert mean.options == Average(of=("backbone", "experts")) and head.options == HeadFit(patches=7)
    assert scale.options == Calibration(recipes=("iso2",)) and scale.config.scans == recipe.common.scans
    assert not recipe.single and recipe.minutes_after(0) == 10.0


def test_a_stage_begins_with_the_one_before_unless_it_names_another(tmp_path):
    text = RECIPE + '[[stages]]\nname = "again"\nstart = "backbone"\n[[stages]]\nname = "other"\nstart = "../bundle"\n'
    recipe = load_recipe(written(tmp_path / "recipes", text))
    assert [stage.parents for stage in recipe.stages] == [
        (),
        ("backbone",),
        ("backbone", "experts"),
        ("mean",),
        ("head",),
        ("backbone",),
        (),
    ]
    starts = [stage.config.start and Path(stage.config.start).resolve() for stage in recipe.stages]
    runs = (tmp_path / "runs" / "mine").resolve()
    assert starts[:2] == [None, runs / "backbone" / "bundle"] and starts[5] == runs / "backbone" / "bundle"
    assert starts[6] == (tmp_path / "bundle").resolve()
    assert [Path(stage.config.out).resolve() for stage in recipe.stages[:1]] == [runs / "backbone"]


def test_a_file_without_stages_is_a_recipe_of_one(tmp_path):
    recipe = load_recipe(written(tmp_path, 'out = "run"\nsteps = 3\n[provenance]\nname = "mine"'))
    assert recipe.single and len(recipe.stages) == 1 and recipe.stages[0].name == "mine"
    assert recipe.common.steps == 3 and recipe.out == tmp_path / "run" and recipe.stages[0].config.start is None


def test_recipes_build_on_others_stage_by_stage(tmp_path):
    written(tmp_path / "below", RECIPE, "base.toml")
    top = (
        'like = "../below/base.toml"\nout = "run"\n[[stages]]\nname = "experts"\nbatch = 9\n[[stages]]\nname = "more"\n'
    )
    recipe = load_recipe(written(tmp_path / "above", top))
    assert [stage.name for stage in recipe.stages] == ["backbone", "experts", "mean", "head", "scale", "more"]
    experts = recipe.stages[1].config
    assert (experts.batch, experts.only, experts.loss.expert) == (9, ("experts",), 4.0)
    assert recipe.out == tmp_path / "above" / "run"
    assert Path(experts.data).resolve() == (tmp_path / "below" / "scans").resolve()


AGAIN = """
[[stages]]
name = "first"
steps = 5
[stages.loss]
lesion = 7.0
[[stages]]
name = "second"
batch = 3
[[stages]]
name = "second-again"
like = "second"
seed = 4
[[stages]]
name = "first-again"
like = "first"
steps = 6
[[stages]]
name = "elsewhere"
like = "first-again"
start = "second"
"""


def test_a_stage_like_another_has_its_settings_and_its_start(tmp_path):
    stages = {stage.name: stage for stage in load_recipe(written(tmp_path, AGAIN)).stages}
    assert (stages["second-again"].config.batch, stages["second-again"].config.seed) == (3, 4)
    assert stages["second-again"].parents == stages["second"].parents == ("first",)
    again, elsewhere = stages["first-again"], stages["elsewhere"]
    assert again.parents == () and again.config.start is None
    assert (again.config.steps, again.config.loss.lesion) == (6, 7.0)
    assert elsewhere.parents == ("second",) and (elsewhere.config.steps, elsewhere.config.loss.lesion) == (6, 7.0)


@pytest.mark.parametrize("like", ['"later"', '"itself"', "3", '["first"]'])
def test_a_stage_is_like_an_earlier_one_only(like, tmp_path):
    text = f'[[stages]]\nname = "first"\n[[stages]]\nname = "itself"\nlike = {like}\n[[stages]]\nname = "later"\n'
    with pytest.raises(ConfigError, match=r"stage itself: like: no earlier stage is called .*; choose from first"):
        load_recipe(written(tmp_path, text))


def test_former_keys_inside_stages_are_read(tmp_path):
    with pytest.warns(MoeDiffWarning, match="rate is now learning_rate"):
        recipe = load_recipe(written(tmp_path, '[[stages]]\nname = "one"\nrate = 1e-3\n[stages.loss]\nsteady = 0.5\n'))
    config = recipe.stages[0].config
    assert (config.learning_rate, config.loss.shift_consistency) == (1e-3, 0.5)


def test_a_manifest_lists_scans_and_checksums(tmp_path):
    written(tmp_path / "data", MANIFEST, "manifest.csv")
    text = 'manifest = "../data/manifest.csv"\n[validation]\nlabel_maps = ["labels/c.nii.gz"]\n'
    text += '[[sources]]\nmatch = "train/*"\nweight = 2.0\n[[stages]]\nname = "one"\n[[stages]]\nname = "two"\n'
    text += '[[stages.sources]]\nmatch = "labels/*"\ncopies = 8\n[[stages.sources]]\nmatch = "train/*"\nweight = 0\n'
    recipe = load_recipe(written(tmp_path / "recipes", text))
    one, two = (stage.config for stage in recipe.stages)
    assert [(s.path, s.weight, s.spacing_mm, s.labels, s.copies, s.licence) for s in one.scans] == [
        ("train/a.nii.gz", 2.0, (0.7, 1.0), False, 1, "CC0"),
        ("labels/b.nii.gz", 0.25, (), True, 2, "MIT"),
    ]
    assert [(s.path, s.copies) for s in two.scans] == [("labels/b.nii.gz", 8)]
    assert list(one.checksums) == ["train/a.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz"]  # d is of no use here
    assert two.checksums["labels/c.nii.gz"] == "c" * 64 and "train/a.nii.gz" not in two.checksums


def test_a_stage_that_leaves_files_out_is_recognised_and_depends_on_its_own_files_alone(tmp_path):
    written(tmp_path, MANIFEST, "manifest.csv")
    text = 'manifest = "manifest.csv"\n[validation]\nlabel_maps = [{judged}]\n[[stages]]\nname = "one"\n'
    text += '[[stages]]\nname = "two"\n[[stages.sources]]\nmatch = "train/*"\nweight = 0\n'
    text += '[[stages]]\nname = "three"\nkind = "calibrate"\n'
    recipe = load_recipe(written(tmp_path, text.format(judged='"labels/c.nii.gz"')))
    for stage in recipe.stages:
        assert stored_settings(recipe.plain(), stage.name) == stage.settings()
    one, two, three = (list(stage.settings()["checksums"]) for stage in recipe.stages)
    assert one == three == ["train/a.nii.gz", "labels/b.nii.gz"] and two == ["labels/b.nii.gz"]
    others = load_recipe(written(tmp_path, text.format(judged='"val/d.nii.gz"')))  # judged by something else
    for stage in others.stages:
        assert stored_settings(recipe.plain(), stage.name) == stage.settings()


def test_licences_and_sources_of_files_may_be_corrected(tmp_path):
    written(tmp_path, MANIFEST, "manifest.csv")
    written(tmp_path, MANIFEST.replace("CC0", "CC BY 4.0").replace("MIT", "BSD"), "corrected.csv")
    text = 'manifest = "{}"\n[[stages]]\nname = "one"\n[[stages]]\nname = "two"\nkind = "calibrate"\n'
    before = load_recipe(written(tmp_path, text.format("manifest.csv"), "before.toml"))
    after = load_recipe(written(tmp_path, text.format("corrected.csv"), "after.toml"))
    assert before.common.scans != after.common.scans
    for stage in after.stages:
        assert stored_settings(before.plain(), stage.name) == stage.settings()


def test_paths_inside_stages_are_taken_from_the_file(tmp_path):
    written(tmp_path / "below" / "lists", MANIFEST, "manifest.csv")
    text = '[[scans]]\npath = "a"\n[[stages]]\nname = "one"\ndata = "scans"\ncache = "../cache"\n'
    written(tmp_path / "below", text + '[[stages]]\nname = "two"\nmanifest = "lists/manifest.csv"\n', "base.toml")
    stages = load_recipe(written(tmp_path / "above", 'like = "../below/base.toml"\n', "top.toml")).stages
    assert stages[0].config.data == str(tmp_path / "below" / "scans")
    assert stages[0].config.cache == str(tmp_path / "cache")
    assert [scan.path for scan in stages[1].config.scans] == ["train/a.nii.gz", "labels/b.nii.gz"]


def test_rules_of_a_stage_follow_those_of_all(tmp_path):
    written(tmp_path, MANIFEST, "manifest.csv")
    text = 'manifest = "manifest.csv"\n[[sources]]\nmatch = "train/*"\nweight = 0\n[[stages]]\nname = "one"\n'
    text += '[[stages.sources]]\nmatch = "labels/*"\ncopies = 8\n[[stages]]\nname = "again"\nlike = "one"\n'
    text += '[[stages]]\nname = "back"\n[[stages.sources]]\nmatch = "*"\nweight = 1.0\n'
    text += '[[stages]]\nname = "own"\nmanifest = "MANIFEST"\n[[stages.sources]]\nmatch = "train/*"\ncopies = 2\n'
    recipe = load_recipe(written(tmp_path, text.replace("MANIFEST", (tmp_path / "manifest.csv").as_posix())))
    scans = [[(scan.path[-8], scan.weight, scan.copies) for scan in stage.config.scans] for stage in recipe.stages]
    assert scans[0] == scans[1] == [("b", 0.25, 8)]
    assert scans[2] == [("a", 1.0, 1), ("b", 1.0, 2)]  # the later rule wins
    assert scans[3] == [("a", 1.5, 2), ("b", 0.25, 2)]  # a list of its own knows no rules for another
    with pytest.raises(ConfigError, match=r"stage one: sources: expected \[\[sources\]\] tables"):
        load_recipe(written(tmp_path, 'manifest = "manifest.csv"\n[[stages]]\nname = "one"\nsources = "train/*"\n'))


APART = {
    "a scan": ('[validation]\nscans = ["./a"]\n[[scans]]\npath = "a"', "a is learned from and judged by: leave it"),
    "a scan of a later stage": (
        '[validation]\nscans = ["b"]\n[[scans]]\npath = "a"\n[[stages]]\nname = "one"\n[[stages]]\nname = "two"\n'
        'scans = [{ path = "b" }]',
        "b is learned from and judged by",
    ),
    "the input of a pair": (
        '[validation]\npairs = [{ path = "c", input = "b" }]\n[[scans]]\npath = "a"\ninput = "b"',
        "b is learned from and judged by",
    ),
    "a person": (
        'manifest = "twice.csv"\n[[stages]]\nname = "one"\n[[stages.sources]]\nmatch = "labels/*"\nweight = 0\n'
        '[[stages]]\nname = "two"',
        "labels/b.nii.gz is learned from and val/d.nii.gz judged by, both of person b: leave one of them out, or",
    ),
}


@pytest.mark.parametrize(("text", "words"), APART.values(), ids=APART.keys())
def test_nobody_is_learned_from_and_judged_by(text, words, tmp_path):
    written(tmp_path, MANIFEST.replace("validation,d,", "validation,b,"), "twice.csv")
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(tmp_path, text))
    assert words in str(caught.value)
    left_out = 'manifest = "twice.csv"\n[[sources]]\nmatch = "labels/*"\nweight = 0\n'
    assert len(load_recipe(written(tmp_path, left_out)).common.scans) == 1


def test_own_scans_take_the_place_of_a_manifest_that_is_built_on(tmp_path):
    written(tmp_path, MANIFEST, "manifest.csv")
    written(tmp_path, 'manifest = "manifest.csv"\n[[sources]]\nmatch = "*"\nweight = 3.0\n', "base.toml")
    assert len(load_recipe(tmp_path / "base.toml").common.scans) == 2
    top = load_recipe(written(tmp_path, 'like = "base.toml"\n[[scans]]\npath = "mine.nii.gz"\n', "top.toml")).common
    assert [scan.path for scan in top.scans] == ["mine.nii.gz"] and top.checksums == {}


def test_minutes_are_shared_out_and_data_lie_elsewhere(tmp_path):
    recipe = with_data(with_minutes(load_recipe(written(tmp_path, RECIPE)), 4.0), tmp_path / "there")
    assert [stage.config.minutes for stage in recipe.stages[:2]] == [3.0, 1.0]
    assert {stage.config.data for stage in recipe.stages} == {str(tmp_path / "there")}
    with pytest.raises(ConfigError, match="no stage is limited by minutes"):
        with_minutes(load_recipe(written(tmp_path, '[[stages]]\nname = "a"\n')), 4.0)
    assert with_minutes(load_recipe(written(tmp_path, "steps = 3")), 4.0).common.minutes == 4.0


def test_steps_of_all_stages_are_shared_out(tmp_path):
    text = 'steps = 30\n[[stages]]\nname = "a"\n[[stages]]\nname = "b"\nsteps = 10\n'
    recipe = with_steps(load_recipe(written(tmp_path, text)), 8)
    assert [stage.config.steps for stage in recipe.stages] == [6, 2]
    with pytest.raises(ConfigError, match="fewer than the 2 stages"):
        with_steps(recipe, 1)
    with pytest.raises(ConfigError, match="stage a is limited by minutes"):
        with_steps(load_recipe(written(tmp_path, '[[stages]]\nname = "a"\nminutes = 2.0\n')), 4)
    assert with_steps(load_recipe(written(tmp_path, "steps = 30")), 4).common.steps == 4


def test_what_the_provenance_stores_gives_the_settings_back(tmp_path):
    recipe = load_recipe(written(tmp_path, RECIPE))
    plain = recipe.plain()
    assert plain["settings"]["out"] == plain["settings"]["data"] == ""
    assert plain["stages"][1]["changes"] == {"loss": {"expert": 4.0}, "only": ["experts"]}
    assert str(tmp_path) not in str(plain)
    for stage in recipe.stages:
        assert stored_settings(plain, stage.name) == stage.settings()
    assert stored_settings(plain, "no such stage") is None and stored_settings({}, "backbone") is None


def test_differences_are_those_of_tables_and_lists_whole():
    before = {"a": 1, "b": {"c": 1, "d": [1, 2]}, "e": 5}
    after = {"a": 1, "b": {"c": 2, "d": [1, 2]}, "e": [5]}
    assert changed(before, after) == {"b": {"c": 2}, "e": [5]} and over(before, changed(before, after)) == after
    for one, other in ((before, {**before, "b": None}), ({**before, "b": None}, before)):
        assert over(one, changed(one, other)) == other


REFUSED = {
    "no stage": ("stages = []", "expected one [[stages]] table or more"),
    "no name": ("[[stages]]\nsteps = 3", "stage 1: name=None"),
    "a name that leaves the folder": ('[[stages]]\nname = "../a"', "names a folder"),
    "a name that is taken": ('[[stages]]\nname = "a"\n[[stages]]\nname = "a"', "is taken"),
    "a name of a run's own folder": ('[[stages]]\nname = "bundle"', "is taken"),
    "an unknown kind": (
        '[[stages]]\nname = "a"\nkind = "trian"',
        "kind='trian' is unknown; choose from train, average",
    ),
    "an unknown setting": ('[[stages]]\nname = "a"\nstepz = 3', "stage a: unknown setting 'stepz'"),
    "a number for a table": ('[loss]\nregion = 1.0\n[[stages]]\nname = "a"\nloss = 3', "stage a: loss: "),
    "an unknown option": (
        '[[stages]]\nname = "a"\n[[stages]]\nname = "b"\nkind = "calibrate"\npatches = 3',
        "stage b: unknown setting 'patches'",
    ),
    "nothing to calibrate": ('[[stages]]\nname = "a"\nkind = "calibrate"', "needs weights"),
    "an average of one": (
        '[[stages]]\nname = "a"\n[[stages]]\nname = "b"\nkind = "average"\nof = ["a", "a"]',
        "of two stages or more",
    ),
    "an average of what comes later": (
        '[[stages]]\nname = "a"\n[[stages]]\nname = "b"\nkind = "average"\nof = ["a", "c"]',
        "no earlier stage is called 'c'",
    ),
    "rules without a manifest": ('[[sources]]\nmatch = "*"', "name it with `manifest`"),
    "two lists of scans": ('manifest = "manifest.csv"\n[[scans]]\npath = "a"', "leave out [[scans]] or `manifest`"),
    "a rule for nothing": (
        'manifest = "manifest.csv"\n[[sources]]\nmatch = "trian/*"\nweight = 1.0',
        "'trian/*' matches no file",
    ),
    "nothing left": (
        'manifest = "manifest.csv"\n[[sources]]\nmatch = "*"\nweight = 0',
        "no file of the manifest is left",
    ),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_recipe_is_refused_with_its_name(text, words, tmp_path):
    written(tmp_path, MANIFEST, "manifest.csv")
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputMissing, match=r"none\.csv: no such manifest"):
        load_recipe(written(tmp_path, 'manifest = "none.csv"'))
