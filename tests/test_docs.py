"""Documents are complete: commands, hazards, dependencies, renamed options and settings; no unresolved merges."""

import ast
import importlib
import json
import pkgutil
import re
import tomllib
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import moediff
from moediff.cli.main import build_parser
from moediff.cli.options import RENAMED_OPTIONS
from moediff.core import errors as core_errors
from moediff.evaluation import records
from moediff.inference import sidecar
from moediff.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]


def test_every_command_is_in_the_reference(load_script):
    hooks = load_script("docs_hooks")
    page = hooks.on_page_markdown((ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8"))
    names = [command.prog for command in hooks.commands(build_parser())]
    assert "moediff enhance" in names and "moediff dicom list" in names
    assert all(f"## {name}\n" in page for name in names)
    assert "--differences" in page and "\x1b" not in page


def hazards() -> list[list[str]]:
    """Cells of every row of the hazard log."""
    lines = (ROOT / "docs" / "hazards.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return rows[1:]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_the_hazard_log_holds_what_it_must():
    names = {row[0] for row in hazards()}
    assert {"a lesion is lost", "a lesion is invented", "left and right change places", "wrong scale or place"} <= names


@pytest.mark.parametrize("row", hazards(), ids=lambda row: row[0])
def test_every_hazard_names_tests_that_exist(row):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])
    assert named and row[1] and row[2]
    for file, function in named:
        assert function in functions(ROOT / file)


def plain(name: str) -> str:
    """A list of packages, their names as the index writes them."""
    text = (ROOT / name).read_text(encoding="utf-8").lower()
    return re.sub(r"^[\w.-]+==", lambda match: match[0].replace("_", "-"), text, flags=re.M)


def test_every_dependency_is_explained():
    """In docs/dependencies.md, with the version that CI installs."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(one for name in ("train", "report", "dicom", "bids", "cluster", "align", "study") for one in extras[name]),
    ]
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", plain("constraints.txt").lower(), re.M))
    for one in wanted:
        name = re.match(r"[\w-]+", one)[0]
        (row,) = re.findall(rf"^\| {name}(?: [^|]*)? \| ([\w.]+)", page, re.M)
        assert row == pinned[name.lower()], f"{name}: {row} on the page, {pinned[name]} in constraints.txt"


def test_every_pinned_file_has_a_hash():
    """constraints.lock, which CI insists on, holds the versions of constraints.txt, each with hashes."""
    pinned, lock = set(re.findall(r"^([\w.-]+==[\w.]+)", plain("constraints.txt"), re.M)), plain("constraints.lock")
    locked = dict(re.findall(r"^([\w.-]+==[\w.]+)(?:\+cpu)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)", lock, re.M))
    assert len(pinned) > 50 and pinned <= set(locked)
    assert lock.count("==") == len(locked)  # none without


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_holds_an_unresolved_merge(page):
    assert not re.search(r"^(<{7}|={7}|>{7})", page.read_text(encoding="utf-8"), re.M)


def former_names() -> set[str]:
    """Options, settings and fields of files whose former names are still read."""
    names = {name for options in RENAMED_OPTIONS.values() for name in options}
    names |= {part for name in sidecar.MOVED for part in name.split(".")} | {records.LOST, *records.RENAMED}
    for module in pkgutil.walk_packages(moediff.__path__, "moediff."):
        if not module.name.endswith("__main__"):
            for kind in vars(importlib.import_module(module.name)).values():
                names |= set(getattr(kind, "RENAMED", {})) if isinstance(kind, type) else set()
    moved_only = {"noticeable", "sampler", "mean", "p99"}
    return names - moved_only


def test_the_changelog_names_everything_that_was_renamed():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert {name for name in former_names() if f"`{name}`" not in text} == set()


def test_every_documented_name_exists():
    """The page of the Python reference is filled from docstrings; a name that has moved would leave it empty."""
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: (\S+)$", text, re.M)
    assert len(names) > 10
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_field_of_the_sidecar_is_explained():
    page = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    rows = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert {name for name in (one.name for one in fields(sidecar.Sidecar)) if f"`{name}`" not in rows} == set()


def test_every_exit_code_is_explained():
    page = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    explained = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", page, re.M) for code in row.split(", ")}
    errors = {kind.exit_code for kind in vars(core_errors).values() if hasattr(kind, "exit_code")}
    assert errors <= explained and {0, 2, 8, 129, 130, 143} <= explained


def test_every_key_of_a_recipe_is_in_the_reference(load_script):
    """The tables are read from source; they hold what the parser knows, with its defaults."""
    script = load_script("recipe_keys")
    text = script.reference()
    for section in (
        "`[loss]`",
        "`[model.denoiser.gate]`",
        "`[[scans]]`",
        "`[[phases]]`",
        "A stage of kind `calibrate`",
    ):
        assert f"### {section}\n" in text
    known = {one.name for one in fields(TrainConfig)} - script.HIDDEN
    assert {key.name for key in script.keys("TrainConfig")} == known
    assert f"| `learning_rate` | `{TrainConfig(out='x').learning_rate}` |" in text
    assert "| `normalise_expert_loss` | `false` |" in text


def test_the_citation_file_is_valid():
    """Keys that the format (1.2.0) requires, and those that a reader needs; its version is the program's."""
    record = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license", "abstract"} <= set(record)
    assert record["cff-version"] == "1.2.0" and record.get("type", "software") == "software"
    assert all("name" in author or "family-names" in author for author in record["authors"])
    assert record["version"] == moediff.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{record['version']}] - {record['date-released']}\n" in changes


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda f: f.stem)
def test_forms_of_issues_ask_for_no_scans(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    ids = [part["id"] for part in content["body"] if "id" in part]
    assert ids and len(set(ids)) == len(ids)
    if form.stem != "idea":
        assert "Do not attach scans" in form.read_text(encoding="utf-8")


KEEP_A_CHANGELOG = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def test_the_changelog_keeps_its_form():
    """Versions newest first; in each the sections of Keep a Changelog, in order, with entries."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|unreleased)", one) for one in versions[1:])
    for part in re.split(r"^## .*$", text, flags=re.M)[1:]:
        titles = re.findall(r"^### (.*)$", part, re.M)
        assert [title for title in KEEP_A_CHANGELOG if title in titles] == titles
        assert all(body.strip() for body in re.split(r"^### .*$", part, flags=re.M)[1:])


IMAGES = sorted((ROOT / "docs" / "images").iterdir())


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_every_image_is_shown_and_made_by_a_command(image):
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert any(f"images/{image.name}" in page.read_text(encoding="utf-8") for page in pages)
    makers = [ROOT / "Makefile", *(ROOT / "scripts").glob("*.py")]
    made = "".join(maker.read_text(encoding="utf-8") for maker in makers)
    template = f'"{image.name.removeprefix("mni152_").removesuffix(".png")}"'  # drawn by scripts/gallery.py
    assert f"images/{image.name}" in made or f'"{image.name}"' in made or template in made


def test_every_image_of_a_page_exists():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_readme_fits_on_a_large_screen():
    """At most 500 words, without what readers do not see."""
    text = re.sub(r"<!--.*?-->|```|\]\([^)]*\)", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(text.split()) <= 500


def test_every_extra_is_on_the_page_that_installs():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"]) - {"docs", "dev"}
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert {extra for extra in extras if f"`[{extra}]`" not in page} == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "SECURITY.md"])
def test_links_of_pages_beside_the_docs_lead_somewhere(name):
    """MkDocs checks the links within docs/."""
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert "://" in target or (ROOT / target).exists(), target


def lists_without_a_gap(text: str) -> list[str]:
    """Lists and tables right below a paragraph: the site would show them as its running text."""
    lines = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S).splitlines()
    begins = re.compile(r"\s*(?:[-*]|\d+\.) |\|")
    return [
        line
        for above, line in pairwise(lines)
        if begins.match(line) and above.strip() and not begins.match(above) and not above.startswith((" ", "#", "<!--"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_and_tables_begin_below_an_empty_line(page):
    assert lists_without_a_gap(page.read_text(encoding="utf-8")) == []


def test_a_list_that_would_run_on_is_found():
    assert lists_without_a_gap("Text:\n- one\n- two\n\n- three\n  goes on\n- four\n") == ["- one"]


def test_every_person_of_the_published_results_is_described():
    rows = json.loads((ROOT / "benchmarks" / "results" / "embedded.json").read_text(encoding="utf-8"))["rows"]
    described = (ROOT / "docs" / "persons.md").read_text(encoding="utf-8").partition("## The persons")[2]
    for scan in {row["scan"] for row in rows}:
        assert re.search(rf"^\| {scan} \|.*(?:CC0|CC BY|MIT|Apache)", described, re.M), scan
