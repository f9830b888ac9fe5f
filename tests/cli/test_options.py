"""Options: former names still work and warn, defaults stand in the help, every option has a group."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from moediff.cli.main import build_parser, main
from moediff.cli.options import (
    EXPERT,
    GONE_OPTIONS,
    INPUT,
    OUTPUT,
    QUALITY,
    RENAMED_OPTIONS,
    SPEED,
    add_options,
    option,
    with_present_names,
)

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


def test_an_option_that_is_gone_is_passed_over_and_warned_of(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("moediff.cli.report.report_command", lambda args: calls.append(args) or 0)
    assert main(["report", "a.nii.gz", "--defaced", "-q"]) == 0 and len(calls) == 1
    assert main(["report", "a.nii.gz", "--defaced"]) == 0
    assert "--defaced has no effect any more" in capsys.readouterr().err


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
    assert "numbers:" in text and "how many (default: 0)" in text
    assert text.count("default") == 2


@pytest.mark.parametrize(("command", "old", "new"), ROWS)
def test_the_reference_page_names_former_options(command, old, new):
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    line = " ".join(page[page.index("Former names of options") :].split("\n\n")[0].split())
    assert f"`{old}` (now `{new}`)" in line or f"`{old}` (`{new}`)" in line


@pytest.mark.parametrize("name", [f"{command} {name}" for command, names in GONE_OPTIONS.items() for name in names])
def test_the_reference_page_names_options_without_effect(name):
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page[: page.index("<!-- every command -->")]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every command that does something: those without actions of their own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)
            return
    yield parser


COMMANDS = {parser.prog: parser for parser in parsers(build_parser())}
LISTS = [
    (name, action.option_strings[0])
    for name, parser in COMMANDS.items()
    for action in parser._actions
    if action.option_strings and action.nargs in ("+", "*") and action.option_strings[0] != "--voxel-size"  # one size
]
ORDER = (INPUT, OUTPUT, "own", QUALITY, SPEED, EXPERT, "help")
OWN_GROUPS = {
    "moediff bids": ["running", "cluster (--runner slurm, pbs or lsf)"],
    "moediff batch": ["running", "cluster (--runner slurm, pbs or lsf)"],
    "moediff benchmark": ["methods"],
    "moediff degrade": ["simulation"],
    "moediff study plan": ["sizes", "what is expected"],
    "moediff study create": ["trials", "display"],
    "moediff study serve": ["network"],
    "moediff study analyse": ["analysis"],
}
LONGEST_HELP = 130  # two lines of a terminal


@pytest.mark.parametrize(("command", "name"), LISTS, ids=str)
def test_a_list_given_in_two_parts_is_kept_whole(command, name):
    """All of it, in place of the default."""
    action = next(a for a in COMMANDS[command]._actions if name in a.option_strings)
    first, second = map(str, action.choices) if action.choices else ("1", "2")
    parser = argparse.ArgumentParser()
    parser._add_action(action)
    read = [getattr(parser.parse_args(words), action.dest) for words in ([name, first, name, second], [name, second])]
    assert list(map(str, read[0])) == [first, second]
    assert list(map(str, read[1])) == [second] != action.default


def own_groups(parser: argparse.ArgumentParser) -> list[str]:
    return [group.title for group in parser._action_groups if group._group_actions]


@pytest.mark.parametrize("command", COMMANDS)
def test_groups_come_in_one_order(command):
    own = OWN_GROUPS.get(command, [])
    places = [ORDER.index("own" if title in own else title) for title in own_groups(COMMANDS[command])]
    assert places == sorted(places) and places[-1] == len(ORDER) - 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_one_plain_line_and_its_default(command):
    for action in COMMANDS[command]._actions:
        if action.help == argparse.SUPPRESS:
            continue
        name = "/".join(action.option_strings) or action.dest
        assert (action.help and len(action.help) <= LONGEST_HELP) or name in {"--voxel-size", "--methods"}, name
        assert (action.help[0].isalnum() or action.help[0] in "-'") and not action.help.endswith("."), name
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "(default: " in action.help, name


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_stand_at_the_end_and_can_be_typed(command):
    text = COMMANDS[command].format_help()
    lines = text[text.index("examples:\n") :].replace("\\\n", "").splitlines()[1:]
    assert any(line.split()[: len(command.split())] == command.split() for line in lines)
    assert not lines[-1].strip().startswith("#")
    for line in lines:
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "moediff"
            build_parser().parse_args(words[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_fits_a_terminal_of_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert [line for line in COMMANDS[command].format_help().splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("moediff enhance", "usage: moediff enhance INPUT ... [options]"),
        ("moediff adapt", "usage: moediff adapt SCAN ... -o FOLDER [options]"),
        ("moediff evaluate", "usage: moediff evaluate (--pred FILE | --pairs CSV | --pred-bids DIR) [options]"),
    ],
)
def test_the_first_line_names_what_has_to_be_given(command, usage):
    assert COMMANDS[command].format_help().splitlines()[0] == usage
