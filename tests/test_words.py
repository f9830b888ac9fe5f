"""Words of the code: identifiers are the field's, none of the former vocabulary is left."""

import ast
from pathlib import Path

import pytest

from words import SOURCE, defined, old_words


def test_identifiers_of_every_kind_are_seen(tmp_path: Path):
    file = tmp_path / "a.py"
    file.write_text("def told(strange_map, *, x): pass\nclass Head: pass\nself.kept_XYZ = goal, weight_head = 1, 2\n")
    assert sorted(old_words(file)) == ["Head", "goal", "kept", "strange_map", "told"]
    assert "weight_head" in set(defined(ast.parse(file.read_text())))


@pytest.mark.parametrize("folder", sorted(p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()))
def test_no_identifier_has_a_former_word(folder: str):
    assert {str(file): old_words(file) for file in (SOURCE / folder).rglob("*.py") if old_words(file)} == {}
