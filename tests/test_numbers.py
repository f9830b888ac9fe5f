"""Numbers in pages: those that name their source agree with it, and measured ones without a source are found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {  # by commands, or records of what was measured
    "aims.md",
    "benchmarks.md",
    "cases.md",
    "dependencies.md",
    "design.md",
    "measured.md",
    "metrics.md",
    "reader-study-check.md",
    "reliability.md",
    "scale.md",
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STRICT = [page for page in PAGES if page.name not in GENERATED]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?"
UNITS = (
    "dB|MiB|GiB|MB|GB|kWh|s|seconds|minutes|hours|days|times|persons|scans of|label maps|studies|"
    "lesions|outlined lesions|(?:million )?parameters"
)
MEASURED = re.compile(
    rf"(?<![\w.^-]){NUMBER}(?P<source><!-- [^>]*-->)?(?: ?(?:-|to) ?{NUMBER}(?:<!-- [^>]*-->)?)? ?(?:(?:{UNITS})\b|%)"
)
REASONS = {"an aim", "a definition", "from the minutes above"}  # of a number that no file holds, in its comment
ALLOWED = {  # text around a number -> why no file holds it
    r"\([\d.]+ to [\d.]+ times, [\d.]+-[\d.]+ % noise\)": "recipes of degradation",
    r"9[05] % (?:interval|would be right)": "which interval",
    r"(?:voxels|plane)(?: are)? [\d.]+ times (?:larger|coarser|smaller)": "a recipe of degradation, or an example",
    r"\d(?:-\d)? % (?:Rician )?noise": "a recipe of degradation",
}
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
    assert 1.5 < numbers["weights.million-parameters"] < 1.7 and 6 < numbers["weights.megabytes"] < 7
    assert numbers["learned.scans"] == 10 and numbers["learned.persons"] == 8
    rows = json.loads((ROOT / "benchmarks" / "results" / "embedded.json").read_text(encoding="utf-8"))["rows"]
    psnr = {(r["method"], r["scan"]): r["metrics"]["psnr"] for r in rows if r["recipe"] == "thick5"}
    scans = {scan for _, scan in psnr}
    gains = [psnr["faithful", s] - max(psnr["cubic", s], psnr["zero-fill", s]) for s in scans]
    whole = next(gain for gain, scan in zip(gains, scans, strict=True) if scan == "seg3d_T1w")
    assert numbers["gain.thick5.with-skull"] == pytest.approx(whole, abs=1e-4)
    for name, ending in (("expert.margin", ".margin"), ("gate.right", ".right")):
        single = [value for key, value in numbers.items() if key.endswith(ending)]
        assert len(single) in (4, 6)
        assert (numbers[f"{name}.least"], numbers[f"{name}.most"]) == (min(single), max(single))
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
    """Numbers with a unit in running text and tables that name no source and need one."""
    prose = re.sub(r"<!-- benchmark .*?<!-- end -->|^ *```.*?^ *```$|`[^`\n]+`", "", text, flags=re.M | re.S)
    for allowed in ALLOWED:
        prose = re.sub(allowed, "", re.sub(r"\s+", " ", prose))
    return [match[0] for match in MEASURED.finditer(prose) if not match["source"]]


def reasons(text: str) -> set[str]:
    """What comments behind numbers say in place of a source."""
    behind = re.findall(rf"{NUMBER}<!-- ([^>]*?) -->", text)
    return {one for one in behind if " " in one and not one.startswith("log ")}


@pytest.mark.parametrize("page", STRICT, ids=lambda page: page.name)
def test_measured_numbers_name_their_source(page):
    text = page.read_text(encoding="utf-8")
    assert unsourced(text) == []
    assert reasons(text) <= REASONS


def test_a_number_that_disagrees_is_found(script):
    known = {"gain.thick5.psnr": 2.4368}
    wrong = "It gains +2.1<!-- gain.thick5.psnr --> dB."
    assert script.filled(wrong, known) == "It gains +2.4<!-- gain.thick5.psnr --> dB."
    with pytest.raises(ValueError, match="no such number"):
        script.filled("1<!-- gain.nothing -->", known)
    text = "gains 2.44 dB, `x = 3 s`, 15<!-- log 2026-11-26 --> s, 91 % of true, 90 % intervals, 8 persons, 2 to 3 MB"
    assert unsourced(text) == ["2.44 dB", "91 %", "8 persons", "2 to 3 MB"]
    assert reasons("+3.0<!-- an aim --> dB, 2<!-- gain.x -->, 1<!-- log stages -->, 4<!-- I think -->") == {
        "an aim",
        "I think",
    }


def test_a_cell_that_is_not_there_is_refused(script):
    with pytest.raises(ValueError, match="no row"):
        script.Cell(page="measured.md", section="Uncertainty", row=("nobody",), column="Spearman").read()
    with pytest.raises(ValueError, match="no section"):
        script.Cell(page="measured.md", section="Nothing", row=(), column="x").read()
