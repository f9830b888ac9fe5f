"""`moediff study plan`: power by simulation."""

import json
import math

import pytest

from moediff.cli.main import main
from moediff.study.plan import Assumptions, plan_sizes, smallest


def silent(share, word):
    return None


def test_power_grows_with_the_study_and_with_the_effect():
    small = Assumptions(simulations=60, reader_sd=0.1, case_sd=0.1)
    rows = plan_sizes(small, [4], [6, 24], silent)
    assert rows[0].power.value + 0.2 < rows[1].power.value and rows[0].half_width > rows[1].half_width
    strong = plan_sizes(Assumptions(preference=0.9, simulations=40), [4], [24], silent)
    assert strong[0].power.value >= 0.9
    assert smallest(rows, 1.01) is None and smallest(rows, rows[1].power.value) == rows[1]


def test_without_an_effect_power_is_the_chance_of_a_false_finding():
    (row,) = plan_sizes(Assumptions(preference=0.5, simulations=300), [6], [20], silent)
    assert row.power.value <= 0.06  # 2.5 % in expectation: the interval lies above 0


def test_assumptions_become_strengths():
    one = Assumptions(preference=0.75, ties=0.5)
    assert one.difference == pytest.approx(math.log(3)) and one.log_ties == pytest.approx(math.log(2))
    assert Assumptions(ties=0.0).log_ties == -math.inf


def test_the_command_prints_a_table_or_json(capsys):
    words = ["study", "plan", "--readers", "2", "--cases", "4", "8", "--simulations", "5", "-q"]
    assert main(words) == 0
    assert "half width" in capsys.readouterr().out
    assert main([*words, "--json", "--ties", "0", "--methods", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["answers"] for row in found["sizes"]] == [12, 24]


@pytest.mark.parametrize("words", [["--preference", "1"], ["--readers", "0"], ["--cases", "1"], ["--methods", "1"]])
def test_impossible_assumptions_are_refused(words, capsys):
    assert main(["study", "plan", *words, "-q"]) == 78
