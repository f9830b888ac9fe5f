"""Every fault has a test, and the page that says so is not out of date."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from faults import FAULTS
from reliability import ROOT, TALLY, Tally, page_text, pytest_make_collect_report, table

PAGE = ROOT / "docs" / "reliability.md"


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """What the whole suite holds; a part of it proves nothing, but modules without faults may skip themselves."""
    result = pytestconfig.stash[TALLY]
    files = (ROOT / "tests").rglob("test_*.py")
    if result.lacks({str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}):
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


def test_a_module_that_skips_itself_lacks_only_where_it_holds_faults():
    """Such as the tests in a browser, where there is none: the table of faults is checked nevertheless."""
    texts = {name: f"def test_that():  # {name}" for name in ("tests/test_a.py", "tests/test_b.py", "tests/test_c.py")}
    stash = pytest.Stash()
    stash[TALLY] = tally = Tally(files={"tests/test_a.py"})
    assert tally.lacks(texts) == {"tests/test_b.py", "tests/test_c.py"}
    for name, skipped in (("tests/test_b.py", True), ("tests/test_c.py", False), ("tests", True)):
        collector = SimpleNamespace(nodeid=name, config=SimpleNamespace(stash=stash))
        hook = pytest_make_collect_report(collector)
        next(hook)
        with pytest.raises(StopIteration):
            hook.send(SimpleNamespace(skipped=skipped))
    assert tally.skipped == {"tests/test_b.py"} and tally.lacks(texts) == {"tests/test_c.py"}
    for text in ("@pytest.mark.fault(7)", "def test_row07_that():", '    "row07_empty": 3,'):
        assert tally.lacks(texts | {"tests/test_b.py": text}) == {"tests/test_b.py", "tests/test_c.py"}


def test_faults_are_numbered_without_gaps():
    assert list(FAULTS) == list(range(1, len(FAULTS) + 1))


def test_every_fault_has_a_test(tally):
    assert [row for row in FAULTS if not tally.tests_of(row)] == []


def test_the_page_is_up_to_date(tally, pytestconfig):
    if pytestconfig.getoption("--reliability"):
        pytest.skip("this run writes the page")
    assert "\n".join(table(tally)) in PAGE.read_text(encoding="utf-8"), "run `make reliability`"
