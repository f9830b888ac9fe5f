"""Lesion search: marks against outlines, and the figure of merit."""

from itertools import pairwise

import numpy as np
import pytest

from moediff.study.free_response import UNMARKED, Ratings, analyse_search, figure_of_merit, judge_marks
from moediff.study.records import Lesion, Stack

STACK = Stack(slices=5, width=100, height=100, width_mm=200.0, height_mm=200.0, gap_mm=5.0)
LESIONS = [Lesion(runs=((1, 50, 40, 44), (2, 50, 40, 42))), Lesion(runs=((4, 10, 10, 12),))]


def mark(place, column, row, confidence):
    return {"slice": place, "x": column / 100, "y": row / 100, "confidence": confidence}


def test_marks_hit_the_lesion_they_lie_within_three_millimetres_of():
    marks = [
        mark(1, 41, 50.5, 2),  # inside
        mark(1, 45.4, 50.5, 4),  # 1.4 pixels = 2.8 mm beside
        mark(1, 46, 50.5, 5),  # 4 mm beside
        mark(3, 41, 50.5, 3),  # the next slice is 5 mm away
        mark(4, 11, 12, 1),  # 1 pixel = 2 mm below
    ]
    assert judge_marks(marks, LESIONS, STACK) == ([4.0, 1.0], [5.0, 3.0])
    assert judge_marks([], LESIONS, STACK) == ([UNMARKED, UNMARKED], [])
    assert judge_marks(marks[:1], [], STACK) == ([], [2.0])


def ratings_of(false, lesions):
    """One reader; `lesions` by case, padded."""
    most = max(map(len, lesions))
    padded = [[*one, *[np.nan] * (most - len(one))] for one in lesions]
    return Ratings([false], np.array([padded], dtype=float))


def afroc_area(false_C, lesions):
    """Area under the empirical AFROC curve by trapezoids, ends joined by a straight line to (1, 1)."""
    points = [(0.0, 0.0)]
    for t in sorted({*false_C, *lesions} - {UNMARKED}, reverse=True):
        points.append((np.mean(np.array(false_C) >= t), np.mean(np.array(lesions) >= t)))
    points.append((1.0, 1.0))
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))


def test_a_figure_of_merit_by_hand():
    """Two normal cases rated none and 2, lesions rated 3, 2 and none: (1 + 1 + .5 + 1 + .5 + 0) / 6."""
    ratings = ratings_of([[], [2.0, 1.0], [5.0], []], [[], [], [3.0, 2.0], [UNMARKED]])
    normal = np.array([True, True, False, False])
    assert figure_of_merit(ratings, np.ones((1, 1, 4)), normal)[0, 0] == pytest.approx(4 / 6)


def test_a_published_example():
    """Four cases without lesions and four with 1, 1, 2 and 2 of them (Chakraborty, The RJafroc FROC book, section
    "AFROC vs. wAFROC", which prints every rating): area 0.7708333 = (24 - 5.5) / 24, as RJafroc finds, too."""
    false = [[], [0.5], [0.7, 0.6], [-0.3], [1.5], [], [], []]
    lesions = [[], [], [], [], [0.9], [-0.2], [1.6, UNMARKED], [3.0, 2.0]]
    found = figure_of_merit(ratings_of(false, lesions), np.ones((1, 1, 8)), np.arange(8) < 4)[0, 0]
    assert found == pytest.approx(0.7708333, abs=1e-7)


def test_it_is_the_area_under_the_afroc_curve():
    rng = np.random.default_rng(0)
    for _ in range(20):
        false = [[float(g) for g in rng.integers(1, 6, rng.integers(0, 3))] for _ in range(9)]
        lesions = [[float(g) if g else UNMARKED for g in rng.integers(0, 6, 0 if case < 4 else 2)] for case in range(9)]
        highest = [max(marks, default=UNMARKED) for marks in false]
        for normal in (np.arange(9) < 4, np.ones(9, bool)):
            area = afroc_area(
                [h for h, n in zip(highest, normal, strict=True) if n], [g for one in lesions for g in one]
            )
            found = figure_of_merit(ratings_of(false, lesions), np.ones((1, 1, 9)), normal)[0, 0]
            assert found == pytest.approx(area)


def test_a_better_method_is_found():
    rng = np.random.default_rng(1)

    def method(skill):
        false = [[[float(rng.integers(1, 4))] if rng.random() < 0.4 else [] for _ in range(24)] for _ in range(3)]
        lesion = np.full((3, 24, 1), np.nan)
        seen = rng.random((3, 18)) < skill
        lesion[:, 6:, 0] = np.where(seen, rng.integers(2, 6, (3, 18)), UNMARKED)
        return Ratings(false, lesion)

    found = analyse_search([method(0.9), method(0.4)], 3.0, readers="fixed", draws=200)
    assert found.kind == "AFROC" and found.lesions == 18 and found.normal_cases == 6
    assert found.figure_of_merit[0].value > found.figure_of_merit[1].value
    assert found.difference[0][1].low > 0 and found.difference[1][0].high < 0
    first, last = found.curves[0][0], found.curves[0][-1]
    assert first.lesions_found < last.lesions_found == pytest.approx(0.9, abs=0.1)
    assert last.false_per_image == pytest.approx(0.4, abs=0.15)


def random_study(rng, lesion_cases, normal_cases, readers=3):
    """Ratings that are right in the mean; a lesion in each of the first cases."""
    cases = lesion_cases + normal_cases
    lesion = np.full((readers, cases, 1), np.nan)
    lesion[:, :lesion_cases, 0] = rng.integers(1, 6, (readers, lesion_cases))
    return Ratings([[[float(g)] if g else [] for g in rng.integers(0, 5, cases)] for _ in range(readers)], lesion)


@pytest.mark.parametrize("readers", ["random", "fixed"])
@pytest.mark.parametrize("cases", [(5, 5), (3, 15), (3, 17), (2, 2), (2, 0), (6, 1)])
def test_small_studies_have_intervals(cases, readers):
    rng = np.random.default_rng(2)
    found = analyse_search([random_study(rng, *cases), random_study(rng, *cases)], 3.0, readers=readers, draws=1000)
    for one in (*found.figure_of_merit, found.difference[0][1]):
        assert one.low <= one.value <= one.high and np.isfinite([one.low, one.high]).all()
    assert found.difference[0][1].high - found.difference[0][1].low > 0
    if min(cases) > 2:
        assert all(one.low > 0 or one.high < 1 for one in found.figure_of_merit)


@pytest.mark.parametrize("readers", ["random", "fixed"])
def test_a_single_case_with_lesions_gives_no_intervals(readers):
    rng = np.random.default_rng(2)
    found = analyse_search([random_study(rng, 1, 9), random_study(rng, 1, 9)], 3.0, readers=readers, draws=20)
    assert not found.has_intervals
    for one in (*found.figure_of_merit, found.difference[0][1]):
        assert np.isfinite(one.value) and np.isnan([one.low, one.high]).all()


def test_intervals_of_small_studies_hold_the_truth():
    """Lesions rated 1 to 5 against false marks rated 0 (none) to 4; ties count half."""
    truth = sum((a > b) + (a == b) / 2 for a in range(1, 6) for b in range(5)) / 25
    rng = np.random.default_rng(3)
    studies = [[random_study(rng, 3, 17, readers=1)] * 2 for _ in range(100)]
    found = [analyse_search(one, 3.0, readers="fixed", draws=100).figure_of_merit[0] for one in studies]
    assert 0.9 <= np.mean([one.low <= truth <= one.high for one in found]) <= 1


def test_without_lesions_there_is_no_figure_of_merit():
    assert analyse_search([ratings_of([[], []], [[np.nan], [np.nan]])] * 2, 3.0, readers="fixed") is None
