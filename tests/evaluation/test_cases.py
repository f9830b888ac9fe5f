"""Which scans take part, and that a case is what `moediff degrade` makes."""

import pytest
from torch.testing import assert_close

from moediff.cli import main
from moediff.errors import ConfigError, InputMissing
from moediff.evaluation.cases import Case, Scan, find_scans, mni152
from moediff.simulate.recipe import NAMED
from moediff.volume.geometry import canonicalise
from moediff.volume.io import load, save

SHAPE = (30, 34, 36)


@pytest.fixture
def data(tmp_path, make_phantom):
    """Two scans and a mask in `val`."""
    (tmp_path / "val").mkdir()
    for name in ("b_T1w.nii.gz", "a_T2w.nii", "a_mask.nii.gz"):
        save(make_phantom(SHAPE), tmp_path / "val" / name)
    (tmp_path / "val" / "notes.txt").write_text("not a scan")
    return tmp_path


def test_all_scans_of_a_folder_but_masks(data):
    assert [s.name for s in find_scans(data)] == ["a_T2w", "b_T1w"]
    assert [s.counts for s in find_scans(data, shown_only=["b_T1w"])] == [True, False]


def test_named_scans_with_or_without_suffix_and_files_elsewhere(data, tmp_path, make_phantom):
    save(make_phantom(SHAPE), tmp_path / "own.nii.gz")
    names = [s.name for s in find_scans(data, ["b_T1w", "a_T2w.nii", str(tmp_path / "own.nii.gz")])]
    assert names == ["b_T1w", "a_T2w", "own"]


@pytest.mark.parametrize("where", [None, "empty"])
def test_without_scans_mni152_stands_in(where, tmp_path, mni_path):
    assert find_scans(where and tmp_path / where) == [Scan("MNI152", mni_path)]
    assert mni152() == mni_path


def test_wrong_names_are_refused(data, tmp_path):
    with pytest.raises(InputMissing, match="no scan 'c'"):
        find_scans(data, ["c"])
    with pytest.raises(ConfigError, match="share a name"):
        find_scans(data, ["b_T1w", str(data / "val" / "b_T1w.nii.gz")])
    (tmp_path / "e" / "val").mkdir(parents=True)
    with pytest.raises(InputMissing, match="no NIfTI scans here"):
        find_scans(tmp_path / "e")


def test_a_case_is_what_the_degrade_command_makes(data, tmp_path):
    path = data / "val" / "b_T1w.nii.gz"
    assert main(["degrade", str(path), "--recipe", "mixed", "--seed", "3", "-o", str(tmp_path / "low.nii"), "-q"]) == 0
    truth, low = Case(Scan("b", path), NAMED["mixed"], 3).make()
    made = load(tmp_path / "low.nii").volume
    assert_close(low.data_XYZ, made.data_XYZ, atol=1e-3, rtol=1e-6)
    assert_close(low.affine, made.affine, atol=1e-4, rtol=0)
    assert_close(truth.data_XYZ, load(path).volume.data_XYZ)


def test_slices_are_axial_however_the_scan_is_stored(tmp_path, make_phantom, stored):
    save(stored(make_phantom(SHAPE), (2, 0, 1), (0,)), tmp_path / "turned.nii.gz")
    truth, low = Case(Scan("turned", tmp_path / "turned.nii.gz"), NAMED["thick3"], 0).make()
    assert truth.shape == SHAPE and low.shape == (30, 34, 12)
    assert canonicalise(low)[0].affine.equal(low.affine)
