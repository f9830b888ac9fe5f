"""`moediff bids`: a dataset of phantoms in, a BIDS derivative with pages out."""

import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from study_maker import make_study

from moediff.cli.main import main
from moediff.report.data import source_beside

for needed in ("pathspec", "jinja2"):
    pytest.importorskip(needed)


@pytest.fixture(scope="session")
def three(tmp_path_factory) -> Path:
    """A dataset of three participants, 8 scans; do not change it."""
    return make_study(tmp_path_factory.mktemp("study") / "bids", 3)


@pytest.fixture(scope="session")
def enhanced(three, tmp_path_factory, bundle) -> Path:
    """A folder with `bids` and its derivative `out`, all maps; copy it to change it."""
    folder = tmp_path_factory.mktemp("enhanced")
    shutil.copytree(three, folder / "bids")
    assert run(folder, bundle, "--uncertainty", "--experts", "--mask", "--viewer") == 0
    return folder


@pytest.fixture
def study(enhanced, tmp_path) -> Path:
    """A copy of `enhanced`, file times kept."""
    shutil.copytree(enhanced, tmp_path / "s")
    return tmp_path / "s"


MAPS = ("--uncertainty", "--experts", "--mask", "--viewer")


def run(folder: Path, bundle: Path, *words: str, level: str = "participant") -> int:
    options = ["--bundle", str(bundle), "--voxel-size", "6", "--runner", "serial", "-q", "--skip-bids-validation"]
    return main(["bids", str(folder / "bids"), str(folder / "out"), level, *options, *words])


def results(folder: Path) -> dict[str, int]:
    """Result -> when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / "out").rglob("*_desc-sr_*.nii.gz"))}


def test_every_scan_has_its_result_under_its_name(enhanced):
    assert list(results(enhanced)) == sorted(
        f"{who}_res-iso6_desc-sr_{suffix}.nii.gz"
        for who in ("sub-01", "sub-02", "sub-03_ses-1", "sub-03_ses-2")
        for suffix in ("T1w", "FLAIR")
    )
    scan = enhanced / "out/sub-03/ses-2/anat/sub-03_ses-2_res-iso6_desc-sr_FLAIR.nii.gz"
    assert nib.load(scan).header.get_zooms() == pytest.approx((6, 6, 6))


def validation_errors(dataset: Path) -> set[str]:
    """Codes of the errors that the official validator finds; skips where it is not installed."""
    try:
        scripts = distribution("bids-validator-deno").files or []
    except PackageNotFoundError:
        pytest.skip("bids-validator-deno is not installed")
    program = next(Path(str(file.locate())).resolve() for file in scripts if file.name == "bids-validator-deno")
    command = [str(program), str(dataset), "--format", "json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert answer["summary"]["subjectMetadata"] is not None and len(answer["summary"]["subjects"]) == 3
    return {issue["code"] for issue in answer["issues"]["issues"] if issue["severity"] == "error"}


def test_the_official_validator_passes(enhanced, tmp_path):
    assert validation_errors(enhanced / "out") == set()
    shutil.copytree(enhanced / "out", tmp_path / "out")
    folder = tmp_path / "out/sub-01/anat"
    (folder / "sub-01_res-iso6_desc-srstd_T1w.json").unlink()
    (folder / "sub-01_res-iso6_desc-sr_T1w.nii.gz").rename(folder / "sub-01_desc-sr_res-iso6_T1w.nii.gz")
    assert len(validation_errors(tmp_path / "out")) >= 2  # it does look


def test_sidecars_speak_bids(enhanced):
    folder = enhanced / "out/sub-01/anat"
    record = json.loads((folder / "sub-01_res-iso6_desc-sr_FLAIR.json").read_text())
    assert record["Sources"] == ["bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"]
    assert record["Resolution"].startswith("6 x 6 x 6 mm") and record["SkullStripped"] is False
    assert record["EchoTime"] == 0.12 and record["InversionTime"] == 2.5  # inherited from FLAIR.json
    spread = json.loads((folder / "sub-01_res-iso6_desc-srstd_FLAIR.json").read_text())
    assert spread["Sources"] == record["Sources"] and "standard deviation" in spread["Description"]
    about = json.loads((enhanced / "out/dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and about["GeneratedBy"][0]["Name"] == "MoEDiff-SR"
    assert about["DatasetLinks"] == {"raw": "../bids"} and (enhanced / "out" / about["DatasetLinks"]["raw"]).is_dir()


def test_labels_of_experts_follow_their_weights(enhanced):
    stem = enhanced / "out/sub-01/anat/sub-01_res-iso6_desc-expertsFLAIR"
    labels, weights = nib.load(f"{stem}_dseg.nii.gz"), nib.load(f"{stem}_probseg.nii.gz")
    labels_XYZ, weights_XYZE = np.asarray(labels.dataobj), weights.get_fdata()
    assert labels.get_data_dtype() == np.uint8 and np.allclose(labels.affine, weights.affine)
    inside = weights_XYZE.sum(-1) > 0.5
    assert np.array_equal(labels_XYZ, np.where(inside, weights_XYZE.argmax(-1) + 1, 0)) and 0.05 < inside.mean() < 0.95
    header, *rows = (line.split("\t") for line in Path(f"{stem}_dseg.tsv").read_text().splitlines())
    names = json.loads(Path(f"{stem}_probseg.json").read_text())["LabelMap"]
    assert header == ["index", "name", "color"]
    assert {f"volume {int(index) - 1}": name for index, name, _ in rows} == names
    assert json.loads(Path(f"{stem}_dseg.json").read_text())["Sources"] == ["bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"]


def test_report_finds_the_input_of_a_result(enhanced):
    scan = enhanced / "out/sub-01/anat/sub-01_res-iso6_desc-sr_T1w.nii.gz"
    assert source_beside(scan) == enhanced / "bids/sub-01/anat/sub-01_T1w.nii.gz"


def test_pages_show_every_scan_and_no_folder_of_this_machine(enhanced):
    index = (enhanced / "out/index.html").read_text(encoding="utf-8")
    page = (enhanced / "out/sub-03.html").read_text(encoding="utf-8")
    for name in results(enhanced):
        assert name.removesuffix(".nii.gz") in index
    assert page.count("<h2>sub-03_ses") == 4 and page.count("what was changed, axial") == 8  # caption and alt
    assert "Open the viewer" in page and str(enhanced) not in page + index and "Research use only" in page
    for link in ("sub-03.html#", "sub-01/figures/sub-01_res-iso6_desc-sr_T1w_thumbnail.png"):
        assert link in index and (enhanced / "out" / link.rstrip("#")).exists()


def test_what_is_done_is_not_done_again(study, bundle):
    before = results(study)
    assert run(study, bundle, *MAPS) == 0 and results(study) == before


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name in after if after[name] != before.get(name)}


def test_a_changed_input_is_enhanced_again_and_only_it(study, bundle):
    before = results(study)
    shutil.copy(study / "bids/sub-02/anat/sub-02_T1w.nii.gz", study / "bids/sub-01/anat/sub-01_T1w.nii.gz")
    assert run(study, bundle, *MAPS) == 0
    assert changed(before, results(study)) == {"sub-01_res-iso6_desc-sr_T1w.nii.gz"}


def test_a_changed_sidecar_of_a_scan_does_it_again_and_only_it(study, bundle):
    before = results(study)
    (study / "bids/sub-02/anat/sub-02_FLAIR.json").write_text('{"EchoTime": 0.2}')  # wins over FLAIR.json
    assert run(study, bundle, *MAPS) == 0
    name = "sub-02_res-iso6_desc-sr_FLAIR"
    assert changed(before, results(study)) == {f"{name}.nii.gz"}
    assert json.loads((study / f"out/sub-02/anat/{name}.json").read_text())["EchoTime"] == 0.2
    before = results(study)
    assert run(study, bundle, *MAPS) == 0 and results(study) == before


def test_a_page_that_was_not_written_before_is_written_and_one_that_is_not_wanted_goes(study, bundle):
    page = study / "out/sub-01/figures/sub-01_res-iso6_desc-sr_T1w.html"
    page.unlink()
    assert run(study, bundle, "--participant-label", "01", *MAPS) == 0 and page.exists()
    assert run(study, bundle, "--participant-label", "01", "--tta", "2", *MAPS[:3]) == 0 and not page.exists()


@pytest.mark.parametrize("words", [("--tta", "2", *MAPS), ("--uncertainty", "--experts")])
def test_other_options_do_everything_again(words, study, bundle):
    before = results(study)
    assert run(study, bundle, "--participant-label", "01", *words) == 0
    assert {name[:6] for name in changed(before, results(study))} == {"sub-01"}


@pytest.mark.parametrize(
    "lost", ["desc-sr_T1w.json", "desc-srstd_T1w.nii.gz", "desc-srT1w_mask.json", "desc-expertsT1w_dseg.tsv"]
)
def test_a_result_that_lost_a_file_is_done_again(lost, study, bundle):
    if lost.endswith("sr_T1w.json"):  # without a sidecar the scan may be anybody's
        (study / "out/sub-01/anat/sub-01_res-iso6_desc-sr_T1w.nii.gz").unlink()
    before = results(study)
    (study / f"out/sub-01/anat/sub-01_res-iso6_{lost}").unlink()
    assert run(study, bundle, *MAPS) == 0
    assert changed(before, results(study)) == {"sub-01_res-iso6_desc-sr_T1w.nii.gz"}
    assert (study / f"out/sub-01/anat/sub-01_res-iso6_{lost}").exists()


def test_another_participant_costs_one_page_and_the_index(study, bundle, capsys):
    shutil.copytree(study / "bids/sub-01", study / "bids/sub-09")
    for path in (study / "bids/sub-09/anat").iterdir():
        path.rename(path.with_name(path.name.replace("sub-01", "sub-09")))
    before = {page.name: page.stat().st_mtime_ns for page in (study / "out").glob("*.html")}
    assert run(study, bundle, *MAPS) == 0
    after = {page.name: page.stat().st_mtime_ns for page in (study / "out").glob("*.html")}
    assert {name for name in after if after[name] != before.get(name)} == {"sub-09.html", "index.html"}
    assert "sub-09.html#" in (study / "out/index.html").read_text(encoding="utf-8")


def test_pages_can_be_drawn_from_files_alone(study, bundle):
    for figures in (study / "out").glob("sub-*/figures"):
        shutil.rmtree(figures)
    for page in (study / "out").glob("*.html"):
        page.unlink()
    assert run(study, bundle, level="group") == 0
    text = (study / "out/sub-01.html").read_text(encoding="utf-8")
    assert text.count("what was changed, axial") == 4 and "No pictures" not in text


def test_dry_run_names_what_cannot_be_read(study, bundle, capsys):
    (study / "bids/sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"no scan")
    assert run(study, bundle, "--dry-run", *MAPS) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("cannot be read"))
    assert "sub-01_T1w.nii.gz" in line and "--like" not in line


def test_dry_run_names_everything_and_writes_nothing(study, bundle, capsys):
    before = sorted(path for path in study.rglob("*"))
    shutil.rmtree(study / "out/sub-01")
    assert run(study, bundle, "--dry-run", *MAPS) == 0
    lines = capsys.readouterr().out.splitlines()
    todo = [line for line in lines if line.startswith("to do")]
    assert (
        len(lines) == 8 and len(todo) == 2 and todo[0].endswith("out/sub-01/anat/sub-01_res-iso6_desc-sr_FLAIR.nii.gz")
    )
    assert sorted(path for path in study.rglob("*")) == [p for p in before if "out/sub-01/" not in f"{p}/"]
