"""Index of a cohort: what stands out, and against what."""

from pathlib import Path

import pytest

from moediff.cohort import pages
from moediff.cohort.pages import _Listed, _scores, write_pages
from moediff.cohort.pictures import Pictures
from moediff.cohort.results import Result
from moediff.core.errors import DataError


def listed(*names: str) -> list[_Listed]:
    here = Path()
    return [_Listed(Result(here / f"{n}.nii.gz", here / f"{n}.json", n, here / "p.html", here), {}) for n in names]


def test_scans_are_compared_with_their_own_contrast():
    names = [f"sub-{n}_desc-sr_{suffix}" for suffix in ("T1w", "FLAIR") for n in range(6)]
    values = [1.0, 1.1, 0.9, 1.2, 0.8, 3.0, 10.0, 11.0, 9.0, 12.0, 8.0, 10.5]
    scores = _scores(listed(*names), values)
    assert [at for at, z in enumerate(scores) if z is not None and abs(z) > 3.5] == [5]


def test_hardly_different_values_do_not_stand_out():
    six = listed(*(f"scan{n}_desc-sr" for n in range(6)))
    assert _scores(six, [1.84, 1.84, 1.84, 1.84, 1.85, 1.86]) == [0.0] * 6
    assert _scores(six, [1.84, 1.84, 1.84, 1.84, 1.85, 3.0])[-1] > 3.5  # they are compared


def test_few_scans_say_nothing():
    assert _scores(listed("a", "b", "c"), [1.0, 2.0, 9.0]) == [None, None, None]


def test_a_page_without_its_pictures_is_drawn_again(tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    (tmp_path / "a.json").write_text("{}")
    result = Result(tmp_path / "a.nii.gz", tmp_path / "a.json", "a", tmp_path / "a.html", tmp_path / "figures")
    answers = [DataError("the disk is full"), Pictures(()), Pictures(())]

    def pictures_of(scan, folder):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(pages, "pictures_of", pictures_of)
    assert [write_pages(tmp_path, [result], []).renewed for _ in range(3)] == [1, 1, 0]
    assert "No pictures" not in (tmp_path / "a.html").read_text()
