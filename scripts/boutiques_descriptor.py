"""The Boutiques descriptor of `moediff bids`, from its parser (Glatard et al. 2018, https://boutiques.github.io).

    python scripts/boutiques_descriptor.py > moediff-bids.json

`make containers-lint` lets boutiques' own validator check it. It is not kept in the repository: it always is what the
parser says.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from moediff._version import RESEARCH_ONLY, __version__
from moediff.cli.main import build_parser

COMMAND = "bids"
OUTPUTS = ("out_dir", "work_dir")  # folders that need not exist: text for Boutiques, which looks for files
HIDDEN = ("help", "debug")
NUMBERS = ("voxel_size",)  # options with a type of their own, whose message says more than argparse's


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[command]


def descriptor(command: str = COMMAND) -> dict[str, Any]:
    """The descriptor as JSON values."""
    actions = [
        action
        for action in parser_of(command)._actions
        if action.dest not in HIDDEN and action.help is not argparse.SUPPRESS
    ]
    return {
        "name": f"moediff-{command}",
        "description": f"Super-resolution of the brain MRI of a BIDS dataset into a BIDS derivative. {RESEARCH_ONLY}",
        "author": "The MoEDiff-SR contributors",
        "url": "https://arxiv.org/abs/2504.07308",
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": " ".join([f"moediff {command}", *(key_of(action) for action in actions)]),
        "container-image": {"type": "docker", "image": f"moediff-sr:{__version__}"},
        "inputs": [input_of(action) for action in actions],
        "output-files": [
            {
                "id": "derivative",
                "name": "BIDS derivative",
                "description": "Enhanced scans with their sidecars, pages and logs",
                "path-template": "[OUT_DIR]",
            }
        ],
        "suggested-resources": {"cpu-cores": 1, "ram": 4, "walltime-estimate": 3600},
        "tags": {"domain": ["neuroinformatics", "mri"], "application-type": ["bids"]},
    }


def key_of(action: argparse.Action) -> str:
    """The place of an argument in the command line."""
    return f"[{action.dest.upper()}]"


def input_of(action: argparse.Action) -> dict[str, Any]:
    """One argument or option."""
    flags = [flag for flag in action.option_strings if flag.startswith("--")] or action.option_strings
    result: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": (action.help or "").replace("%%", "%"),
        "value-key": key_of(action),
        "optional": bool(action.option_strings) and not action.required,
        **type_of(action),
    }
    if flags:
        result["command-line-flag"] = flags[0]
    if action.nargs in ("+", "*"):
        result["list"] = True
    if isinstance(action.default, str | int | float) and not isinstance(action.default, bool) and action.default != "":
        result["default-value"] = action.default
    return result


def type_of(action: argparse.Action) -> dict[str, Any]:
    """Boutiques' name of the kind of value."""
    if isinstance(action, argparse._StoreTrueAction):
        return {"type": "Flag"}
    choices = {"value-choices": list(action.choices)} if action.choices else {}
    if action.type is int:
        return {"type": "Number", "integer": True} | choices
    if action.type is Path and action.dest not in OUTPUTS:
        return {"type": "File"}
    return {"type": "Number" if action.type is float or action.dest in NUMBERS else "String"} | choices


if __name__ == "__main__":
    print(json.dumps(descriptor(), indent=2))
