"""Options of `enhance` for many scans: each is there, or refused with what to do instead, as the how-to says."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from moediff.cli import cohort_options
from moediff.cli.main import build_parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "studies.md"


def options_of(command: str) -> set[str]:
    """Long names of a command's options, also of those that no help shows."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name for action in commands.choices[command]._actions for name in action.option_strings if name[1] == "-"}


@pytest.mark.parametrize(
    ("command", "own"), [("bids", cohort_options.NOT_IN_BIDS), ("batch", cohort_options.NOT_IN_BATCH)]
)
def test_every_option_of_enhance_is_taken_or_refused(command, own, capsys):
    refused = cohort_options.INSTEAD | own
    missing = options_of("enhance") - options_of(command)
    assert missing <= {"--output"} and set(refused) <= options_of("enhance")
    places = ["in", "out", "participant"] if command == "bids" else ["in", "-o", "out"]
    page = PAGE.read_text(encoding="utf-8")
    for name, why in refused.items():
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args([command, *places, name, "value"])
        assert end.value.code == 2 and f"{name}: {why}" in capsys.readouterr().err
        assert f"`{name}`" in page
