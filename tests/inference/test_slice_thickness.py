"""Slice thickness: DICOM tag and BIDS sidecar in the record, and on request in the acquisition model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.operators import assumed_sampling, with_thickness
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError
from moediff.core.geometry import axis_positions
from moediff.core.volume import Volume
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.inference.outputs import OutputPaths
from moediff.inference.run import EnhanceRequest
from moediff.inference.several_plan import plan_several
from moediff.io.loaded import SliceGeometry
from moediff.io.scans import from_volume, load, save
from several_scans import lopsided

pytestmark = pytest.mark.fault(62)
FINE = EnhanceOptions(voxel_size=(3.0,))


def thin_slices(truth: Volume, factor: float = 4) -> Volume:
    """12 mm apart, or as many voxels as stated; half as thick, no noise."""
    axes = (AxisRecipe(), AxisRecipe(), AxisRecipe(method="gaussian", factor=factor, thickness=0.5))
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


def test_coarse_target_voxels_take_a_thickness_too(low):
    """Slices three times as thick as the plane's voxels remain slices, whatever is asked for."""
    plan = plan_grids(from_volume(low), EnhanceOptions(voxel_size=(3.0, 3.0, 8.0), slice_thickness=6.0))
    assert plan.sampling is not None
    assert [(one.method, one.width) for one in plan.sampling] == [("none", 1), ("none", 1), ("gaussian", 0.5)]


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


SEVERAL = EnhanceOptions(voxel_size=(3.0,), align=False)


@pytest.fixture(scope="module")
def nearly_isotropic(truth) -> Volume:
    """The same head in voxels of 3.6 mm: finer than slices, coarser than the result."""
    return degrade(
        lopsided(truth), Recipe(axes=(AxisRecipe(method="truncate", factor=1.2),) * 3, name="3.6"), rng_for(0)
    )


@pytest.fixture(scope="module")
def gap(truth) -> Volume:
    """And in slices 6 mm apart, 3 mm thick."""
    return thin_slices(lopsided(truth), 2)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("align", [True, False])
def test_of_several_scans_those_without_thick_slices_ignore_it(gap, nearly_isotropic, order, align):
    scans = [from_volume(scan) for scan in (gap, nearly_isotropic)][::order]
    plan = plan_several(scans, replace(SEVERAL, slice_thickness=3.0, align=align))
    widths = None if plan.sampling is None else plan.sampling[2].width
    assert widths == (0.5 if order == 1 else None)
    header = replace(scans[::order][0], slices=SliceGeometry(3.0, 6.0))
    plan_several([header, scans[::order][1]], replace(SEVERAL, slice_thickness="header", align=align))


def test_several_scans_are_enhanced_with_the_thickness_of_the_thick_ones(gap, nearly_isotropic, enhancer):
    for scans in ([gap, nearly_isotropic], [nearly_isotropic, gap]):
        records = enhancer(scans, replace(SEVERAL, slice_thickness=3.0)).sidecar.scans
        assert sorted(record.sampling[2] for record in records if record.sampling)[0] == "gaussian:0.5"


@pytest.fixture
def no_work(monkeypatch) -> None:
    """Registration, the first work of several scans, must not begin."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr("moediff.inference.enhancer.aligned_scans", never)


@pytest.fixture
def paths(gap, nearly_isotropic, tmp_path) -> list[Path]:
    """The second one has thick slices."""
    names = {"first": nearly_isotropic, "second": gap}
    for name, scan in names.items():
        save(scan, tmp_path / f"{name}.nii.gz")
    return [tmp_path / f"{name}.nii.gz" for name in names]


@pytest.mark.parametrize(
    ("thickness", "sentence"), [("header", "--slice-thickness header: neither"), (1.0, "--slice-thickness is 1 mm")]
)
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.usefixtures("no_work")
def test_a_later_scan_that_it_does_not_fit_is_refused_before_any_work(paths, enhancer, thickness, sentence, align):
    if align:
        pytest.importorskip("SimpleITK")
    options, output = replace(SEVERAL, slice_thickness=thickness, align=align), paths[0].with_name("out.nii.gz")
    request = EnhanceRequest(source=paths, options=options, outputs=OutputPaths(scan=output))
    for refused in (lambda: request.planned, lambda: enhancer(paths, options)):
        with pytest.raises(ConfigError, match=f"second.nii.gz: {sentence}"):
            refused()


def test_several_scans_without_thick_slices_have_no_thickness_to_assume(nearly_isotropic):
    scans = [from_volume(nearly_isotropic)] * 2
    with pytest.raises(ConfigError, match="no scan has such"):
        plan_several(scans, replace(SEVERAL, slice_thickness=3.0))


def test_a_dry_run_of_several_scans_takes_it(gap, nearly_isotropic, bundle, tmp_path, capsys):
    for name, scan in (("first", gap), ("second", nearly_isotropic)):
        save(scan, tmp_path / f"{name}.nii.gz")
    paths = [str(tmp_path / "first.nii.gz"), str(tmp_path / "second.nii.gz")]
    words = ["--bundle", str(bundle), "--voxel-size", "3", "--slice-thickness", "3", "--no-align", "--dry-run"]
    assert main(["enhance", *map(str, paths), *words]) == 0
    assert len(json.loads(capsys.readouterr().out)["inputs"]) == 2


def test_a_later_scan_of_labels_is_refused_before_any_work(low):
    labels = from_volume(low.with_data((low.data_XYZ > 300).float()))
    with pytest.raises(DataError, match="expected a scan, found a mask"):
        plan_several([from_volume(low), labels], SEVERAL)
    plan_several([from_volume(low), labels], replace(SEVERAL, trust_intensities=True))
