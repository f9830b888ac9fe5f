"""Inputs of a batch run: what is found, and where its result goes."""

import os

import pytest

from moediff.cohort.batch_inputs import find_inputs, mixed_folders
from moediff.cohort.work import task_name
from moediff.core.errors import ConfigError, DataError, InputMissing


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`make(*paths)` creates empty files; the folder they lie in is the current one."""
    monkeypatch.chdir(tmp_path)

    def create(*paths: str):
        for path in paths:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path

    return create


def relative(root, *inputs: str, lists=()) -> list[str]:
    return [str(scan.relative) for scan in find_inputs(inputs, lists, root / "out")]


def test_a_folder_keeps_its_folders(make):
    root = make(
        "d/a/x.nii.gz", "d/b/x.nii", "d/y.mgz", "d/z.hdr", "d/z.img", "d/notes.txt", "d/.hidden/h.nii", "d/._y.mgz"
    )
    (root / "d/._y.mgz").write_bytes(b"\0\5\x16\7")
    assert relative(root, "d") == ["a/x", "b/x", "y", "z"]


def test_results_are_no_inputs(make):
    root = make("d/x.nii.gz", "d/x_desc-sr.nii.gz", "out/deep/y.nii.gz")
    assert relative(root, "d") == ["x"] and relative(root, ".") == ["d/x"]


def test_results_are_no_inputs_of_patterns_either(make):
    root = make("d/a/x.nii.gz", "d/out/a/x_desc-sr.nii.gz", "d/out/a/x.nii.gz", "d/old/a/x_desc-experts.nii.gz")
    inputs = find_inputs(["d/**/*.nii.gz", "d/*"], [], root / "d/out")
    assert [str(scan.relative) for scan in inputs] == ["a/x"]
    assert [str(scan.relative) for scan in find_inputs(["d/a/*"], [], root / "d/a")] == ["x"]  # among the scans
    with pytest.raises(InputMissing, match="results of this program aside"):
        relative(root, "d/old/a/*")


@pytest.mark.parametrize(
    ("name", "made_by_us"),
    [
        ("x_desc-sr", True),
        ("sub-1_desc-sr2_T1w", True),
        ("x_desc-srstd", True),
        ("x_desc-srmask2", True),
        ("sub-1_desc-experts_T1w", True),
        ("sub-1_res-iso1_desc-srFLAIR_mask", True),
        ("sub-1_res-iso1_desc-expertsFLAIR_probseg", True),
        ("sub-1_desc-srr_T2w", False),
        ("sub-1_desc-expertsread_T2w", False),
    ],
)
def test_results_are_known_by_their_whole_description(name, made_by_us, make):
    root = make("d/y.nii.gz", f"d/{name}.nii.gz")
    for named in ("d", "d/*"):
        assert len(relative(root, named)) == (1 if made_by_us else 2)


def test_dots_in_names_keep_results_apart(make):
    root = make("d/1.2.840.1/1.dcm", "d/1.2.840.2/1.dcm", "d/head.v1.nii.gz", "d/head.v2.nii.gz")
    assert relative(root, "d") == ["1.2.840.1", "1.2.840.2", "head.v1", "head.v2"]


def test_files_named_singly_keep_the_folders_in_which_they_differ(make):
    root = make("d/s1/anat/t1.nii.gz", "d/s2/anat/t1.nii.gz")
    assert relative(root, "d/s1/anat/t1.nii.gz") == ["t1"]
    assert relative(root, "d/s1/anat/t1.nii.gz", "d/s2/anat/t1.nii.gz") == ["s1/anat/t1", "s2/anat/t1"]


def test_patterns_keep_what_is_below_their_first_star(make):
    root = make("d/s1/anat/t1.nii.gz", "d/s2/anat/t1.nii.gz", "d/s2/anat/t2.nii.gz", "d/s2/anat/t1.json")
    assert relative(root, "d/*/anat/t1*") == ["s1/anat/t1", "s2/anat/t1"]
    assert relative(root, "d/**/*.nii.gz") == ["s1/anat/t1", "s2/anat/t1", "s2/anat/t2"]


def test_a_list_is_read_from_where_it_lies(make):
    root = make("d/a/x.nii.gz", "d/b/y.nii.gz")
    (root / "d/list.txt").write_text("# two\n\na/x.nii.gz\nb/y.nii.gz\n")
    assert relative(root, lists=[root / "d/list.txt"]) == ["a/x", "b/y"]


def test_each_scan_counts_once(make):
    root = make("d/a/x.nii.gz")
    assert len(relative(root, "d", "d/a/x.nii.gz", "d/*/x*")) == 1


def test_a_folder_of_dicom_files_is_one_scan(make):
    root = make("d/p1/001.dcm", "d/p1/002.dcm", "d/p2/IM1.IMA", "d/p2/more/IM2.IMA")
    assert relative(root, "d") == ["p1", "p2"]
    assert mixed_folders(find_inputs(["d"], [], root / "out")) == []


@pytest.mark.parametrize("named", [".", "more/.."])
def test_a_dicom_folder_named_by_dots_keeps_its_name(make, monkeypatch, named):
    root = make("d/p1/1.dcm", "d/p1/more/notes.txt")
    monkeypatch.chdir(root / "d/p1")
    assert relative(root, named) == ["p1"]


def test_nothing_beside_dicom_files_is_passed_over(make):
    root = make("d/p1/001.dcm", "d/p1/t1.nii.gz", "d/p1/more/t2.nii.gz", "d/p1/more/002.dcm", "d/p2/t1.nii")
    assert relative(root, "d") == ["p1", "p1/more/t2", "p1/t1", "p2/t1"]
    assert relative(root, "d/p1") == ["p1", "p1/more/t2", "p1/t1"]
    assert [folder.name for folder in mixed_folders(find_inputs(["d"], [], root / "out"))] == ["p1"]


def test_one_name_for_two_is_refused_before_any_work(make):
    root = make("d/x.nii.gz", "d/x.nii", "e/sub-1_desc-a_T1w.nii", "e/sub-1_T1w.nii")
    for folder in ("d", "e"):
        with pytest.raises(DataError, match="would get the same name as results"):
            relative(root, folder)


def test_what_is_not_there_is_said(make):
    root = make("d/notes.txt")
    os.symlink("gone", root / "link.nii.gz")
    with pytest.raises(InputMissing, match="no such file or folder"):
        relative(root, "nothing.nii.gz")
    with pytest.raises(InputMissing, match="no scan in this folder"):
        relative(root, "d")
    with pytest.raises(InputMissing, match="no scan matches this pattern"):
        relative(root, "d/*.nii")
    with pytest.raises(InputMissing, match="no input was named"):
        relative(root)
    with pytest.raises(InputMissing, match="the list cannot be read"):
        relative(root, lists=[root / "gone.txt"])
    with pytest.raises(ConfigError, match="shell variable"):
        relative(root, "")
    assert relative(root, "link.nii.gz") == ["link"]  # a link that was never fetched fails as its own task


@pytest.mark.parametrize("text", ["sub-01_T1w", "a/b/scan"])
def test_plain_names_of_tasks_stay(text):
    assert task_name(text) == text.replace("/", "__")


def test_odd_names_of_tasks_stay_apart():
    odd = ["a b", "a_b", "ä", "ö", "../x", "x" * 300, "x" * 301, "\udcff", "a/b", "a__b", "a_/b", "a/_b"]
    names = [task_name(text) for text in odd]
    assert len(set(names)) == len(odd) and all(name.isascii() and len(name) <= 200 for name in names)
