"""Records of evaluations: JSON and CSV text, the shipped schema, and keys of earlier versions."""

import csv
import io
import json
import math
import os
from dataclasses import replace

import pytest

from moediff.core.errors import DataError
from moediff.core.schema import json_schema_text, record_from
from moediff.evaluation.evaluate import Annotations, EvaluateOptions, evaluate
from moediff.evaluation.records import (
    Evaluation,
    IntensityFit,
    JudgedMask,
    Unjudged,
    as_csv,
    as_json,
    json_text,
    migrated,
    shipped_schema,
)

GOOD = Evaluation(
    files={"pred": "p,1.nii", "ref": "r.nii"},
    metrics={"psnr": 30.0},
    fit=IntensityFit(gain=2.0, offset=1.0),
    correlation=0.9,
    mask=JudgedMask(source="given", voxels=8),
    data_range=100.0,
    shape=(2, 2, 2),
    spacing_mm=(1.0, 1.0, 1.0),
    warnings=("a", "b"),
)
BAD = Unjudged(files={"pred": "q.nii", "ref": "r.nii"}, error="no such file", exit_code=66)


def test_json_has_words_for_numbers_that_it_cannot_hold():
    text = json_text({"psnr": math.inf, "x": [math.nan, 1 / 3], "n": 3, "none": None})
    assert json.loads(text) == {"psnr": "inf", "x": ["nan", 0.333333], "n": 3, "none": None}


def test_csv_has_a_row_per_pair_and_empty_cells():
    rows = list(csv.DictReader(io.StringIO(as_csv([GOOD, BAD]))))
    assert rows[0]["pred"] == "p,1.nii" and float(rows[0]["psnr"]) == 30 and float(rows[0]["gain"]) == 2
    assert rows[0]["warnings"] == "a; b" and rows[0]["error"] == ""
    assert rows[1]["psnr"] == "" and rows[1]["error"] == "no such file"


@pytest.mark.fault(44)
def test_row44_a_name_that_is_not_utf8_stands_in_the_table_with_its_bytes_escaped():
    record = replace(GOOD, files={"pred": os.fsdecode(b"sub-\xe9.nii"), "ref": "r.nii"})
    (row,) = csv.DictReader(io.StringIO(as_csv([record])))
    assert row["pred"] == r"sub-\udce9.nii" and as_csv([record]).encode()


def test_the_shipped_schema_is_that_of_the_dataclasses():
    """`python -m moediff.evaluation.records > src/moediff/evaluation/schema/evaluation.json` after a change."""
    assert shipped_schema() == json_schema_text(Evaluation)


def test_a_real_record_follows_the_schema_and_is_read_back(head, blurred, follows_schema):
    annotations = Annotations(
        labels=head.with_data((head.data_XYZ > 0).float()), uncertainty=head.with_data(head.data_XYZ * 0 + 20)
    )
    options = EvaluateOptions(metrics=("psnr", "ssim"), tissues=True)
    record = evaluate(head.with_data(blurred), head, options, measured=head, annotations=annotations)
    values = json.loads(as_json(record))
    follows_schema(values, json.loads(shipped_schema()))
    read = record_from(Evaluation, values)
    assert read.regions.keys() == {"1"} and read.data_consistency is not None
    assert json.loads(as_json(read)) == values
    perfect = json.loads(as_json(replace(record, metrics={"psnr": math.inf})))
    follows_schema(perfect, json.loads(shipped_schema()))
    assert record_from(Evaluation, perfect).metrics["psnr"] == math.inf


def test_keys_of_the_version_before_are_read():
    old = {
        "metrics": {"parts": 1.0},
        "consistency": {"rms_over_range": 0.1},
        "parts": {"cortex": {"psnr": 30}},
        "lesions": {"lost": 2, "invented": 1, "invented_ml": 0.5, "contrast_kept": 0.5, "each": [{"lost": True}]},
    }
    assert migrated(old) == {
        "metrics": {"parts": 1.0},
        "data_consistency": {"rms_over_range": 0.1},
        "regions": {"cortex": {"psnr": 30}},
        "lesions": {
            "false_negatives": 2,
            "false_positives": 1,
            "false_positive_ml": 0.5,
            "contrast_recovery": 0.5,
            "each": [{"false_negative": True}],
        },
    }


def test_values_of_a_wrong_type_are_refused_by_name():
    with pytest.raises(DataError, match=r"mask\.voxels: Input should be a valid integer"):
        record_from(Evaluation, json.loads(as_json(GOOD)) | {"mask": {"source": "given", "voxels": "many"}})
