"""`moediff bids --combine`: several scans of one head become one result."""

import json
from dataclasses import replace

import pytest

from moediff.cli.main import main
from moediff.cohort.bids_combine import combined
from moediff.cohort.bids_index import Selection, index_dataset
from moediff.io.scans import load, save
from several_scans import lopsided, stacks_of

for needed in ("pathspec", "jinja2", "SimpleITK"):
    pytest.importorskip(needed)


@pytest.fixture
def study(tmp_path, make_phantom):
    """Two runs of a T2w of one head, across two axes, and a T1w by itself."""
    anat = tmp_path / "bids/sub-01/anat"
    anat.mkdir(parents=True)
    (tmp_path / "bids/dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    stacks = stacks_of(lopsided(make_phantom((46, 52, 44), (2.8, 2.8, 2.8))), axes=(2, 0), factor=3)
    for number, scan in enumerate(stacks.scans, 1):
        save(scan, anat / f"sub-01_run-{number}_T2w.nii.gz")
        shared = {"EchoTime": 0.1, "FlipAngle": number}
        (anat / f"sub-01_run-{number}_T2w.json").write_text(json.dumps(shared))
    save(stacks.scans[0], anat / "sub-01_run-1_T1w.nii.gz")
    return tmp_path


def test_scans_that_differ_in_one_entity_make_a_group(tmp_path):
    anat = tmp_path / "sub-01/anat"
    anat.mkdir(parents=True)
    names = ("run-1_T1w", "run-2_T1w", "acq-x_run-1_T1w", "run-1_FLAIR")
    for name in names:
        (anat / f"sub-01_{name}.nii.gz").touch()
    groups = combined(index_dataset(tmp_path, Selection()).scans, "run")
    assert sorted((replace(group.name, extension="").stem, len(group.scans)) for group in groups) == [
        ("sub-01_T1w", 2),
        ("sub-01_acq-x_run-1_T1w", 1),
        ("sub-01_run-1_FLAIR", 1),
    ]


def test_runs_become_one_result_that_names_all_of_them(study, bundle, capsys):
    words = [
        "bids",
        str(study / "bids"),
        str(study / "out"),
        "participant",
        "--combine",
        "run",
        "-q",
        "--skip-bids-validation",
    ]
    words += ["--bundle", str(bundle), "--voxel-size", "6", "--runner", "serial"]
    assert main(words) == 0
    anat = study / "out/sub-01/anat"
    assert sorted(path.name for path in anat.glob("*.nii.gz")) == [
        "sub-01_res-iso6_desc-sr_T2w.nii.gz",
        "sub-01_run-1_res-iso6_desc-sr_T1w.nii.gz",
    ]
    record = json.loads((anat / "sub-01_res-iso6_desc-sr_T2w.json").read_text())
    assert record["Sources"] == [f"bids:raw:sub-01/anat/sub-01_run-{n}_T2w.nii.gz" for n in (1, 2)]
    assert record["EchoTime"] == 0.1 and "FlipAngle" not in record  # what differs holds for neither
    before = (anat / "sub-01_res-iso6_desc-sr_T2w.json").stat().st_mtime_ns
    assert main(words) == 0 and (anat / "sub-01_res-iso6_desc-sr_T2w.json").stat().st_mtime_ns == before
    second = study / "bids/sub-01/anat/sub-01_run-2_T2w.nii.gz"
    scan = load(second)
    save(scan.volume.with_data(scan.volume.data_XYZ * 0.9), second, overwrite=True)
    assert main(words) == 0 and (anat / "sub-01_res-iso6_desc-sr_T2w.json").stat().st_mtime_ns != before
