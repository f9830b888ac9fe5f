"""Markdown tables of a benchmark, and documents that hold them."""

from dataclasses import replace

import pytest

from moediff.benchmark.aggregate import with_gains
from moediff.benchmark.markdown_tables import blocks_of, filled
from moediff.benchmark.records import about_this_machine
from moediff.core.errors import DataError


@pytest.fixture
def blocks(known_rows):
    return blocks_of(known_rows, "ours", about_this_machine(1, "cpu", [0]))


def cells(table, *start):
    """Cells of the first line that starts with these words."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return next(line for line in lines if line[: len(start)] == list(start))


def test_every_table_shows_the_sums_of_rows(blocks):
    assert cells(blocks["means"], "thick5", "ours")[2:4] == ["28.00", "+2.50"]
    assert cells(blocks["persons"], "thick5", "ours") == [
        "thick5",
        "ours",
        "+2.00 / +0.020",
        "+3.00 / +0.030",
        "+0.00 / +0.000",
    ]
    assert "c (excluded from means)" in blocks["persons"]
    assert cells(blocks["gains"], "mean") == ["mean", "+2.50 / +0.025"]
    assert cells(blocks["gains"], "b") == ["b", "+3.00 / +0.030"]
    assert cells(blocks["differences"], "thick5", "tv")[2] == "+0.75 (-1.00 to +2.50)"
    assert cells(blocks["losses"], "thick5") == ["thick5", "hf ratio (1 is right)", "0.80", "tv", "1.10", "2 of 2"]
    assert cells(blocks["regions"], "thick5", "ours") == ["thick5", "ours", "21.00 (+2.00)"]
    assert cells(blocks["lesions"], "thick5", "ours")[2:] == ["8", "3", "2", "0.60", "0.50", "3.00", "4.00"]
    assert cells(blocks["time"], "ours") == ["ours", "+2.50", "2.0", "1.5", "1.00", "300"]
    assert "1 thread(s) for every method" in blocks["machine"]


def test_without_regions_lesions_or_losses_it_says_so(known_rows):
    own = [row for row in known_rows if row.method in ("cubic", "zero-fill") and row.scan == "b"]
    bare = with_gains(replace(row, regions=None, lesions=None, metrics={"psnr": 20.0}) for row in own)
    result = blocks_of(bare, "zero-fill", about_this_machine(1, "cpu", [0]))
    assert result["regions"] == "No scan whose regions can be separated."
    assert result["lesions"] == "No scan with outlined lesions." and result["losses"].startswith("No metric")


def test_blocks_are_filled_again_and_again_and_the_rest_is_left():
    text = "a\n<!-- benchmark gains -->\nold\nolder\n<!-- end -->\nb <!-- benchmark time -->\n<!-- end -->"
    once = filled(text, {"gains": r"| new \1 |", "time": "t"})
    assert once == "a\n<!-- benchmark gains -->\n| new \\1 |\n<!-- end -->\nb <!-- benchmark time -->\nt\n<!-- end -->"
    assert filled(once, {"gains": r"| new \1 |", "time": "t"}) == once


@pytest.mark.parametrize("text", ["no block", "<!-- benchmark other -->\n<!-- end -->"])
def test_a_document_without_known_blocks_is_refused(text):
    with pytest.raises(DataError, match="expected some of gains"):
        filled(text, {"gains": ""})
