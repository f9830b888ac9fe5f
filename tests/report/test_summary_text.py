"""Sidecars that are not what we wrote: what they lack or distort is left out, and nothing fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.testing import assert_close

from moediff.evaluation.evaluate import EvaluateOptions, evaluate
from moediff.report.display import display
from moediff.report.sanitise import number
from moediff.report.summary_text import _story, summarise

ODD = {
    "an unhashable answer": {"settings": {"data_consistency": []}},
    "an object for an answer": {"settings": {"data_consistency": {"a": 1}}},
    "a list for a mode": {"settings": {"mode": ["x"]}},
    "a list for settings": {"settings": [1], "weights": "x", "uncertainty": 3},
    "objects for words": {"warnings": [{"a": 1}], "experts": [[]]},
    "a time beyond floats": {"timings": {"a": 10**400}},
    "a share beyond floats": {"data_consistency": {"rms_over_range": 10**400, "noise_over_range": 10**400}},
    "a shape beyond floats": {"input": {"shape": [10**400, 1, 1], "spacing_mm": [10**400, 1, 1]}},
}


@pytest.mark.fault(44)
@pytest.mark.parametrize("record", ODD.values(), ids=ODD.keys())
def test_row44_what_an_odd_sidecar_says_is_left_out(record, scans):
    summary = summarise(replace(scans, record=record))
    named = {what for what, _ in summary.done}
    assert "Scan" in named and not named & {"Corrected towards the measurement", "Input grid"}
    assert summary.verdict == "" and summary.numbers == () and "corrected" not in summary.story


@pytest.mark.parametrize(("value", "word"), [(True, "yes"), (False, "no")])
def test_a_plain_answer_is_told(value, word, scans):
    summary = summarise(replace(scans, record={"settings": {"data_consistency": value}}))
    assert ("Corrected towards the measurement", word) in summary.done


def test_a_truth_of_other_units_gives_the_numbers_and_pictures_of_one_in_the_results_units(scans):
    judged = evaluate(scans.enhanced, scans.truth, EvaluateOptions(metrics=("psnr", "ssim"))).metrics
    scaled = replace(scans, truth=scans.truth.with_data(10 * scans.truth.data_XYZ))
    one, other = summarise(scans), summarise(scaled)
    for summary in (one, other):
        assert [score.name for score in summary.scores] == ["enhanced", "interpolated"]
        assert (summary.scores[0].psnr, summary.scores[0].ssim) == pytest.approx((judged["psnr"], judged["ssim"]))
        assert not [warning for warning in summary.warnings if warning.startswith("truth")]
    assert other.scores[1].psnr == pytest.approx(one.scores[1].psnr)
    assert [region.wrong for region in other.regions] == pytest.approx([region.wrong for region in one.regions])
    shown = [{scan.key: scan.volume for scan in display(each).scans}["truth"] for each in (scans, scaled)]
    assert_close(shown[0].data_XYZ, shown[1].data_XYZ, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"), [(lambda x: x.flip(0), "looks mirrored left to right"), (lambda x: 1000 - x, "as they are")]
)
def test_a_truth_that_does_not_belong_is_warned_of(change, words, scans):
    summary = summarise(replace(scans, truth=scans.truth.with_data(change(scans.truth.data_XYZ))))
    assert any(warning.startswith("truth: ") and words in warning for warning in summary.warnings)
    assert summary.scores[0].psnr < 30


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "1", None, [1]])
def test_what_is_no_finite_number_is_none(value):
    assert number(value) is None


@pytest.mark.parametrize("value", [0, 3, -2.5, 2**1000])
def test_a_number_is_itself(value):
    assert number(value) == value


@pytest.mark.parametrize(
    ("noise", "said"),
    [(0.01, "by 3.0 times its noise"), (0.0, "by more than 100 times"), (1e-7, "by more than 100 times")],
)
def test_a_disagreement_is_told_in_noises_where_there_is_noise(noise, said, scans):
    record = {"data_consistency": {"rms_over_range": 0.03, "noise_over_range": noise}}
    assert said in summarise(replace(scans, record=record)).verdict


def test_a_scan_that_was_passed_through_was_not_given_to_denoisers():
    size = {"input": {"spacing_mm": [4, 4, 4]}, "output": {"spacing_mm": [4, 4, 4]}}
    summary = _story({"pass_through": True, "settings": {"data_consistency": False}, **size})
    assert "did not run" in summary
    assert not any(word in summary for word in ("denoisers", "became", "corrected"))
    assert "denoisers" in _story({"pass_through": False})
