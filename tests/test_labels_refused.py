"""Label maps where scans belong: every command refuses them with a remedy of its own, and insists on request."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from moediff.acquisition.recipe import NAMED
from moediff.benchmark.cases import Case as BenchmarkCase
from moediff.benchmark.cases import Scan
from moediff.cli.main import main
from moediff.core.errors import DataError
from moediff.report.data import ReportFiles, from_files
from moediff.study.cases import Case as StudyCase
from moediff.study.render import RenderOptions, render_case
from moediff.training.cache import ScanSource
from moediff.training.sources import load_training_scans
from moediff.training.validate import Validation

pytestmark = pytest.mark.fault(52)


@pytest.fixture
def labels(tmp_path: Path, brain_labels) -> Path:
    path = tmp_path / "sub-1_dseg.nii.gz"
    nib.save(nib.Nifti1Image(brain_labels.numpy().astype(np.uint8), np.diag([2.0, 2, 2, 1])), path)
    return path


@pytest.fixture
def scan(tmp_path: Path, brain_labels) -> Path:
    """The same head with grain, so that it looks like a scan."""
    data = brain_labels.numpy() * 100 + np.random.default_rng(0).normal(0, 5, brain_labels.shape)
    path = tmp_path / "sub-1_T1w.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([2.0, 2, 2, 1])), path)
    return path


@pytest.mark.parametrize("role", ["--pred", "--ref", "--input"])
def test_evaluate_names_its_own_options(labels, scan, role, capsys):
    files = {"--pred": scan, "--ref": scan, role: labels}
    words = ["evaluate", *(str(word) for pair in files.items() for word in pair), "--metrics", "psnr"]
    assert main(words) == 65
    said = capsys.readouterr().err
    assert "sub-1_dseg.nii.gz: expected a scan, found labels" in said
    assert "--labels, --mask or --lesions" in said and said.count("\n") == 1
    assert main([*words, "--trust-intensities", "-q"]) == 0


def test_degrade_refuses_before_anything_is_written(labels, tmp_path, capsys):
    words = ["degrade", str(labels), "-o", str(tmp_path / "low.nii.gz"), "--recipe", "thick3", "-q"]
    assert main(words) == 65
    assert "resample the labels by nearest neighbour" in capsys.readouterr().err
    assert not (tmp_path / "low.nii.gz").exists()
    assert main([*words, "--trust-intensities"]) == 0


def test_adapt_refuses_before_it_learns(labels, bundle, tmp_path, capsys):
    assert main(["adapt", str(labels), "-o", str(tmp_path / "mine"), "--bundle", str(bundle)]) == 65
    assert "sub-1_dseg.nii.gz: expected a scan, found labels" in capsys.readouterr().err


def test_a_result_on_request_says_what_it_was_made_of(labels, bundle, tmp_path):
    words = ["enhance", str(labels), "--bundle", str(bundle), "--voxel-size", "1.5", "-q", "--trust-intensities"]
    assert main([*words, "-o", str(tmp_path / "out.nii.gz")]) == 0
    assert "the scan looks like labels or a map of steps (" in (tmp_path / "out.json").read_text()


def test_a_truth_of_labels_is_refused(labels, scan, bundle, tmp_path):
    out = tmp_path / "out.nii.gz"
    assert main(["enhance", str(scan), "--bundle", str(bundle), "--voxel-size", "1.5", "-q", "-o", str(out)]) == 0
    with pytest.raises(DataError, match=r"found labels .*outlines of lesions by --lesions"):
        from_files(ReportFiles(scan=out, truth=labels))
    assert from_files(ReportFiles(scan=out, truth=labels, trust_intensities=True)).truth is not None


def test_benchmark_study_and_training_refuse_labels(labels, scan):
    with pytest.raises(DataError, match=r"found labels .*PERSON_mask"):
        BenchmarkCase(Scan("a", labels), NAMED["thick3"], 0).acquire()
    with pytest.raises(DataError, match=r"found labels .*PERSON_mask"):
        BenchmarkCase(Scan("a", scan, input=labels), NAMED["thick3"], 0).acquire()
    with pytest.raises(DataError, match=r"found labels .*--lesions"):
        render_case(StudyCase(name="a", results={"x": scan, "y": labels}, others={}), RenderOptions())
    for source in (ScanSource(path=labels.name), ScanSource(path=scan.name, input=labels.name)):
        with pytest.raises(DataError, match=r"found labels .*labels = true"):
            load_training_scans([source], labels.parent, 0)
    with pytest.raises(DataError, match=r"found labels .*validation.label_maps"):
        Validation(scans=(labels.name,)).check(labels.parent)
    Validation(label_maps=(labels.name,)).check(labels.parent)
