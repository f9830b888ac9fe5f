"""Lists of pairs in, JSON and CSV out."""

from pathlib import Path

import pytest

from moediff.core.errors import DataError, InputMissing
from moediff.evaluation.pairs import Pair, read_pairs


def test_pairs_count_from_the_folder_of_the_list(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("ref,pred,mask\nr.nii,p.nii,\nr2.nii,sub/p2.nii,/masks/m.nii\n", encoding="utf-8-sig")
    first, second = read_pairs(path)
    assert first == Pair(pred=tmp_path / "p.nii", ref=tmp_path / "r.nii")
    assert second.pred == tmp_path / "sub" / "p2.nii" and str(second.mask) == "/masks/m.nii"


def test_several_inputs_stand_in_one_cell(tmp_path):
    path = tmp_path / "a;b" / "pairs.csv"
    path.parent.mkdir()
    path.write_text("pred,ref,input\np,r,ax.nii; sub/sag.nii;/other/cor.nii\np,r,low.nii\np,r,\n")
    several, one, none = read_pairs(path)
    assert several.input == (path.parent / "ax.nii", path.parent / "sub" / "sag.nii", Path("/other/cor.nii"))
    assert one.input == (path.parent / "low.nii",) and none.input == ()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no pairs"),
        ("pred,ref\n", "no pairs"),
        ("pred,truth\na,b\n", "line 2: unknown column 'truth'"),
        ("pred,input\na,b\n", "no value for 'ref'"),
        ("pred,ref\na\0b,c\n", "line 2: a null character"),
        ("pred,ref\na,b\n,c\n", "line 3: no value for 'pred'"),
        ("pred,ref\na,b\n\n\n,c\n", "line 5: no value for 'pred'"),
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
