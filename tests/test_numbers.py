"""Numbers in pages: those that name their source agree with it, and measured ones without a source are found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {  # by commands, or records of what was measured
    "dependencies.md",
    "benchmarks.md",
    "measured.md",
    "reliability.md",
    "metrics.md",
    "design.md",
    "aims.md",
    "cases.md",
    "scale.md",
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STRICT = [page for page in PAGES if page.name not in GENERATED]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
MEASURED = re.compile(
    r"(?<![\w.^-])[+-]?\d+(?:\.\d+)?(?P<source><!-- [^>]*-->)?(?: ?- ?\d+)? "
    r"(?:(?:dB|MiB|GiB|s|seconds|minutes|hours)\b|% of (?:true|voxels|the truth|errors)|(?:outlined )?lesions\b)"
)
LOG_REFERENCE = re.compile(r"(?P<number>\d+(?:\.\d+)?)<!-- log (?P<section>[\w-]+) -->")


@pytest.fixture
def script(load_script):
    return load_script("published_numbers")


@pytest.fixture
def numbers() -> dict[str, float]:
    return json.loads((ROOT / "docs" / "numbers.json").read_text(encoding="utf-8"))


def test_the_file_of_numbers_is_what_the_command_writes(script, numbers):
    assert script.published() == numbers, "run `python scripts/published_numbers.py`"


def test_known_cells_are_read(numbers):
    """Against the tables as a person reads them."""
    assert numbers["persons"] == 5 and numbers["lesions.count"] == 32
    rows = json.loads((ROOT / "benchmarks" / "results" / "embedded.json").read_text(encoding="utf-8"))["rows"]
    psnr = {(r["method"], r["scan"]): r["metrics"]["psnr"] for r in rows if r["recipe"] == "thick5"}
    scans = {scan for _, scan in psnr}
    gains = [psnr["faithful", s] - max(psnr["cubic", s], psnr["zero-fill", s]) for s in scans]
    assert numbers["gain.thick5.psnr"] == pytest.approx(sum(gains) / len(gains), abs=1e-4)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_numbers_agree_with_their_source(page, script, numbers):
    text = page.read_text(encoding="utf-8")
    assert script.filled(text, numbers) == text, "run `python scripts/published_numbers.py`"


def log_of(section: str) -> str:
    """Sections of the lab notes whose titles hold a word: a date, or "stages"."""
    text = (ROOT / "LOG.md").read_text(encoding="utf-8")
    return "".join(part for part in re.split(r"^(?=## )", text, flags=re.M) if section in part.partition("\n")[0])


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_numbers_of_the_lab_notes_stand_there(page):
    for match in LOG_REFERENCE.finditer(page.read_text(encoding="utf-8")):
        assert re.search(rf"(?<![\d.]){re.escape(match['number'])}(?![\d.]*\d)", log_of(match["section"])), match[0]


def unsourced(text: str) -> list[str]:
    """Measured numbers in running text that name no source."""
    prose = re.sub(r"<!-- benchmark .*?<!-- end -->|^ *```.*?^ *```$|`[^`\n]+`", "", text, flags=re.M | re.S)
    return [match[0] for match in MEASURED.finditer(prose) if not match["source"]]


@pytest.mark.parametrize("page", STRICT, ids=lambda page: page.name)
def test_measured_numbers_name_their_source(page):
    assert unsourced(page.read_text(encoding="utf-8")) == []


def test_a_number_that_disagrees_is_found(script):
    known = {"gain.thick5.psnr": 2.4368}
    wrong = "It gains +2.1<!-- gain.thick5.psnr --> dB."
    assert script.filled(wrong, known) == "It gains +2.4<!-- gain.thick5.psnr --> dB."
    with pytest.raises(ValueError, match="no such number"):
        script.filled("1<!-- gain.nothing -->", known)
    assert unsourced("gains 2.44 dB, `x = 3 s`, 15<!-- log 2026-11-26 --> s, 91 % of true") == [
        "2.44 dB",
        "91 % of true",
    ]


def test_a_cell_that_is_not_there_is_refused(script):
    with pytest.raises(ValueError, match="no row"):
        script.Cell(page="measured.md", section="Uncertainty", row=("nobody",), column="Spearman").read()
    with pytest.raises(ValueError, match="no section"):
        script.Cell(page="measured.md", section="Nothing", row=(), column="x").read()
