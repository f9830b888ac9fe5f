"""Options: former names still work and warn, defaults stand in the help, every option has a group."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from moediff.cli.main import build_parser, main
from moediff.cli.options import RENAMED_OPTIONS, add_options, option, with_present_names

REQUIRED = {
    "enhance": ["scan.nii"],
    "evaluate": ["--pairs", "a.csv"],
    "benchmark": ["-o", "out"],
}  # words without which a command cannot be parsed
VALUES = {"--mirrors": ["2"], "--each-expert": ["each.nii"], "--behaviour-only": ["a_T1w"]}  # of options that take one
ROWS = [(command, old, new) for command, names in RENAMED_OPTIONS.items() for old, new in names.items()]


def chosen(args: argparse.Namespace) -> dict[str, object]:
    """Values of the options, without the functions that belong to the parser."""
    return {name: value for name, value in vars(args).items() if name not in ("call", "usage_error")}


@pytest.mark.parametrize(("command", "old", "new"), ROWS)
def test_a_former_option_works_and_warns(command, old, new, monkeypatch, capsys):
    """It does what the present one does, and one line names that."""
    calls = []
    monkeypatch.setattr(f"moediff.cli.{command}.{command}_command", lambda args: calls.append(args) or 0)
    for name in (old, new):
        assert main([command, *REQUIRED[command], name, *VALUES.get(old, [])]) == 0
    plain = build_parser().parse_args([command, *REQUIRED[command]])
    assert chosen(calls[0]) == chosen(calls[1]) != chosen(plain)
    assert capsys.readouterr().err == (
        f"moediff: warning: {old} is now {new}; the former name works for one more release\n"
    )


@pytest.mark.parametrize(("command", "old", "new"), ROWS)
def test_the_help_names_the_present_option_only(command, old, new):
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    text = commands.choices[command].format_help()
    assert new in text and f"{old} " not in text


def test_quiet_leaves_the_warning_out(monkeypatch, capsys):
    monkeypatch.setattr("moediff.cli.enhance.enhance_command", lambda args: 0)
    assert main(["enhance", "scan.nii", "--mirrors", "2", "-q"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["enhance", "--mirrors=2", "a.nii"], ["enhance", "--tta=2", "a.nii"]),
        (["--debug", "enhance", "--mirrors", "2"], ["--debug", "enhance", "--tta", "2"]),
        (["enhance", "--", "--mirrors"], ["enhance", "--", "--mirrors"]),
        (["degrade", "--mirrors", "2"], ["degrade", "--mirrors", "2"]),
        ([], []),
    ],
    ids=str,
)
def test_former_names_are_replaced_where_they_are_options_of_the_command(words, expected):
    renamed, notes = with_present_names(words)
    assert renamed == expected and len(notes) == (words != expected)


def test_defaults_stand_in_the_help():
    parser = argparse.ArgumentParser(prog="x")
    rows = (
        option("--count", type=int, default=0, help="how many"),
        option("--name", default="a", help="who (default: you)"),
        option("--flag", action="store_true", help="whether"),
        option("--none", default=None, help="what"),
    )
    add_options(parser, {"numbers": rows})
    text = parser.format_help()
    assert "numbers:" in text and "how many (default 0)" in text
    assert text.count("default") == 2


@pytest.mark.parametrize(("command", "old", "new"), ROWS)
def test_the_reference_page_names_former_options(command, old, new):
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    line = " ".join(page[page.index("Former names of options") :].split("\n\n")[0].split())
    assert f"`{old}` (now `{new}`)" in line or f"`{old}` (`{new}`)" in line
