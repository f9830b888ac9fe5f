"""Words of the code: identifiers are the field's, none of the former vocabulary is left."""

import ast
from pathlib import Path

import pytest

from words import SOURCE, defined, old_words

ROOT = SOURCE.parents[1]
# Fields of rows that benchmarks/results/*.json hold: new names would make those files unreadable.
STORED = {"guide.py": {"kept"}, "several_rows.py": {"lost", "invented"}}


def test_identifiers_of_every_kind_are_seen(tmp_path: Path):
    file = tmp_path / "a.py"
    file.write_text("def told(strange_map, *, x): pass\nclass Head: pass\nself.kept_XYZ = goal, weight_head = 1, 2\n")
    assert sorted(old_words(file)) == ["Head", "goal", "kept", "strange_map", "told"]
    assert "weight_head" in set(defined(ast.parse(file.read_text())))


@pytest.mark.parametrize("folder", sorted(p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()))
def test_no_identifier_has_a_former_word(folder: str):
    assert {str(file): old_words(file) for file in (SOURCE / folder).rglob("*.py") if old_words(file)} == {}


@pytest.mark.parametrize("folder", ["benchmarks", "scripts"])
def test_no_identifier_of_a_script_has_a_former_word(folder: str):
    files = list((ROOT / folder).rglob("*.py"))
    left = {file.name: set(old_words(file)) - STORED.get(file.name, set()) for file in files}
    assert files and {name: words for name, words in left.items() if words} == {}
