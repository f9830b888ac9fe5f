"""Slice thickness: DICOM tag and BIDS sidecar in the record, and on request in the acquisition model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.operators import assumed_sampling, with_thickness
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.core.geometry import axis_positions
from moediff.core.volume import Volume
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.io.loaded import SliceGeometry
from moediff.io.scans import from_volume, load, save

pytestmark = pytest.mark.fault(62)
FINE = EnhanceOptions(voxel_size=(3.0,))


def thin_slices(truth: Volume) -> Volume:
    """12 mm apart, 6 mm thick, no noise."""
    axes = (AxisRecipe(), AxisRecipe(), AxisRecipe(method="gaussian", factor=4, thickness=0.5))
    return degrade(truth, Recipe(axes=axes, name="gap"), rng_for(0))


@pytest.fixture(scope="module")
def truth(make_phantom) -> Volume:
    return make_phantom((60, 64, 60), (3.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def low(truth) -> Volume:
    return thin_slices(truth)


def test_the_width_of_thick_slices_follows(low):
    plan = plan_grids(from_volume(low), replace(FINE, slice_thickness=6.0))
    assert plan.sampling is not None
    assert [(one.method, one.width) for one in plan.sampling] == [("none", 1), ("none", 1), ("gaussian", 0.5)]
    assert plan_grids(from_volume(low), FINE).sampling is None


def test_the_true_thickness_explains_the_measurement_better(low, truth, enhancer):
    """The truth, acquired again by the assumed model, is the measurement only where the model has its thickness."""
    positions = axis_positions(low.grid, truth.grid)
    assert positions is not None
    from moediff.acquisition.operators import assumed_acquisition

    errors = {}
    for name, sampling in (
        ("distance", assumed_sampling(positions)),
        ("true", with_thickness(assumed_sampling(positions), low.spacing_mm, 6.0)),
    ):
        again = assumed_acquisition(truth.grid, low.grid, sampling).apply(truth.data_XYZ)
        errors[name] = float((again - low.data_XYZ)[:, :, 1:-1].abs().max())
    assert errors["true"] < 1e-3 * errors["distance"]
    record = enhancer(low, replace(FINE, slice_thickness=6.0)).sidecar
    assert record.data_consistency is not None
    assert any("0.50 voxels wide" in words for words in record.data_consistency.assumed)
    assert record.slices is not None and record.slices.assumed_thickness_mm == pytest.approx(6.0)


@pytest.mark.parametrize(("thickness", "sentence"), [(1.0, "0.3 to 2 times their distance"), (30.0, "0.3 to 2 times")])
def test_impossible_thickness_is_refused(low, thickness, sentence):
    with pytest.raises(ConfigError, match=sentence):
        plan_grids(from_volume(low), replace(FINE, slice_thickness=thickness))


def test_a_scan_without_thick_slices_has_no_thickness_to_assume(truth):
    with pytest.raises(ConfigError, match="no axis has such"):
        plan_grids(from_volume(truth), EnhanceOptions(voxel_size=(2.5,), slice_thickness=3.0))


@pytest.mark.parametrize("wrong", [0, -3, float("nan"), "thick"])
def test_what_is_no_thickness_is_refused(wrong):
    with pytest.raises(ConfigError, match="slice thickness is"):
        EnhanceOptions(slice_thickness=wrong)


def test_a_bids_sidecar_says_it(low, bundle, tmp_path, capsys):
    scan = tmp_path / "sub-1_T2w.nii.gz"
    save(low, scan)
    words = ["enhance", str(scan), "--bundle", str(bundle), "--voxel-size", "3", "--slice-thickness", "header", "-q"]
    assert main(words) == 78
    assert "neither the file nor a BIDS sidecar" in capsys.readouterr().err
    (tmp_path / "sub-1_T2w.json").write_text(json.dumps({"SliceThickness": 6, "SpacingBetweenSlices": 12}))
    assert load(scan).slices == SliceGeometry(6.0, 12.0)
    assert main(words) == 0
    record = json.loads((tmp_path / "sub-1_desc-sr_T2w.json").read_text())
    assert record["slices"] == {
        "thickness_mm": 6.0,
        "distance_mm": 12.0,
        "gap_mm": 6.0,
        "assumed_thickness_mm": 6.0,
    }
    result = str(tmp_path / "sub-1_desc-sr_T2w.nii.gz")
    assert main(["report", result, "-q"]) == 0
    words = ["evaluate", "--pred", result, "--ref", result, "--input", str(scan), "--metrics", "psnr", "-q"]
    assert main([*words, "--no-intensity-fit", "--json", str(tmp_path / "judged.json")]) == 0
    judged = json.loads((tmp_path / "judged.json").read_text())["data_consistency"]
    assert judged["assumed"] == record["data_consistency"]["assumed"]
    assert judged["rms_over_range"] == pytest.approx(record["data_consistency"]["rms_over_range"], rel=0.05)


@pytest.mark.parametrize("profile", ["box:0.8", "none,none,gaussian:0.7"])
def test_a_stated_profile_is_what_evaluate_judges_by(low, bundle, tmp_path, profile):
    scan, result = tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"
    save(low, scan)
    words = ["--bundle", str(bundle), "--voxel-size", "3", "--profile", profile, "-q"]
    assert main(["enhance", str(scan), "-o", str(result), *words]) == 0
    words = ["--input", str(scan), "--metrics", "psnr", "-q", "--json", str(tmp_path / "judged.json")]
    assert main(["evaluate", "--pred", str(result), "--ref", str(result), *words, "--no-intensity-fit"]) == 0
    record, judged = (json.loads((tmp_path / name).read_text()) for name in ("out.json", "judged.json"))
    assert record["sampling"]["stated"][2] == profile.rpartition(",")[2]
    assert judged["data_consistency"]["assumed"] == record["data_consistency"]["assumed"]


@pytest.mark.parametrize("content", ["{", "[1]", '{"SliceThickness": "thick"}', '{"SliceThickness": 0}', ""])
def test_an_odd_sidecar_says_nothing(low, tmp_path, content):
    save(low, tmp_path / "a.nii.gz")
    (tmp_path / "a.json").write_text(content)
    scan = load(tmp_path / "a.nii.gz")
    assert scan.slices is None and scan.warnings == load(tmp_path / "a.nii.gz").warnings


@pytest.mark.parametrize("name", ["sub-1_part-phase_T2starw", "sub-1_T2starw"])
def test_phase_images_are_warned_of_in_nifti_too(low, tmp_path, name):
    save(low, tmp_path / f"{name}.nii.gz")
    if "part" not in name:
        (tmp_path / f"{name}.json").write_text(json.dumps({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}))
    assert any("phase image" in warning for warning in load(tmp_path / f"{name}.nii.gz").warnings)


def test_a_dicom_series_says_it(tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from dicom_maker import slices, write

    datasets = slices()
    for one in datasets:
        one.SliceThickness = 2
    scan = load(write(tmp_path / "export", datasets))
    step_mm = float(np.linalg.norm(scan.stored.affine[:3, 2]))
    assert scan.slices == SliceGeometry(2.0, pytest.approx(step_mm))
    assert not scan.warnings and isinstance(scan.volume.data_XYZ, torch.Tensor)
