"""Language of the pages: spelling, one spelling of a word, plain phrases, sentences of readable length."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READ = [  # what users read; records and lab notes are only spell-checked
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.name not in {"benchmarks.md", "measured.md", "reliability.md", "design.md", "dependencies.md"}
    ),
]
RULES = {  # pattern -> what to write instead
    r"\b(?:colors?|gray|neighbor\w*|centers?|behavior\w*|artifacts?|analyz\w*|normaliz\w*)\b": "British spelling",
    r"\b(?:utili[sz]e\w*|leverag\w*|facilitat\w*)\b": "use, help",
    r"\b(?:in order to|due to the fact|with respect to|prior to|in the case of)\b": "to, because, about, before, for",
    r"\b(?:simply|obviously|easily|of course|please note|it should be noted)\b": "leave it out",
    r"\b(?:e\.g\.|i\.e\.|etc\.|resp\.|viz\.)": "for example, that is, and so on",
    r"\b(?:one|two|three|four|nine) \w+ of (?:two|three|four|five|ten)\b": "two thirds, 90 %",
    r"\b(?:whilst|thus|hence|thereby|wherein|foretold|henceforth|albeit)\b": "so, while, although",
    r"\b(?:state[- ]of[- ]the[- ]art|cutting[- ]edge|seamless\w*|powerful|blazing\w*)\b": "say what was measured",
    r"\b(\w+) \1\b(?<!had had)(?<!that that)": "the word stands twice",
    r"[\u2014\u2013]": "a comma, a colon or a hyphen",
}
LONGEST_SENTENCE, LONGEST_MEAN = 48, 19  # words


def prose(text: str) -> str:
    """Running text of a page: no code, tables, comments, pictures or link targets."""
    text = re.sub(r"^ *```.*?^ *```$|<!--.*?-->", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]+`", "CODE", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("|", "#", "!!!", ":::")))


def sentences(text: str) -> list[str]:
    """Sentences and items of lists."""
    parts = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", prose(text), flags=re.M)
    found = [one for part in parts for one in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`*\[(])|;\s", " ".join(part.split()))]
    return [one for one in found if len(one.split()) > 2]


def broken_rules(text: str) -> list[str]:
    """What a page says against the rules, with the remedy."""
    plain = prose(text)
    found = [(match[0], remedy) for rule, remedy in RULES.items() for match in re.finditer(rule, plain, re.I)]
    return [f"{words!r}: {remedy}" for words, remedy in found]


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_are_written_plainly(page):
    assert broken_rules(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_sentences_are_short(page):
    lengths = {one: len(one.split()) for one in sentences(page.read_text(encoding="utf-8"))}
    assert [one for one, length in lengths.items() if length > LONGEST_SENTENCE] == []
    assert not lengths or sum(lengths.values()) / len(lengths) <= LONGEST_MEAN


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
