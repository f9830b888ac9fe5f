"""View of a trial, as a reader's page gets it from the server or in an offline file; nothing in it unblinds."""

from __future__ import annotations

from typing import Any

from moediff.study.answers import GRADES
from moediff.study.records import CHOICE, INPUT, REFERENCE, SCALES, Study, Trial

TITLES = {"left": "Left", "right": "Right", "image": "Image", "input": "Input", "reference": "Reference"}


def panels(trial: Trial) -> dict[str, str]:
    """Name of every picture beside each other -> image, in the order of display."""
    judged: tuple[str, ...] = ("left", "right") if trial.task == CHOICE else ("image",)
    displayed: dict[str, str] = dict(zip(judged, trial.images, strict=True))
    return displayed | {role: trial.context[role] for role in (INPUT, REFERENCE) if role in trial.context}


def trial_view(study: Study, reader: str, done: int) -> dict[str, Any]:
    """The next trial of a reader who has answered `done`."""
    trials = study.readers[reader]
    if done >= len(trials):
        return {"finished": True, "of": len(trials), "undo": 0}
    trial = trials[done]
    stack = study.stacks[trial.images[0]]
    before = trials[done - 1] if done else None
    new_session = before is not None and before.session != trial.session
    return {
        "finished": False,
        "trial": trial.number,
        "of": len(trials),
        "training": trial.training,
        "task": trial.task,
        "session": trial.session,
        "pause_days": study.washout_days if new_session else None,
        "ties": study.display.ties,
        "window": study.display.window,
        "panels": [{"name": name, "title": TITLES[name]} for name in panels(trial)],
        "slices": stack.slices,
        "width": stack.width,
        "height": stack.height,
        "width_mm": stack.width_mm,
        "height_mm": stack.height_mm,
        "scales": list(SCALES),
        "grades": GRADES,
        "undo": 0 if new_session else done,
    }
