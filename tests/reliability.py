"""docs/reliability.md, written by a run of the tests: which fault gets which answer, and which tests say so.

A test belongs to a row by its name or the name of its case: `row07` anywhere in its id.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROW = re.compile(r"row(\d\d)")
REFUSED, WARNED, FIXED = "refused (65)", "warned of", "put right and recorded"
ROWS: dict[int, tuple[str, str]] = {
    1: ("gzip file cut in half", REFUSED), 2: ("gzip trailer lost", REFUSED), 3: ("gzip checksum wrong", REFUSED),
    4: ("a bit of the compressed data flipped", REFUSED), 5: ("bytes after the end", WARNED),
    6: ("plain NIfTI named .nii.gz, or the reverse", REFUSED), 7: ("empty file, web page", REFUSED),
    8: ("header only, voxels missing", REFUSED), 9: ("negative dimension", REFUSED), 10: ("zero dimension", REFUSED),
    11: ("32767 voxels along every axis", "refused (65) before memory is taken"),
    12: ("gzip bomb", "refused (65) before memory is taken"), 13: ("no axes, or eight", REFUSED),
    14: ("unknown data type", REFUSED), 15: ("bits a voxel contradict the data type", WARNED),
    16: ("offset of the voxels not a number, huge or wrong", REFUSED), 17: ("wrong magic bytes", REFUSED),
    18: ("slope 0, not a number, infinite", "taken as 1 and recorded"), 19: ("slope of 1e30", REFUSED),
    20: ("sform of zeros", "qform where valid, else refused (65)"),
    21: ("sform holds NaN", "qform where valid, else refused (65)"), 22: ("no orientation at all", WARNED),
    23: ("voxel size 0", "warned of or refused (65)"), 24: ("negative voxel size", "put right and warned of"),
    25: ("voxel size not a number", REFUSED), 26: ("invalid quaternion", REFUSED),
    27: ("qform contradicts sform", "warned of; refused (65) on a swap or flip unless --trust says which"),
    28: ("sheared affine", WARNED), 29: ("left-handed or oblique affine", "works, exact round trip"),
    30: ("units of metres, microns, none", FIXED),
    31: ("odd voxel size or field of view", "warned of or refused (65)"), 32: ("isolated NaN or infinity", FIXED),
    33: ("more than 5 % NaN, constant, empty", REFUSED), 34: ("colour or complex voxels", REFUSED),
    35: ("four axes, one volume", FIXED), 36: ("several volumes", "refused (65) unless --volume chooses"),
    37: ("two axes, five, or fewer than 8 voxels", REFUSED),
    38: ("big-endian, uint16, float64, huge values", "works"), 39: ("extension of a wrong size", REFUSED),
    40: ("already as fine as the target", "passed through with a warning"),
    41: ("not a brain, CT, another contrast", WARNED), 42: ("negative or outlying intensities", WARNED),
    43: ("DICOM: missing slice, mixed series, copies, no pixels ...", "refused (65), or warned of"),
    44: ("odd names, links, path traversal", "safe"),
    45: ("disk full, folder closed, quota", "74 or 73; nothing partial is left"),
    46: ("killed at any moment", "no half-written file is taken for a result; running again finishes"),
    47: ("two processes, one output", "one wins, the other says so (73)"),
    48: ("out of memory", "smaller tiles, else 75"),
    49: ("bundle cut, altered, of another shape, pickled", "refused (78)"),
    50: ("training: loss not finite, a process dies", "step skipped or run stopped; NaN weights are never saved"),
    51: ("no HOME, no terminal, C locale, wrong clock, no network", "works"),
}  # fmt: skip


def rows_of(test_id: str) -> set[int]:
    """Rows that a test belongs to."""
    return {int(number) for number in ROW.findall(test_id)}


def page(passed: Iterable[str], counts: Mapping[str, int]) -> str:
    """Markdown of one run: ids of the tests that passed, and sums of what tests counted."""
    tests: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for test_id in passed:
        for row in rows_of(test_id):
            tests[row][test_id.partition("[")[0]] += 1
    lines = [
        "# Reliability", "",
        "Written by `make reliability` from a run of the tests; not by hand. Numbers in brackets are exit codes.", "",
        f"Rows with tests that passed: {len(set(tests) & set(ROWS))} of {len(ROWS)}. "
        f"Runs killed at random moments: {counts.get('killed', 0)}, survived: {counts.get('survived', 0)}.", "",
        "| row | fault | answer | tests (cases) |", "|---|---|---|---|",
    ]  # fmt: skip
    for row, (fault, answer) in ROWS.items():
        told = ", ".join(f"`{name}` ({n})" for name, n in sorted(tests[row].items())) or "**none**"
        lines.append(f"| {row} | {fault} | {answer} | {told} |")
    return "\n".join(lines) + "\n"


def named_tests(text: str) -> dict[int, list[str]]:
    """Test ids that a written page gives for every row."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdigit():
            found[int(cells[0])] = re.findall(r"`([^`]+)`", cells[3])
    return found


class Collector:
    """A pytest plugin: remembers what passed and writes the page at the end."""

    def __init__(self, path: Path) -> None:
        self.path, self.passed, self.counts = path, set(), defaultdict(int)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
            for name, value in report.user_properties:
                self.counts[name] += int(value)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(page(self.passed, self.counts), encoding="utf-8")
