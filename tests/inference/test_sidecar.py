"""The sidecar: its schema, and that sidecars of the version before are understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.errors import MoeDiffWarning
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.sidecar import MOVED, Sidecar, migrated, read_sidecar, schema_text, shipped_schema
from moediff.io.scans import save

# As the version before wrote it, with every key that it could have.
FORMER = """{
  "software": "moediff-sr 0.1.0",
  "notice": "Research use only; not for diagnostic use.",
  "bundle_sha256": "abab",
  "bundle_name": "default",
  "bundle_adapted": {"scans": 1, "share": 0.5},
  "mode": "faithful",
  "sampler": "euler",
  "steps": 1,
  "mirrors": 2,
  "samples": 1,
  "uncertainty": "standard deviation foretold by the network, calibrated",
  "seed": 0,
  "consistency": true,
  "input_shape": [44, 50, 20],
  "input_spacing_mm": [4.0, 4.0, 8.0],
  "output_shape": [44, 50, 40],
  "output_spacing_mm": [4.0, 4.0, 4.0],
  "experts": ["smooth", "sharp"],
  "device": "cpu",
  "dtype": "float32",
  "slices": {"alternate_by": 0.04, "noticeable": true, "evened": false},
  "timings": {"prepare_s": 0.5, "network_s": 1.5},
  "data_consistency": {"rms_over_range": 0.012, "noise_over_range": 0.011, "assumed": ["none", "none", "none"]},
  "strangeness": 1.1,
  "passed_through": false,
  "warnings": ["fewer than 8 voxels along an axis"],
  "uncertainty_over_range": {"mean": 0.01, "p99": 0.05}
}"""
PRESENT = {
    "software": "moediff-sr 0.1.0",
    "notice": "Research use only; not for diagnostic use.",
    "weights": {"sha256": "abab", "name": "default", "adapted": {"scans": 1, "share": 0.5}},
    "experts": ["smooth", "sharp"],
    "input": {"shape": [44, 50, 20], "spacing_mm": [4.0, 4.0, 8.0]},
    "output": {"shape": [44, 50, 40], "spacing_mm": [4.0, 4.0, 4.0]},
    "settings": {
        "mode": "faithful",
        "sampler": "euler",
        "steps": 1,
        "tta": 2,
        "samples": 1,
        "seed": 0,
        "data_consistency": True,
        "device": "cpu",
        "dtype": "float32",
    },
    "pass_through": False,
    "uncertainty": {
        "description": "standard deviation foretold by the network, calibrated",
        "mean_over_range": 0.01,
        "p99_over_range": 0.05,
    },
    "slice_intensity": {"difference": 0.04, "noticeable": True, "corrected": False},
    "data_consistency": {"rms_over_range": 0.012, "noise_over_range": 0.011, "assumed": ["none", "none", "none"]},
    "out_of_distribution_score": 1.1,
    "timings": {"prepare_s": 0.5, "network_s": 1.5},
    "warnings": ["fewer than 8 voxels along an axis"],
}


@pytest.fixture
def scan(tmp_path: Path, make_phantom) -> Path:
    path = tmp_path / "scan.nii.gz"
    save(degrade(make_phantom((44, 50, 40), (4.0, 4.0, 4.0)), thick_slices(2, 0.01, "thick2"), rng_for(0)), path)
    return path


def test_the_shipped_schema_is_that_of_the_dataclasses():
    """Else: python -m moediff.inference.sidecar > src/moediff/inference/schema/sidecar.json"""
    assert shipped_schema() == schema_text()


@pytest.mark.parametrize(
    "options", [("--voxel-size", "4"), ("--voxel-size", "8"), ("--voxel-size", "4", "--mode", "detail")], ids=str
)
def test_a_real_sidecar_has_the_form_of_the_schema(options, scan, bundle, capsys):
    """Also that of a scan that is passed through, and of a sample."""
    assert main(["enhance", str(scan), "--bundle", str(bundle), "-q", *options]) == 0
    text = scan.with_name("scan_desc-sr.json").read_text(encoding="utf-8")
    record = TypeAdapter(Sidecar).validate_json(text)
    assert record.to_json() == text and record.schema == 2
    assert set(json.loads(text)) == set(json.loads(shipped_schema())["required"])
    assert read_sidecar(scan.with_name("scan_desc-sr.json")) == json.loads(text)


def test_an_unknown_key_is_not_of_the_form():
    values = {**PRESENT, "schema": 2, "uncertainty": {"kind": "none", "description": "none"}}
    assert TypeAdapter(Sidecar).validate_python(values).settings.tta == 2
    with pytest.raises(ValidationError, match="mirrors"):
        TypeAdapter(Sidecar).validate_python({**values, "settings": {**PRESENT["settings"], "mirrors": 2}})


def test_a_sidecar_of_the_version_before_is_read_under_the_present_keys(tmp_path):
    (tmp_path / "old.json").write_text(FORMER)
    assert read_sidecar(tmp_path / "old.json") == PRESENT
    assert all(key.split(".")[0] in json.loads(FORMER) for key in MOVED)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, {}),
        ({"slices": 3, "uncertainty_over_range": [1]}, {}),
        ({"slices": {"evened": 3}, "patient": "x"}, {"slice_intensity": {"corrected": 3}, "patient": "x"}),
        ({"schema": 2, "mirrors": 2}, {"schema": 2, "mirrors": 2}),
        ({"mode": {}, "steps": [1]}, {"settings": {"mode": {}, "steps": [1]}}),
    ],
    ids=str,
)
def test_odd_values_move_as_they_are(record, expected):
    assert migrated(record) == expected


def test_the_former_record_warns_of_its_present_name(bundle, scan):
    result = Enhancer(bundle)(scan, EnhanceOptions(voxel_size=(4.0,)))
    with pytest.warns(MoeDiffWarning, match=r"Enhanced\.record is now Enhanced\.sidecar"):
        record = result.record
    present = result.sidecar
    assert record["bundle_sha256"] == present.weights.sha256 and record["output_shape"] == [44, 50, 40]
    assert record["data_consistency"]["rms_over_range"] == present.data_consistency.rms_over_range
    assert record["warnings"] == list(present.warnings) and record["consistency"] is True
    assert {key for key in record if key not in json.loads(FORMER)} == set()
