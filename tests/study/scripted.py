"""Scripted readers: answers drawn from known strengths, through the same store that the server uses."""

import numpy as np

from moediff.study.answers import Answer, AnswerStore, now
from moediff.study.records import SCALES, Study, StudyKey
from moediff.study.strengths import FIRST, SECOND, numpy_rng, probabilities


def scripted_value(key: StudyKey, reader: str, number: int, strengths, rng: np.random.Generator) -> dict:
    """What a scripted reader answers to one trial."""
    about = key.readers[reader][number - 1]
    strength = dict(zip(key.methods, strengths, strict=True))
    if len(about.methods) == 2:
        left, right = about.methods
        if left == right:
            return {"choice": "same"}
        outcome = rng.choice(3, p=probabilities((strength[left], strength[right]), -1.0)[0])
        return {"choice": {FIRST: "left", SECOND: "right"}.get(int(outcome), "same")}
    (method,) = about.methods
    return {
        "scores": {scale: int(np.clip(round(3 + 2 * strength[method] + rng.normal(0, 0.5)), 1, 5)) for scale in SCALES},
        "marks": _marks(key, about.case, strength[method], rng),
    }


def _marks(key: StudyKey, case: str, strength: float, rng: np.random.Generator) -> list[dict]:
    """Lesions are found more often where the method is stronger; now and then a false mark."""
    (found,) = [one for one in key.cases if one.name == case]
    marks = []
    for lesion in found.lesions or ():
        if rng.random() < 0.5 + strength / 2:
            place, row, start, _ = lesion.runs[0]
            marks.append({"slice": place, "x": (start + 0.5) / 26, "y": (row + 0.5) / 30, "confidence": 4})
    if rng.random() < 0.3:
        marks.append({"slice": 0, "x": 0.01, "y": 0.01, "confidence": 2})
    return marks


def read_all(store: AnswerStore, study: Study, key: StudyKey, strengths, until: int | None = None) -> None:
    """Both readers answer everything, or the first `until` trials."""
    for reader, trials in study.readers.items():
        rng = numpy_rng(1, reader)
        for trial in trials[:until]:
            value = scripted_value(key, reader, trial.number, strengths, rng)
            value = {
                name: value[name]
                for name in {"choice": ["choice"], "scores": ["scores"], "search": ["marks"]}[trial.task]
            }
            store.add(Answer(reader=reader, trial=trial.number, value=value, seconds=2.5, answered_at=now()))
