"""Lists of pairs in, JSON and CSV out."""

import csv
import io
import json
import math
import os

import pytest

from moediff.core.errors import DataError, InputMissing
from moediff.evaluation.pairs import Pair, as_csv, as_json, read_pairs


def test_pairs_count_from_the_folder_of_the_list(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("ref,pred,mask\nr.nii,p.nii,\nr2.nii,sub/p2.nii,/masks/m.nii\n", encoding="utf-8-sig")
    first, second = read_pairs(path)
    assert first == Pair(pred=tmp_path / "p.nii", ref=tmp_path / "r.nii")
    assert second.pred == tmp_path / "sub" / "p2.nii" and str(second.mask) == "/masks/m.nii"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no pairs"),
        ("pred,ref\n", "no pairs"),
        ("pred,truth\na,b\n", "line 2: unknown column 'truth'"),
        ("pred,input\na,b\n", "no value for 'ref'"),
        ("pred,ref\na\0b,c\n", "line 2: a null character"),
        ("pred,ref\na,b\n,c\n", "line 3: no value for 'pred'"),
        ("pred,ref\na,b,c\n", "unknown column"),
    ],
)
def test_a_faulty_list_is_refused(tmp_path, text, match):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=match):
        read_pairs(tmp_path / "p.csv")


def test_a_missing_list_is_missing_input(tmp_path):
    with pytest.raises(InputMissing, match=r"none\.csv"):
        read_pairs(tmp_path / "none.csv")


def test_json_has_words_for_what_it_cannot_hold():
    text = as_json({"psnr": math.inf, "x": [math.nan, 1 / 3], "n": 3, "none": None})
    assert json.loads(text) == {"psnr": "inf", "x": ["nan", 0.333333], "n": 3, "none": None}


def test_csv_has_a_row_per_pair_and_empty_cells():
    good = {
        "files": {"pred": "p,1.nii", "ref": "r.nii"},
        "metrics": {"psnr": 30.0},
        "fit": {"rule": "x", "gain": 2.0, "offset": 1.0},
        "consistency": None,
        "correlation": 0.9,
        "warnings": ["a", "b"],
    }
    bad = {"files": {"pred": "q.nii", "ref": "r.nii"}, "error": "no such file", "exit_code": 66}
    rows = list(csv.DictReader(io.StringIO(as_csv([good, bad]))))
    assert rows[0]["pred"] == "p,1.nii" and float(rows[0]["psnr"]) == 30 and float(rows[0]["gain"]) == 2
    assert rows[0]["warnings"] == "a; b" and rows[0]["error"] == ""
    assert rows[1]["psnr"] == "" and rows[1]["error"] == "no such file"


@pytest.mark.fault(44)
def test_row44_a_name_that_is_not_utf8_stands_in_the_table_with_its_bytes_escaped():
    record = {"files": {"pred": os.fsdecode(b"sub-\xe9.nii"), "ref": "r.nii"}, "metrics": {"psnr": 30.0}}
    (row,) = csv.DictReader(io.StringIO(as_csv([record])))
    assert row["pred"] == r"sub-\udce9.nii" and as_csv([record]).encode()
