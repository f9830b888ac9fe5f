"""Containers: the descriptor follows the parser, and the two definitions install the same from named files only."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "containers" / "moediff.def").read_text(encoding="utf-8")


@pytest.fixture
def descriptor(load_script) -> dict:
    return json.loads(json.dumps(load_script("boutiques_descriptor").descriptor()))


def test_every_argument_has_its_place_and_kind(descriptor):
    inputs = {one["id"]: one for one in descriptor["inputs"]}
    assert set(re.findall(r"\[(\w+)\]", descriptor["command-line"])) == {i.upper() for i in inputs}
    assert inputs["bids_dir"]["type"] == "File" and not inputs["bids_dir"]["optional"]
    assert inputs["out_dir"]["type"] == "String"  # need not be there yet
    assert inputs["level"]["value-choices"] == ["participant", "group"]
    assert (
        inputs["participant_label"]["list"]
        and inputs["participant_label"]["command-line-flag"] == "--participant-label"
    )
    assert inputs["dry_run"]["type"] == "Flag" and inputs["voxel_size"]["type"] == "Number"
    assert "adapt" not in inputs  # refused, and so in no help
    assert inputs["tta"]["value-choices"] == [1, 2, 4, 8] and inputs["tta"]["integer"]


def test_both_definitions_install_the_same():
    def installed(text: str) -> list[str]:
        joined = re.sub(r"\\\n\s*", "", text).replace("{{ TORCH }}", "${TORCH}")
        return re.findall(r"/opt/moediff/bin/pip \w+ [^&\n]*", joined.replace(" && ", "&&").replace("&& ", "&&"))

    commands = [" ".join(line.split()) for line in installed(DOCKERFILE)]
    assert commands == [" ".join(line.split()) for line in installed(APPTAINER)] and len(commands) == 3
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    (named,) = re.findall(r"\.\[([\w,]+)\]", commands[1])
    assert set(named.split(",")) <= extras


def test_the_image_runs_as_nobody_special_and_holds_no_scan():
    assert re.search(r"^USER 1000:1000$", DOCKERFILE, re.M) and "ADD " not in DOCKERFILE
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"  # everything is left out but what follows
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.M)
    assert {name for line in copied for name in line.split()} == {rule[1:] for rule in rules if rule.startswith("!")}
