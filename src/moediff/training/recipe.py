"""Recipe of a training: stages that follow each other, read from one TOML file.

Settings at the top hold for every stage; each `[[stages]]` states its name, its kind and what changes. A file without
stages is a recipe of one, which trains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from moediff.core.config import parse_as
from moediff.core.errors import ConfigError, prefix_errors, printable
from moediff.training.calibrate import Calibration, HeadFit, StatisticsFit
from moediff.training.config import FOLDERS, STAGES, TrainConfig, over, read_settings, with_network_of_start
from moediff.training.manifest import ManifestRow, check_apart, read_manifest_table, resolve_manifest
from moediff.training.provenance import plain_settings

TRAIN, AVERAGE, FIT_HEAD = "train", "average", "fit uncertainty head"
CALIBRATE, STATISTICS = "calibrate", "out-of-distribution statistics"


@dataclass(frozen=True, kw_only=True)
class Average:
    """Which earlier stages' weights are averaged.

    Args:
        of: their names, two at least.
    """

    of: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.of)) < 2:
            raise ConfigError(f"of={list(self.of)}: an average is of two stages or more; name them")


Options = Average | HeadFit | Calibration | StatisticsFit
OPTIONS: dict[str, type[Any]] = {
    AVERAGE: Average,
    FIT_HEAD: HeadFit,
    CALIBRATE: Calibration,
    STATISTICS: StatisticsFit,
}
KINDS = (TRAIN, *OPTIONS)
# What a finished stage depends on; other settings may change without running it again.
USED: dict[str, tuple[str, ...]] = {
    TRAIN: tuple(
        one.name
        for one in fields(TrainConfig)
        if one.name not in (*FOLDERS, "device", "save_every", "validation", "provenance")
    ),
    AVERAGE: (),
    FIT_HEAD: ("scans", "checksums", "patch", "recipes", "augment", "seed"),
    CALIBRATE: ("scans", "checksums"),
    STATISTICS: ("scans", "checksums"),
}


@dataclass(frozen=True)
class Stage:
    """One stage, its settings resolved.

    Args:
        name: of its folder below the recipe's.
        kind: one of KINDS.
        config: settings in force; `start` is the parent's bundle.
        options: of kinds other than "train".
        parents: earlier stages that it begins with; none where it begins with a bundle of another run, or anew.
    """

    name: str
    kind: str
    config: TrainConfig
    options: Options | None = None
    parents: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What a result of this stage depends on, for JSON; of checksums, those of the files that it learns from.

        The table of all files is shared, and holds those that are only judged by, too. What is said of a file's licence
        and source may be corrected.
        """
        values = plain_settings(self.config)
        settings = {name: values[name] for name in USED[self.kind]}
        if "scans" in settings:
            settings["scans"] = [
                {key: value for key, value in scan.items() if key not in ("licence", "source")}
                for scan in settings["scans"]
            ]
        if "checksums" in settings:
            learned = {name for scan in self.config.scans for name in (scan.path, scan.input)}
            settings["checksums"] = {name: sha for name, sha in settings["checksums"].items() if name in learned}
        return settings | ({} if self.options is None else {"options": plain_options(self.options)})


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    Args:
        out: the folder of all stages and of the final bundle.
        common: the settings that stages share.
        stages: in turn; `single` says that the file has none, so `common` is the only run, in `out` itself.
    """

    out: Path
    common: TrainConfig
    stages: tuple[Stage, ...]
    single: bool = False

    def minutes_after(self, index: int) -> float:
        """Of the stages after this one, as far as they are limited."""
        return sum(stage.config.minutes or 0.0 for stage in self.stages[index + 1 :] if stage.kind == TRAIN)

    def plain(self) -> dict[str, Any]:
        """For the provenance: the settings shared, and what every stage changes."""
        shared = plain_settings(self.common)
        stages = []
        for stage in self.stages:
            record: dict[str, Any] = {"name": stage.name, "kind": stage.kind}
            if stage.options is not None:
                record["options"] = plain_options(stage.options)
            if changes := changed(shared, plain_settings(stage.config)):
                record["changes"] = changes
            stages.append(record)
        return {"settings": shared, "stages": stages}


def plain_options(options: Options) -> dict[str, Any]:
    """Options for JSON."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    return values


def changed(shared: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `values` that differ, tables by their own settings.

    `over(shared, changed(shared, values))` gives `values` back where `values` has every key of `shared`, as settings of
    one class have. Of a table with keys of its own, such as `checksums`, keys that only `shared` has come back too.
    """
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if value == shared.get(key):
            continue
        both = isinstance(value, Mapping) and isinstance(shared.get(key), Mapping)
        changes[key] = changed(shared[key], value) if both else value
    return changes


def stored_settings(recipe: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What a stage depended on, from the recipe in a bundle's provenance; None where it is not named there.

    The inverse of `Recipe.plain`: what that leaves out, and what `over` brings back of other stages, is in no stage's
    `settings()`.
    """
    stages: dict[str, Mapping[str, Any]] = {stage["name"]: stage for stage in recipe.get("stages", ())}
    stage = stages.get(name, {})
    if stage.get("kind") not in KINDS:
        return None
    try:
        config = parse_as(TrainConfig, over(recipe["settings"], stage.get("changes", {})), warn=False)
        kind = stage["kind"]
        options = parse_as(OPTIONS[kind], stage.get("options", {}), warn=False) if kind in OPTIONS else None
    except (ConfigError, KeyError):
        return None
    return Stage(name, kind, config, options).settings()


def load_recipe(path: Path) -> Recipe:
    """Read a TOML file of settings, with stages or without.

    Raises:
        InputMissing: no such file, or no such manifest.
        ConfigError: not TOML, unknown or impossible settings, or somebody is learned from and judged by.
    """
    try:
        values = with_network_of_start(read_settings(path))
        stated = values.pop(STAGES, None)
        if stated is None:
            common = parse_as(TrainConfig, resolve_manifest(values))
            check_apart([common], _manifest_rows([values]))
            return Recipe(Path(common.out), common, (Stage(common.name, TRAIN, common),), single=True)
        if not isinstance(stated, list) or not stated or not all(isinstance(table, dict) for table in stated):
            raise ConfigError("stages: expected one [[stages]] table or more")
        common = parse_as(TrainConfig, resolve_manifest(values))
        stages: list[Stage] = []
        by_name: dict[str, dict[str, Any]] = {}
        for table in stated:
            with prefix_errors(f"stage {printable(str(table.get('name', len(stages) + 1)))}"):
                merged = _over_like(table, by_name)
                stages.append(_stage(values, merged, stages, path.parent))
                by_name[stages[-1].name] = merged
        check_apart([stage.config for stage in stages], _manifest_rows([values, *by_name.values()]))
        return Recipe(Path(common.out), common, tuple(stages))
    except ConfigError as error:
        raise ConfigError(f"{printable(path)}: {error}") from error


def _manifest_rows(settings: Sequence[Mapping[str, Any]]) -> list[ManifestRow]:
    """Rows of all manifests that are named."""
    paths = dict.fromkeys(values["manifest"] for values in settings if "manifest" in values)
    return [row for path in paths for row in read_manifest_table(Path(path))]


def _over_like(table: dict[str, Any], earlier: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A stage's table over that of the earlier stage that it is `like`; `like` stays, for the same start."""
    if "like" not in table:
        return table
    like = table["like"]
    if not isinstance(like, str) or like not in earlier:
        raise ConfigError(f"like: no earlier stage is called {like!r}; choose from {', '.join(earlier) or 'none'}")
    return over(earlier[like], table)


def _stage(shared: Mapping[str, Any], table: dict[str, Any], before: Sequence[Stage], folder: Path) -> Stage:
    name, kind = table.get("name"), table.get("kind", TRAIN)
    earlier = [stage.name for stage in before]
    if not isinstance(name, str) or not name or not all(c.isalnum() or c in "-_." for c in name) or name[0] == ".":
        raise ConfigError(f"name={name!r}: expected a word of letters, digits, - and _, which names a folder")
    if name in earlier or name in RESERVED:
        raise ConfigError(f"name={name!r} is taken; choose another one")
    if kind not in KINDS:
        raise ConfigError(f"kind={kind!r} is unknown; choose from {', '.join(KINDS)}")
    own = {key: value for key, value in table.items() if key not in ("name", "kind", "like")}
    out = str(Path(shared["out"]) / name)
    own_start = own.pop("start", None)
    if kind == TRAIN:
        values = over(dict(shared), own)
        if own.keys() & {"scans", "manifest"}:  # a list of its own replaces that of all
            values = {key: values[key] for key in values if key not in ("scans", "manifest", "sources") or key in own}
        elif "sources" in own:  # rules of its own follow those of all
            values["sources"] = _rules(shared) + _rules(own)
        options, of = None, tuple[str, ...]()
    else:
        options = parse_as(OPTIONS[kind], own)
        values, of = dict(shared), options.of if isinstance(options, Average) else ()
    like = next((stage for stage in before if stage.name == table.get("like")), None)
    if like is not None and own_start is None and not of:
        parents, start = like.parents, like.config.start
    else:
        parents, start = _parents(own_start, of, earlier, (shared, folder))
    if kind != TRAIN and not parents and start is None:
        raise ConfigError(f"a stage of kind {kind!r} needs weights: put one before it, or name a bundle with `start`")
    values |= {"out": out, "start": str(Path(shared["out"]) / parents[0] / "bundle") if parents else start}
    if own_start is not None and not parents:
        values = with_network_of_start(values)
    return Stage(name, kind, parse_as(TrainConfig, resolve_manifest(values)), options, parents)


def _rules(values: Mapping[str, Any]) -> list[Any]:
    """Rules for files of a manifest.

    Raises:
        ConfigError: they are no list.
    """
    rules = values.get("sources", [])
    if not isinstance(rules, list):
        raise ConfigError("sources: expected [[sources]] tables with rules for files of a manifest")
    return rules


RESERVED = ("bundle", "best", "checkpoint", "tensorboard", "cache")  # folders of runs


def _parents(
    start: Any, of: Sequence[str], earlier: Sequence[str], shared: tuple[Mapping[str, Any], Path]
) -> tuple[tuple[str, ...], str | None]:
    """The earlier stages that a stage begins with, or else the path of a bundle."""
    if unknown := [name for name in of if name not in earlier]:
        raise ConfigError(f"of: no earlier stage is called {unknown[0]!r}; choose from {', '.join(earlier) or 'none'}")
    if of:
        return tuple(of), None
    if start is None:
        return ((earlier[-1],), None) if earlier else ((), shared[0].get("start"))
    if not isinstance(start, str):
        raise ConfigError(f"start: expected the name of an earlier stage or the path of a bundle; found {start!r}")
    return ((start,), None) if start in earlier else ((), str(shared[1] / start))


def with_minutes(recipe: Recipe, minutes: float) -> Recipe:
    """The same stages in that time together, each with its share of it.

    Raises:
        ConfigError: not positive, or no stage is limited by minutes.
    """
    if recipe.single:
        config = replace(recipe.common, minutes=minutes)
        return replace(recipe, common=config, stages=(replace(recipe.stages[0], config=config),))
    total = sum(stage.config.minutes or 0.0 for stage in recipe.stages if stage.kind == TRAIN)
    if not total:
        raise ConfigError("no stage is limited by minutes, so none has a share of them; give --steps instead")
    share = minutes / total

    def shorter(stage: Stage) -> Stage:
        own = stage.config.minutes if stage.kind == TRAIN else None
        return stage if own is None else replace(stage, config=replace(stage.config, minutes=round(own * share, 4)))

    return replace(recipe, stages=tuple(shorter(stage) for stage in recipe.stages))


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The same stages in so many optimiser steps together, each with its share of them and at least one.

    Raises:
        ConfigError: fewer than there are stages that train, or a stage is limited by minutes.
    """
    training = [stage for stage in recipe.stages if stage.kind == TRAIN]
    if steps < len(training):
        raise ConfigError(f"{steps} steps are fewer than the {len(training)} stages that train; give more")
    if timed := [stage.name for stage in training if stage.config.minutes]:
        raise ConfigError(f"stage {timed[0]} is limited by minutes, not by steps; give --minutes instead")
    share = steps / sum(stage.config.steps for stage in training)

    def shorter(stage: Stage) -> Stage:
        return replace(stage, config=replace(stage.config, steps=max(1, round(stage.config.steps * share))))

    stages = tuple(shorter(stage) if stage.kind == TRAIN else stage for stage in recipe.stages)
    return replace(recipe, stages=stages, common=stages[0].config if recipe.single else recipe.common)


def with_data(recipe: Recipe, data: Path) -> Recipe:
    """The same recipe on scans in another folder."""
    stages = tuple(replace(stage, config=replace(stage.config, data=str(data))) for stage in recipe.stages)
    return replace(recipe, common=replace(recipe.common, data=str(data)), stages=stages)
