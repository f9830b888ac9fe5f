"""Trial plans: balance, repetitions, catch trials, training."""

from collections import Counter
from itertools import pairwise

import pytest

from moediff.core.errors import ConfigError
from moediff.study.design import DesignOptions, least_gap, plan_trials
from moediff.study.records import CHOICE, IDENTICAL, MAIN, MIRRORED, REPEAT, SCORES, SEARCH, TRAINING

CASES = [f"case{i}" for i in range(13)]
METHODS = ["a", "b", "c", "d"]


def plan_of(reader="ann", **options):
    return plan_trials(CASES, METHODS, DesignOptions(**options), 7, reader)


def test_a_plan_of_twelve_cases_and_four_methods():
    plan = plan_of()
    kinds = Counter(one.kind for one in plan)
    assert kinds == {TRAINING: 6, MAIN: 72, REPEAT: 14, IDENTICAL: 4, MIRRORED: 3}
    assert [one.kind for one in plan[:6]] == [TRAINING] * 6
    pairs = Counter((one.case, frozenset(one.methods)) for one in plan if one.kind == MAIN)
    assert len(pairs) == 72 and set(pairs.values()) == {1}
    assert not {one.case for one in plan[:6]} & {one.case for one in plan[6:]}
    assert [one.session for one in plan] == [1] * 66 + [2] * 33


def test_sides_are_balanced_within_every_pair_and_over_all():
    main = [one for one in plan_of() if one.kind == MAIN]
    sides = Counter(one.methods for one in main)
    assert all(sides[a, b] == sides[b, a] == 6 for a in METHODS for b in METHODS if a != b)
    odd = plan_trials(CASES, METHODS, DesignOptions(training=2), 7, "ann")
    left = Counter(one.methods[0] for one in odd if one.kind == MAIN)
    assert max(left.values()) - min(left.values()) <= 2


def test_repetitions_lie_twenty_trials_apart_and_show_the_same():
    plan = plan_of()
    assert least_gap(plan) >= 20
    for place, one in enumerate(plan):
        if one.of is not None:
            first = plan[one.of]
            assert place - one.of >= 20 and first.kind == MAIN and first.case == one.case
            assert one.methods == (first.methods if one.kind == REPEAT else first.methods[::-1])


def test_a_small_study_repeats_as_late_as_it_can():
    plan = plan_trials(["x", "y", "z"], ["a", "b"], DesignOptions(repeats=0.5), 1, "ann")
    assert Counter(one.kind for one in plan)[REPEAT] == 1 and 1 <= least_gap(plan) < 20


def test_readers_get_their_own_order_and_a_seed_repeats_it():
    assert plan_of() == plan_of()
    assert plan_of("ann") != plan_of("bob")
    assert {o.case for o in plan_of("ann") if o.kind == TRAINING} == {
        o.case for o in plan_of("bob") if o.kind == TRAINING
    }


def test_a_case_hardly_ever_follows_itself():
    main = [one for one in plan_of(repeats=0, catches=0) if one.kind == MAIN]
    assert sum(a.case == b.case for a, b in pairwise(main)) <= 1


def test_search_and_scores_show_every_image_once_and_a_case_once_in_a_session():
    plan = plan_of(tasks=(CHOICE, SCORES, SEARCH))
    assert [task for task, other in pairwise([*(one.task for one in plan), ""]) if task != other] == [
        SEARCH,
        SCORES,
        CHOICE,
    ]
    for task in (SEARCH, SCORES):
        main = [one for one in plan if one.task == task and one.kind == MAIN]
        assert len({(one.case, one.methods) for one in main}) == len(main) == 48
        assert max(Counter((one.session, one.case) for one in main).values()) == 1
    assert all(a.session <= b.session for a, b in pairwise(plan))
    assert Counter(one.kind for one in plan if one.task == SCORES)[REPEAT] == 10
    for place, one in enumerate(plan):
        assert one.of is None or (plan[one.of].case == one.case and place - one.of >= 20)


def test_without_ties_no_identical_images_are_shown():
    kinds = Counter(one.kind for one in plan_of(ties=False))
    assert kinds[IDENTICAL] == 0 and kinds[MIRRORED] == 7


@pytest.mark.parametrize(
    "options",
    [{"tasks": ("guess",)}, {"tasks": ()}, {"training": 13}, {"training": 12}, {"repeats": 1.5}, {"session_trials": 0}],
)
def test_impossible_plans_are_refused(options):
    with pytest.raises(ConfigError):
        plan_of(**options)


def test_scores_of_a_single_case_are_a_study():
    assert len({one.case for one in plan_of(tasks=(SCORES,), training=12) if one.kind == MAIN}) == 1
