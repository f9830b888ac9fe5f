"""MkDocs hooks: every command's help, every recipe key, and LOG.md and CHANGELOG.md of the repository as pages.

Help is formatted at 92 columns without colours, so that the page is the same wherever it is built. Links to and from
LOG.md are written for the repository, where it lies beside the folder docs/.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("LOG.md", "CHANGELOG.md", "CONTRIBUTING.md")
LONG = (
    "aims",
    "benchmarks",
    "cases",
    "default-recipe",
    "dependencies",
    "design",
    "gallery",
    "hazards",
    "measured",
    "metrics-checks",
    "persons",
    "reader-study-check",
    "reliability",
    "scale",
)
RECORDS = {*BESIDE, *(f"{name}.md" for name in LONG)}
ANSWERS = {"modes.md", "results.md", "tutorial.md", "install.md", "faq.md", "reference/files.md"}
RECORDS_BOOST, ANSWERS_BOOST = 0.2, 2.0  # in the search: what answers a question comes first
LONGEST_UNBROKEN = 24  # characters of code that stay in one line
MARK, KEYS_MARK = "<!-- every command -->", "<!-- every recipe key -->"


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser's commands and theirs, in the order they were declared."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands(command)


def reference() -> str:
    """Markdown of every command's help."""
    sys.path.insert(0, str(ROOT / "src"))
    os.environ |= {"COLUMNS": "92", "NO_COLOR": "1"}
    from moediff.cli.main import build_parser

    return "\n\n".join(f"## {c.prog}\n\n```text\n{c.format_help().rstrip()}\n```" for c in commands(build_parser()))


def on_files(files: Any, config: Any) -> Any:
    """Add pages that lie beside docs/, their links to docs/ made relative to it."""
    from mkdocs.structure.files import File

    for name in BESIDE:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Short code in running text and tables gets a class, so that `--tta 2` is not broken after its dashes."""
    return re.sub(rf"<code>([^<\n]{{1,{LONGEST_UNBROKEN}}})</code>", r'<code class="short">\1</code>', html)


def on_page_markdown(markdown: str, page: Any = None, **_: Any) -> str:
    """Fill the mark; the lab notes lie within the site."""
    if page is not None and page.file.src_uri in RECORDS | ANSWERS:
        page.meta.setdefault("search", {"boost": RECORDS_BOOST if page.file.src_uri in RECORDS else ANSWERS_BOOST})
    for name in BESIDE:
        markdown = markdown.replace(f"../{name}", name)
    if KEYS_MARK in markdown:
        sys.path.insert(0, str(ROOT / "scripts"))
        import recipe_keys

        markdown = markdown.replace(KEYS_MARK, recipe_keys.reference())
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown
