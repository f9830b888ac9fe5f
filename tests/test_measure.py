"""Page of measurements: no number of other weights can stand in it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from moediff.model.bundle import load_bundle

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(load_script) -> ModuleType:
    return load_script("measure")


@pytest.fixture
def measurement(script, monkeypatch, tmp_path):
    """A measurement whose script counts its runs, prints where it found data and fails as long as there is none."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "fake.py").write_text(
        "import pathlib, sys\n"
        "with open('runs.txt', 'a') as runs: runs.write('x')\n"
        "print('a line of progress', file=sys.stderr)\n"
        "print('| table |', *sys.argv[1:])\n"
        "sys.exit(0 if pathlib.Path(sys.argv[-1]).is_dir() else 3)\n"
    )
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return script.Measurement(name="fake", title="A title", call="fake.py --side 8", legend="What it is.")


def test_the_page_is_of_the_embedded_weights(script):
    """New weights need a new page: `make measure`."""
    assert script.weights_line(load_bundle()) in (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")


def test_the_page_has_the_sections_of_the_script(script):
    page = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    for one in script.MEASUREMENTS:
        assert f"## {one.title}\n\n{one.legend}\n\n`python {' '.join(script.words_of(one))}`\n" in page


def test_every_script_exists_and_every_name_is_one(script):
    names = [one.name for one in script.MEASUREMENTS]
    assert len(set(names)) == len(names) > 5
    assert [one.name for one in script.MEASUREMENTS if not (ROOT / script.words_of(one)[0]).is_file()] == []


def test_a_measurement_is_run_once_and_stores_its_table_only(script, measurement, tmp_path):
    for _ in range(2):
        assert script.measure([measurement], tmp_path / "store", tmp_path, jobs=2) == 0
    assert (tmp_path / "runs.txt").read_text() == "x"
    assert (tmp_path / "store" / "fake.md").read_text() == f"| table | --side 8 --data {tmp_path}\n"
    assert "progress" in (tmp_path / "store" / "fake.log").read_text()


def test_one_that_failed_counts_as_missing_and_is_run_again(script, measurement, tmp_path):
    assert script.measure([measurement], tmp_path / "store", tmp_path / "no", jobs=1) == 3
    assert not (tmp_path / "store" / "fake.md").exists()
    assert script.measure([measurement], tmp_path / "store", tmp_path, jobs=1) == 0


def test_the_page_says_what_is_missing(script, measurement, monkeypatch, tmp_path):
    other = script.Measurement(name="other", title="Another", call="fake.py", legend="What that is.", exclusive=True)
    monkeypatch.setattr(script, "MEASUREMENTS", (measurement, other))
    (tmp_path / "fake.md").write_text("| 1 |\n")
    page = script.page_of(SimpleNamespace(sha256="abc", settings_sha256="de"), tmp_path, {})
    assert "`abc`" in page
    first, second = page.split("## ")[1:]
    assert first.startswith("A title") and "| 1 |" in first and "Not measured" not in first
    assert second.startswith("Another") and "**Not measured with these weights.**" in second


def test_the_page_keeps_what_it_holds_of_the_same_weights(script, measurement, monkeypatch, tmp_path):
    other = script.Measurement(name="other", title="Another", call="fake.py", legend="What that is.")
    monkeypatch.setattr(script, "MEASUREMENTS", (measurement, other))
    weights, page = SimpleNamespace(sha256="abc", settings_sha256="de"), tmp_path / "page.md"
    (tmp_path / "fake.md").write_text("| 1 |\n\n| 2 |\n")
    (tmp_path / "other.md").write_text("| 3 |\n")
    page.write_text(script.page_of(weights, tmp_path, {}))
    earlier = script.earlier_sections(page, weights)
    assert script.page_of(weights, tmp_path / "elsewhere", earlier) == page.read_text()
    for sha256, settings in (("other", "de"), ("abc", "other")):
        assert script.earlier_sections(page, SimpleNamespace(sha256=sha256, settings_sha256=settings)) == {}
