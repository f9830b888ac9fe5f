"""Index of a BIDS dataset: which scans are found, by names alone."""

import json
import os

import pytest

from moediff.cohort.bids_filters import read_filters
from moediff.cohort.bids_index import Selection, index_dataset, left_out
from moediff.cohort.bids_metadata import metadata_of, still_true
from moediff.core.errors import ConfigError, DataError, InputMissing

pytest.importorskip("pathspec")


@pytest.fixture
def make(tmp_path):
    """`make(*paths)` creates empty files in a dataset and returns its folder."""

    def create(*paths: str):
        for path in paths:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path

    return create


def found(root, **wanted) -> list[str]:
    return [str(scan.name) for scan in index_dataset(root, Selection(**wanted)).scans]


def test_scans_of_sessions_and_without_are_found_and_nothing_else(make):
    root = make(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/sub-01_T2starw.nii.gz",
        "sub-01/func/sub-01_task-x_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_FLAIR.nii",
        "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz",
        "sub-02/ses-a/anat/sub-01_T2w.nii.gz",
        "sub-02/ses-a/anat/._sub-02_ses-a_T2w.nii.gz",
        "derivatives/x/sub-03/anat/sub-03_T1w.nii.gz",
        "sourcedata/sub-04/anat/sub-04_T1w.nii.gz",
        ".git/annex/objects/sub-05/anat/sub-05_T1w.nii.gz",
    )
    assert found(root) == ["sub-01_T1w.nii.gz", "sub-02_ses-a_T2w.nii.gz", "sub-02_ses-b_FLAIR.nii"]
    assert found(root, participants=("sub-02",), sessions=("b",)) == ["sub-02_ses-b_FLAIR.nii"]
    assert found(root, suffixes=("T2starw",)) == ["sub-01_T2starw.nii.gz"]


def test_bidsignore_counts_as_git_reads_it(make):
    root = make(*(f"sub-0{n}/anat/sub-0{n}_run-{run}_T1w.nii.gz" for n in (1, 2) for run in (1, 2)))
    (root / ".bidsignore").write_text("# made by hand\n\n*_run-2_*\nsub-02/\n!sub-01/anat/sub-01_run-2_T1w.nii.gz\n")
    index = index_dataset(root, Selection())
    assert [str(scan.name) for scan in index.scans] == ["sub-01_run-1_T1w.nii.gz", "sub-01_run-2_T1w.nii.gz"]
    assert index.ignored == 2 and index.without == ("02",)


def test_scans_that_were_deleted_or_ignored_are_left_out(make):
    root = make("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    paths = [f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2, 3)]
    assert list(map(left_out(root), paths)) == [False, False, True]
    (root / ".bidsignore").write_text("sub-02/\n")
    assert list(map(left_out(root), paths)) == [False, True, True]
    assert not any(map(left_out(root / "not mounted"), paths))


def test_links_that_were_never_fetched_are_marked(make):
    root = make("sub-01/anat/sub-01_T1w.nii.gz")
    os.symlink("../../.git/annex/objects/gone", root / "sub-01/anat/sub-01_T2w.nii.gz")
    assert [(str(s.name), s.fetched) for s in index_dataset(root, Selection()).scans] == [
        ("sub-01_T1w.nii.gz", True),
        ("sub-01_T2w.nii.gz", False),
    ]


def test_phase_images_are_no_scans_unless_asked_for(make, tmp_path):
    names = [f"sub-01_part-{part}_T1w.nii.gz" for part in ("mag", "phase", "real")]
    root = make(*(f"sub-01/anat/{name}" for name in names))
    assert found(root) == names[:1]
    (tmp_path / "filter.json").write_text('{"t1w": {"part": "phase"}}')
    assert found(root, filters=read_filters(tmp_path / "filter.json")) == names[1:2]
    (tmp_path / "filter.json").write_text('{"t1w": {"acquisition": null}}')
    assert found(root, filters=read_filters(tmp_path / "filter.json")) == names[:1]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ("sub-01_T1w.nii", "sub-01_T1w.nii "),
        ("sub-01_desc-x_T1w.nii.gz", "desc-x"),
        ("sub-01_res-1_T1w.nii.gz", "res-1"),
    ],
)
def test_two_scans_with_one_result_are_refused_by_name(other, named, make):
    root = make("sub-01/anat/sub-01_T1w.nii.gz", f"sub-01/anat/{other}")
    with pytest.raises(DataError, match="would get the same name") as refusal:
        index_dataset(root, Selection())
    assert named in str(refusal.value) and "sub-01_T1w.nii.gz" in str(refusal.value)


def test_missing_participants_and_matches_are_said(make):
    root = make("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/1.dcm")
    with pytest.raises(InputMissing, match="no folder sub-07 here"):
        index_dataset(root, Selection(participants=("07", "01")))
    with pytest.raises(InputMissing, match="no scan of sub-01 matches --suffix FLAIR"):
        index_dataset(root, Selection(participants=("01",), suffixes=("FLAIR",)))
    with pytest.raises(InputMissing, match="DICOM files: convert them"):
        index_dataset(root, Selection(participants=("02",)))
    index = index_dataset(root, Selection())
    assert index.without == ("02",) and index.dicom == ("02",)
    with pytest.raises(InputMissing, match="moediff batch"):
        index_dataset(root / "sub-01", Selection())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"t1w": {"acquisition": "mprage"}}, ["sub-1_acq-mprage_run-01_T1w"]),
        ({"t1w": {"acquisition": None}}, ["sub-1_run-02_T1w"]),
        ({"any": {"acquisition": "*"}}, ["sub-1_acq-mprage_run-01_T1w", "sub-1_acq-x_T2w"]),
        ({"suffix": ["T1w"], "run": [1, "3"]}, ["sub-1_acq-mprage_run-01_T1w"]),
        ({"t1w": {"run": 2}, "t2w": {}}, ["sub-1_acq-x_T2w", "sub-1_run-02_T1w"]),
    ],
)
def test_filter_files(content, expected, make, tmp_path):
    root = make(
        *(f"sub-1/anat/{n}.nii" for n in ("sub-1_acq-mprage_run-01_T1w", "sub-1_run-02_T1w", "sub-1_acq-x_T2w"))
    )
    (tmp_path / "filter.json").write_text(json.dumps(content))
    assert [
        name.removesuffix(".nii") for name in found(root, filters=read_filters(tmp_path / "filter.json"))
    ] == expected


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("{", ConfigError, "not JSON"),
        ("[]", ConfigError, "expected an object"),
        ('{"t1w": {"colour": "red"}}', ConfigError, "no entity of BIDS"),
        ('{"t1w": {"run": {"a": 1}}}', ConfigError, "expected a text"),
        (None, InputMissing, "cannot be read"),
    ],
)
def test_bad_filter_files_are_refused(text, error, words, tmp_path):
    if text is not None:
        (tmp_path / "filter.json").write_text(text)
    with pytest.raises(error, match=words):
        read_filters(tmp_path / "filter.json")


def test_metadata_are_inherited_and_only_what_holds_is_kept(make):
    root = make("sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz", "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.json")
    near = {
        "EchoTime": 0.003,
        "SliceThickness": 5,
        "InstitutionName": "X",
        "SeriesDescription": "Doe",
        "AcquisitionTime": 1,
    }
    levels = {
        "T1w.json": {"MagneticFieldStrength": 3, "EchoTime": 1},
        "acq-y_T1w.json": {"FlipAngle": 9},
        "T2w.json": {"FlipAngle": 8},
        "sub-01/sub-01_T1w.json": {"RepetitionTime": 2, "EchoTime": 2},
        "sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.json": near,
    }
    for path, content in levels.items():
        (root / path).write_text(json.dumps(content))
    scan = index_dataset(root, Selection()).scans[0]
    assert metadata_of(scan) == {"MagneticFieldStrength": 3, "RepetitionTime": 2, **near}
    assert still_true(metadata_of(scan)) == {"MagneticFieldStrength": 3, "RepetitionTime": 2, "EchoTime": 0.003}
    assert still_true({"Manufacturer": "x" * 100, "EchoTime": {"a": 1}, "ScanningSequence": ["GR", "IR"]}) == {
        "ScanningSequence": ["GR", "IR"]
    }
