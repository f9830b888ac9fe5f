"""File names of results and sidecars."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.io.naming import default_output, sidecar_of, stem_of

STEMS = {
    "scan.nii.gz": "scan",
    "scan.nii": "scan",
    "SCAN.NII.GZ": "SCAN",
    "sub-01_T1w.nii.gz": "sub-01_T1w",
    "a.b.c.nii": "a.b.c",
    "scan.img": "scan",
    "scan": "scan",
    "v1.5": "v1",
}


@pytest.mark.parametrize(("name", "stem"), STEMS.items())
def test_stem_of_table(name, stem):
    assert stem_of(Path("folder.nii") / name) == stem


DEFAULTS = {
    "sub-01_T1w.nii.gz": "sub-01_desc-sr_T1w.nii.gz",
    "sub-01_ses-2_acq-thick_FLAIR.nii": "sub-01_ses-2_acq-thick_desc-sr_FLAIR.nii.gz",
    "scan.nii.gz": "scan_desc-sr.nii.gz",
    "brain.v2.nii": "brain.v2_desc-sr.nii.gz",
    "SCAN.NII.GZ": "SCAN_desc-sr.nii.gz",
    "sub-01_desc-preproc_T1w.nii.gz": "sub-01_desc-sr_T1w.nii.gz",
    "sub-01_space-MNI_desc-brain_T2w.nii": "sub-01_space-MNI_desc-sr_T2w.nii.gz",
    "scan_desc-preproc.nii.gz": "scan_desc-sr.nii.gz",
    "sub-01_desc-sr_T1w.nii.gz": "sub-01_desc-sr2_T1w.nii.gz",
    "scan_desc-sr.nii.gz": "scan_desc-sr2.nii.gz",
}


@pytest.mark.parametrize(("name", "expected"), DEFAULTS.items())
def test_default_output_lies_beside_the_input(name, expected):
    assert default_output(Path("data") / name) == Path("data") / expected


def test_the_sidecar_is_the_json_beside_the_scan():
    assert sidecar_of(Path("a/b_T1w.nii.gz")) == Path("a/b_T1w.json")
