"""The recipe engine: every kind of stage, stopped anywhere, resumed, recognised as finished, with a lost checkpoint."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from moediff.cli.main import main
from moediff.core.errors import BundleError, ConfigError, InputMissing, MoeDiffWarning, TryAgain
from moediff.core.signals import Terminated
from moediff.io.scans import load, save
from moediff.model.bundle import load_bundle, read_manifest
from moediff.training import calibrate
from moediff.training.checkpoint import run_lock
from moediff.training.engine import difference, finished_stages, put_back, run_recipe
from moediff.training.log import Progress, StagePosition
from moediff.training.preemption import Preemption
from moediff.training.provenance import stage_records
from moediff.training.recipe import Recipe, load_recipe
from moediff.training.stored_units import StoredUnits
from moediff.training.trainer import RunOptions, train

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "recipes" / "smoke.toml"
STAGES = ["backbone", "experts", "gate", "average", "uncertainty", "calibrate", "statistics"]
ONE = RunOptions(processes=1, progress=False)
AGAIN = replace(ONE, resume=True)
SHORT = replace(AGAIN, slice_minutes=1e-9)
# The smoke recipe's network and scans, without validation.
SMALL = """
like = "{smoke}"
data = "{data}"
out = "run"
[validation]
scans = []
"""


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, make_phantom: Callable) -> Path:
    """Five phantoms by the names of the smoke recipe."""
    folder = tmp_path_factory.mktemp("heads")
    for seed in range(1, 6):
        save(make_phantom((40, 40, 36), (4.0, 4.0, 4.0), seed=seed), folder / f"head-{seed}_T1w.nii.gz")
    return folder


def small(folder: Path, heads: Path, steps: int = 2) -> Recipe:
    """Two stages of training and a calibration, of the smoke recipe's network."""
    (folder / "small.toml").write_text(SMALL.format(smoke=SMOKE.as_posix(), data=heads.as_posix()))
    recipe = load_recipe(folder / "small.toml")
    stages = tuple(stage for stage in recipe.stages if stage.name in ("backbone", "experts"))
    (scale,) = (stage for stage in recipe.stages if stage.name == "calibrate")
    scale = replace(
        scale,
        parents=("experts",),
        options=replace(scale.options, recipes=("iso2",)),
        config=replace(scale.config, scans=scale.config.scans[:2]),
    )
    stages = tuple(replace(stage, config=replace(stage.config, steps=steps)) for stage in stages)
    return replace(recipe, stages=(*stages, scale))


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(load_bundle(folder).denoiser.state_dict())


def in_slices(recipe: Recipe) -> list[str]:
    """Run a recipe a step or unit at a time; returns what every pause says."""
    said: list[str] = []
    while len(said) < 60:
        try:
            run_recipe(recipe, SHORT)
            return said
        except TryAgain as pause:
            said.append(str(pause))
    pytest.fail("it does not come to its end")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, heads: Path) -> Path:
    """The smoke recipe, run whole through the command; do not change it."""
    folder = tmp_path_factory.mktemp("smoke") / "recipes"
    folder.mkdir()
    shutil.copy(SMOKE, folder)
    words = ["train", str(folder / "smoke.toml"), "--data", str(heads), "--processes", "1", "-q"]
    assert main(words) == 0
    return folder.parent / "runs" / "smoke"


@pytest.fixture
def finished(smoke: Path, tmp_path: Path, heads: Path) -> Recipe:
    """A copy of it, and its recipe."""
    (tmp_path / "recipes").mkdir()
    shutil.copy(SMOKE, tmp_path / "recipes")
    shutil.copytree(smoke, tmp_path / "runs" / "smoke", ignore=shutil.ignore_patterns("tensorboard"))
    recipe = load_recipe(tmp_path / "recipes" / "smoke.toml")
    stages = tuple(replace(stage, config=replace(stage.config, data=str(heads))) for stage in recipe.stages)
    return replace(recipe, stages=stages)


def test_every_kind_of_stage_is_run_and_recorded(smoke):
    bundle = load_bundle(smoke / "bundle")
    records = stage_records(bundle.provenance)
    assert [record.name for record in records] == STAGES and all(record.finished for record in records)
    assert [record.steps for record in records[:4]] == [3, 3, 3, 0] and records[0].parent_sha256 == ()
    backbone, experts, gate, average = (read_manifest(smoke / name / "bundle")["sha256"] for name in STAGES[:4])
    assert [record.parent_sha256 for record in records[1:5]] == [
        (backbone,),
        (experts,),
        (experts, gate),
        (average,),
    ]
    assert all(record.torch == torch.__version__ and record.commit and record.hardware for record in records)
    assert (bundle.provenance["steps"], bundle.provenance["name"]) == (9, "smoke")
    assert records[4].result["patches"] == 2 and records[5].result["cases"] == 8 and records[6].result["scans"] == 4
    assert (
        bundle.config.out_of_distribution is not None
        and bundle.config.uncertainty_scale != 1.4
        and bundle.config.anisotropy_exponent != 0
    )


def test_the_provenance_holds_the_recipe_and_no_folder(smoke):
    text = (smoke / "bundle" / "bundle.json").read_text()
    recipe = json.loads(text)["provenance"]["recipe"]
    assert [stage["name"] for stage in recipe["stages"]] == STAGES and recipe["settings"]["learning_rate"] == 5e-3
    assert recipe["stages"][2]["changes"]["only"] == ["encoder", "gate"]
    assert str(smoke.parent) not in text


def test_stages_are_what_their_kind_says(smoke):
    experts, gate, average = (weights(smoke / name / "bundle") for name in ("experts", "gate", "average"))
    assert all(torch.allclose(average[name], (experts[name] + gate[name]) / 2, atol=1e-7) for name in average)
    moved = {name.split(".")[0] for name in gate if not torch.equal(gate[name], experts[name])}
    assert moved == {"encoder", "gate"}
    fitted = weights(smoke / "uncertainty" / "bundle")
    assert {name.split(".")[0] for name in fitted if not torch.equal(fitted[name], average[name])} == {
        "uncertainty_head"
    }
    assert not list(smoke.glob("*/work-*"))


def test_the_result_enhances(smoke, heads, tmp_path):
    words = ["enhance", str(heads / "head-1_T1w.nii.gz"), "-o", str(tmp_path / "sr.nii.gz")]
    assert main([*words, "--bundle", str(smoke / "bundle"), "--uncertainty", str(tmp_path / "sd.nii.gz"), "-q"]) == 0
    assert load(tmp_path / "sr.nii.gz").volume.shape == load(tmp_path / "sd.nii.gz").volume.shape


def test_curves_are_drawn_of_all_stages_in_one(smoke):
    text = (smoke / "curves.svg").read_text()
    ElementTree.fromstring(text)
    assert all(f">{name}</text>" in text for name in STAGES[:3]) and ">iso2</text>" in text


def test_a_table_shows_the_stages(smoke, capsys):
    assert main(["bundle", "info", str(smoke / "bundle")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["provenance"]["steps"] == 9
    lines = err.splitlines()
    assert (
        lines[0].split()[:4] == ["stage", "kind", "steps", "time"]
        and [line.split()[1] for line in lines[1:8]] == STAGES
    )
    assert "in all" in lines[8]


def test_a_finished_run_is_recognised_and_needs_resume(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*.safetensors")}
    assert run_recipe(finished, AGAIN) == finished.out / "bundle"
    assert {path: path.stat().st_mtime_ns for path in finished.out.rglob("*.safetensors")} == before
    shutil.rmtree(finished.out / "bundle")  # as if the run had been killed before it was published
    run_recipe(finished, AGAIN)
    assert read_manifest(finished.out / "bundle") == read_manifest(finished.out / "statistics" / "bundle")
    with pytest.raises(ConfigError, match="holds a run already; add --resume"):
        run_recipe(finished, ONE)


def changed(recipe: Recipe, name: str, **settings: object) -> Recipe:
    stages = [
        replace(stage, config=replace(stage.config, **settings)) if stage.name == name else stage
        for stage in recipe.stages
    ]
    return replace(recipe, stages=tuple(stages))


def test_a_changed_setting_of_a_finished_stage_is_refused(finished):
    with pytest.raises(ConfigError, match=r"stage experts: .* steps changed from 3 to 4: put that back"):
        finished_stages(changed(finished, "experts", steps=4))
    scans = finished.common.scans
    swapped = changed(finished, "backbone", scans=(replace(scans[0], weight=2.0), *scans[1:]))
    with pytest.raises(ConfigError, match=r"stage backbone: .* scans\[0\].weight changed from 1.0 to 2.0"):
        finished_stages(swapped)
    assert finished_stages(changed(finished, "experts", save_every=1)) == set(STAGES)  # of no matter to the weights
    *_, last = finished.stages
    other = replace(last, options=replace(last.options, recipes=("thick3",)))
    with pytest.raises(ConfigError, match=r"stage statistics: .* options.recipes\[0\] changed"):
        finished_stages(replace(finished, stages=(*finished.stages[:-1], other)))


def test_a_deleted_stage_stays_away_where_its_settings_changed(finished):
    """The published bundle, of a later stage, must not bring it back."""
    for name in STAGES[1:]:
        shutil.rmtree(finished.out / name)
    other = changed(finished, "experts", steps=4)
    put_back(other)
    assert finished_stages(other) == {"backbone"} and not (finished.out / "statistics").exists()
    put_back(finished)  # with the settings of before it does
    assert finished_stages(finished) == set(STAGES)


def test_a_published_bundle_alone_is_not_replaced_by_a_run_with_other_settings(finished):
    for name in STAGES:
        shutil.rmtree(finished.out / name)
    with pytest.raises(ConfigError, match=r"stage experts: .* steps changed .* delete .*experts, the .*/bundle to run"):
        run_recipe(changed(finished, "experts", steps=4), AGAIN)
    assert [path.name for path in finished.out.iterdir() if path.is_dir()] == ["bundle"]


def test_what_a_message_says_to_delete_makes_the_stage_run_again(finished):
    other = changed(finished, "experts", steps=1)
    with pytest.raises(ConfigError, match=r"delete (.*experts), the folders of the stages after it and (.*bundle) to"):
        finished_stages(other)
    for name in (*STAGES[1:], "bundle"):
        shutil.rmtree(finished.out / name)
    run_recipe(replace(other, stages=other.stages[:2]), AGAIN)
    assert [record.steps for record in stage_records(load_bundle(finished.out / "bundle").provenance)] == [3, 1]


def test_altered_weights_and_other_parents_are_refused(finished):
    weights_file = finished.out / "gate" / "bundle" / "model.safetensors"
    content = weights_file.read_bytes()
    weights_file.write_bytes(content[:-1] + b"x")
    with pytest.raises(BundleError, match=r"stage gate: .*altered"):
        finished_stages(finished)
    weights_file.write_bytes(content)
    shutil.rmtree(finished.out / "experts")
    shutil.copytree(finished.out / "backbone", finished.out / "experts")
    with pytest.raises(ConfigError, match="stage gate: it was made from other weights of experts than lie there now"):
        finished_stages(finished)


def test_a_later_bundle_says_that_earlier_stages_are_finished(finished):
    """After a lost disk the published bundle alone is enough."""
    sha256 = read_manifest(finished.out / "bundle")["sha256"]
    for name in STAGES:
        shutil.rmtree(finished.out / name)
    run_recipe(finished, AGAIN)
    assert read_manifest(finished.out / "bundle")["sha256"] == sha256
    assert [name for name in STAGES if (finished.out / name).exists()] == ["statistics"]
    with pytest.raises(ConfigError, match=r"stage experts: .* steps changed"):
        finished_stages(changed(finished, "experts", steps=4))


def test_what_is_of_another_run_is_not_replaced(finished, bundle):
    shutil.rmtree(finished.out)
    shutil.copytree(bundle, finished.out / "bundle")
    with pytest.raises(ConfigError, match="is of no stage here, and would be replaced"):
        run_recipe(finished, AGAIN)


def test_slices_of_any_length_give_the_same_weights(tmp_path, heads):
    for name in ("whole", "sliced"):
        (tmp_path / name).mkdir()
    whole, sliced = (small(tmp_path / name, heads) for name in ("whole", "sliced"))
    run_recipe(whole, ONE)
    said = in_slices(sliced)
    assert any(text.startswith("stage backbone: paused at step 1, 50% done") for text in said)
    assert any(text.startswith("stage calibrate: paused at 1 units") for text in said)
    one, two = (load_bundle(recipe.out / "bundle") for recipe in (whole, sliced))
    assert one.sha256 == two.sha256 and one.config == two.config


def test_time_of_a_unit_counts_in_every_session(tmp_path):
    def slow() -> calibrate.Unit:
        time.sleep(0.02)
        return {"value": torch.ones(2)}

    first, later = (
        StoredUnits(tmp_path / "work", Preemption(), Progress(StagePosition(), quiet=True)) for _ in range(2)
    )
    assert torch.equal(first("a", slow)["value"], torch.ones(2)) and first.earlier == 0
    assert torch.equal(later("a", slow)["value"], torch.ones(2)) and 0.02 <= later.earlier < 1


def test_a_stage_that_has_begun_does_not_go_on_under_other_settings(tmp_path, heads):
    recipe = small(tmp_path, heads)
    stopped_at(recipe, "backbone", 1)
    with pytest.raises(
        ConfigError, match=r"stage backbone: it has begun, but ema_decay changed from \S+ to 0\.5: put that"
    ):
        run_recipe(changed(recipe, "backbone", ema_decay=0.5), SHORT)
    (record,) = stage_records(load_bundle(recipe.out / "backbone" / "bundle").provenance)
    assert record.steps == 1
    other = changed(changed(recipe, "backbone", save_every=1, cache=str(tmp_path)), "experts", ema_decay=0.5)
    with pytest.raises(TryAgain, match="stage experts: paused before it began"):  # it may change until then
        run_recipe(other, SHORT)


def losses(out: Path) -> list[dict[str, str]]:
    """Rows of all stages that train, without their seconds."""
    rows = []
    for name in ("backbone", "experts"):
        with (out / name / "losses.csv").open(newline="") as handle:
            rows += [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(handle)]
    return rows


def shared_out(folder: Path, heads: Path) -> Recipe:
    """The smoke recipe's stages that train, in batches of two shares."""
    folder.mkdir()
    recipe = small(folder, heads)
    stages = [replace(stage, config=replace(stage.config, batch=2, shares=2)) for stage in recipe.stages[:2]]
    return replace(recipe, stages=tuple(stages))


def test_a_second_run_has_the_same_losses_in_one_process_or_two(tmp_path, heads):
    """Two processes go on from the first run's backbone: the stage after it has every part of the loss."""
    for name in ("first", "second"):
        run_recipe(shared_out(tmp_path / name, heads), ONE)
    recipe = shared_out(tmp_path / "together", heads)
    shutil.copytree(tmp_path / "first" / "run" / "backbone", recipe.out / "backbone")
    run_recipe(recipe, replace(AGAIN, processes=2))
    first, second, together = (losses(tmp_path / name / "run") for name in ("first", "second", "together"))
    assert len(first) == 4 and first == second
    assert equal_weights(tmp_path / "first" / "run" / "bundle", tmp_path / "second" / "run" / "bundle")
    for one, other in zip(first, together, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert float(other[key]) == pytest.approx(float(one[key]), rel=1e-3, abs=2e-5, nan_ok=True)


def equal_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_training_in_a_folder_at_work_is_refused(tmp_path, heads):
    recipe = small(tmp_path, heads)
    with run_lock(recipe.out), pytest.raises(TryAgain, match=r"run: another training runs in this folder: wait for it"):
        run_recipe(recipe, ONE)
    single = replace(recipe.common, steps=1)
    with run_lock(Path(single.out)), pytest.raises(TryAgain, match="another training runs in this folder"):
        train(single, ONE)
    assert not recipe.out.exists()


def test_a_signal_inside_a_fit_is_heeded_and_nothing_is_computed_twice(tmp_path, heads, monkeypatch):
    recipe, ratios, computed = small(tmp_path, heads, steps=1), calibrate._ratios, 0

    def stopped_in_the_second(*case: object) -> calibrate.Unit:
        nonlocal computed
        computed += 1
        if computed == 2:
            signal.raise_signal(signal.SIGTERM)
        return ratios(*case)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate, "_ratios", stopped_in_the_second)
    with pytest.raises(Terminated):
        run_recipe(recipe, ONE)
    assert computed == 2 and not (recipe.out / "calibrate" / "bundle").exists()
    run_recipe(recipe, AGAIN)
    assert computed == 2 and stage_records(load_bundle(recipe.out / "bundle").provenance)[-1].result["cases"] == 2


@pytest.mark.parametrize("stage", ["backbone", "uncertainty"])
def test_a_signal_at_the_end_of_a_stage_stops_the_recipe(stage, finished, monkeypatch):
    """In the last step of a training it is finished first; in the steps of a head's fit, which are not stored, not."""
    for name in (*STAGES[STAGES.index(stage) :], "bundle"):
        shutil.rmtree(finished.out / name)
    if stage == "backbone":
        gain, where = {"mean/iso2": 1.0}, "moediff.training.trainer.validate"
        monkeypatch.setattr(where, lambda *_: signal.raise_signal(signal.SIGTERM) or gain)
    else:
        monkeypatch.setattr(calibrate, "error_loss", signalled(calibrate.error_loss))
    with pytest.raises(Terminated):
        run_recipe(finished, AGAIN)
    assert (finished.out / stage / "bundle").exists() == (stage == "backbone")
    following = STAGES[STAGES.index(stage) + 1]
    assert not (finished.out / following).exists()
    monkeypatch.undo()
    run_recipe(replace(finished, stages=finished.stages[: STAGES.index(stage) + 1]), AGAIN)
    assert (finished.out / "bundle").exists()


def signalled(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss, whose first call also sends a signal; a third one is one too many."""
    calls = 0

    def computed(*args: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert calls < 3
        if calls == 1:
            signal.raise_signal(signal.SIGTERM)
        return loss(*args)

    return computed


def stopped_at(recipe: Recipe, stage: str, step: int) -> None:
    """Run until this step of this stage is saved."""
    for _ in range(40):
        with pytest.raises(TryAgain) as pause:
            run_recipe(recipe, SHORT)
        if str(pause.value).startswith(f"stage {stage}: paused at step {step},"):
            return
    pytest.fail("never reached")


def test_a_lost_checkpoint_costs_the_optimisers_memory_only(tmp_path, heads):
    recipe = small(tmp_path, heads)
    stopped_at(recipe, "experts", 1)
    folder = recipe.out / "experts"
    shutil.rmtree(folder / "checkpoint")
    before = read_manifest(folder / "bundle")
    run_recipe(recipe, AGAIN)
    records = {record.name: record for record in stage_records(load_bundle(recipe.out / "bundle").provenance)}
    (restart,) = records["experts"].restarts
    assert (restart.step, restart.from_sha256) == (1, before["sha256"])
    assert restart.seconds == before["provenance"]["stages"][-1]["seconds"]
    assert records["experts"].steps == 2 and records["backbone"].restarts == ()
    assert records["experts"].parent_sha256 == (read_manifest(recipe.out / "backbone" / "bundle")["sha256"],)
    steps = [line.split(",")[-1] for line in (folder / "losses.csv").read_text().split()]
    assert steps == ["step", "1", "2"]


def test_a_lost_disk_costs_no_stage_where_one_bundle_is_left(tmp_path, heads):
    """Only the bundle of the stage in progress comes back: that stage goes on, the one before is not run again."""
    recipe = small(tmp_path, heads)
    stopped_at(recipe, "experts", 1)
    shutil.move(recipe.out / "experts" / "bundle", tmp_path / "bundle")
    shutil.rmtree(recipe.out)
    recipe.out.mkdir()
    shutil.move(tmp_path / "bundle", recipe.out / "bundle")
    run_recipe(recipe, AGAIN)
    records = stage_records(load_bundle(recipe.out / "bundle").provenance)
    assert [(record.name, record.finished, len(record.restarts)) for record in records] == [
        ("backbone", True, 0),
        ("experts", True, 1),
        ("calibrate", True, 0),
    ]
    assert not (recipe.out / "backbone").exists()


def test_a_stage_whose_parents_are_lost_says_what_to_put_back(tmp_path, heads):
    recipe = small(tmp_path, heads, steps=1)
    run_recipe(recipe, ONE)
    for name in ("experts", "calibrate", "bundle"):
        shutil.rmtree(recipe.out / name)
    shutil.rmtree(recipe.out / "backbone" / "bundle")
    (recipe.out / "backbone" / "checkpoint" / "state.safetensors").unlink()
    again = replace(recipe, stages=recipe.stages[1:])
    with pytest.raises(InputMissing, match=r"stage experts: .*backbone.bundle: the bundle that it begins with is lost"):
        run_recipe(again, AGAIN)


def test_missing_files_are_named_before_anything_is_run(tmp_path, heads):
    recipe = small(tmp_path, heads)
    lost = changed(recipe, "experts", data=str(tmp_path))
    with pytest.raises(InputMissing, match=r"stage experts: .*head-1_T1w\.nii\.gz, head-2_T1w\.nii\.gz"):
        run_recipe(lost, ONE)
    assert not recipe.out.exists()


@pytest.mark.parametrize("single", [True, False])
def test_curves_that_cannot_be_drawn_do_not_hide_why_a_run_ended(single, tmp_path, heads, monkeypatch):
    recipe = small(tmp_path, heads, steps=1)
    folder = recipe.out if single else recipe.out / "backbone"
    folder.mkdir(parents=True)
    (folder / "losses.csv").write_text("epoch,loss\n1,0.5\n")  # of no training of ours
    one = load_recipe(tmp_path / "small.toml")
    recipe = replace(one, stages=(replace(recipe.stages[0], config=one.common),), single=True) if single else recipe
    with pytest.raises(ConfigError, match=r"holds losses\.csv of no run there"):
        run_recipe(recipe, ONE)
    monkeypatch.setattr("moediff.training.engine.write_curves", lambda *_: 1 // 0)
    with (
        pytest.raises(ConfigError, match=r"holds losses\.csv of no run there"),
        pytest.warns(MoeDiffWarning, match=r"curves\.svg: the learning curves were not drawn \(integer division"),
    ):
        run_recipe(recipe, ONE)


def test_settings_that_differ_are_found():
    assert difference({"a": [{"b": 1}]}, {"a": [{"b": 2}]}) == ("a[0].b", 1, 2)
    assert difference({"a": [1]}, {"a": [1, 2]}) == ("a", [1], [1, 2])
    assert difference({"a": {"b": 1}}, {"a": {}}) == ("a.b", 1, None)
