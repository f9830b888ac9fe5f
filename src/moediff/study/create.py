"""Creating a reader study: cases are rendered once, trials are drawn, and the key is written beside the study."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moediff._version import __version__
from moediff.core.errors import ConfigError, DataError, prefix_errors, printable
from moediff.io.atomic import check_free, check_new_folder, whole_folder
from moediff.study.cases import Case
from moediff.study.design import DesignOptions, PlannedTrial, least_gap, plan_trials
from moediff.study.records import (
    IMAGE_FOLDER,
    INPUT,
    LESIONS,
    REFERENCE,
    SEARCH,
    STUDY_FILE,
    TRAINING,
    CaseKey,
    Display,
    Stack,
    Study,
    StudyKey,
    Trial,
    TrialKey,
    write_record,
)
from moediff.study.render import RenderedCase, RenderOptions, render_case

Progress = Callable[[float, str], None]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Everything that a study is made with, besides its cases.

    Args:
        readers: their names, shown to nobody but the person who runs the study.
        title: shown to readers.
        seed: of trials and sides; None draws one. It is written into the key only.
        context: which of input and reference is shown beside the images.
        window: locked or free.
        washout_days: shown between sessions.
    """

    readers: tuple[str, ...]
    title: str = "Reader study"
    seed: int | None = None
    context: tuple[str, ...] = (INPUT, REFERENCE)
    window: str = "locked"
    washout_days: int = 14
    design: DesignOptions = field(default_factory=DesignOptions)
    render: RenderOptions = field(default_factory=RenderOptions)

    def __post_init__(self) -> None:
        if not self.readers or len(set(self.readers)) < len(self.readers):
            raise ConfigError(f"readers {', '.join(self.readers) or '(none)'}: expected one or more different names")


def create_study(
    folder: Path, key_path: Path, cases: Sequence[Case], options: StudyOptions, progress: Progress
) -> tuple[Study, StudyKey]:
    """Write a study into a new folder, and its key.

    Raises:
        CannotCreate, OutputFailed: folder or key exist already, or writing failed.
        ConfigError: settings that do not fit the cases.
        MoeDiffError: a scan cannot be used.
    """
    check_new_folder(folder)
    check_free(key_path, overwrite=False)
    if key_path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{printable(key_path)}: the key must not lie in the study's folder, which readers' machines see"
        )
    _refuse_title(options.title, cases)
    seed = secrets.randbits(48) if options.seed is None else options.seed
    methods = tuple(cases[0].results)
    plans = {
        reader: plan_trials([case.name for case in cases], methods, options.design, seed, reader)
        for reader in options.readers
    }
    with prefix_errors(folder), whole_folder(folder, overwrite=False) as hidden:
        (hidden / IMAGE_FOLDER).mkdir()
        keys, stacks = _render_all(cases, hidden / IMAGE_FOLDER, options, progress)
        name = secrets.token_hex(8)
        key = StudyKey(
            study=name,
            salt=secrets.token_hex(16),
            seed=seed,
            methods=methods,
            cases=tuple(keys),
            readers={reader: tuple(_keys(plan)) for reader, plan in plans.items()},
        )
        images = {case.name: case.images for case in keys}
        study = Study(
            name=name,
            title=options.title,
            tasks=options.design.tasks,
            display=Display(plane=options.render.plane, window=options.window, ties=options.design.ties),
            washout_days=options.washout_days,
            least_gap=min(least_gap(plan) for plan in plans.values()),
            stacks=stacks,
            readers={reader: tuple(_trials(plan, images, options.context)) for reader, plan in plans.items()},
            key_sha256=write_record(key, key_path),
            software=__version__,
        )
        try:
            write_record(study, hidden / STUDY_FILE)
        except BaseException:
            key_path.unlink()
            raise
    return study, key


def _refuse_title(title: str, cases: Sequence[Case]) -> None:
    names = [*cases[0].results, *(case.name for case in cases)]
    if any(name.lower() in title.lower() for name in names):
        raise ConfigError(f"the title {title!r} names a method or a case, and readers see it: choose another one")


def _render_all(
    cases: Sequence[Case], images: Path, options: StudyOptions, progress: Progress
) -> tuple[list[CaseKey], dict[str, Stack]]:
    if SEARCH in options.design.tasks and not any(LESIONS in case.others for case in cases):
        raise DataError("the lesion search needs outlines of lesions: give --lesions; cases without a file have none")
    keys, stacks = [], dict[str, Stack]()
    for position, case in enumerate(cases):
        progress(position / len(cases), f"case {position + 1} of {len(cases)}")
        with prefix_errors(f"case {printable(case.name)}"):
            rendered = render_case(case, options.render)
        names = {role: secrets.token_hex(8) for role in rendered.images}
        for role, pngs in rendered.images.items():
            stacks[names[role]] = rendered.stack
            _write_slices(images / names[role], pngs)
        keys.append(_case_key(case, names, rendered))
    if SEARCH in options.design.tasks and not any(key.lesions for key in keys):
        raise DataError("every outlined lesion lies between the slices shown: show more of them (--slices)")
    return keys, dict(sorted(stacks.items()))  # sorted, because the order would tell the methods


def _write_slices(folder: Path, pngs: Sequence[bytes]) -> None:
    folder.mkdir()
    for index, content in enumerate(pngs):
        (folder / f"{index}.png").write_bytes(content)


def _case_key(case: Case, names: dict[str, str], rendered: RenderedCase) -> CaseKey:
    return CaseKey(
        name=case.name,
        files={role: str(path) for role, path in (case.results | case.others).items()},
        images=names,
        window=rendered.window,
        lesions=rendered.lesions,
        hidden_lesions=rendered.hidden_lesions,
        warnings=rendered.warnings,
    )


def _keys(plan: Sequence[PlannedTrial]) -> list[TrialKey]:
    return [
        TrialKey(
            number=position,
            kind=one.kind,
            case=one.case,
            methods=one.methods,
            of=None if one.of is None else one.of + 1,
        )
        for position, one in enumerate(plan, 1)
    ]


def _trials(plan: Sequence[PlannedTrial], images: dict[str, dict[str, str]], context: Sequence[str]) -> list[Trial]:
    return [
        Trial(
            number=position,
            session=one.session,
            task=one.task,
            training=one.kind == TRAINING,
            images=tuple(images[one.case][method] for method in one.methods),
            context={} if one.task == SEARCH else {r: images[one.case][r] for r in context if r in images[one.case]},
        )
        for position, one in enumerate(plan, 1)
    ]
