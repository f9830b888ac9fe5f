"""Engine that runs a recipe: its stages one after the other, each begun, resumed or recognised as finished.

Bundles are the record: each names its stages with their settings, so nothing else says what is done. Folders are those
of the recipe's `out`; "STAGE" is a stage, "bundle" the one published last.

| what is there | what happens to the stage |
|---|---|
| STAGE/bundle, finished | done; its settings, weights and parents are checked |
| a later stage's bundle | done; its settings are checked |
| STAGE/checkpoint | goes on exactly there |
| STAGE/bundle, unfinished, without a checkpoint | goes on at its place of the schedule, the optimiser warms up |
| STAGE/bundle of a run elsewhere, put over an earlier one | the same, where the checkpoint is older |
| STAGE/work-*, of a stage that fits | goes on after the last stored unit |
| nothing, and the bundles of its parents | begins |
| nothing, and a parent's bundle is lost | stops, and says which |
| bundle, of this stage, alone | becomes STAGE/bundle where its settings fit, else the run stops (`put_back`) |
| bundle, with other stages' folders, settings changed | begins: its folder was deleted for that |
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moediff.core.device import parse_device
from moediff.core.errors import (
    BundleError,
    ConfigError,
    InputMissing,
    MoeDiffWarning,
    TryAgain,
    prefix_errors,
    printable,
)
from moediff.io.atomic import whole_folder
from moediff.model.bundle import MANIFEST, WEIGHTS, Bundle, load_bundle, read_manifest, save_bundle, sha256_of
from moediff.training.average import average_weights
from moediff.training.calibrate import (
    Calibrated,
    Calibration,
    HeadFit,
    StatisticsFit,
    calibrate,
    fit_statistics,
    fit_uncertainty_head,
)
from moediff.training.checkpoint import FOLDER, run_lock
from moediff.training.config import TrainConfig
from moediff.training.curves import write_curves
from moediff.training.log import Progress, StagePosition
from moediff.training.manifest import check_checksums
from moediff.training.patches import PatchSource
from moediff.training.preemption import Preemption
from moediff.training.provenance import StageRecord, commit, hardware, stage_records
from moediff.training.recipe import TRAIN, Average, Recipe, Stage, stored_settings
from moediff.training.sources import load_training_scans
from moediff.training.stored_units import StoredUnits
from moediff.training.trainer import RecipePart, RunOptions, check_processes, saved_bundle, train

CURVES = "curves.svg"


def run_recipe(recipe: Recipe, options: RunOptions | None = None) -> Path:
    """Run every stage that is not finished; returns the final bundle's folder.

    Raises:
        ConfigError: a stage's settings changed after it was finished, the folder holds a run and `resume` is False, or
            a stage cannot be run.
        InputMissing, DataError: a file to learn from is not there, or is another than the manifest says.
        TryAgain: the slice is over before the recipe is, or another training works in the folder.
    """
    options = options or RunOptions()
    if recipe.single:
        try:
            return train(recipe.common, options)
        finally:
            _draw([recipe.out], recipe.out / CURVES)
    run = _Run(recipe, options)
    try:
        return run.all_stages()
    finally:
        _draw([recipe.out / stage.name for stage in recipe.stages], recipe.out / CURVES)


def _draw(folders: Sequence[Path], path: Path) -> None:
    """Draw the curves; a fault of that is a warning, since it must not hide why a run ended."""
    try:
        write_curves(folders, path)
    except Exception as error:
        words = f"{printable(path)}: the learning curves were not drawn ({error}); what was trained is not affected"
        warnings.warn(words, MoeDiffWarning, stacklevel=2)


class _Run:
    """One call of a recipe."""

    def __init__(self, recipe: Recipe, options: RunOptions) -> None:
        self.recipe, self.options = recipe, options
        self.until = None if options.slice_minutes is None else time.monotonic() + 60 * options.slice_minutes
        self.plain, self.worked = recipe.plain(), False

    def all_stages(self) -> Path:
        """Run what is not finished, publish each stage's bundle, and return the last one's folder."""
        self._check()
        with run_lock(self.recipe.out):
            return self._all_stages()

    def _all_stages(self) -> Path:
        recipe, out = self.recipe, self.recipe.out
        put_back(recipe)
        done = finished_stages(recipe)
        if not self.options.resume and (done or any(_begun(out / stage.name) for stage in recipe.stages)):
            raise ConfigError(f"{printable(out)} holds a run already; add --resume or choose another `out`")
        for index, stage in enumerate(recipe.stages):
            if stage.name in done:
                continue
            position = StagePosition(stage.name, index + 1, len(recipe.stages), recipe.minutes_after(index))
            with prefix_errors(f"stage {stage.name}"):
                check_begun(stage)
                self._run(stage, position)
            _publish(out / stage.name / "bundle", out / "bundle")
        last = out / recipe.stages[-1].name / "bundle"
        if last.is_dir() and _manifest(last) != _manifest(out / "bundle"):  # killed before it was published
            _publish(last, out / "bundle")
        return out / "bundle"

    def _check(self) -> None:
        """Checks of what would otherwise fail hours later."""
        for stage in self.recipe.stages:
            with prefix_errors(f"stage {stage.name}"):
                if stage.kind == TRAIN:
                    check_processes(stage.config, self.options.processes)
                if stage.kind == TRAIN and not stage.config.scans:
                    raise ConfigError("no training scans are listed; name at least one under [[scans]]")
                check_sources(stage)
                check_checksums(replace(stage.config, cache=stage.config.cache or str(self.recipe.out)))

    def _left(self) -> float | None:
        """Minutes left of the slice; None is without end.

        Raises:
            TryAgain: none are left, and something was done in it.
        """
        if self.until is None:
            return None
        left = (self.until - time.monotonic()) / 60
        if left <= 0 and self.worked:
            raise TryAgain("paused before it began; go on with --resume")
        self.worked = True
        return max(left, 1e-9)  # however short a slice is, something is done in it

    def _run(self, stage: Stage, position: StagePosition) -> None:
        options = replace(self.options, resume=True, slice_minutes=self._left())
        if stage.kind == TRAIN:
            train(self._with_parent(stage), options, RecipePart(position=position, recipe=self.plain))
        else:
            self._fit(stage, position, Preemption(options.slice_minutes))

    def _with_parent(self, stage: Stage) -> TrainConfig:
        """Settings of a training stage, without `start` where it goes on from its own bundle and the parent's is lost.

        Raises:
            InputMissing: the parent's bundle is needed and lost.
        """
        config = stage.config
        folder = Path(config.out)
        if config.start is None or (Path(config.start) / MANIFEST).is_file():
            return config
        own = saved_bundle(folder, stage.name)
        if own is None or config.loss.feature_distillation:
            raise InputMissing(f"{printable(config.start)}: the bundle that it begins with is lost; put it back")
        return replace(config, start=None)

    def _fit(self, stage: Stage, position: StagePosition, pause: Preemption) -> None:
        """A stage of any other kind: its parents' bundles in, its own out."""
        folder, begun = Path(stage.config.out), time.monotonic()
        if folder.is_dir() and not _begun(folder) and any(folder.iterdir()):
            raise ConfigError(f"{printable(folder)} holds other things; choose another name or `out`")
        device = parse_device(stage.config.device if isinstance(stage.options, HeadFit) else "cpu")
        starts = [folder.parent / name / "bundle" for name in stage.parents] or [Path(stage.config.start or "")]
        bundles = [load_bundle(path, device) for path in starts]
        digest = hashlib.sha256(json.dumps([stage.settings(), [b.sha256 for b in bundles]]).encode()).hexdigest()
        work = folder / f"{WORK}{digest[:12]}"
        with pause, Progress(position, quiet=not self.options.progress) as progress:
            units = StoredUnits(work, pause, progress)
            result = FITS[type(stage.options)](stage, bundles, units)
        inherited = bundles[-1].provenance
        record = StageRecord(
            name=stage.name,
            kind=stage.kind,
            seconds=round(time.monotonic() - begun + units.earlier, 2),
            seed=getattr(stage.options, "seed", stage.config.seed),
            parent_sha256=tuple(bundle.sha256 for bundle in bundles),
            commit=commit(),
            torch=torch.__version__,
            hardware=hardware(device),
            result=result.record,
        )
        before = {one.name: one for bundle in bundles for one in stage_records(bundle.provenance)}
        stages = [one.plain() for one in (*before.values(), record)]
        own = {**inherited, **stage.config.provenance, "recipe": self.plain, "stages": stages}
        save_bundle(folder / "bundle", result.config, result.weights, own)
        for left in folder.glob(f"{WORK}*"):
            shutil.rmtree(left, ignore_errors=True)


WORK = "work-"  # folders of stored units


def _average(stage: Stage, bundles: list[Bundle], units: StoredUnits) -> Calibrated:
    return Calibrated(bundles[-1].config, average_weights(bundles), {"of": list(stage.parents)})


def _fit_head(stage: Stage, bundles: list[Bundle], units: StoredUnits) -> Calibrated:
    (bundle,), config, options = bundles, stage.config, stage.options
    assert isinstance(options, HeadFit)
    device = next(bundle.denoiser.parameters()).device
    cache = None if config.cache is None else Path(config.cache)
    source = PatchSource(
        scans=[scan.to(device) for scan in load_training_scans(config.scans, Path(config.data), config.seed, cache)],
        patch=config.patch,
        seed=options.seed,
        settings=bundle.config.prepare,
        ranges=config.recipes,
        augment=config.augment,
    )
    return fit_uncertainty_head(bundle, source, options, units, units.heed_signals)


def _calibrate(stage: Stage, bundles: list[Bundle], units: StoredUnits) -> Calibrated:
    assert isinstance(stage.options, Calibration)
    return calibrate(bundles[0], stage.config.scans, Path(stage.config.data), stage.options, units)


def _statistics(stage: Stage, bundles: list[Bundle], units: StoredUnits) -> Calibrated:
    assert isinstance(stage.options, StatisticsFit)
    return fit_statistics(bundles[0], stage.config.scans, Path(stage.config.data), stage.options, units)


FITS: dict[type, Callable[[Stage, list[Bundle], StoredUnits], Calibrated]] = {
    Average: _average,
    HeadFit: _fit_head,
    Calibration: _calibrate,
    StatisticsFit: _statistics,
}


def missing_sources(stage: Stage) -> list[str]:
    """Files that a stage reads and that are not there, as paths below its data folder."""
    config = stage.config
    names = [name for scan in config.scans for name in (scan.path, scan.input) if name is not None]
    names += config.validation.files()
    wanted = () if isinstance(stage.options, Average) else dict.fromkeys(names)
    return [name for name in wanted if not (Path(config.data) / name).exists()]


def check_sources(stage: Stage) -> None:
    """Is everything there that a stage reads?

    Raises:
        InputMissing: it is not; all missing files are named.
    """
    if missing := missing_sources(stage):
        raise InputMissing(
            f"{printable(stage.config.data)}: no {', '.join(printable(name) for name in missing)}; check the names and "
            "--data, or fetch the files (scripts/fetch_data.py)"
        )


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The JSON part of a bundle; None where there is none."""
    return read_manifest(folder) if (folder / MANIFEST).is_file() else None


def _begun(folder: Path) -> bool:
    """Whether a stage has left anything of its own in its folder."""
    return (folder / FOLDER).is_dir() or (folder / "bundle" / MANIFEST).is_file() or any(folder.glob(f"{WORK}*"))


def _publish(bundle: Path, target: Path) -> None:
    """Copy a bundle, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(target, overwrite=True) as hidden:
        for name in (WEIGHTS, MANIFEST):
            shutil.copyfile(bundle / name, hidden / name)


def put_back(recipe: Recipe) -> None:
    """A published bundle whose stage's folder is lost becomes that stage's bundle again, where it fits the settings.

    Where it does not, and other stages' folders are there, that folder was deleted so that the stage runs again.

    Raises:
        ConfigError: what lies there is no bundle of this recipe, or nothing else is left of a run with other settings;
            it would be replaced.
    """
    published = recipe.out / "bundle"
    if not published.exists():
        return
    manifest = _manifest(published)
    records = () if manifest is None else stage_records(manifest["provenance"])
    stages = {stage.name: stage for stage in recipe.stages}
    if manifest is None or not records or records[-1].name not in stages:
        raise ConfigError(f"{printable(published)} is of no stage here, and would be replaced; choose another `out`")
    own = recipe.out / records[-1].name / "bundle"
    if own.exists():
        return
    try:
        for record in records:
            if record.finished and record.name in stages:
                with prefix_errors(f"stage {record.name}"):
                    _check_unchanged(stages[record.name], manifest["provenance"].get("recipe", {}), recipe.out)
    except ConfigError:
        if not any(_begun(recipe.out / name) for name in stages):
            raise
        return
    _publish(published, own)


def finished_stages(recipe: Recipe) -> set[str]:
    """Names of the stages that need not be run again.

    Raises:
        ConfigError: the settings of a finished stage changed, its bundle was altered, or it was made from other weights
            than lie there now.
    """
    manifests = {stage.name: _manifest(recipe.out / stage.name / "bundle") for stage in recipe.stages}
    finished: set[str] = set()
    for index, stage in enumerate(recipe.stages):
        witness = _witness(stage, [manifests[later.name] for later in recipe.stages[index:]])
        if witness is None:
            continue
        with prefix_errors(f"stage {stage.name}"):
            _check_unchanged(stage, witness["provenance"].get("recipe", {}), recipe.out)
            if manifests[stage.name] is witness:
                _check_weights(stage, witness, recipe.out)
                _check_parents(stage, witness, manifests, recipe.out)
        finished.add(stage.name)
    return finished


def _witness(stage: Stage, manifests: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The bundle that says this stage is finished: its own, or else one of a later stage."""
    for manifest in manifests:
        if manifest is None:
            continue
        if any(
            r.name == stage.name and r.kind == stage.kind and r.finished for r in stage_records(manifest["provenance"])
        ):
            return manifest
    return None


def _to_run_again(stage: Stage, out: Path) -> str:
    """What to delete; a bundle that stays would say that the stage is finished."""
    return (
        f"delete {printable(out / stage.name)}, the folders of the stages after it and {printable(out / 'bundle')} to "
        "run them again"
    )


def _check_unchanged(stage: Stage, recipe: Mapping[str, Any], out: Path) -> None:
    if text := _change(stage, recipe):
        raise ConfigError(f"it is finished, but {text}: put that back, or {_to_run_again(stage, out)}")


def check_begun(stage: Stage) -> None:
    """Can a stage go on from what it saved? Its record claims one set of settings for all of its steps.

    Raises:
        ConfigError: it has begun with other settings.
    """
    bundle = saved_bundle(Path(stage.config.out), stage.name)
    recipe = {} if bundle is None else read_manifest(bundle)["provenance"].get("recipe", {})
    if bundle is not None and (text := _change(stage, recipe)):
        raise ConfigError(f"it has begun, but {text}: put that back, or choose another `out` to begin anew")


def _change(stage: Stage, recipe: Mapping[str, Any]) -> str:
    """The first setting in which a stage differs from the one of a stored recipe, in words; empty where none does."""
    before, now = stored_settings(recipe, stage.name), stage.settings()
    if before == now:
        return ""
    if before is None:
        return "its settings cannot be compared with those of now"
    where, old, new = difference(before, now)
    return f"{where} changed from {_short(old)} to {_short(new)}"


def difference(before: Any, now: Any, where: str = "") -> tuple[str, Any, Any]:
    """The first setting in which two records differ: its name, and both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if before.get(key) != now.get(key):
                return difference(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            if old != new:
                return difference(old, new, f"{where}[{index}]")
    return where, before, now


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_weights(stage: Stage, manifest: Mapping[str, Any], out: Path) -> None:
    folder = out / stage.name / "bundle"
    if not (folder / WEIGHTS).is_file() or sha256_of(folder / WEIGHTS) != manifest["sha256"]:
        raise BundleError(
            f"{printable(folder)}: its weights were altered or cut after it was finished; put them back, or "
            f"{_to_run_again(stage, out)}"
        )


def _check_parents(stage: Stage, witness: Mapping[str, Any], manifests: Mapping[str, Any], out: Path) -> None:
    *before, record = stage_records(witness["provenance"])
    if any(manifests[name] is None for name in stage.parents):  # one is lost, and what was made from it is not
        return
    present = [_checksums(manifests[name]) for name in stage.parents]
    rounded = {one.name: one.rounded_from for one in before}  # the parent, where this was made elsewhere from such
    pairs = zip(record.parent_sha256, stage.parents, present, strict=False)
    known = all(sha256 in those or rounded.get(name) in those for sha256, name, those in pairs)
    if present and (len(record.parent_sha256) != len(present) or not known):
        raise ConfigError(
            f"it was made from other weights of {', '.join(stage.parents)} than lie there now; put those back, or "
            f"{_to_run_again(stage, out)}"
        )


def _checksums(manifest: Mapping[str, Any]) -> set[str]:
    """Of a bundle's weights, and of those that they are rounded from."""
    *_, last = (StageRecord(name=""), *stage_records(manifest["provenance"]))
    return {manifest["sha256"], last.rounded_from} - {""}


def needed_stages(recipe: Recipe) -> list[str]:
    """Stages whose bundles are enough to go on elsewhere: those in progress, and those that are begun with or averaged.

    Of a run that is finished, the last stage; empty where nothing was saved yet.

    Raises:
        ConfigError, BundleError: see `finished_stages`.
    """
    done = finished_stages(recipe)
    saved = {stage.name for stage in recipe.stages if saved_bundle(recipe.out / stage.name, stage.name) is not None}
    needed = {stage.name for stage in recipe.stages if stage.name not in done} & saved
    for stage in recipe.stages:
        begins_again = stage.name not in saved or stage.config.loss.feature_distillation > 0
        if stage.name not in done and begins_again:
            needed |= saved.intersection(stage.parents)
    names = [stage.name for stage in recipe.stages]
    return [name for name in names if name in needed] or [name for name in names if name in saved][-1:]
