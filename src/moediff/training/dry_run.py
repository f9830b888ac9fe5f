"""Dry run of a recipe: its stages, what each changes, and which files are there, as text; no data are read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from moediff.training.config import TrainConfig
from moediff.training.engine import missing_sources
from moediff.training.provenance import duration, plain_settings
from moediff.training.recipe import TRAIN, Recipe, Stage, changed, plain_options

IN_COLUMNS = ("minutes", "steps", "batch", "patch", "phases", "only", "checksums")  # shown for every stage anyway
WIDTH = 118


def dry_run(recipe: Recipe) -> str:
    """What `moediff train` would do."""
    count = f"{len(recipe.stages)} stages" if len(recipe.stages) > 1 else "one stage"
    lines = [f"{count}, {_whole_length(recipe)} of training, into {os.path.normpath(recipe.out)}"]
    for number, stage in enumerate(recipe.stages, 1):
        lines += ["", *_stage_lines(number, stage, plain_settings(recipe.common))]
    return "\n".join([*lines, "", *_source_lines(recipe)])


def _whole_length(recipe: Recipe) -> str:
    """Of all stages that train: minutes of those that the clock ends, steps of the others."""
    training = [stage.config for stage in recipe.stages if stage.kind == TRAIN]
    minutes = sum(config.minutes or 0.0 for config in training)
    steps = sum(config.steps for config in training if not config.minutes)
    parts = [duration(60 * minutes)] * bool(minutes) + [f"{steps} steps"] * bool(steps)
    return " and ".join(parts) or "nothing"


def _stage_lines(number: int, stage: Stage, shared: Mapping[str, Any]) -> list[str]:
    config = stage.config
    words = [f"{number}. {stage.name}: {stage.kind}"]
    if stage.kind == TRAIN:
        words += [_length(config), _patches(config), f"learns {', '.join(config.only) or 'all parts'}"]
    begin = " and ".join(stage.parents) or (config.start and os.path.normpath(config.start))
    lines = ["; ".join(words) + (f"; begins with {begin}" if begin else "")]
    changes = changed(shared, plain_settings(config))
    if stage.kind == TRAIN:
        changes = {key: value for key, value in flat(changes).items() if key not in IN_COLUMNS}
    elif stage.options is not None:
        changes = plain_options(stage.options)
    return lines + [f"   {_short(key, value)}" for key, value in changes.items()]


def _length(config: TrainConfig) -> str:
    return f"{config.minutes:g} minutes" if config.minutes else f"{config.steps} steps"


def _patches(config: TrainConfig) -> str:
    return ", then ".join(f"patches of {phase.patch}^3 in batches of {phase.batch}" for phase in config.parts())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of nested tables by their full names."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        settings |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return settings


def _short(key: str, value: Any) -> str:
    if key == "scans":
        return f"scans = {len(value)} files, drawn otherwise"
    text = f"{key} = {json.dumps(value)}"
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _source_lines(recipe: Recipe) -> list[str]:
    """Every file once: how many there are to learn from and to judge by, and what is missing."""
    scans = {scan.path for stage in recipe.stages for scan in stage.config.scans}
    missing = dict.fromkeys(name for stage in recipe.stages for name in missing_sources(stage))
    line = f"{len(scans)} files to learn from, in {os.path.normpath(recipe.common.data)}"
    if not missing:
        return [f"{line}; all are there, and what is needed to validate"]
    return [f"{line}; missing, with those to validate on: {len(missing)}", *(f"   missing: {name}" for name in missing)]
