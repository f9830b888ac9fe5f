"""Every key of a training recipe as Markdown tables, read from the configuration classes without importing them.

The documentation is built where torch is not installed, so classes are read as source: fields and defaults from the
class, meanings from `Args:` in its docstring.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "moediff"
MODULES = ("training", "model", "acquisition", "diffusion")
ROOT_CLASS = "TrainConfig"
STAGES = {  # kind of a stage -> the class of its own keys
    "average": "Average",
    "fit uncertainty head": "HeadFit",
    "calibrate": "Calibration",
    "out-of-distribution statistics": "StatisticsFit",
}
HIDDEN = {"checksums", "provenance", "out_of_distribution"}  # written by the program
FACTORY = re.compile(r"field\(default_factory=(?:lambda: )?(?P<what>[\w.]+)(?:\[.*\])?(?:\(\))?\)")


@dataclass(frozen=True)
class Key:
    """One field: name, default as source ("" where it is needed), meaning, and the class of a table, if it is one."""

    name: str
    default: str
    meaning: str
    table: str | None
    several: bool


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Every dataclass of the parts that recipes are made of, by name."""
    by_name = {}
    for module in MODULES:
        for file in sorted((PACKAGE / module).glob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and node.decorator_list:
                    by_name[node.name] = node
    return by_name


@cache
def constants() -> dict[str, str]:
    """Values that defaults name, as source."""
    values = {}
    for module in MODULES:
        for file in sorted((PACKAGE / module).glob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    values[node.targets[0].id] = ast.unparse(node.value)
    return values


def meanings(node: ast.ClassDef) -> dict[str, str]:
    """Name -> meaning, from `Args:` of a docstring; names that share a line share a meaning."""
    text = ast.get_docstring(node) or ""
    _, _, arguments = text.partition("Args:\n")
    result: dict[str, str] = {}
    for match in re.finditer(r"^    ([\w, ]+): (.*?)(?=^    [\w, ]+: |^\S|\Z)", arguments, re.M | re.S):
        meaning = " ".join(match[2].split())
        result |= dict.fromkeys((name.strip() for name in match[1].split(",")), meaning)
    return result


def keys(name: str) -> Iterator[Key]:
    """Fields of a class in their order."""
    node = classes()[name]
    meaning = meanings(node)
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        kind, default = ast.unparse(line.annotation), "" if line.value is None else ast.unparse(line.value)
        if "ClassVar" in kind or line.target.id in HIDDEN:
            continue
        table = next((word for word in re.findall(r"\w+", kind) if word in classes()), None)
        if default in constants():
            default = constants()[default]
        if match := FACTORY.fullmatch(default):
            default = {"dict": "{}", "list": "[]", "tuple": "()"}.get(match["what"], "")
        yield Key(line.target.id, default, meaning.get(line.target.id, ""), table, "tuple[" in kind)


def toml(default: str) -> str:
    """A default as TOML writes it."""
    text = {"": "needed", "None": "not set", "True": "true", "False": "false", "()": "[]"}.get(default, default)
    return text.replace("(", "[").replace(",)", "]").replace(")", "]").replace("'", '"')


def table(path: str, name: str, several: bool = False) -> str:
    """A class and the tables below it."""
    rows = list(keys(name))
    plain = [row for row in rows if row.table is None]
    title = "The top of the file" if not path else f"`[[{path}]]`" if several else f"`[{path}]`"
    lines = [f"### {title}", "", "| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{row.name}` | `{toml(row.default)}` | {row.meaning.replace('|', '/')} |" for row in plain]
    parts = ["\n".join(lines)]
    for row in rows:
        if row.table is not None:
            parts.append(table(f"{path}.{row.name}" if path else row.name, row.table, row.several))
    return "\n\n".join(parts)


def reference() -> str:
    """All tables: a run's, then those of stages that do not train."""
    parts = [table("", ROOT_CLASS)]
    for kind, name in STAGES.items():
        lines = [f"### A stage of kind `{kind}`", "", "| key | default | meaning |", "|---|---|---|"]
        lines += [f"| `{row.name}` | `{toml(row.default)}` | {row.meaning} |" for row in keys(name)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(reference())
