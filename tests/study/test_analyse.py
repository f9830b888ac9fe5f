"""`moediff study analyse`: what was put in is found, and the key stays closed until reading ends."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from moediff.cli.main import main
from moediff.core.errors import DataError
from moediff.study.analyse import AnalysisOptions, analyse, to_record, unblinded
from moediff.study.answers import Answer, AnswerStore, StaleTrial, now
from moediff.study.free_response import Ratings, analyse_search
from moediff.study.publish import page, publish
from moediff.study.records import SCALES
from study.conftest import METHODS
from study.scripted import read_all

STRENGTHS = (-2.0, 0.0, 2.0)


@pytest.fixture
def finished(new_study):
    """A study of all tasks that two scripted readers have read to the end."""
    made = new_study("--tasks", "choice", "scores", "search", "--seed", "5")
    with AnswerStore(made.folder, made.study) as store:
        read_all(store, made.study, made.key, STRENGTHS)
    return made


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_analysis_finds_the_order_that_was_put_in(finished, capsys):
    assert main(["study", "analyse", str(finished.folder)]) == 0
    folder = finished.folder.with_name("study.analysis")
    assert capsys.readouterr().out.split()[0] == str(folder / "analysis.html")
    found = json.loads((folder / "analysis.json").read_text())
    values = [one["value"] for one in found["choices"]["strengths"]["log_strength"]]
    assert found["methods"] == list(METHODS) and sorted(values) == values
    assert all(one["low"] < one["value"] < one["high"] for one in found["choices"]["strengths"]["log_strength"])
    assert found["choices"]["answers"] == 2 * 4 * 3 and found["cases"] == 4 and found["finished"]
    assert all(one["means"] == sorted(one["means"]) for one in found["scores"])
    assert found["search"]["kind"] == "AFROC1"
    merits = [one["value"] for one in found["search"]["figure_of_merit"]]
    assert merits[0] < merits[2]
    for reader in found["readers"]:
        assert reader["identical"] == 1 and reader["identical_failures"] == 0 and reader["median_seconds"] == 2.5


@pytest.mark.parametrize("marks", [[], [{"slice": 0, "x": 0.01, "y": 0.01, "confidence": 2}]], ids=["none", "one"])
def test_readers_who_never_differ_are_analysed(new_study, marks):
    """Nothing varies, between readers or cases: intervals need no division by zero."""
    made = new_study("--tasks", "choice", "scores", "search", "--seed", "5")
    values = {"choice": {"choice": "same"}, "scores": {"scores": dict.fromkeys(SCALES, 3)}, "search": {"marks": marks}}
    with AnswerStore(made.folder, made.study) as store:
        for reader, trials in made.study.readers.items():
            for trial in trials:
                value = values[trial.task]
                store.add(Answer(reader=reader, trial=trial.number, value=value, seconds=2.5, answered_at=now()))
    assert main(["study", "analyse", str(made.folder), "-q"]) == 0
    found = json.loads(
        (made.folder.with_name("study.analysis") / "analysis.json").read_text(), parse_constant=pytest.fail
    )
    assert [round(one["value"], 6) for one in found["choices"]["strengths"]["log_strength"]] == [0, 0, 0]
    page = (made.folder.with_name("study.analysis") / "analysis.html").read_text()
    assert page.count("All readers and cases agree") == 2


def test_tables_and_page_hold_the_same(finished):
    assert main(["study", "analyse", str(finished.folder), "-q", "-o", str(finished.folder) + "_out"]) == 0
    folder = finished.folder.with_name("study_out")
    found = json.loads((folder / "analysis.json").read_text())
    rows = table(folder / "strengths.csv")
    assert len(rows) == 9
    assert float(rows[0]["log_strength"]) == pytest.approx(
        found["choices"]["strengths"]["log_strength"][0]["value"], abs=1e-4
    )
    preferences = table(folder / "preferences.csv")
    for row in preferences:
        assert sum(int(row[name]) for name in ("first_preferred", "no_difference", "second_preferred")) == 8
    answers = table(folder / "answers.csv")
    assert len(answers) == sum(map(len, finished.study.readers.values()))
    page, text = (folder / "analysis.html").read_text(), (folder / "methods.txt").read_text()
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
    assert all(method in page for method in METHODS) and text.split(".")[0] in page
    assert "2 readers compared 3 methods on 4 cases" in text and "Davidson" in text and "AFROC1" in text


def test_a_search_without_intervals_is_published(finished):
    """One case has lesions: the figures of merit stand in words, and null in the JSON."""
    with AnswerStore(finished.folder, finished.study) as store:
        judged = unblinded(finished.study, finished.key, store.answers())
    whole = analyse(finished.study, finished.key, judged, AnalysisOptions())
    lesion = np.full((2, 6, 1), np.nan)
    lesion[:, 0] = 3.0
    search = analyse_search([Ratings([[[]] * 6] * 2, lesion)] * len(METHODS), 3.0, readers="random", draws=5)
    single = replace(whole, search=search)
    assert to_record(single)["search"]["figure_of_merit"][0] == {"value": 1.0, "low": None, "high": None}
    assert f"{METHODS[0]} 1.000, " in page(single) and ">nan" not in page(single)
    assert "A single case has lesions" in page(single) and "A single case has lesions" not in page(whole)


def test_choices_of_a_single_case_are_published_without_strengths(finished, tmp_path):
    with AnswerStore(finished.folder, finished.study) as store:
        judged = unblinded(finished.study, finished.key, store.answers())
    case = next(one.case for one in judged if one.kind == "main")
    single = analyse(finished.study, finished.key, [one for one in judged if one.case == case], AnalysisOptions())
    assert single.choices.strengths is None and len(single.choices.preferences) == 3
    names = {path.name for path in publish(single, judged, tmp_path)}
    assert {"answers.csv", "preferences.csv"} < names and "strengths.csv" not in names
    text = (tmp_path / "analysis.html").read_text()
    assert "A single case has forced choices" in text and "Log-strengths" not in text


def test_the_key_stays_closed_until_reading_ends(new_study, capsys):
    made = new_study("--seed", "5")
    with AnswerStore(made.folder, made.study) as store:
        read_all(store, made.study, made.key, STRENGTHS, until=12)
    assert main(["study", "analyse", str(made.folder)]) == 78
    said = capsys.readouterr().err
    assert "--unfinished" in said and "ann 6" in said and not any(method in said for method in METHODS)
    assert main(["study", "analyse", str(made.folder), "--unfinished", "-q"]) == 0
    page = (made.folder.with_name("study.analysis") / "analysis.html").read_text()
    assert "opened before all readers had finished" in page


def test_a_changed_key_and_an_existing_output_are_refused(finished, capsys):
    finished.key_path.write_text(finished.key_path.read_text().replace('"kind": "repeat"', '"kind": "main"', 1))
    assert main(["study", "analyse", str(finished.folder)]) == 65
    assert "restore the key" in capsys.readouterr().err
    finished.folder.with_name("study.analysis").mkdir()
    assert main(["study", "analyse", str(finished.folder)]) == 73


def test_repetitions_and_catches_judge_readers_only(finished):
    with AnswerStore(finished.folder, finished.study) as store:
        judged = unblinded(finished.study, finished.key, store.answers())
    options = AnalysisOptions()
    whole = analyse(finished.study, finished.key, judged, options)
    without = analyse(finished.study, finished.key, [one for one in judged if one.kind == "main"], options)
    assert whole.choices == without.choices and whole.scores == without.scores and whole.search == without.search
    assert without.readers[0].consistency is None and whole.readers[0].consistency is not None
    with pytest.raises(DataError, match="nothing beyond training"):
        analyse(finished.study, finished.key, [one for one in judged if one.kind == "training"], options)


@pytest.fixture
def opened(new_study):
    """A new study and its open store."""
    made = new_study()
    with AnswerStore(made.folder, made.study) as store:
        yield made, store


def test_answers_come_in_order_and_can_be_taken_back(opened):
    made, store = opened

    def answer(trial, choice="left", ticket="", reader="ann"):
        value = {"choice": choice}
        store.add(Answer(reader=reader, trial=trial, value=value, seconds=1, answered_at=now(), ticket=ticket))

    answer(1, ticket="t1")
    answer(1, ticket="t1")  # sent twice: counts once
    for trial in (1, 3):
        with pytest.raises(StaleTrial):
            answer(trial)
    answer(2, "right")
    answer(1, reader="bob")
    with pytest.raises(StaleTrial):
        store.undo("ann", 1)
    store.undo("ann", 2)
    assert [(one.reader, one.trial) for one in store.answers()] == [("ann", 1), ("bob", 1)]
    answer(2, "same")
    with AnswerStore(made.folder, made.study) as other:
        assert other.answers()[1].value == {"choice": "same"} and other.done("ann") == 2
    rows = store.connection.execute("SELECT COUNT(*) FROM answers").fetchone()
    assert rows == (4,)  # the one taken back keeps its row


@pytest.mark.parametrize(
    ("task", "value"),
    [
        ("choice", {"choice": "up"}),
        ("choice", {}),
        ("choice", [1]),
        ("scores", {"scores": {"sharpness": 3}}),
        (
            "scores",
            {"scores": dict.fromkeys(("sharpness", "noise", "artefacts", "grey-white contrast", "confidence"), 6)},
        ),
        ("search", {"marks": [{"slice": 0, "x": 1.5, "y": 0.5, "confidence": 3}]}),
        ("search", {"marks": [{"slice": 99, "x": 0.5, "y": 0.5, "confidence": 3}]}),
        ("search", {"marks": [{"slice": 0, "x": float("nan"), "y": 0.5, "confidence": 3}]}),
        ("search", {"marks": [{"slice": 0, "x": 0.5, "y": 0.5, "confidence": True}]}),
        ("search", {"marks": "none"}),
    ],
)
def test_wrong_answers_are_refused(all_tasks, task, value):
    from moediff.study.answers import check_value

    trial = next(one for one in all_tasks.study.readers["ann"] if one.task == task)
    with pytest.raises(DataError):
        check_value(all_tasks.study, trial, value)
