"""Faults of whole studies: one clear sentence, the right exit code, the others go on, nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_maker import every_file, make_study

from moediff.cli.main import main
from moediff.cohort.journal import journals, read_entries

for needed in ("pathspec", "jinja2"):
    pytest.importorskip(needed)


@pytest.fixture(scope="session")
def one(tmp_path_factory) -> Path:
    """A dataset of one participant; copy it to change it."""
    return make_study(tmp_path_factory.mktemp("one") / "bids", 1)


@pytest.fixture
def study(one, tmp_path) -> Path:
    """A folder with a copy of the dataset, `bids`."""
    shutil.copytree(one, tmp_path / "bids")
    return tmp_path


def words(folder: Path, bundle: Path, *more: str, validated: bool = False) -> list[str]:
    options = ["--bundle", str(bundle), "--voxel-size", "12", "--runner", "serial", "--retries", "0", *more]
    options += [] if validated else ["--skip-bids-validation"]
    return ["bids", str(folder / "bids"), str(folder / "out"), "participant", *options]


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*_desc-sr_*.nii.gz"))


T1W, FLAIR = "sub-01_res-iso12_desc-sr_T1w.nii.gz", "sub-01_res-iso12_desc-sr_FLAIR.nii.gz"


def test_nothing_is_written_into_the_dataset(study, bundle):
    before = every_file(study / "bids")
    assert main(words(study, bundle, "-q")) == 0
    assert every_file(study / "bids") == before and results(study) == [FLAIR, T1W]


def test_links_that_were_never_fetched_fail_by_themselves(study, bundle, capsys):
    anat = study / "bids/sub-01/anat"
    (anat / "sub-01_T2w.nii.gz").symlink_to("../../.git/annex/objects/ab/gone")
    (anat / "sub-01_run-2_T1w.nii.gz").write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    assert main(words(study, bundle)) == 8
    said = capsys.readouterr().err
    assert "1 scans not fetched (links without content)" in said and said.count("datalad get") == 5
    assert "sub-01_T2w failed (exit code 66)" in said and "sub-01_run-2_T1w failed (exit code 66)" in said
    assert "again, only these: moediff bids" in said and said.rstrip().endswith("--participant-label 01")
    assert results(study) == [FLAIR, T1W]
    index = (study / "out/index.html").read_text(encoding="utf-8")
    page = (study / "out/sub-01.html").read_text(encoding="utf-8")
    assert "2 failed" in index and "sub-01_T2w" in index and "sub-01_T2w" in page and str(study) not in index + page


def test_a_fetched_scan_leaves_the_list_of_failures(study, bundle, capsys):
    scan = study / "bids/sub-01/anat/sub-01_T2w.nii.gz"
    scan.symlink_to("gone")
    assert main(words(study, bundle)) == 8
    scan.unlink()
    shutil.copy(study / "bids/sub-01/anat/sub-01_T1w.nii.gz", scan)
    again = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("again"))
    assert main(again.partition("moediff ")[2].split()) == 0
    assert len(results(study)) == 3
    for page in ("index.html", "sub-01.html"):
        assert "failed" not in (study / "out" / page).read_text(encoding="utf-8").split("<body>")[1].lower()


def test_a_participant_without_scans_is_named_and_the_others_go_on(study, bundle, capsys):
    (study / "bids/sub-02/anat").mkdir(parents=True)
    (study / "bids/sub-03/anat").mkdir(parents=True)
    (study / "bids/sub-03/anat/001.dcm").touch()
    assert main(words(study, bundle)) == 0
    assert (
        "2 participants without a matching scan: sub-02, sub-03; sub-03 with DICOM files: convert them first"
        in capsys.readouterr().err
    )
    assert main(words(study, bundle, "--participant-label", "02")) == 66
    assert "no scan of sub-02 matches --suffix T1w T2w FLAIR" in capsys.readouterr().err


def test_two_scans_with_one_name_are_refused_before_any_work(study, bundle, capsys):
    anat = study / "bids/sub-01/anat"
    shutil.copy(anat / "sub-01_T1w.nii.gz", anat / "sub-01_desc-x_T1w.nii.gz")
    assert main(words(study, bundle)) == 65
    assert "would get the same name as results" in capsys.readouterr().err and not (study / "out").exists()


def test_all_entities_stay_in_the_names(study, bundle):
    anat = study / "bids/sub-01/anat"
    entities = "sub-01_acq-a_ce-gd_rec-b_run-02_echo-1_part-mag_chunk-3"
    shutil.copy(anat / "sub-01_T1w.nii.gz", anat / f"{entities}_T1w.nii.gz")
    assert main(words(study, bundle, "--suffix", "T1w", "-q")) == 0
    assert results(study) == [f"{entities}_res-iso12_desc-sr_T1w.nii.gz", T1W]


def test_an_uncertainty_that_cannot_be_had_is_refused_before_any_work(study, bundle, capsys):
    assert main(words(study, bundle, "--uncertainty", "--mode", "detail")) == 78
    assert "needs --samples 2 or more" in capsys.readouterr().err and not (study / "out").exists()


def test_bidsignore_is_said(study, bundle, capsys):
    (study / "bids/.bidsignore").write_text("*_FLAIR.nii.gz\n")
    assert main(words(study, bundle)) == 0
    assert "1 scans left out by .bidsignore" in capsys.readouterr().err and results(study) == [T1W]


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("bids", "results would lie among the scans"),
        ("bids/sub-01/out", "results would lie among the scans"),
        ("file/out", "the folder cannot be made"),
        ("other", "there are other things in this folder"),
        ("other_study", "this folder holds results of another dataset"),
    ],
)
def test_output_folders_that_cannot_be_used(out, sentence, study, bundle, capsys):
    (study / "file").touch()
    (study / "other").mkdir()
    (study / "other/thesis.txt").write_text("mine")
    (study / "other_study").mkdir()
    about = {"GeneratedBy": [{"Name": "MoEDiff-SR"}], "DatasetLinks": {"raw": "../elsewhere"}}
    (study / "other_study/dataset_description.json").write_text(json.dumps(about))
    before = every_file(study)
    options = words(study, bundle)
    options[2] = str(study / out)
    assert main(options) == 73
    assert sentence in capsys.readouterr().err and every_file(study) == before


def test_a_file_of_somebody_else_is_never_replaced(study, bundle, capsys):
    assert main(words(study, bundle, "-q", "--suffix", "FLAIR")) == 0
    foreign = study / "out/sub-01/anat" / T1W
    foreign.write_text("mine")
    assert main(words(study, bundle)) == 8
    assert "sub-01_T1w failed (exit code 73)" in capsys.readouterr().err and foreign.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (None, 66, "dataset_description.json cannot be read"),
        ("{", 65, "is not JSON"),
        ('{"Name": "x"}', 65, "lacks BIDSVersion"),
    ],
)
def test_a_dataset_without_a_valid_description(content, code, sentence, study, bundle, capsys):
    path = study / "bids/dataset_description.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert main(words(study, bundle, validated=True)) == code
    assert sentence in (said := capsys.readouterr().err) and "--skip-bids-validation" in said
    assert main(words(study, bundle, "-q")) == 0


def test_a_full_disk_leaves_nothing_partial(study, bundle, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # less than any result, more than any log
    try:
        assert main(words(study, bundle, "--no-pages")) == 8
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "failed (exit code 74)" in capsys.readouterr().err
    assert results(study) == [] and not [p for p in (study / "out").rglob("*") if p.name.startswith(".moediff")]
    assert main(words(study, bundle, "-q")) == 0 and results(study) == [FLAIR, T1W]


def test_a_batch_fails_like_a_study(study, bundle, capsys):
    folder = study / "bids/sub-01/anat"
    (folder / "cut.nii.gz").write_bytes((folder / "sub-01_T1w.nii.gz").read_bytes()[:500])
    options = ["--bundle", str(bundle), "--voxel-size", "12", "--runner", "serial", "--retries", "0"]
    assert main(["batch", str(folder), "-o", str(study / "out"), *options]) == 8
    said = capsys.readouterr().err
    assert "cut failed (exit code 65)" in said and "again, only these: moediff batch" in said
    assert results(study / "out") == ["sub-01_desc-sr_FLAIR.nii.gz", "sub-01_desc-sr_T1w.nii.gz"]
    index = (study / "out/index.html").read_text(encoding="utf-8")
    assert "pages/sub-01_desc-sr_T1w.html#" in index and (study / "out/pages/sub-01_desc-sr_T1w.html").exists()
    shutil.copy(folder / "sub-01_T1w.nii.gz", folder / "cut.nii.gz")
    times = every_file(study / "out")
    assert main(["batch", str(folder), "-o", str(study / "out"), *options, "-q"]) == 0
    assert every_file(study / "out")["sub-01_desc-sr_T1w.nii.gz"] == times["sub-01_desc-sr_T1w.nii.gz"]


def start(folder: Path, bundle: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "moediff", *words(folder, bundle, "-q", *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> int:
    _, said = process.communicate(timeout=120)
    assert b"Traceback" not in said, said
    return process.returncode


def test_killed_and_run_again_gives_the_same_bytes_and_does_nothing_twice(study, bundle):
    for number in (2, 3):
        shutil.copytree(study / "bids/sub-01", study / f"bids/sub-0{number}")
        for path in (study / f"bids/sub-0{number}/anat").iterdir():
            path.rename(path.with_name(path.name.replace("sub-01", f"sub-0{number}")))
    process = start(study, bundle)
    while not results(study / "out") and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    sidecars = {path: path.stat().st_mtime_ns for path in (study / "out").rglob("*_desc-sr_*.json")}
    assert len(sidecars) < 6
    assert finish(start(study, bundle)) == 0
    assert len(results(study)) == 6 and all(path.stat().st_mtime_ns == when for path, when in sidecars.items())
    shutil.move(study / "out", study / "first")
    assert main(words(study, bundle, "-q")) == 0
    for path in (study / "out").rglob("*.nii.gz"):
        assert path.read_bytes() == (study / "first" / path.relative_to(study / "out")).read_bytes()


def test_two_runs_on_one_folder_share_the_work(study, bundle):
    first, second = start(study, bundle), start(study, bundle)
    assert (finish(first), finish(second)) == (0, 0) and results(study) == [FLAIR, T1W]
    entries = [entry for path in journals(study / "out/logs") for entry in read_entries(path)]
    done = sorted(entry.task for entry in entries if entry.event == "done")
    assert done == ["sub-01_FLAIR", "sub-01_T1w"]
    assert sum(entry.event == "skipped" for entry in entries) == 2
