"""The picture of a training: stages one after the other, errors averaged over steps nearby, gains where they belong."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

LOSSES = "aggregate,loss,seconds,step\n0.9,1,60,1\nnan,1,90,2\n0.7,1,120,3\n"
GAINS = "step,case,gain_db\n1,mean/iso2,0.5\n3,mean/iso2,0.8\n3,labels/09/iso2,9.9\n7,mean/iso2,9.9\n"


@pytest.fixture
def script(load_script) -> ModuleType:
    return load_script("plot_training")


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "uniform"
    folder.mkdir()
    (folder / "losses.csv").write_text(LOSSES)
    (folder / "validation.csv").write_text(GAINS)
    return folder


def test_a_stage_is_what_it_wrote_down(script, run):
    stage = script.read_stage(run)
    assert (stage.name, stage.minutes) == ("uniform", 2.0)
    assert stage.error == [(1.0, 0.9), (2.0, pytest.approx(0.8))]  # steps without an example at sigma_max say nothing
    assert stage.gains == {"iso2": [(1.0, 0.5), (2.0, 0.8)]}


def test_a_stage_of_the_gate_alone_has_gains_and_no_errors(script, run):
    (run / "losses.csv").write_text("loss,region,seconds,step\n1,0.9,60,1\n1,0.8,120,3\n")
    stage = script.read_stage(run)
    assert stage.error == [] and stage.minutes == 2.0 and len(stage.gains["iso2"]) == 2
    script.draw([stage], run / "training.svg")
    assert (run / "training.svg").is_file()


def test_errors_are_means_over_a_window(script):
    assert script.smoothed([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]


def test_stages_stand_side_by_side_and_a_folder_without_steps_is_named(script, run, tmp_path):
    script.main([str(run), str(run), "--out", str(tmp_path / "training.svg")])
    assert (tmp_path / "training.svg").read_text().count("<!--  uniform -->") == 2
    with pytest.raises(SystemExit, match=r"nothing: no losses\.csv"):
        script.main([str(tmp_path / "nothing")])
