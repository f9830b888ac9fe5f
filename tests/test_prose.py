"""Language of the pages: spelling, plain English, sentences of readable length, most of them active."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RECORDS = {"aims.md", "scale.md"}  # tables that scripts write
READ = [  # what users read; records and lab notes are only spell-checked
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.name not in {"benchmarks.md", "measured.md", "reliability.md", "design.md", "dependencies.md", *RECORDS}
    ),
]
GUIDES = {"Start", "How to", "Explanation", "Extend"}  # parts of the menu that are read from top to bottom
RULES = {  # pattern -> what to write instead
    r"\b(?:colors?|gray(?! \d)|neighbor\w*|centers?|behavior\w*|artifacts?|(?:analy|normali)z\w*)\b": "British English",
    r"\b(?:utili[sz]e\w*|leverag\w*|facilitat\w*)\b": "use, help",
    r"\b(?:in order to|due to the fact|with respect to|prior to|in the case of)\b": "to, because, about, before, for",
    r"\b(?:simply|obviously|easily|of course|please note|it should be noted)\b": "leave it out",
    r"\b(?:e\.g\.|i\.e\.|etc\.|resp\.|viz\.)": "for example, that is, and so on",
    r"\b(?:one|two|three|four|nine) \w+ of (?:two|three|four|five|ten)\b": "two thirds, 90 %",
    r"\b(?:whilst|thus|hence|thereby|wherein|foretold|henceforth|albeit)\b": "so, while, although",
    r"\b(?:state[- ]of[- ]the[- ]art|cutting[- ]edge|seamless\w*|powerful|blazing\w*)\b": "say what was measured",
    r"\b(?!CODE)(\w+) \1\b(?<!had had)(?<!that that)": "the word stands twice",
    r"[\u2014\u2013]": "a comma, a colon or a hyphen",
    r"\b(?:stands?|stood) (?:in|on|above|below|under|for)\b": "is",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer|more|less|larger|smaller|better|worse)\w": "is not a, are not",
    r"\bof (?:its|their|his|her) own\b": "its own, a separate",
    r"\b(?:has|have|had) to\b": "must, needs to",
    r"\b(?:whoever|whosoever|nobody|naught)\b": "anyone who, no person",
    r"\b(?:at hand|tells? of|hands? out|gives? away|comes? about|came about)\b": "is available, describes, assigns",
    r"\b(?:names|naming) (?:it|them|nobody|every one|which|what|that)\b": "lists, says",
    r"\bso (?!that|as|does|do|did|is|are|was|were|will|can|has)\w+ an? \w+": "such a",
    r"(?:^|[.:;] )(?:Only|Never|Nowhere|Seldom) (?:is|are|does|do|did|has|have)\b": "subject before verb",
    r"\b(?:the way of|on the way to|by the hand of|under way)\b": "say it without the picture",
    r"\b(?:hundreds?|dozens?|lots|tons) of\b": "the number",
}
LONGEST = {True: 30, False: 40}  # words of a sentence or of a table's cell: guides, reference
LONGEST_MEAN, MOST_PASSIVE = 16, 0.35
PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being)(?: \w+ly| not| also| only)? "
    r"(?:\w+ed|made|shown|known|given|read|drawn|written|found|lost|left|cut|taken|done|seen|held|chosen|put|set|run)\b"
)


def _menu(entries: list) -> list[Path]:
    """Pages of a part of the menu."""
    return [
        page
        for entry in entries
        for value in (entry.values() if isinstance(entry, dict) else [entry])
        for page in (_menu(value) if isinstance(value, list) else [ROOT / "docs" / value])
    ]


def guides() -> set[Path]:
    """README and the pages that are read from top to bottom."""
    parts = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    menu = [entry for part in parts for name, entry in part.items() if name in GUIDES]
    return {ROOT / "README.md", *_menu([page for part in menu for page in part])}


def prose(text: str) -> str:
    """Running text of a page: no code, tables, comments, pictures or link targets."""
    text = re.sub(r"^ *```.*?^ *```$|<!--.*?-->", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]+`", "CODE", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("|", "#", "!!!", ":::")))


def cells(text: str) -> list[str]:
    """Sentences in the cells of tables."""
    text = re.sub(r"^ *```.*?^ *```$|<!-- benchmark .*?<!-- end -->|<!--.*?-->", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]+`", "CODE", re.sub(r"\]\([^)]*\)", "]", text))
    found = [cell for line in text.splitlines() if line.startswith("|") for cell in line.strip("|").split(" | ")]
    return [one for cell in found for one in re.split(r"(?<=[.!?:;])\s+", cell)]


def sentences(text: str) -> list[str]:
    """Sentences and items of lists."""
    parts = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", prose(text), flags=re.M)
    found = [one for part in parts for one in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`*\[(])|;\s", " ".join(part.split()))]
    return [one for one in found if len(one.split()) > 2]


def broken_rules(text: str) -> list[str]:
    """What a page says against the rules, with the remedy."""
    plain = "\n".join([prose(text), *cells(text)])
    found = [(match[0], remedy) for rule, remedy in RULES.items() for match in re.finditer(rule, plain, re.I)]
    return [f"{words!r}: {remedy}" for words, remedy in found]


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_are_written_plainly(page):
    assert broken_rules(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_sentences_are_short(page):
    text = page.read_text(encoding="utf-8")
    found = [len(one.split()) for one in sentences(text)]
    longest = LONGEST[page in guides()]
    assert [one for one in sentences(text) + cells(text) if len(one.split()) > longest] == []
    assert not found or sum(found) / len(found) <= LONGEST_MEAN


@pytest.mark.parametrize("page", sorted(guides()), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_most_sentences_are_active(page):
    found = sentences(page.read_text(encoding="utf-8"))
    passive = [one for one in found if PASSIVE.search(one)]
    assert len(found) < 10 or len(passive) <= MOST_PASSIVE * len(found), passive


MOST_WORDS = (
    1300  # of a page that is read from top to bottom: what one looks up belongs to the reference or the records
)


@pytest.mark.parametrize("page", sorted(guides()), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_guides_stay_short(page):
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.S)
    assert len(text.split()) <= MOST_WORDS


LONGEST_CODE = 96  # characters: what a page shows on a screen of 1440 pixels without scrolling


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_code_fit_the_page(page):
    blocks = re.findall(r"^ *```.*?^ *```$", page.read_text(encoding="utf-8"), re.M | re.S)
    assert [line for block in blocks for line in block.splitlines() if len(line) > LONGEST_CODE] == []


def test_pages_are_spelled_right():
    places = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "SECURITY.md", "docs", "src", "scripts"]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *places], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_breaks_a_rule_is_found():
    text = "The color is right in two voxels of three, e.g. here.\n\n```\ngray\n```\n"
    assert [line.split("'")[1] for line in broken_rules(text)] == ["color", "e.g.", "two voxels of three"]
    assert broken_rules("The `color` is the the same.") == ["'the the': the word stands twice"]
    assert sentences("One two three. Four five six:\n\n- Seven eight nine\n") == [
        "One two three.",
        "Four five six:",
        "Seven eight nine",
    ]
