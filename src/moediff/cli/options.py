"""Options of the commands as tables: groups, help with defaults and examples, and former names that still work."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moediff.cli import Commands

# Groups of options, in the order of every --help. A command may have groups of its own after the output.
INPUT, OUTPUT, QUALITY, SPEED, EXPERT = "input", "output", "quality", "speed", "expert"
DEBUG = "show the traceback of an error"
HELP_COLUMN = 30  # where the explanations begin
LONGEST_EXAMPLE = 76  # characters of a line

# Command -> former name -> present name. Former names are read for one release; a warning names the present one.
RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "enhance": {
        "--mirrors": "--tta",
        "--even-slices": "--correct-slice-intensity",
        "--each-expert": "--single-experts",
        "--no-consistency": "--no-data-consistency",
    },
    "evaluate": {"--no-fit": "--no-intensity-fit"},
    "benchmark": {"--no-fit": "--no-intensity-fit", "--behaviour-only": "--exclude-from-means"},
}
# Command -> options that do nothing any more: they are passed over for one release, with a warning.
GONE_OPTIONS: dict[str, tuple[str, ...]] = {"report": ("--defaced",)}


@dataclass(frozen=True)
class Option:
    """One row of a table: names, and the settings of `add_argument`."""

    names: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class OneOf:
    """Rows of which exactly one has to be given."""

    options: tuple[Option, ...]


OptionTable = Mapping[str, Sequence[Option | OneOf]]  # group -> its rows


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command or an action of one: what `--help` shows, and the function that runs it.

    `summary` is its line in the list of commands. An example is a line as typed in a shell; a comment may follow `#`.
    """

    name: str
    summary: str
    description: str
    options: OptionTable
    examples: Sequence[str]
    call: Callable[[argparse.Namespace], int]


class HelpFormatter(argparse.HelpFormatter):
    """Examples keep their lines; everything else is wrapped."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_COLUMN)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)

    def _format_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None) -> str:
        """What a command needs may be longer than a line."""
        lines = super()._format_usage(usage, actions, groups, prefix).strip().splitlines()
        wrapped = textwrap.wrap(" ".join(lines), self._width + 2, subsequent_indent="  ", break_on_hyphens=False)
        return "\n".join(wrapped) + "\n\n"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        names = ", ".join(action.option_strings)
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """One or more of a thing: once, with dots."""
        text = super()._format_args(action, default_metavar)
        return f"{text[: text.index(' [')]} ..." if action.nargs == argparse.ONE_OR_MORE else text


class Gathered(argparse.Action):
    """Values of an option that takes several: given again, it adds to what was given before."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Append to the values given, which replace the default."""
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, list(values) if given is self.default else [*given, *values])


def option(*names: str, **settings: Any) -> Option:
    """A row; a default that says something is added to its help; a list may be given in several parts."""
    default = settings.get("default")
    if names[0].startswith("-") and settings.get("nargs") in (argparse.ZERO_OR_MORE, argparse.ONE_OR_MORE):
        settings.setdefault("action", Gathered)
    if default is not None and default is not False and default != [] and "default" not in settings["help"]:
        settings["help"] += " (default: %(default)s)"
    return Option(names, settings)


def overwrite_option(what: str = "existing outputs") -> Option:
    """--overwrite."""
    return option("--overwrite", action="store_true", help=f"replace {what}")


def quiet_option(what: str = "no progress, no summary and no warnings") -> Option:
    """-q, --quiet."""
    return option("-q", "--quiet", action="store_true", help=f"print {what}")


def report_size_option() -> Option:
    """--report-size."""
    return option(
        "--report-size",
        choices=("full", "small"),
        default="full",
        help="full: 25 to 45 MB for a fine head; small: at most 7 MB for mail, with fewer grey levels",
    )


def device_option(default: str = "auto") -> Option:
    """--device."""
    return option("--device", default=default, help="where to compute: auto, cpu, cuda or cuda:N")


def threads_option() -> Option:
    """--threads."""
    return option("--threads", type=int, metavar="N", help="CPU threads (default: as many as torch chooses)")


def seed_option(of: str) -> Option:
    """--seed; `of` says what is random."""
    return option("--seed", type=int, default=0, metavar="N", help=f"seed of {of}")


def bundle_option(what: str = "model folder") -> Option:
    """--bundle."""
    return option("--bundle", type=Path, metavar="FOLDER", help=f"{what} (default: the embedded weights)")


def add_options(parser: argparse.ArgumentParser, groups: OptionTable) -> None:
    """Declare a table of options, each group under its title."""
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for row in options:
            if isinstance(row, OneOf):
                exclusive = group.add_mutually_exclusive_group(required=True)
                for one in row.options:
                    exclusive.add_argument(*one.names, **one.settings)
            else:
                group.add_argument(*row.names, **row.settings)


def add_command(commands: Commands, command: Command) -> argparse.ArgumentParser:
    """Declare a command with its options, its examples, and `--help` and `--debug`."""
    parser = commands.add_parser(
        command.name,
        help=command.summary,
        description=command.description,
        epilog="\n  ".join(("examples:", *(line for example in command.examples for line in _example(example)))),
        formatter_class=HelpFormatter,
        add_help=False,
    )
    add_options(parser, command.options)
    _add_help(parser)
    parser.usage = f"%(prog)s {_usage(parser)}[options]"
    parser.set_defaults(call=command.call)
    return parser


def _example(text: str) -> list[str]:
    """Lines of an example that fit 80 columns: its comment first, then the command."""
    command, _, comment = text.partition(" #")
    lines = [""]
    for part in re.split(" (?=-)", command.strip()):  # an option stays beside its values
        joined = f"{lines[-1]} {part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) <= LONGEST_EXAMPLE else [*lines, f"    {part}"]
    return [*([f"# {comment.strip()}"] if comment else []), *(f"{line} \\" for line in lines[:-1]), lines[-1]]


def add_actions(commands: Commands, name: str, summary: str, description: str) -> Commands:
    """Declare a command that has actions, as in `moediff study create`; returns where to declare those."""
    parser = commands.add_parser(
        name, help=summary, description=description, formatter_class=HelpFormatter, add_help=False
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_help(parser)
    return actions


def _add_help(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("help")
    group.add_argument("-h", "--help", action="help", help="show this text")
    group.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG)


def _usage(parser: argparse.ArgumentParser) -> str:
    """What has to be given: positional arguments first, since some options take all words that follow them."""
    formatter = parser._get_formatter()
    choices = parser._mutually_exclusive_groups
    needed = [action for action in parser._actions if not action.option_strings]
    needed += [action for action in parser._actions if action.option_strings and action.required]
    words = [formatter._format_actions_usage([action], []).strip() for action in needed]
    words += [formatter._format_actions_usage(group._group_actions, [group]).strip() for group in choices]
    return "".join(f"{word.replace('%', '%%')} " for word in words)


def with_present_names(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line with former names of options replaced, and a sentence for each of them."""
    command = next((word for word in words if not word.startswith("-")), "")
    renamed, result, notes = RENAMED_OPTIONS.get(command, {}), list[str](), list[str]()
    options = True
    for word in words:
        options = options and word != "--"  # what follows are names of files
        name, equals, value = word.partition("=")
        if options and name in GONE_OPTIONS.get(command, ()):
            notes.append(f"{name} has no effect any more, and will be refused after the next release")
            continue
        if options and name in renamed:
            notes.append(f"{name} is now {renamed[name]}; the former name works for one more release")
            word = renamed[name] + equals + value
        result.append(word)
    return result, notes
