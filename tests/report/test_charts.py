"""Plots as coordinates: round ticks, every value inside, what belongs left stays left."""

from itertools import pairwise

import pytest

from moediff.report.charts import LEFT, NAME, RIGHT, WIDTH, dots, intervals, quality_against_time, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 3, [0, 0.5, 1, 1.5, 2, 2.5, 3]), (-0.1, 0.1, [-0.1, -0.05, 0, 0.05, 0.1]), (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_ticks_are_round_and_reach_both_ends(low, high, expected):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high
    if low != high:
        assert found == pytest.approx(expected, abs=1e-12)


def test_dots_lie_in_order_inside_the_frame():
    values = {"ours": {"a": 2.0, "b": -1.0, "c": 9.0}, "broken": {}}
    plot = dots(values, {"ours": 0.4, "broken": None}, ["a", "b", "c"], ["c"], "gain")
    at = {(m.kind, m.title): m for m in plot.marks}
    a, b, c = at["dot", "ours, a: +2.000"], at["dot", "ours, b: -1.000"], at["ring", "ours, c: +9.000"]
    mean = at["mean", "ours, mean +0.400"]  # as given: a person may have several scans
    assert LEFT <= b.x < plot.zero < mean.x < a.x < c.x <= WIDTH - RIGHT
    assert mean.x == pytest.approx(b.x + (a.x - b.x) * 1.4 / 3, abs=0.02)
    assert [label.text for label in plot.labels] == ["ours", "broken"] and (a.colour, b.colour, c.colour) == (0, 1, 2)


def test_intervals_hold_their_means():
    plot = intervals({"cubic": (1.0, 0.5, 1.5), "tv": (-0.2, -0.3, -0.1)}, "PSNR")
    for bar, mark in zip(plot.bars, plot.marks, strict=True):
        assert LEFT <= bar.x < mark.x < bar.x2 <= WIDTH - RIGHT and bar.y == mark.y
    assert plot.bars[1].x2 < plot.zero < plot.bars[0].x


def test_slower_is_right_and_better_is_up():
    plot = quality_against_time({"cubic": (2.0, 0.0), "detail": (200.0, 1.5), "tv": (20.0, 1.0)})
    cubic, detail, tv = plot.marks
    assert cubic.x < tv.x < detail.x and cubic.y > tv.y > detail.y
    assert tv.x - cubic.x == pytest.approx(detail.x - tv.x, abs=0.05)  # logarithmic


def test_names_of_methods_alike_in_time_and_quality_do_not_cover_each_other():
    points = {
        "cubic": (2.0, 0.0),
        "linear": (2.0, -0.02),
        "lanczos": (2.1, 0.01),
        "zero-fill": (2.2, 0.0),
        "tv": (90.0, 0.0),
    }
    plot = quality_against_time(points)
    names = {label.text: label for label in plot.labels if label.anchor == "start"}
    crowded = sorted(names[method].y for method in list(points)[:4])
    assert min(b - a for a, b in pairwise(crowded)) >= 14.9
    assert names["tv"].y == plot.marks[-1].y and max(crowded) < plot.height


def test_nothing_to_draw_is_an_empty_frame():
    assert not dots({}, {}, [], [], "gain").marks and not intervals({}, "gain").bars
    assert not quality_against_time({}).marks


def test_long_names_are_cut():
    plot = intervals({"x" * 50: (1.0, 1.0, 1.0)}, "PSNR")
    assert len(plot.labels[0].text) == NAME and "x" * 50 in plot.marks[0].title
