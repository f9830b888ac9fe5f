"""Size, direction of imports, and what must never be in the project."""

import ast
import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "moediff"
FILES = sorted(SOURCE.rglob("*.py"))
LINES = [
    {"stopping", "errors", "config", "memory"},
    {"volume"},
    {"simulate"},
    {"diffusion"},
    {"model"},
    {"inference"},
    {"evaluation"},
    {"training"},
    {"report", "cohort", "study"},
    {"commands"},
    {"cli", "__main__"},
]
RANK = {part: rank for rank, line in enumerate(LINES) for part in line}


def imports(file: Path) -> set[str]:
    """Parts of the package that a file imports at any level."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    found = {
        n.module.split(".")[1]
        for n in nodes
        if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("moediff.")
    }
    return found & set(RANK)


def part_of(file: Path) -> str:
    """First folder or file name below the package."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def tracked() -> list[Path]:
    """Files that git knows or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    return [ROOT / name for name in result.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_there_is_something_to_check():
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_files_are_at_most_300_lines(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) in RANK], ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_point_only_upward(file: Path):
    wrong = {part for part in imports(file) if RANK[part] > RANK[part_of(file)]}
    assert not wrong


def test_torchvision_is_not_installed():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torchvision")


def test_no_scan_and_no_machine_path_is_tracked():
    machine = re.compile(r"(?<![\w.])/(?:wor" + r"k|roo" + r"t|tm" + r"p)/\w")
    for file in tracked():
        assert not file.name.endswith((".nii", ".nii.gz", ".mgz", ".dcm")), file
        if file.suffix in {".py", ".md", ".toml", ".json", ".txt", ""} and file.stat().st_size < 2**20:
            assert not machine.search(file.read_text(encoding="utf-8")), file


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
