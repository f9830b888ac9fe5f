"""Cases of a benchmark: which scans take part, and that one equals what `moediff degrade` writes."""

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.recipe import NAMED
from moediff.benchmark.cases import Case, Scan, find_pairs, find_scans, mni152, region_names
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, InputMissing
from moediff.core.geometry import canonicalise
from moediff.core.volume import Volume
from moediff.io.scans import load, save

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
    assert [s.in_means for s in find_scans(data, excluded=["b_T1w"])] == [True, False]


def test_lesions_lie_beside_the_scan_of_their_person(data):
    assert [s.lesions for s in find_scans(data)] == [data / "val" / "a_mask.nii.gz", None]
    assert find_scans(data, ["b_T1w"])[0].lesions is None


def annotated(path, mask, tmp_path, data_XYZ):
    """A case with these outlines."""
    save(mask.with_data(data_XYZ.float()), tmp_path / "outlines.nii.gz", overwrite=True)
    return Case(Scan("b", path, lesions=tmp_path / "outlines.nii.gz"), NAMED["thick3"], 0).acquire_annotated()


def test_annotations_of_a_case(data, tmp_path):
    path = data / "val" / "b_T1w.nii.gz"
    truth = load(path).volume
    spot = torch.zeros(SHAPE)
    spot[14:16, 16:18, 17:19] = 1
    case = annotated(path, truth, tmp_path, spot)
    assert case.annotations.lesions is not None and int((case.annotations.lesions.data_XYZ > 0.5).sum()) == 8
    assert case.annotations.labels is not None and case.missing == {}
    assert set(case.annotations.labels.data_XYZ.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    corner = torch.zeros(SHAPE)
    corner[0, 0, 0] = 1
    case = annotated(path, truth, tmp_path, corner)
    assert case.annotations.lesions is None and "no lesion to judge" in case.missing["lesions"]
    case = annotated(path, Volume(spot[:-1], truth.affine), tmp_path, spot[:-1])
    assert case.annotations.lesions is None and "another grid" in case.missing["lesions"]


def test_a_scan_without_distinct_tissues_has_no_regions(tmp_path, make_phantom):
    phantom = make_phantom(SHAPE)
    grain = torch.rand(SHAPE, generator=rng_for(0))
    save(phantom.with_data((phantom.data_XYZ > 50) * (900 + grain)), tmp_path / "flat.nii.gz")
    case = Case(Scan("flat", tmp_path / "flat.nii.gz"), NAMED["thick3"], 0).acquire_annotated()
    assert case.annotations.labels is None and "cannot be separated" in case.missing["regions"]


def test_regions_of_a_case_keep_their_names():
    scores = {"psnr": 30.0}
    assert region_names({"1": scores, "3": scores}) == {"deep white matter": scores, "junction": scores}


def test_named_scans_with_or_without_suffix_and_files_elsewhere(data, tmp_path, make_phantom):
    save(make_phantom(SHAPE), tmp_path / "own.nii.gz")
    names = [s.name for s in find_scans(data, ["b_T1w", "a_T2w.nii", str(tmp_path / "own.nii.gz")])]
    assert names == ["b_T1w", "a_T2w", "own"]


def test_without_a_folder_mni152_stands_in(tmp_path, mni_path):
    assert find_scans(None) == [Scan("MNI152", mni_path)]
    assert mni152() == mni_path
    with pytest.raises(InputMissing, match=r"empty/val: no such folder"):
        find_scans(tmp_path / "empty")


def test_wrong_names_are_refused(data, tmp_path):
    with pytest.raises(InputMissing, match="no scan 'c'"):
        find_scans(data, ["c"])
    with pytest.raises(ConfigError, match="'b_T1' is not among the scans a_T2w, b_T1w: check the name"):
        find_scans(data, excluded=["b_T1"])
    with pytest.raises(ConfigError, match="share a name"):
        find_scans(data, ["b_T1w", str(data / "val" / "b_T1w.nii.gz")])
    (tmp_path / "e" / "val").mkdir(parents=True)
    with pytest.raises(InputMissing, match="no NIfTI scans here"):
        find_scans(tmp_path / "e")


def test_a_case_is_what_the_degrade_command_writes(data, tmp_path):
    path = data / "val" / "b_T1w.nii.gz"
    assert main(["degrade", str(path), "--recipe", "mixed", "--seed", "3", "-o", str(tmp_path / "low.nii"), "-q"]) == 0
    truth, low = Case(Scan("b", path), NAMED["mixed"], 3).acquire()
    written = load(tmp_path / "low.nii").volume
    assert_close(low.data_XYZ, written.data_XYZ, atol=1e-3, rtol=1e-6)
    assert_close(low.affine, written.affine, atol=1e-4, rtol=0)
    assert_close(truth.data_XYZ, load(path).volume.data_XYZ)


def test_slices_are_axial_however_the_scan_is_stored(tmp_path, make_phantom, stored):
    save(stored(make_phantom(SHAPE), (2, 0, 1), (0,)), tmp_path / "turned.nii.gz")
    truth, low = Case(Scan("turned", tmp_path / "turned.nii.gz"), NAMED["thick3"], 0).acquire()
    assert truth.shape == SHAPE and low.shape == (30, 34, 12)
    assert canonicalise(low)[0].affine.equal(low.affine)


@pytest.mark.fault(43)
def test_row43_a_pair_from_an_archive_is_not_named_after_its_patient(tmp_path):
    for name in ("a.nii.gz", "b_7T.nii.gz", "Quimby_Jane.zip"):
        (tmp_path / name).touch()
    (tmp_path / "pairs.csv").write_text("input,ref\na.nii.gz,b_7T.nii.gz\na.nii.gz,Quimby_Jane.zip\n")
    assert [scan.name for scan in find_pairs(tmp_path / "pairs.csv")] == ["b_7T", "pair-2"]
