"""The official validator before a run: what it stops, what it does not, and how often it runs."""

import os
import shutil

import pytest
from study_maker import make_study

from moediff.cli.main import main
from moediff.cohort import bids_validation

for needed in ("pathspec", "jinja2", "bids_validator_deno"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset of two participants; copy it to change it."""
    return make_study(tmp_path_factory.mktemp("made") / "bids", 2)


@pytest.fixture
def study(made, tmp_path):
    shutil.copytree(made, tmp_path / "bids")
    return tmp_path


@pytest.fixture
def run(study, bundle):
    """Enhance one scan of participant 1; further options may follow."""

    def call(*words: str) -> int:
        options = ["--bundle", str(bundle), "--voxel-size", "12", "--runner", "serial", "--suffix", "FLAIR"]
        chosen = [] if "--participant-label" in words else ["--participant-label", "01"]
        return main(["bids", str(study / "bids"), str(study / "out"), "participant", *options, *chosen, *words])

    return call


def test_an_error_stops_the_run_before_any_work(study, run, capsys):
    (study / "bids/sub-01/anat/sub-01_run-01_acq-x_T1w.nii.gz").write_bytes(b"entities in a wrong order")
    assert run() == 65
    said = capsys.readouterr().err
    assert "finds errors" in said and "sub-01_run-01_acq-x_T1w.nii.gz" in said and "--skip-bids-validation" in said
    assert not (study / "out").exists()
    assert run("--skip-bids-validation", "-q") == 0


def test_what_the_run_does_not_read_does_not_stop_it(study, run):
    for name in ("sub-02/anat/sub-02_nonsense.nii.gz", "sub-01/func/sub-01_bold.nii.gz", "derivatives/x/y.txt"):
        (study / "bids" / name).parent.mkdir(parents=True, exist_ok=True)
        (study / "bids" / name).write_text("x")
    (study / "bids/participants.tsv").write_text("participant_id\nsub-01\nsub-02\nsub-03\n")
    os.symlink("gone", study / "bids/sub-01/anat/sub-01_T2w.nii.gz")  # scans are checked as they are read
    (study / "bids/sub-01/anat/sub-01_run-2_T1w.nii.gz").touch()
    assert run("-q") == 0
    assert run("-q", "--participant-label", "02") == 65


def test_files_that_were_found_valid_are_not_looked_at_again(study, run, monkeypatch):
    calls = []
    errors = bids_validation._errors
    monkeypatch.setattr(bids_validation, "_errors", lambda *folders: calls.append(1) or errors(*folders))
    assert (run("-q"), run("-q"), len(calls)) == (0, 0, 1)
    (study / "bids/sub-01/anat/sub-01_T1w.json").write_text("{}")
    assert run("-q", "--dry-run") == 0 and len(calls) == 2


def test_a_validator_that_is_absent_or_does_not_run_is_said_once(run, monkeypatch, capsys):
    monkeypatch.setattr(bids_validation, "find_spec", lambda name: None)
    assert run("--dry-run") == 0
    assert capsys.readouterr().err.count("pip install 'moediff-sr[bids]'") == 1
    monkeypatch.undo()
    monkeypatch.setattr("deno.find_deno_bin", lambda: "/nowhere/deno")
    assert run("--dry-run") == 0
    assert "the BIDS validator did not run" in capsys.readouterr().err
