"""Several series of one study become one result; what does not belong together is refused in a sentence."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest
from torch.testing import assert_close

pytest.importorskip("pydicom", reason="pydicom is not installed")
import pydicom
from dicom_maker import SECRETS, slices, stack_of, write

import moediff
from moediff.cli.main import main
from moediff.core.errors import ConfigError, OutputFailed
from moediff.io.dicom.writer import remapped
from moediff.io.scans import load, load_several, save

NUMBERS = (3, 5, 7)
OTHER_STUDY = {"StudyInstanceUID": "1.2.4", "StudyDescription": "Quimby neck"}


@pytest.fixture(scope="module")
def study(tmp_path_factory, still_stacks):
    """Three planes of a phantom as series 3, 5 and 7, a localizer as 1, and a plane of another study as 9."""
    folder = tmp_path_factory.mktemp("dicom") / "export"
    for number, scan in zip(NUMBERS, still_stacks.scans, strict=True):
        write(folder, stack_of(scan, number, SeriesDescription="t2 tse of Jane"), f"{number}_")
    write(folder, slices(series="1.2.3.1", number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "1_")
    write(folder, stack_of(still_stacks.scans[0], 9, series="1.2.4.9", **OTHER_STUDY), "9_")
    return folder


@pytest.fixture
def run(study, bundle, tmp_path):
    """`run(series, *options)` -> exit code; the result is tmp_path / out.nii.gz."""
    rest = ["-o", str(tmp_path / "out.nii.gz"), "--bundle", str(bundle), "--voxel-size", "4", "--no-align"]
    return lambda series, *options: main(["enhance", str(study), "--series", series, *rest, *options])


def test_three_series_become_what_their_scans_become(run, still_stacks, tmp_path, bundle):
    assert run("3,5,7", "-q") == 0
    names = ["ax", "sag", "cor"]
    for name, scan in zip(names, still_stacks.scans, strict=True):
        save(scan.with_data(scan.data_XYZ.round().clamp(0, 4000)), tmp_path / f"{name}.nii.gz")
    paths = [tmp_path / f"{name}.nii.gz" for name in names]
    expected = moediff.enhance(paths, bundle=bundle, voxel_size=(4.0,), align=False)
    result = load(tmp_path / "out.nii.gz").volume
    assert_close(result.affine, expected.volume.affine, atol=1e-4, rtol=0)
    assert_close(result.data_XYZ, expected.volume.data_XYZ, atol=0.5, rtol=0)
    record = json.loads((tmp_path / "out.json").read_text())
    assert [scan["name"] for scan in record["scans"]] == ["series-3_MR", "series-5_MR", "series-7_MR"]
    assert all(scan["left_out"] is None for scan in record["scans"])


@pytest.mark.fault(43)
def test_nothing_personal_comes_out_and_the_first_series_names_the_result(study, bundle, tmp_path, capsys):
    folder = tmp_path / "Quimby"
    shutil.copytree(study, folder)
    options = ["--bundle", str(bundle), "--voxel-size", "4", "--no-align", "-v"]
    assert main(["enhance", str(folder), "--series", "5", "--series", "3,7", *options]) == 0
    assert main(["dicom", "list", str(study)]) == 0
    out = tmp_path / "series-5_desc-sr_MR.nii.gz"
    sidecar = (tmp_path / "series-5_desc-sr_MR.json").read_bytes()
    assert len(json.loads(sidecar)["scans"]) == 3
    everything = gzip.decompress(out.read_bytes()) + sidecar + "".join(capsys.readouterr()).encode()
    assert [secret for secret in SECRETS if secret.encode() in everything.lower()] == []


def test_a_zip_works_too_and_a_dry_run_counts_all(study, tmp_path, bundle, capsys):
    archive = shutil.make_archive(str(tmp_path / "export"), "zip", study)
    options = ["--bundle", str(bundle), "--no-align", "--dry-run", "--voxel-size", "4"]
    assert main(["enhance", archive, "--series", "3, 5,1.2.3.7", *options]) == 0
    assert len(json.loads(capsys.readouterr().out)["inputs"]) == 3


def test_without_a_choice_a_folder_of_several_is_refused_as_before(study, capsys):
    assert main(["enhance", str(study), "--dry-run"]) == 65
    assert "there are 4 usable series, expected one: choose one with --series" in capsys.readouterr().err


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    ("series", "words"),
    [
        ("3,8", "no series has this number or UID (8); there are 1: MR 2D GR"),
        ("3,1.2.9", "no series has this number or UID; there are 1: MR 2D GR"),
        ("3,5,3", "series 3 is named twice"),
        ("3,1.2.3.3", "series 3 is named twice"),
        ("3,1", "series 1: this is a localizer"),
        ("3,9,5", "of 2 studies (study 1, ... brain: series 3, 5; study 2, ... neck: series 9), expected scans of one"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_a_sentence(run, tmp_path, capsys, series, words):
    assert run(series) == 65
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert [secret for secret in SECRETS if secret in said.lower()] == []
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--series", "3,,5"], "'3,,5' holds an empty number"),
        (["--series", "3", "5", "7"], "unrecognized arguments: 5 7; several series have commas between them"),
        (["--series", "3,", "5"], "holds an empty number"),
    ],
)
def test_a_list_in_another_form_is_a_wrong_usage(study, capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        main(["enhance", str(study), *words])
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_options_that_do_not_go_with_several_series_are_refused(run, study, still_stacks, tmp_path, capsys):
    assert run("3,5", "--adapt") == 78 and "fine-tunes on one scan" in capsys.readouterr().err
    assert run("3,5", "--volume", "0") == 78 and "choices for NIfTI files" in capsys.readouterr().err
    save(still_stacks.scans[0], tmp_path / "scan.nii.gz")
    assert main(["enhance", str(tmp_path / "scan.nii.gz"), "--series", "3,5"]) == 78
    assert "choice for a folder or zip of DICOM files" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["batch", str(study), "-o", str(tmp_path / "many"), "--series", "3,5"])
    assert stopped.value.code == 2 and "`moediff enhance` makes one of several" in capsys.readouterr().err


def test_a_new_series_refers_to_all_that_it_was_made_from(run, study, tmp_path):
    assert run("3,5,7", "-q", "--dicom-out", str(tmp_path / "new")) == 0
    one = pydicom.dcmread(min((tmp_path / "new").iterdir()))
    references = {ref.SeriesInstanceUID: ref.ReferencedInstanceSequence for ref in one.ReferencedSeriesSequence}
    assert list(references) == [remapped(f"1.2.3.{number}") for number in NUMBERS]
    listed = [image.ReferencedSOPInstanceUID for images in references.values() for image in images]
    assert [image.ReferencedSOPInstanceUID for image in one.SourceImageSequence] == listed
    assert len(listed) == len(set(listed)) == sum(len(list(study.glob(f"{n}_*"))) for n in NUMBERS)
    assert (one.StudyInstanceUID, one.SeriesNumber) == (remapped("1.2.3"), 1003)
    result, again = load(tmp_path / "out.nii.gz").volume, load(tmp_path / "new").volume
    np.testing.assert_allclose(again.affine, result.affine, atol=1e-3)
    step = float(result.data_XYZ.max() - result.data_XYZ.min()) / 65535
    assert_close(again.data_XYZ, result.data_XYZ, atol=1.01 * step, rtol=0)


@pytest.mark.parametrize("option", [[], ["--guide"]], ids=["second input", "guide"])
def test_a_new_series_lies_in_no_folder_that_is_read(option, still_stacks, bundle, tmp_path, capsys):
    first = write(tmp_path / "first", stack_of(still_stacks.scans[0], 3))
    second = write(tmp_path / "second", stack_of(still_stacks.scans[1], 5))
    words = ["enhance", str(first), *option, str(second), "--bundle", str(bundle), "--voxel-size", "4", "--dry-run"]
    assert main([*words, "--no-align", "--dicom-out", str(second / "new")]) == 73
    assert "among the input's files" in capsys.readouterr().err
    assert main([*words, "--no-align", "--dicom-out", str(tmp_path / "new")]) == 0


@pytest.mark.fault(46)
def test_row46_a_page_that_fails_takes_the_new_series_with_it(run, tmp_path, monkeypatch, capsys):
    """An older result with its sidecar stays as it was, and the same command works again."""

    def full(*_: object, **__: object) -> None:
        raise OutputFailed("no room")

    for name in ("out.nii.gz", "out.json"):
        (tmp_path / name).write_text("old")
    words = ["3", "--dicom-out", str(tmp_path / "new"), "--report", str(tmp_path / "page.html"), "--overwrite", "-q"]
    with monkeypatch.context() as patched:
        patched.setattr("moediff.inference.run._draw_page", full)
        assert run(*words) == 74
    assert {path.name for path in tmp_path.iterdir()} == {"out.nii.gz", "out.json"}
    assert (tmp_path / "out.json").read_text() == "old"


def test_the_list_tells_which_series_are_of_one_study(study, tmp_path, still_stacks, capsys):
    assert main(["dicom", "list", str(study), "--json"]) == 0
    rows = {row["series"]: row for row in json.loads(capsys.readouterr().out)}
    assert {number: row["study"] for number, row in rows.items()} == {"1": 1, "3": 1, "5": 1, "7": 1, "9": 2}
    assert rows["9"]["study_description"] == "... neck"
    assert [rows[str(number)]["plane"] for number in NUMBERS] == ["axial", "sagittal", "coronal"]
    assert main(["dicom", "list", str(study)]) == 0
    said = capsys.readouterr().out
    assert "1: ... brain" in said and "2: ... neck" in said
    write(tmp_path / "one", stack_of(still_stacks.scans[0], 3))
    assert main(["dicom", "list", str(tmp_path / "one")]) == 0
    assert "study" not in capsys.readouterr().out


def test_series_of_two_folders_in_different_studies_are_warned_of(study, still_stacks, bundle, tmp_path, capsys):
    write(tmp_path / "later", stack_of(still_stacks.scans[1], 5, series="1.2.5.5", StudyInstanceUID="1.2.5"))
    first = load(study, series="3")
    options = {"bundle": bundle, "voxel_size": (4.0,), "align": False}
    result = moediff.enhance([first, load(tmp_path / "later")], **options)
    assert any("are of 2 studies" in note for note in result.sidecar.warnings)
    same = moediff.enhance(load_several(study, ["3", "5"]), **options)
    assert not any("studies" in note for note in same.sidecar.warnings)
    with pytest.raises(ConfigError, match="choice for a folder"):
        load_several(tmp_path / "none.nii.gz", ["3", "5"])


def test_a_series_of_the_same_folder_is_the_guide(run, study, tmp_path, capsys):
    assert run("3", "--guide", str(study), "--guide-series", "5", "--dicom-out", str(tmp_path / "new"), "-q") == 0
    guide = json.loads((tmp_path / "out.json").read_text())["guide"]
    assert guide["name"] == "series-5_MR" and guide["not_used"] is None
    sources = pydicom.dcmread(next((tmp_path / "new").iterdir())).ReferencedSeriesSequence
    assert len({item.SeriesInstanceUID for item in sources}) == 2
    assert run("3", "--guide", str(study), "-q") == 65
    said = capsys.readouterr().err
    assert "the guide " in said and "choose one with --guide-series" in said
