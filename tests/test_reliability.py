"""The page on reliability: every fault has tests, and the page names tests that exist."""

from __future__ import annotations

from pathlib import Path

from reliability import ROWS, named_tests, page, rows_of

ROOT = Path(__file__).resolve().parent.parent


def test_every_row_is_tested_and_every_test_named_is_there():
    named = named_tests((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))
    assert list(named) == list(ROWS) == list(range(1, 52))
    for row, tests in named.items():
        assert tests, f"row {row} has no test; see `make reliability`"
        for test in tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"row {row}: {test} is gone"


def test_the_page_counts_cases_by_row():
    text = page(["a.py::test_row07_x[1]", "a.py::test_row07_x[2]", "b.py::test_y[row08_z]"], {"killed": 4})
    assert named_tests(text)[7] == ["a.py::test_row07_x"] and "`a.py::test_row07_x` (2)" in text
    assert named_tests(text)[8] == ["b.py::test_y"] and named_tests(text)[9] == []
    assert "2 of 51" in text and "moments: 4, survived: 0" in text
    assert rows_of("test_row10_zero[row11_huge]") == {10, 11}
