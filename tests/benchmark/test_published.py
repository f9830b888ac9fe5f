"""Published numbers: the table of results follows from the file in the repository, which names no machine."""

import json
import re
from pathlib import Path

import pytest

from moediff.benchmark.aggregate import lesion_sums, means, with_gains
from moediff.benchmark.markdown_tables import BLOCK, gain_table
from moediff.benchmark.methods import parse_methods
from moediff.benchmark.records import About, Results, about_this_machine, read_results

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "benchmarks" / "results" / "embedded.json"
MOST_BYTES = 200_000
FOCUS = "faithful"


@pytest.fixture
def script(load_script):
    return load_script("benchmark_tables")


def test_the_small_file_gives_the_same_table_of_gains(script, known_rows, tmp_path):
    whole = Results(about=about_this_machine(1, "cpu", [0]), focus="ours", rows=tuple(known_rows))
    (tmp_path / "results.json").write_text(whole.to_json())
    small = script.published(read_results(tmp_path / "results.json"))
    (tmp_path / "small.json").write_text(json.dumps(script.without_defaults(small)))
    read = read_results(tmp_path / "small.json")
    assert gain_table(with_gains(read.rows), "ours") == gain_table(known_rows, "ours")
    assert {row.method for row in read.rows} == {"cubic", "zero-fill", "ours"} and not lesion_sums(read.rows)
    assert read.about.machine == "" == read.about.system and read.about.cpus is None
    assert all(row.seconds is None and row.peak_mib is None for row in read.rows)


def test_the_page_of_persons_shows_the_published_gains():
    """`make benchmark-tables` writes them into docs/persons.md."""
    results = read_results(EMBEDDED)
    text = (ROOT / "docs" / "persons.md").read_text(encoding="utf-8")
    blocks = {match["name"]: match[0] for match in BLOCK.finditer(text)}
    assert gain_table(with_gains(results.rows), results.focus) in blocks["gains"]


def test_published_numbers_are_of_the_embedded_weights():
    """New weights need a new run: docs/new-weights.md."""
    embedded = parse_methods([FOCUS])[-1].bundle_sha256
    results = read_results(EMBEDDED)
    own = [row for row in results.rows if row.method == results.focus]
    assert results.focus == FOCUS and {row.identity.bundle_sha256 for row in own} == {embedded}
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    blocks = {match["name"]: match[0] for match in BLOCK.finditer(text)}
    assert f"`{embedded[:12]}`" in blocks["machine"]
    lines = [[cell.strip(" *") for cell in line.split("|")] for line in blocks["means"].splitlines() if "|" in line]
    column = lines[0].index("gain (dB)")
    gains = {line[1]: line[column] for line in lines if line[2] == FOCUS}
    stored = {mean.recipe: mean.gain_psnr for mean in means(with_gains(results.rows)) if mean.method == FOCUS}
    assert gains == {recipe: f"{gain:+.2f}" for recipe, gain in stored.items()} and len(gains) == 8


def test_the_published_file_is_small_and_names_no_machine():
    text = EMBEDDED.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    results = read_results(EMBEDDED)
    assert results.about == About(
        moediff=results.about.moediff, torch=results.about.torch, threads=results.about.threads
    )
    assert len(results.rows) == 120 and not any(row.error or row.seconds for row in results.rows)
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
