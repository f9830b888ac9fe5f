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
MAX_LINES, MAX_FUNCTION_LINES = 500, 60
# A part imports only from itself and from parts before it. Training comes late because it validates on benchmark cases
# with evaluation's metrics.
PARTS = (
    "_version",
    "core",
    "io",
    "acquisition",
    "registration",
    "anatomy",
    "diffusion",
    "model",
    "inference",
    "evaluation",
    "benchmark",
    "training",
    "report",
    "cohort",
    "study",
    "cli",
    "__main__",
)
RANK = {part: rank for rank, part in enumerate(PARTS)}
# `result.plot()` is a method of what inference returns; drawing belongs to the report, imported when it is called.
EXCEPTIONS = {("inference", "report")}


def modules_imported(tree: ast.AST) -> set[str]:
    """Dotted names that a file imports, in every form and at any level: `from moediff.x import y` gives both."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return names


def parts_imported(tree: ast.AST) -> set[str]:
    """Parts of the package that a file imports."""
    dotted = (name.split(".") for name in modules_imported(tree))
    return {part for package, part, *_ in ((*name, "") for name in dotted) if package == "moediff"} & set(RANK)


def part_of(file: Path) -> str:
    """First folder or file name below the package."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def named(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def tracked() -> list[Path]:
    """Files that git knows or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    return [ROOT / name for name in result.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("from moediff.io.scans import load", {"io"}),
        ("from moediff import report", {"report"}),
        ("from moediff.report import page", {"report"}),
        ("import moediff.cli.main as m", {"cli"}),
        ("def f():\n    from moediff.training import step", {"training"}),
        ("importlib.import_module('moediff.cli')", {"cli"}),
        ("import io", set()),
    ],
)
def test_every_form_of_import_is_seen(line, parts):
    assert parts_imported(ast.parse(line)) == parts


def test_every_part_has_its_rank():
    assert len(FILES) > 100
    assert {part_of(file) for file in FILES} - {"__init__"} == set(PARTS)


@pytest.mark.parametrize("file", FILES, ids=named)
def test_files_and_functions_are_short(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    functions = [n for n in ast.walk(tree_of(file)) if isinstance(n, ast.FunctionDef)]
    long = {}
    for f in functions:
        start = f.body[1].lineno if ast.get_docstring(f) and len(f.body) > 1 else f.body[0].lineno
        long[f.name] = (f.end_lineno or start) - start + 1
    assert not {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES}


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) in RANK], ids=named)
def test_imports_point_only_upward(file: Path):
    here = part_of(file)
    later = {part for part in parts_imported(tree_of(file)) if RANK[part] > RANK[here]}
    assert not {part for part in later if (here, part) not in EXCEPTIONS}


@pytest.mark.parametrize("file", [f for f in FILES if f.parent != SOURCE], ids=named)
def test_no_module_imports_the_package_root(file: Path):
    root = {n for n in ast.walk(tree_of(file)) if isinstance(n, ast.ImportFrom) and n.module == "moediff"}
    assert not root and "moediff" not in modules_imported(tree_of(file))


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
