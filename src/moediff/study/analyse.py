"""Analysis of a reader study: answers joined with the key; strengths, preference rates, agreement, lesion search.

Training is left out; repetitions and catch trials serve only to judge the readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moediff._version import __version__
from moediff.core.errors import DataError
from moediff.study.agreement import IntraclassCorrelation, icc, krippendorff_alpha, wilson
from moediff.study.answers import LEFT, SAME, Answer
from moediff.study.design import LEAST_CASES
from moediff.study.free_response import FreeResponse, Ratings, analyse_search, judge_marks
from moediff.study.records import (
    CHOICE,
    IDENTICAL,
    MAIN,
    MIRRORED,
    REPEAT,
    SCALES,
    SCORES,
    SEARCH,
    Study,
    StudyKey,
)
from moediff.study.strengths import FIRST, SECOND, TIE, Estimate, Strengths, estimate, pairs_of


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One answer with what it was about.

    Args:
        preferred: the method preferred, "" for no difference; None for other tasks than the forced choice.
        on_left: the left image was preferred.
    """

    reader: str
    trial: int
    session: int
    task: str
    kind: str
    case: str
    methods: tuple[str, ...]
    value: Mapping[str, Any]
    seconds: float
    answered_at: str
    of: int | None
    preferred: str | None
    on_left: bool


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How often one method was preferred to another; ties count half in the rate."""

    first: str
    second: str
    first_preferred: int
    no_difference: int
    second_preferred: int
    rate: Estimate


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The forced choice.

    Args:
        strengths: None for a single case, which gives no intervals.
        preferences: of every pair of methods; Wilson's intervals, as if all answers were independent.
        alpha_nominal, alpha_ordinal: Krippendorff's, of preferred, no difference, other preferred.
        icc_win_share: of the share of comparisons that an image won.
        left_share: share of preferences for the left side, with Wilson's interval; one half is right.
    """

    strengths: Strengths | None
    preferences: tuple[Preference, ...]
    alpha_nominal: float | None
    alpha_ordinal: float | None
    icc_win_share: IntraclassCorrelation | None
    left_share: Estimate | None
    answers: int


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One of the 5-point scores: mean of each method, and how readers agree."""

    name: str
    means: tuple[float, ...]
    alpha_ordinal: float | None
    icc: IntraclassCorrelation | None


@dataclass(frozen=True, kw_only=True)
class ReaderQuality:
    """How one reader read.

    Args:
        consistency: share of repeated forced choices that were answered alike.
        score_consistency: share of repeated scores that differ by at most 1.
        identical_failures: preferences where both images were the same one, of `identical`.
        mirrored_failures: other preferences when the sides were exchanged, of `mirrored`.
        median_seconds: of an answer.
        left: trials not answered.
    """

    reader: str
    answers: int
    left: int
    consistency: Estimate | None
    score_consistency: Estimate | None
    identical: int
    identical_failures: int
    mirrored: int
    mirrored_failures: int
    median_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything that was found.

    Args:
        finished: all trials were answered before the key was opened.
    """

    title: str
    methods: tuple[str, ...]
    readers: tuple[ReaderQuality, ...]
    cases: int
    training_cases: int
    finished: bool
    least_gap: int
    window: str
    plane: str
    ties: bool
    context: tuple[str, ...]
    choices: Choices | None
    scores: tuple[Scale, ...]
    search: FreeResponse | None
    seed: int
    key_sha256: str
    software: str = __version__


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """How answers are analysed.

    Args:
        readers: random or fixed; see `strengths.Strengths`.
        tolerance_mm: distance from a lesion's outline at which a mark still hits it.
        seed: of the bootstrap.
    """

    readers: str = "random"
    tolerance_mm: float = 3.0
    seed: int = 0


def unblinded(study: Study, key: StudyKey, answers: Sequence[Answer]) -> list[Judgement]:
    """Answers with cases and methods.

    Raises:
        DataError: answers do not fit the study.
    """
    result = []
    for one in answers:
        trials = study.readers.get(one.reader, ())
        if not 1 <= one.trial <= len(trials):
            raise DataError(f"an answer to trial {one.trial} of {one.reader}, whom the study does not know")
        trial, about = trials[one.trial - 1], key.readers[one.reader][one.trial - 1]
        choice = one.value.get("choice")
        preferred = None
        if choice is not None:
            preferred = "" if choice == SAME else about.methods[0 if choice == LEFT else 1]
        result.append(
            Judgement(
                reader=one.reader,
                trial=one.trial,
                session=trial.session,
                task=trial.task,
                kind=about.kind,
                case=about.case,
                methods=about.methods,
                value=one.value,
                seconds=one.seconds,
                answered_at=one.answered_at,
                of=about.of,
                preferred=preferred,
                on_left=choice == LEFT,
            )
        )
    return result


def analyse(study: Study, key: StudyKey, judged: Sequence[Judgement], options: AnalysisOptions) -> Analysis:
    """The whole analysis.

    Raises:
        DataError: there is nothing to analyse.
    """
    main = [one for one in judged if one.kind == MAIN]
    if not main:
        raise DataError("no answer to analyse: readers have answered nothing beyond training")
    quality = tuple(_reader(study, reader, judged) for reader in study.readers)
    cases = {one.case for trials in key.readers.values() for one in trials if one.kind == MAIN}
    displayed = {role for trials in study.readers.values() for one in trials for role in one.context}
    return Analysis(
        title=study.title,
        methods=key.methods,
        readers=quality,
        cases=len(cases),
        training_cases=len(key.cases) - len(cases),
        finished=not any(one.left for one in quality),
        least_gap=study.least_gap,
        window=study.display.window,
        plane=study.display.plane,
        ties=study.display.ties,
        context=tuple(sorted(displayed)),
        choices=_choices(study, key, [one for one in main if one.task == CHOICE], options),
        scores=_scores(key, [one for one in main if one.task == SCORES]),
        search=_search(study, key, [one for one in main if one.task == SEARCH], options),
        seed=options.seed,
        key_sha256=study.key_sha256,
    )


def _pair(key: StudyKey, one: Judgement) -> tuple[int, int, int]:
    """First and second method of the pair in the study's order, and the outcome."""
    i, j = sorted(key.methods.index(method) for method in one.methods)
    outcome = TIE if not one.preferred else (FIRST if one.preferred == key.methods[i] else SECOND)
    return i, j, outcome


def _tallies(key: StudyKey, main: Sequence[Judgement]) -> np.ndarray:
    """Outcomes [readers, cases, pairs, 3] of those who answered."""
    readers = sorted({one.reader for one in main})
    cases = sorted({one.case for one in main})
    pairs = {pair: position for position, pair in enumerate(pairs_of(len(key.methods)))}
    tallies = np.zeros((len(readers), len(cases), len(pairs), 3))
    for one in main:
        i, j, outcome = _pair(key, one)
        tallies[readers.index(one.reader), cases.index(one.case), pairs[i, j], outcome] += 1
    return tallies


def _choices(study: Study, key: StudyKey, main: Sequence[Judgement], options: AnalysisOptions) -> Choices | None:
    if not main:
        return None
    tallies = _tallies(key, main)
    answered = tallies.sum(-1)
    outcome = np.where(answered > 0, tallies.argmax(-1), np.nan).reshape(len(tallies), -1)
    sided = [one for one in main if one.preferred]
    strengths = None
    if tallies.shape[1] >= LEAST_CASES:
        strengths = estimate(tallies, ties=study.display.ties, readers=options.readers, seed=options.seed)
    return Choices(
        strengths=strengths,
        preferences=_preferences(key, tallies.sum((0, 1))),
        alpha_nominal=krippendorff_alpha(outcome, "nominal"),
        alpha_ordinal=krippendorff_alpha(outcome, "ordinal"),
        icc_win_share=icc(_win_shares(tallies, len(key.methods))),
        left_share=wilson(sum(one.on_left for one in sided), len(sided)),
        answers=len(main),
    )


def _preferences(key: StudyKey, tally_PO: np.ndarray) -> tuple[Preference, ...]:
    result = []
    for (i, j), (first, tie, second) in zip(pairs_of(len(key.methods)), tally_PO, strict=True):
        rate = wilson(float(first + tie / 2), float(first + tie + second))
        if rate is not None:
            result.append(
                Preference(
                    first=key.methods[i],
                    second=key.methods[j],
                    first_preferred=int(first),
                    no_difference=int(tie),
                    second_preferred=int(second),
                    rate=rate,
                )
            )
    return tuple(result)


def _win_shares(tally_RCPO: np.ndarray, methods: int) -> np.ndarray:
    """Share of its comparisons that each image won [images, readers]; ties count half."""
    won = np.zeros((*tally_RCPO.shape[:2], methods))
    seen = np.zeros_like(won)
    for p, (i, j) in enumerate(pairs_of(methods)):
        for method, outcome in ((i, FIRST), (j, SECOND)):
            won[..., method] += tally_RCPO[:, :, p, outcome] + tally_RCPO[:, :, p, TIE] / 2
            seen[..., method] += tally_RCPO[:, :, p].sum(-1)
    shares = np.divide(won, seen, out=np.full_like(won, np.nan), where=seen > 0)
    return shares.reshape(len(won), -1).T


def _image_table(key: StudyKey, main: Sequence[Judgement], value: Callable[[Judgement], float]) -> np.ndarray:
    """A number of every image [methods, cases, readers]; NaN where it was not answered."""
    readers, cases = sorted({one.reader for one in main}), sorted({one.case for one in main})
    table = np.full((len(key.methods), len(cases), len(readers)), np.nan)
    for one in main:
        table[key.methods.index(one.methods[0]), cases.index(one.case), readers.index(one.reader)] = value(one)
    return table


def _scores(key: StudyKey, main: Sequence[Judgement]) -> tuple[Scale, ...]:
    result = []
    for scale in SCALES if main else ():
        table = _image_table(key, main, lambda one, scale=scale: float(one.value["scores"][scale]))  # type: ignore[misc]
        images = table.reshape(-1, table.shape[-1])
        means = tuple(float(np.nanmean(rows)) if np.isfinite(rows).any() else float("nan") for rows in table)
        result.append(
            Scale(name=scale, means=means, alpha_ordinal=krippendorff_alpha(images.T, "ordinal"), icc=icc(images))
        )
    return tuple(result)


def _search(study: Study, key: StudyKey, main: Sequence[Judgement], options: AnalysisOptions) -> FreeResponse | None:
    """Only cases that every reader has read with every method count."""
    if not main:
        return None
    lesions = {case.name: case.lesions or () for case in key.cases}
    stacks = {case.name: study.stacks[case.images[key.methods[0]]] for case in key.cases}
    readers = sorted({one.reader for one in main})
    judged_marks = {
        (one.methods[0], one.reader, one.case): judge_marks(
            one.value["marks"], lesions[one.case], stacks[one.case], options.tolerance_mm
        )
        for one in main
    }
    cases = [
        case
        for case in sorted({one.case for one in main})
        if all((method, reader, case) in judged_marks for method in key.methods for reader in readers)
    ]
    if len(cases) < 2:
        return None
    most = max(1, max(len(lesions[case]) for case in cases))
    ratings = []
    for method in key.methods:
        padded = np.full((len(readers), len(cases), most), np.nan)
        for r, reader in enumerate(readers):
            for c, case in enumerate(cases):
                hits = judged_marks[method, reader, case][0]
                padded[r, c, : len(hits)] = hits
        ratings.append(Ratings([[judged_marks[method, r, c][1] for c in cases] for r in readers], padded))
    return analyse_search(ratings, options.tolerance_mm, readers=options.readers, seed=options.seed)


def _reader(study: Study, reader: str, judged: Sequence[Judgement]) -> ReaderQuality:
    own = {one.trial: one for one in judged if one.reader == reader}
    again = {
        kind: [(one, own[one.of]) for one in own.values() if one.kind == kind and one.of] for kind in (REPEAT, MIRRORED)
    }
    chosen = [(b, a) for b, a in again[REPEAT] if b.task == CHOICE]
    scored = [(b, a) for b, a in again[REPEAT] if b.task == SCORES]
    identical = [one for one in own.values() if one.kind == IDENTICAL]
    close = sum(abs(b.value["scores"][s] - a.value["scores"][s]) <= 1 for b, a in scored for s in SCALES)
    return ReaderQuality(
        reader=reader,
        answers=len(own),
        left=len(study.readers[reader]) - len(own),
        consistency=wilson(sum(b.preferred == a.preferred for b, a in chosen), len(chosen)),
        score_consistency=wilson(close, len(scored) * len(SCALES)),
        identical=len(identical),
        identical_failures=sum(bool(one.preferred) for one in identical),
        mirrored=len(again[MIRRORED]),
        mirrored_failures=sum(b.preferred != a.preferred for b, a in again[MIRRORED]),
        median_seconds=float(np.median([one.seconds for one in own.values()])) if own else None,
    )


def to_record(analysis: Analysis) -> dict[str, Any]:
    """Plain values for JSON; what is not known is null."""
    return _without_nan(asdict(analysis))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
