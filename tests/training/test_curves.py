"""Learning curves: stages one after the other, errors averaged over steps nearby, gains where they belong."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from moediff.core.errors import InputMissing
from moediff.training.curves import StageCurves, _axis, curves_svg, read_curves, smoothed, write_curves

LOSSES = "aggregate,loss,seconds,step\n0.9,1,60,1\nnan,1,90,2\n0.7,1,120,3\n"
GAINS = "step,case,gain_db\n1,mean/iso2,0.5\n3,mean/iso2,0.8\n3,labels/09/iso2,9.9\n7,mean/iso2,9.9\n"


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "uniform"
    folder.mkdir()
    (folder / "losses.csv").write_text(LOSSES)
    (folder / "validation.csv").write_text(GAINS)
    return folder


def test_a_stage_is_what_its_log_says(run):
    stage = read_curves(run)
    assert (stage.name, stage.minutes) == ("uniform", 2.0)
    assert stage.error == [(1.0, 0.9), (2.0, pytest.approx(0.8))]  # steps without an example at sigma_max say nothing
    assert stage.gains == {"iso2": [(1.0, 0.5), (2.0, 0.8)]}


def test_a_stage_of_the_gate_alone_has_gains_and_no_errors(run):
    (run / "losses.csv").write_text("loss,region,seconds,step\n1,0.9,60,1\n1,0.8,120,3\n")
    stage = read_curves(run)
    assert stage.error == [] and stage.minutes == 2.0 and len(stage.gains["iso2"]) == 2
    ElementTree.fromstring(curves_svg([stage]))


def test_errors_are_means_over_a_window():
    assert smoothed([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]


def test_stages_stand_side_by_side(run, tmp_path):
    write_curves([run, tmp_path / "not begun", run], tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    ElementTree.fromstring(text)
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*>uniform<', text)]
    assert len(places) == 2 and places[1] - places[0] == pytest.approx((860 - 64 - 130) / 2, abs=0.2)
    lines = re.findall(r'<polyline points="([^"]*)"', text)
    assert len(lines) == 4  # error and gain of either
    assert [float(pair.split(",")[0]) for pair in lines[0].split()] == pytest.approx([64 + 666 / 4, 64 + 666 / 2])


def test_nothing_is_drawn_of_nothing(tmp_path):
    write_curves([tmp_path / "nothing"], tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()
    with pytest.raises(InputMissing, match=r"nothing: no losses\.csv"):
        read_curves(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["epoch,loss\n1,0.5\n", "", "aggregate,loss,seconds,step\n", "\n\n"])
def test_what_is_no_log_of_steps_is_passed_over(text, run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "losses.csv").write_text(text)
    write_curves([tmp_path / "other", run], tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().count(">uniform<") == 1
    (run / "validation.csv").write_text("fold,dice\n1,0.9\n")
    assert read_curves(run).gains == {} and len(read_curves(run).error) == 2


def test_a_row_that_was_cut_short_is_passed_over(run):
    (run / "losses.csv").write_text(LOSSES + "0.7,1")
    assert read_curves(run).minutes == 2.0


def test_names_are_words_not_markup():
    ElementTree.fromstring(curves_svg([StageCurves("a<b&c", 1.0, [(0.5, 0.9)], {"<i>": [(0.5, 1.0)]})]))


@pytest.mark.parametrize(("values", "ticks"), [((0.0, 1.0), [0, 0.5, 1.0]), ((3.0,), [2.6, 2.8, 3.0, 3.2, 3.4])])
def test_marks_are_round_values(values, ticks):
    assert _axis(values, 0, 100).ticks() == pytest.approx(ticks)
