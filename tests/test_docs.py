"""The reference page of the documentation holds every command."""

import importlib.util
from pathlib import Path

from moediff.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]


def test_every_command_is_in_the_reference():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8"))
    names = [command.prog for command in hooks.commands(build_parser())]
    assert "moediff enhance" in names and "moediff dicom list" in names
    assert all(f"## {name}\n" in page for name in names)
    assert "--differences" in page and "\x1b" not in page
