"""Learning curve: the line is a least-squares line, and the page shows the file's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(load_script) -> ModuleType:
    return load_script("learning_curve")


def test_an_exact_line_is_fitted(script):
    line = script.fitted([(minutes, 1 + 0.1 * math.log2(minutes)) for minutes in (10, 50, 400, 900)])
    assert line.slope == pytest.approx(0.1) and line.half == pytest.approx(0, abs=1e-9)
    assert line.minutes(1 + 0.1 * 12, line.slope) == pytest.approx(2**12)
    assert line.minutes(9.0, 0.0) == math.inf


def test_the_interval_is_students(script):
    """Residuals 1, -2, 1 about a level line, at log2 of 0, 1, 2: one degree of freedom."""
    line = script.fitted([(1, 1.0), (2, -2.0), (4, 1.0)])
    assert line.slope == pytest.approx(0) and line.half == pytest.approx(6.3138 * math.sqrt(6 / 1 / 2), rel=1e-4)


def test_any_number_of_points_from_three_has_an_interval(script):
    """Of a slope, 90 %: Student's t is 1.729 with 19 degrees of freedom."""
    noise = [1.0, -1.0] * 10 + [0.0]
    line = script.fitted([(2.0**k, noise[k]) for k in range(21)])
    rest = sum((y - line.middle - line.slope * (k - line.centre)) ** 2 for k, y in enumerate(noise))
    assert line.half == pytest.approx(1.7291 * math.sqrt(rest / 19 / 770), rel=1e-4)
    with pytest.raises(ValueError, match="2 points are too few"):
        script.fitted([(1, 0.0), (2, 1.0)])


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (59, "59 minutes"),
        (300, "5 hours"),
        (3 * 1440, "3 days"),
        (5 * 365.25 * 1440, "5 years"),
        (math.inf, "over 100 years"),
    ],
)
def test_durations_are_readable(minutes, words, script):
    assert script.duration(minutes) == words


def test_the_page_of_aims_shows_the_recorded_measurements(script):
    rows = script.read(ROOT / "benchmarks" / "learning_curve.csv")
    assert script.table(rows) in (ROOT / "docs" / "aims.md").read_text(encoding="utf-8")
