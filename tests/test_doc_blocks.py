"""Every code block of README, tutorial and how-tos runs as printed; every option and command that is named exists."""

from __future__ import annotations

import argparse
import json
import re
import runpy
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_maker import slices, write

from doc_blocks import PYTHON, ROOT, Block, DocServer, blocks_of, commands_of
from moediff.cli.main import build_parser
from moediff.cli.options import GONE_OPTIONS, RENAMED_OPTIONS
from moediff.training.recipe import load_recipe

EXTENDING = {"add-a-file-format.md", "add-a-sampler.md", "add-an-expert.md"}  # tests/test_extending.py runs these
LAB = {"LOG.md", "CHANGELOG.md", "measured.md", "reliability.md", "design.md"}  # say what was, and are not run
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if page.name not in EXTENDING | LAB
)
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
FOREIGN = {  # options of other programs that pages name
    "--extra-index-url": "pip",
    "--array": "sbatch",
    "--gpus": "docker",
    "--memory": "docker",
    "--cpus": "docker",
}
CANNOT_RUN = re.compile(  # the only reasons for a block that no test runs
    r"needs (?:a network|Docker|Apptainer|a cluster|the program of|scans that are not)|installs everything|"
    r"waits for readers|takes (?:minutes|hours)$|trains for hours"
)
NOT_OURS = re.compile(r"\b(?:python|pip|make|git|pytest|docker|apptainer|sbatch|playwright|cffconvert|mkdocs) ")


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[DocServer]:
    server = DocServer(tmp_path_factory.mktemp("docs"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def examples(tmp_path_factory) -> Path:
    """The example scans and a DICOM series; not to be changed."""
    folder = tmp_path_factory.mktemp("examples")
    runpy.run_path(str(ROOT / "scripts" / "example_scans.py"))["write_scans"](folder)
    write(folder / "dicom_folder", slices())
    return folder


@pytest.fixture
def folder(examples: Path, tmp_path: Path) -> Path:
    """Where a page's blocks run: the example scans, a DICOM series, and the repository's recipes and scripts."""
    shutil.copytree(examples, tmp_path, dirs_exist_ok=True)
    for name in ("recipes", "scripts", "examples", "data", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def runnable(page: Path, *marks: str) -> list[Block]:
    return [block for block in blocks_of(page) if (block.shell or block.language in PYTHON) and block.mark in marks]


def run_all(page: Path, server: DocServer, folder: Path, *marks: str) -> None:
    for block in runnable(page, *marks):
        code, printed = server.run(block, folder)
        assert code == 0, f"{page.name}, line {block.line}: exit code {code}\n{block.text}\n{printed}"


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page, "")], ids=lambda page: page.name)
def test_every_block_runs_as_printed(page, server, folder):
    run_all(page, server, folder, "")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page, "slow")], ids=lambda page: page.name)
def test_slow_blocks_run_as_printed(page, server, folder):
    run_all(page, server, folder, "", "slow")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_of_a_block_can_be_parsed(page, capsys):
    for block in blocks_of(page):
        for words in commands_of(block) if block.shell else ():
            try:
                build_parser().parse_args(words)
            except SystemExit as stop:
                said = capsys.readouterr().err
                assert stop.code == 0, f"{page.name}, line {block.line}: moediff {' '.join(words)}\n{said}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_blocks_of_data_can_be_read(page):
    readers = {"toml": tomllib.loads, "json": json.loads}
    for block in blocks_of(page):
        if block.language in readers:
            readers[block.language](block.text)


def test_the_recipe_of_the_training_page_is_one(tmp_path):
    block = next(
        block for block in blocks_of(ROOT / "docs" / "howto" / "training.md") if 'like = "default.toml"' in block.text
    )
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("progress"))
    shutil.copytree(ROOT / "data", tmp_path / "data")
    (tmp_path / "recipes" / "mine.toml").write_text(block.text)
    recipe = load_recipe(tmp_path / "recipes" / "mine.toml")
    assert [stage.name for stage in recipe.stages] == [
        stage.name for stage in load_recipe(ROOT / "recipes" / "default.toml").stages
    ]
    scans = {stage.name: [scan.path for scan in stage.config.scans] for stage in recipe.stages}
    assert scans["gate"] == ["labels/01.nii.gz"] and scans["detail-again"] == ["sub-01_T1w.nii.gz"]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


OPTIONS = {name for parser in parsers(build_parser()) for action in parser._actions for name in action.option_strings}
FORMER = {name for options in (RENAMED_OPTIONS, GONE_OPTIONS) for names in options.values() for name in names}
COMMANDS = {parser.prog for parser in parsers(build_parser())}


def unknown_options(text: str) -> set[str]:
    """Options in running text that no command has."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    inline = [code for code in re.findall(r"`([^`\n]+)`", prose) if not NOT_OURS.search(code + " ")]
    named = {name for code in inline for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    return named - OPTIONS - FORMER - set(FOREIGN)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_option_in_the_text_exists(page):
    assert unknown_options(page.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_in_the_text_exists(page):
    text = page.read_text(encoding="utf-8")
    for command in set(re.findall(r"`moediff ([a-z][a-z-]*)(?=[ `])", text)):
        assert f"moediff {command}" in COMMANDS, command


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_block_that_is_not_run_says_why(page):
    for block in blocks_of(page):
        if block.mark == "not run":
            assert CANNOT_RUN.match(block.reason), f"{page.name}, line {block.line}: {block.reason}"
        assert not block.mark or len(block.reason.split()) >= 2, f"{page.name}, line {block.line}"


def test_blocks_and_their_marks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```bash\nmoediff enhance a.nii --tta 2 > log || echo no   # comment\n```\n\n"
        "<!-- slow: trains for a minute -->\n```\nmoediff train r.toml\n```\n- list\n  ```python\n  x = 1\n  ```\n"
    )
    first, second, third = blocks_of(page)
    assert (first.line, first.mark, second.mark, second.reason) == (3, "", "slow", "trains for a minute")
    assert list(commands_of(first)) == [["enhance", "a.nii", "--tta", "2"]]
    assert third.text == "x = 1\n" and third.language == "python"


def test_what_does_not_exist_is_noticed():
    assert unknown_options("use `--no-such-option`, or `--tta 2`") == {"--no-such-option"}


def test_a_block_that_fails_is_noticed(server, tmp_path):
    run = lambda language, text: server.run(Block("p", 1, language, text), tmp_path)  # noqa: E731
    assert run("bash", "moediff enhance nothere.nii.gz\necho after")[0] == 66
    assert run("python", "raise ValueError('x')")[0] == 1
    assert run("bash", "moediff --version | grep -c moediff") == (0, "1\n")
