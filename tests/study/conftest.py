"""A study of phantoms: five small heads, three methods, lesions, an input and a reference."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from moediff.cli.main import main
from moediff.io.scans import save
from moediff.study.records import Study, StudyKey, key_beside, read_key, read_study

METHODS = ("cubic", "totalvar", "oursfaithful")
CASES = tuple(f"sub-{i:02d}_T1w" for i in range(5))


@dataclass(frozen=True)
class MadeStudy:
    """A study on disk."""

    folder: Path
    study: Study
    key: StudyKey
    key_path: Path


@pytest.fixture(scope="session")
def study_scans(tmp_path_factory, make_phantom) -> Path:
    """Folders of results by method, inputs, references and lesions; images differ by a smooth factor."""
    folder = tmp_path_factory.mktemp("scans")
    for name in (*METHODS, "input", "reference", "lesions"):
        (folder / name).mkdir()
    for number, case in enumerate(CASES):
        head = make_phantom((26, 30, 24), (7.0, 7.0, 7.0), seed=number)
        for strength, method in enumerate(METHODS):
            blurred = head.data_XYZ.clone()
            blurred[1:] = (blurred[1:] * (4 - strength) + blurred[:-1] * strength) / 4
            save(head.with_data(blurred), folder / method / f"{case.replace('_', '_desc-sr_')}.nii.gz")
        save(head, folder / "reference" / f"{case}.nii.gz")
        save(make_phantom((26, 30, 12), (7.0, 7.0, 14.0), seed=number), folder / "input" / f"{case}.nii.gz")
        mask = torch.zeros(head.shape)
        mask[8:10, 14:16, 12] = 1
        if number % 2:
            mask[16, 14, 10:13] = 1
        save(head.with_data(mask), folder / "lesions" / f"{case}.nii.gz")
    return folder


def create(scans: Path, folder: Path, *more: str) -> MadeStudy:
    """`moediff study create` with all files; returns what was written. Without a seed it is 7."""
    words = ["study", "create", str(folder), "--results", *(f"{m}={scans / m}" for m in METHODS)]
    for role in ("input", "reference", "lesions"):
        words += [f"--{role}", str(scans / role)]
    assert main([*words, "-q", "--readers", "ann", "bob", "--slices", "6", "--seed", "7", *more]) == 0
    study = read_study(folder)
    return MadeStudy(folder, study, read_key(key_beside(folder), study), key_beside(folder))


@pytest.fixture(scope="session")
def all_tasks(study_scans, tmp_path_factory) -> MadeStudy:
    """A study with every task; not to be changed."""
    return create(
        study_scans, tmp_path_factory.mktemp("all") / "study", "--tasks", "choice", "scores", "search", "--seed", "5"
    )


@pytest.fixture(scope="session")
def made_studies(study_scans, tmp_path_factory) -> Callable[..., MadeStudy]:
    """`made_studies(*options)` -> a study with these options, made once; not to be changed."""
    return cache(lambda *more: create(study_scans, tmp_path_factory.mktemp("made") / "study", *more))


@pytest.fixture
def new_study(made_studies, tmp_path) -> Callable[..., MadeStudy]:
    """`new_study(*options)` -> a study of the test's own, a copy."""

    def copied(*more: str) -> MadeStudy:
        made, folder = made_studies(*more), tmp_path / "study"
        shutil.copytree(made.folder, folder)
        return replace(made, folder=folder, key_path=Path(shutil.copy(made.key_path, key_beside(folder))))

    return copied
