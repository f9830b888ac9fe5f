"""Pytest plugin: which tests cover which fault, and docs/reliability.md made from a run (`make reliability`)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faults import FAULTS

ROOT = Path(__file__).resolve().parents[1]
OF = ", of"
IN_NAME = re.compile(r"row(\d\d)(?!\d)")
HOLDS = re.compile(rf"mark\.fault\(|{IN_NAME.pattern}")  # in the text of a module that could not be imported
HEAD = """# Reliability

Made by the test run itself (`make reliability`); do not edit. Every fault that MoEDiff-SR must survive, the answer it
gives, and the tests that hold it to that. Codes in brackets are exit codes.

Research use only; not for diagnostic use.
"""


@dataclass
class Tally:
    """What one run saw: rows of every test function, outcomes of every case, and measured figures.

    `files` gave tests, `skipped` are modules that skip themselves as a whole, for want of a browser for instance.
    """

    rows: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    files: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    row_of_case: dict[str, set[int]] = field(default_factory=dict)
    outcomes: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    figures: Counter[str] = field(default_factory=Counter)

    def tests_of(self, row: int) -> list[str]:
        """Functions that belong to a row, as file::function without the common words."""
        return sorted(name for name, rows in self.rows.items() if row in rows)

    def lacks(self, texts: Mapping[str, str]) -> set[str]:
        """Of all files of tests, those whose faults were not seen; a module that skips itself may hold none."""
        return {name for name in set(texts) - self.files if name not in self.skipped or HOLDS.search(texts[name])}


TALLY = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--reliability", metavar="PAGE", help="write the table of faults and tests after a whole run")
    group.addoption("--kills", type=int, default=5, help="how often an enhancement is killed (default 5)")
    group.addoption("--fuzz-seconds", type=float, default=0.0, help="how long files are mutated (default: 1000 files)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*rows): the rows of faults.py that a test covers")
    config.stash[TALLY] = Tally()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Note modules that skip themselves as a whole; no test tells of them."""
    report = yield
    if report.skipped and collector.nodeid.endswith(".py"):
        collector.config.stash[TALLY].skipped.add(collector.nodeid)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before any deselection, so that a test that is slow counts too."""
    tally = config.stash[TALLY]
    for item in items:
        rows = {int(n) for n in IN_NAME.findall(item.name)}
        for mark in item.iter_markers("fault"):
            rows |= set(mark.args)
        unknown = rows - set(FAULTS)
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: no such fault {sorted(unknown)}")
        tally.files.add(item.nodeid.partition("::")[0])
        tally.row_of_case[item.nodeid] = rows
        if rows:
            tally.rows[short(item.nodeid)] |= rows


def short(nodeid: str) -> str:
    """tests/io/test_scans.py::test_that[case] -> io/test_scans: that."""
    file, _, name = nodeid.partition("::")
    function = name.partition("[")[0].removeprefix("test_")
    return f"{file.removeprefix('tests/').removesuffix('.py')}: {function.replace('_', ' ')}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" or report.outcome != "passed":
        tally = item.config.stash[TALLY]
        for row in tally.row_of_case.get(item.nodeid, ()):
            tally.outcomes[row][report.outcome] += 1


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Counter[str]:
    """Numbers that tests measure, for the page."""
    return pytestconfig.stash[TALLY].figures


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    page = session.config.getoption("--reliability")
    if not page:
        return
    tally = session.config.stash[TALLY]
    bare = [row for row in FAULTS if not tally.outcomes[row]["passed"] or tally.outcomes[row]["failed"]]
    if exitstatus or bare:
        raise pytest.UsageError(f"{page} was not written: the run failed, or rows {bare} lack a passing test")
    Path(page).write_text(page_text(tally), encoding="utf-8")


def page_text(tally: Tally) -> str:
    """The whole page."""
    covered = sum(tally.outcomes[row]["passed"] > 0 for row in FAULTS)
    passed = sum(tally.outcomes[row]["passed"] for row in FAULTS)
    figures = [f"- faults with a passing test: **{covered} of {len(FAULTS)}** ({passed} cases)"]
    figures += [figure(tally, name) for name in sorted(tally.figures) if not name.endswith(OF)]
    return "\n".join([HEAD, *figures, "", *table(tally), ""])


def figure(tally: Tally, name: str) -> str:
    """A number, or "30 of 30" where a test counted its attempts under the same name and `OF`."""
    most = f" of {tally.figures[name + OF]:,}" if name + OF in tally.figures else ""
    return f"- {name}: **{tally.figures[name]:,}{most}**"


def table(tally: Tally) -> list[str]:
    """One line per fault; no outcome in it, so that it changes only when tests do."""
    lines = ["| # | fault | answer | tests |", "|---|---|---|---|"]
    for row, (fault, answer) in FAULTS.items():
        lines.append(f"| {row} | {fault} | {answer} | {'; '.join(tally.tests_of(row))} |")
    return lines
