"""BIDS names: their parts, the order of entities, and what derivatives are called."""

import pytest

from moediff.cohort.bids_names import BidsName, derivative_of, resolution_label, source_key


@pytest.mark.parametrize(
    ("source", "derived"),
    [
        ("sub-01_T1w.nii.gz", "sub-01_res-iso1_desc-sr_T1w.nii.gz"),
        ("sub-01_ses-x_acq-low_T2w.nii", "sub-01_ses-x_acq-low_res-iso1_desc-sr_T2w.nii.gz"),
        ("sub-01_desc-preproc_FLAIR.nii.gz", "sub-01_res-iso1_desc-sr_FLAIR.nii.gz"),
        ("sub-01_space-MNI_res-2_desc-sr_T1w.nii.gz", "sub-01_space-MNI_res-iso1_desc-sr_T1w.nii.gz"),
        (
            "sub-01_acq-a_ce-gd_rec-b_run-02_echo-1_part-mag_chunk-3_T1w.nii.gz",
            "sub-01_acq-a_ce-gd_rec-b_run-02_echo-1_part-mag_chunk-3_res-iso1_desc-sr_T1w.nii.gz",
        ),
        ("sub-01_chunk-1_label-x_T1w.nii.gz", "sub-01_chunk-1_res-iso1_label-x_desc-sr_T1w.nii.gz"),
    ],
)
def test_derivatives_keep_entities_and_replace_res_and_desc(source, derived):
    name = BidsName.parse(source)
    assert name is not None and str(name) == source
    assert str(derivative_of(name, "sr", "iso1")) == derived


@pytest.mark.parametrize("name", ["T1w", "sub-01_sub-02_T1w.nii", "sub-01_x_T1w.nii", "sub-_T1w.nii", "sub-01.nii"])
def test_other_names_are_none_of_bids(name):
    assert BidsName.parse(name) is None


@pytest.mark.parametrize(
    ("spacing_mm", "label"),
    [((1, 1, 1), "iso1"), ((0.8, 0.8, 0.8), "iso0p8"), ((1, 1, 0.5), "1x1x0p5"), ((0.9375, 0.9375, 1), "0p94x0p94x1")],
)
def test_labels_of_resolutions(spacing_mm, label):
    assert resolution_label(spacing_mm) == label and label.isalnum()


def test_a_suffix_can_be_given():
    name = BidsName.parse("sub-01_T1w.nii")
    assert str(derivative_of(name, "expertsT1w", "iso1", "probseg")) == "sub-01_res-iso1_desc-expertsT1w_probseg.nii.gz"


def test_scans_that_would_get_one_name_have_one_key():
    names = ["sub-01_T1w.nii", "sub-01_T1w.nii.gz", "sub-01_res-2_T1w.nii", "sub-01_desc-x_T1w.nii"]
    assert len({source_key(BidsName.parse(name)) for name in names}) == 1
    assert source_key(BidsName.parse("sub-01_run-1_T1w.nii")) != source_key(BidsName.parse("sub-01_T1w.nii"))
