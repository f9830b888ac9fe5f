"""What the list of series shows: enough to choose one, nothing that names a person."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicom_maker import SECRETS, slices, write

from moediff.cli.main import main
from moediff.io.dicom.description import described
from moediff.io.dicom.series import list_series

TAGS = {"SeriesDescription": "T2 TSE ax Quimby Jane 5mm 19601231 45", "RepetitionTime": 4000.0, "EchoTime": 92.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t2_tse_tra_fs", "t2 tse tra fs"),
        ("AX FLAIR 5mm POST", "ax flair 5mm post"),
        ("Jane Quimby t1 mprage", "... t1 mprage"),
        ("t1 1960-12-31 gd", "t1 ... gd"),
        ("ep2d_diff b1000", "ep2d ... b1000"),
        ("Quimby", ""),
        ("flair 45", "flair ..."),
        ("", ""),
    ],
)
def test_only_words_of_protocols_pass(text, words):
    assert described(text) == words


def test_the_list_shows_description_times_plane_and_thickness(tmp_path, capsys):
    axial = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    write(tmp_path / "in", slices(axial, SliceThickness=5.0, **TAGS))
    assert main(["dicom", "list", str(tmp_path / "in"), "--json"]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads(printed)
    assert (row["description"], row["tr_ms"], row["te_ms"]) == ("t2 tse ax ... 5mm ...", 4000.0, 92.0)
    assert (row["plane"], row["slices"], row["thickness_mm"]) == ("axial", 9, 5.0)
    assert main(["dicom", "list", str(tmp_path / "in")]) == 0
    printed = (printed + capsys.readouterr().out).lower()
    assert "4000/92" in printed and not [secret for secret in SECRETS if secret in printed]


@pytest.mark.parametrize(
    ("directions", "plane"),
    [
        (((1, 0, 0), (0, 1, 0)), "axial"),
        (((1, 0, 0), (0, 0, -1)), "coronal"),
        (((0, 1, 0), (0, 0, -1)), "sagittal"),
        (((1, 0, 0), (0, 0.8, 0.6)), "oblique axial"),
        (((1, 0, 0), (0, 0.995, 0.0998749)), "axial"),
    ],
)
def test_the_plane_is_named_by_its_normal(directions, plane, tmp_path):
    write(tmp_path / "in", slices(np.array(directions, float)))
    assert list_series(tmp_path / "in")[0].row().plane == plane


def test_what_is_not_stated_is_not_told(tmp_path, capsys):
    write(tmp_path / "in", slices())
    row = list_series(tmp_path / "in")[0].row()
    assert (row.tr_ms, row.te_ms, row.description) == (None, None, "t1 ...")
    assert main(["dicom", "list", str(tmp_path / "in")]) == 0 and " -/- " in capsys.readouterr().out


def test_why_a_series_is_not_usable_is_not_cut_to_the_terminal(tmp_path, capsys):
    write(tmp_path / "in", slices()[::2][:3] + slices()[7:])
    assert main(["dicom", "list", str(tmp_path / "in")]) == 0
    printed = capsys.readouterr().out
    (row,) = (series.row() for series in list_series(tmp_path / "in"))
    assert row.reason and f"not usable: {row.reason}" in printed
