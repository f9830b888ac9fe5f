"""The list of many scans: what stands out comes first, links lead to pages, nothing hostile becomes markup."""

import os
import re
from dataclasses import replace
from html import unescape

import pytest

from moediff.core.errors import InputMissing
from moediff.report.cohort import Entry, cohort_entry, render_index, results_of


def entries(tmp_path, gaps, name="sub-{} & <b>"):
    numbers = {"noise": 1.0, "unsure": None, "warnings": 0.0, "time": 2.0}
    return [
        Entry(name.format(i), tmp_path / "pages" / f"sub {i}#.html", "data:,", {"gap": gap, **numbers}, ())
        for i, gap in enumerate(gaps)
    ]


def test_outliers_come_first_and_names_stay_text(tmp_path):
    text = render_index(entries(tmp_path, [1.0, 1.1, 1.2, 1.3, 9.0]), tmp_path)
    rows = re.findall(r'<th scope="row" data-value="([^"]*)"', text)
    assert rows[0] == "sub-4 &amp; &lt;b&gt;" and "<b>" not in text
    assert text.count('class="flagged"') == 1 and "1 stands out" in text
    assert 'href="pages/sub%204%23.html"' in text
    assert "uncertainty, %" not in text  # no scan has one


@pytest.mark.fault(44)
def test_row44_a_name_that_is_not_utf8_is_linked_by_its_bytes(tmp_path):
    page = tmp_path / os.fsdecode(b"sub-\xe9.html")
    (entry,) = entries(tmp_path, [1.0])
    text = render_index([replace(entry, page=page)], tmp_path)
    assert 'href="sub-%E9.html"' in text


def test_it_asks_for_nothing(tmp_path):
    text = unescape(render_index(entries(tmp_path, [1.0]), tmp_path))
    assert "default-src 'none'" in text and "http:" not in text and "https:" not in text and "connect-src" not in text


def test_an_entry_takes_its_numbers_from_the_sidecar(scans, tmp_path):
    entry = cohort_entry(scans, tmp_path / "a.html")
    assert entry.numbers["gap"] == pytest.approx(1.23) and entry.numbers["time"] == pytest.approx(4.0)
    assert entry.numbers["unsure"] is None and entry.numbers["warnings"] == 1
    assert entry.thumbnail.startswith("data:image/png;base64,")
    odd = cohort_entry(
        replace(scans, record={"data_consistency": [1], "timings": "x", "warnings": 3}), tmp_path / "a.html"
    )
    assert set(odd.numbers.values()) == {None, 0.0}
    huge = {"data_consistency": {"rms_over_range": 10**400}, "timings": {"a": 1e308, "b": 1e308}}
    assert cohort_entry(replace(scans, record=huge), tmp_path / "a.html").numbers["gap"] is None


def test_a_folder_stands_for_the_results_in_it(tmp_path):
    for name, software in (("a", "moediff-sr 0.1.0"), ("b", "other")):
        (tmp_path / f"{name}.nii.gz").touch()
        (tmp_path / f"{name}.json").write_text(f'{{"software": "{software}"}}')
    assert results_of([tmp_path]) == [tmp_path / "a.nii.gz"]
    (tmp_path / "a.nii.gz").rename(tmp_path / "a.NII.GZ")
    assert results_of([tmp_path]) == [tmp_path / "a.NII.GZ"]
    (tmp_path / "a.json").unlink()
    with pytest.raises(InputMissing):
        results_of([tmp_path])
