"""Trial plan of a reader study: who judges which pair, in which order, on which side; drawn from a seed.

Every reader gets an own plan. Forced choice: every pair of methods of every case once. Scores and lesion search: every
image once, in as many blocks as there are methods, so that a case comes once in a block (a Latin square). Training
comes first. Some forced choices and scores are repeated later; among the forced choices, catch trials show one image
twice, or an earlier pair with its sides exchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar

import torch

from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.study.records import CHOICE, IDENTICAL, MAIN, MIRRORED, REPEAT, SCORES, SEARCH, TASKS, TRAINING

T = TypeVar("T")

LEAST_CASES = 2  # with forced choices: strengths need intervals, and these come from differences between cases
MOST_GAP = 20  # trials between a trial and its repetition


@dataclass(frozen=True, kw_only=True)
class DesignOptions:
    """What a trial plan has to hold.

    Args:
        tasks: of `TASKS`.
        training: number of cases for training.
        repeats: share of trials that come once more.
        catches: share of forced choices added as catch trials: half identical images, half exchanged sides.
        ties: whether "no difference" is an answer; without it no identical images are shown.
        session_trials: forced choices of one session.
    """

    tasks: tuple[str, ...] = (CHOICE,)
    training: int = 1
    repeats: float = 0.2
    catches: float = 0.1
    ties: bool = True
    session_trials: int = 60

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(
                f"tasks {', '.join(self.tasks) or '(none)'}: expected some of {', '.join(TASKS)}, once each"
            )
        if not (0 <= self.repeats <= 1 and 0 <= self.catches <= 1):
            raise ConfigError(f"repeats={self.repeats} and catches={self.catches}: expected shares of 0 to 1")
        if self.training < 0 or self.session_trials < 1:
            raise ConfigError(
                f"training={self.training}, session_trials={self.session_trials}: expected 0 and 1 or more"
            )


@dataclass(frozen=True)
class PlannedTrial:
    """One trial before it gets a number; `of` is the index, within the plan, of the trial that it repeats."""

    task: str
    kind: str
    case: str
    methods: tuple[str, ...]
    session: int
    of: int | None = None


def plan_trials(
    cases: Sequence[str], methods: Sequence[str], options: DesignOptions, seed: int, reader: str
) -> list[PlannedTrial]:
    """All trials of one reader, in order.

    Raises:
        ConfigError: training leaves no case, or too few for forced choices.
    """
    least = LEAST_CASES if CHOICE in options.tasks else 1
    if len(cases) - options.training < least:
        raise ConfigError(
            f"{options.training} training cases of {len(cases)}: expected {least} or more others, fewer for training "
            "(--training) or further cases"
        )
    practice = set(shuffled(cases, rng_for(seed, "training cases"))[: options.training])  # the same for all readers
    known, unknown = ([case for case in cases if (case in practice) is wanted] for wanted in (True, False))
    plan: list[PlannedTrial] = []
    for task in (SEARCH, SCORES, CHOICE):  # the search first, while readers do not know the cases
        if task in options.tasks:
            block = _BLOCKS[task](known, unknown, methods, options, rng_for(seed, reader, task))
            first, session = len(plan), plan[-1].session if plan else 0
            plan += [
                replace(one, session=one.session + session, of=None if one.of is None else one.of + first)
                for one in block
            ]
    return plan


def least_gap(plan: Sequence[PlannedTrial]) -> int:
    """Trials from a trial to its repetition, at least; 0 without any."""
    return min((position - one.of for position, one in enumerate(plan) if one.of is not None), default=0)


def shuffled(items: Sequence[T], rng: torch.Generator) -> list[T]:
    """The items in random order."""
    return [items[i] for i in torch.randperm(len(items), generator=rng).tolist()]


def _choices(
    known: Sequence[str], unknown: Sequence[str], methods: Sequence[str], options: DesignOptions, rng: torch.Generator
) -> list[PlannedTrial]:
    practice = [PlannedTrial(CHOICE, TRAINING, case, pair, 1) for case, pair in _sided(known, methods, rng)]
    main = [PlannedTrial(CHOICE, MAIN, case, pair, 1) for case, pair in _sided(unknown, methods, rng)]
    main = _spread(main, rng)
    total = round(options.catches * len(main))
    identical = (total + 1) // 2 if options.ties else 0
    images = shuffled([(case, method) for case in unknown for method in methods], rng)[:identical]
    for case, method in images:
        position = int(torch.randint(len(main) + 1, (), generator=rng))
        main.insert(position, PlannedTrial(CHOICE, IDENTICAL, case, (method, method), 1))
    tallies = {REPEAT: round(options.repeats * (len(main) - identical)), MIRRORED: total - identical}
    plan = _with_repeats(main, tallies, rng)
    return [*practice, *(_in_session(one, position, options, len(practice)) for position, one in enumerate(plan))]


def _in_session(trial: PlannedTrial, position: int, options: DesignOptions, before: int) -> PlannedTrial:
    of = None if trial.of is None else trial.of + before
    return replace(trial, session=1 + position // options.session_trials, of=of)


def _sided(cases: Sequence[str], methods: Sequence[str], rng: torch.Generator) -> list[tuple[str, tuple[str, str]]]:
    """Every pair of every case with its sides: each method of a pair is on the left equally often, to within one."""
    left: Counter[str] = Counter()
    result = []
    for a, b in shuffled(list(combinations(methods, 2)), rng):
        if left[a] > left[b] or (left[a] == left[b] and int(torch.randint(2, (), generator=rng))):
            a, b = b, a
        for position, case in enumerate(shuffled(cases, rng)):
            pair = (b, a) if position % 2 else (a, b)
            left[pair[0]] += 1
            result.append((case, pair))
    return result


def _spread(trials: Sequence[PlannedTrial], rng: torch.Generator) -> list[PlannedTrial]:
    """A random order in which a case does not follow itself while another one is left."""
    remaining, result = shuffled(trials, rng), list[PlannedTrial]()
    while remaining:
        tallies = Counter(one.case for one in remaining)
        last = result[-1].case if result else None
        weights = torch.tensor([0.0 if one.case == last else float(tallies[one.case]) for one in remaining])
        if not float(weights.sum()):
            weights = torch.ones(len(remaining))
        result.append(remaining.pop(int(torch.multinomial(weights, 1, generator=rng))))
    return result


def _with_repeats(sequence: list[PlannedTrial], tallies: dict[str, int], rng: torch.Generator) -> list[PlannedTrial]:
    """Some main trials once more, `MOST_GAP` trials later or as late as a short plan allows."""
    mains = [position for position, one in enumerate(sequence) if one.kind == MAIN]
    kinds = [kind for kind, count in tallies.items() for _ in range(count)][: len(mains)]
    if not kinds:
        return sequence
    gap = max(1, min(MOST_GAP, len(sequence) - mains[len(kinds) - 1]))
    sources = shuffled([position for position in mains if position + gap <= len(sequence)], rng)[: len(kinds)]
    later: dict[int, list[tuple[str, int]]] = {}
    for kind, source in zip(shuffled(kinds, rng), sources, strict=True):
        slot = source + gap + int(torch.randint(len(sequence) - source - gap + 1, (), generator=rng))
        later.setdefault(slot, []).append((kind, source))
    return _inserted(sequence, later)


def _inserted(sequence: list[PlannedTrial], later: dict[int, list[tuple[str, int]]]) -> list[PlannedTrial]:
    """The base with repetitions (kind, source) before their slots."""
    result, moved = list[PlannedTrial](), dict[int, int]()
    for position in range(len(sequence) + 1):
        for kind, source in later.get(position, ()):
            again = sequence[source]
            methods = again.methods[::-1] if kind == MIRRORED else again.methods
            result.append(replace(again, kind=kind, methods=methods, of=moved[source]))
        if position < len(sequence):
            moved[position] = len(result)
            result.append(sequence[position])
    return result


def _singles(
    known: Sequence[str],
    unknown: Sequence[str],
    methods: Sequence[str],
    options: DesignOptions,
    rng: torch.Generator,
    task: str,
) -> list[PlannedTrial]:
    """Every image once; block k of the Latin square is session k and shows every case once."""
    practice = [PlannedTrial(task, TRAINING, case, (method,), 1) for case in known for method in methods[:2]]
    order, columns = shuffled(unknown, rng), shuffled(methods, rng)
    blocks = [
        [
            PlannedTrial(task, MAIN, case, (columns[(position + block) % len(methods)],), block + 1)
            for position, case in enumerate(order)
        ]
        for block in range(len(methods))
    ]
    main = [trial for block in blocks for trial in shuffled(block, rng)]
    if task == SCORES:
        main = _with_repeats(main, {REPEAT: round(options.repeats * len(main))}, rng)
    main = _rising(main)
    return [*practice, *(replace(one, of=None if one.of is None else one.of + len(practice)) for one in main)]


def _rising(plan: Sequence[PlannedTrial]) -> list[PlannedTrial]:
    """The plan with every repetition in the session of the trial before it."""
    result: list[PlannedTrial] = []
    for one in plan:
        result.append(one if one.of is None else replace(one, session=result[-1].session))
    return result


def _scores(
    known: Sequence[str], unknown: Sequence[str], methods: Sequence[str], options: DesignOptions, rng: torch.Generator
) -> list[PlannedTrial]:
    return _singles(known, unknown, methods, options, rng, SCORES)


def _search(
    known: Sequence[str], unknown: Sequence[str], methods: Sequence[str], options: DesignOptions, rng: torch.Generator
) -> list[PlannedTrial]:
    return _singles(known, unknown, methods, options, rng, SEARCH)


_BLOCKS = {SEARCH: _search, SCORES: _scores, CHOICE: _choices}
