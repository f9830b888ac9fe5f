"""Files of two BIDS folders find their partners, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.core.errors import DataError, InputMissing
from moediff.evaluation.bids import key_of, match


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub-01_T1w.nii.gz", ("sub-01", "T1w")),
        ("sub-01_ses-2_run-1_desc-sr_T2w.nii", ("run-1", "ses-2", "sub-01", "T2w")),
        ("sub-01_res-1mm_space-orig_FLAIR.nii.gz", ("sub-01", "FLAIR")),
        ("sub-01_desc-brain_mask.nii.gz", None),
        ("sub-01_T1w.json", None),
        ("T1w.nii.gz", None),
        ("sub-01.nii.gz", None),
        ("sub-01_desc-sr.nii.gz", None),
    ],
)
def test_names_say_what_a_file_shows(name, key):
    assert key_of(Path("x") / name) == key


def test_person_session_run_and_contrast_decide(tmp_path):
    ref = fill(
        tmp_path / "ref",
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-02/anat/sub-02_T2w.nii",
        "sub-03/anat/sub-03_T1w.nii.gz",
        "derivatives/x/sub-02/sub-02_T2w.nii.gz",
        "sub-02/anat/sub-02_mask.nii.gz",
    )
    pred = fill(
        tmp_path / "pred",
        "sub-01/ses-b/anat/sub-01_ses-b_desc-sr_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_desc-sr_T1w.nii.gz",
        "sub-02/anat/sub-02_desc-sr_T2w.nii.gz",
        "sub-04/anat/sub-04_desc-sr_T1w.nii.gz",
        "sub-02/anat/sub-02_desc-sr_T2w.json",
    )
    pairs, left = match(pred, ref)
    assert [(p.pred.name, p.ref.name) for p in pairs] == [
        ("sub-01_ses-a_desc-sr_T1w.nii.gz", "sub-01_ses-a_T1w.nii.gz"),
        ("sub-01_ses-b_desc-sr_T1w.nii.gz", "sub-01_ses-b_T1w.nii.gz"),
        ("sub-02_desc-sr_T2w.nii.gz", "sub-02_T2w.nii"),
    ]
    assert [r.files for r in left] == [
        {"ref": "sub-03_T1w.nii.gz"},
        {"pred": "sub-04_desc-sr_T1w.nii.gz"},
    ]
    assert "no prediction has" in left[0].error and "no reference has" in left[1].error


def test_two_predictions_of_one_scan_are_not_guessed_between(tmp_path):
    ref = fill(tmp_path / "ref", "sub-1_T1w.nii.gz", "sub-2_T1w.nii.gz")
    pred = fill(tmp_path / "pred", "sub-1_desc-a_T1w.nii.gz", "sub-1_desc-b_T1w.nii.gz", "sub-2_T1w.nii.gz")
    pairs, left = match(pred, ref)
    assert [p.pred.name for p in pairs] == ["sub-2_T1w.nii.gz"] and len(left) == 2
    assert all("sub-1_desc-a_T1w.nii.gz, sub-1_desc-b_T1w.nii.gz" in r.error for r in left)


def test_folders_without_scans_or_partners_are_refused(tmp_path):
    ref = fill(tmp_path / "ref", "sub-1_T1w.nii.gz")
    with pytest.raises(InputMissing, match="no such folder"):
        match(tmp_path / "gone", ref)
    with pytest.raises(InputMissing, match="no scans called sub-"):
        match(fill(tmp_path / "empty", "readme.txt"), ref)
    with pytest.raises(DataError, match="no prediction in"):
        match(fill(tmp_path / "pred", "sub-2_T1w.nii.gz"), ref)
