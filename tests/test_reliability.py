"""Every fault has a test, and the page that says so is not out of date."""

from __future__ import annotations

import pytest

from faults import FAULTS
from reliability import ROOT, TALLY, Tally, page_text, table

PAGE = ROOT / "docs" / "reliability.md"


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """What the whole suite holds; a part of it proves nothing."""
    result = pytestconfig.stash[TALLY]
    every = {str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py")}
    if every - result.files:
        pytest.skip("only a part of the tests was collected")
    return result


def test_figures_say_how_many_were_tried():
    """What the page says of a run: rows with a passing test, files read, kills survived."""
    tally = Tally()
    tally.outcomes[1]["passed"] = 3
    tally.figures.update({"mutated files read": 12345, "mutated files: crashes": 0})
    tally.figures.update({"kills survived": 30, "kills survived, of": 30})
    page = page_text(tally)
    assert f"faults with a passing test: **1 of {len(FAULTS)}** (3 cases)" in page
    assert "- mutated files read: **12,345**\n- mutated files: crashes: **0**\n" in page
    assert "- kills survived: **30 of 30**\n" in page and "survived, of" not in page


def test_faults_are_numbered_without_gaps():
    assert list(FAULTS) == list(range(1, len(FAULTS) + 1))


def test_every_fault_has_a_test(tally):
    assert [row for row in FAULTS if not tally.tests_of(row)] == []


def test_the_page_is_up_to_date(tally, pytestconfig):
    if pytestconfig.getoption("--reliability"):
        pytest.skip("this run writes the page")
    assert "\n".join(table(tally)) in PAGE.read_text(encoding="utf-8"), "run `make reliability`"
