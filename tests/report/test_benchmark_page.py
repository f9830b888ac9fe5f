"""Page of a benchmark: one file that requests nothing, however hostile the names in it."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.benchmark.aggregate import with_gains
from moediff.benchmark.cases import Case, Scan
from moediff.benchmark.markdown_tables import blocks_of
from moediff.benchmark.records import BenchmarkRow, about_this_machine
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.evaluation.lesions import LesionScores
from moediff.evaluation.per_region import RegionScores
from moediff.evaluation.records import IntensityFit
from moediff.report.benchmark_page import _times, case_panels, draw_case, page, what_was_run

HOSTILE = "<script>alert('x')</script>\"><img src=http://example.org/x onerror=y>"
PNG = b"\x89PNG\r\n\x1a\n"


LESIONS = LesionScores(
    count=7,
    false_negatives=2,
    false_positives=1,
    false_positive_ml=0.1,
    volume_ref_ml=2.25,
    volume_pred_ml=1.75,
    contrast_recovery=0.625,
    dice=0.5,
    cnr_ref=3.0,
    cnr_pred=2.0,
)


def row(method, scan, psnr, key, *, error="", in_means=True):
    row = BenchmarkRow(
        key=key,
        method=method,
        kind="command",
        scan=scan,
        recipe=HOSTILE,
        seed=0,
        in_means=in_means,
        error=error,
    )
    if error:
        return row
    return replace(
        row,
        metrics={"psnr": psnr, "ssim": 0.9, "haarpsi": 0.8},
        warnings=(f"doubtful {HOSTILE}",),
        seconds=3.0,
        peak_mib=300.0,
        regions={"cortex": RegionScores(voxels=500, psnr=psnr - 3, ssim=0.8, nrmse=0.1)},
        lesions=LESIONS,
    )


class Tags(HTMLParser):
    """Tags and attributes that a browser would act on, and whether tags are balanced."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def html(tmp_path):
    """A page whose methods, scans, recipes, warnings and errors all try to break out."""
    names = ("cubic", "zero-fill", HOSTILE)
    rows = [row(m, f"{s}{HOSTILE}", 20.0 + i, f"{i}{s}", in_means=s == "a") for i, m in enumerate(names) for s in "ab"]
    rows.append(row("broken", f"a{HOSTILE}", 0, "k", error=f"it said {HOSTILE}"))
    (tmp_path / "2a.png").write_bytes(PNG)
    return page(with_gains(rows), about_this_machine(2, HOSTILE, [0]), HOSTILE, tmp_path)


@pytest.fixture
def parsed(html):
    tags = Tags()
    tags.feed(html)
    tags.close()
    return tags


def test_names_are_text_and_nothing_else(html, parsed):
    assert not parsed.open and "script" not in parsed.tags
    assert "&lt;script&gt;" in html and "<script" not in html
    assert not [key for key, _ in parsed.attributes if key.startswith("on")]


def test_nothing_is_fetched(html, parsed):
    links = [value for key, value in parsed.attributes if key in ("src", "href", "srcset", "data", "xlink:href")]
    assert links[0] == "data:," and links[1].startswith("data:image/png;base64,") and len(links) == 2  # no icon
    assert not {"iframe", "object", "script", "a"} & set(parsed.tags)
    visible = html.replace("http://example.org/x", "")  # the hostile name, as text
    assert not re.search(r"https?://|url\(|@import|//", visible)
    assert "default-src 'none'" in html


def test_it_follows_the_readers_colours_and_says_what_it_is(html):
    assert "prefers-color-scheme: dark" in html and "color-scheme: light dark" in html
    assert "Research use only; not for diagnostic use." in html and "2 threads" in html


def test_failures_are_listed_and_excluded_scans_are_marked(html):
    assert "it said &lt;script" in html and "(excluded from means)" in html


def test_regions_lesions_and_losses_are_tables(html):
    assert "<th>cortex</th>" in html and "<td>19.00</td>" in html
    assert "<td>7</td><td>2</td><td>1</td><td>0.62</td><td>0.50</td><td>1.75</td><td>2.25</td>" in html
    assert "No other method&#39;s mean is better" in html or "No other method's mean is better" in html


def test_losses_are_listed(tmp_path):
    rows = with_gains([row("cubic", "a", 20, "k"), row("zero-fill", "a", 21, "l")])
    assert "PSNR: zero-fill is better, 21 against 20 on average; in 1 of 1 cases." in page(
        rows, about_this_machine(1, "cpu", [0]), "cubic", tmp_path
    )


SCANS = {"sub-01_ses-1": 21.0, "sub-01_ses-2": 21.0, "sub-02": 24.0}  # of two persons


def test_plots_show_means_over_persons_as_the_tables_do(tmp_path):
    baselines = [row(method, scan, 20.0, "k") for method in ("cubic", "zero-fill") for scan in SCANS]
    ours = [replace(row("ours", scan, psnr, "k"), seconds=psnr - 20) for scan, psnr in SCANS.items()]
    rows = with_gains([*baselines, *ours])
    html = page(rows, about_this_machine(1, "cpu", [0]), "ours", tmp_path)
    assert "ours, mean +2.500" in html and "<td>+2.50</td>" in html  # of scans, it would be 2
    assert "Dots are scans" in html and _times(rows)["ours"] == pytest.approx((2.5, 2.5))


def test_a_method_that_failed_on_a_scan_is_marked_in_tables_of_regions_and_lesions(tmp_path):
    rows = [row(method, scan, 20.0, "k") for method in ("cubic", "zero-fill") for scan in "ab"]
    rows += [row("tool", "a", 21.0, "k"), row("tool", "b", 0, "k", error="no")]
    html = page(with_gains(rows), about_this_machine(1, "cpu", [0]), "cubic", tmp_path)
    assert html.count("<td>tool (1 of 2 scans)</td>") == 2 and "<td>cubic</td>" in html
    assert html.count("Scans: a, b") == 2
    blocks = blocks_of(with_gains(rows), "cubic", about_this_machine(1, "cpu", [0]))
    assert all(
        "| tool (1 of 2 scans)" in blocks[name] and "cubic (" not in blocks[name] for name in ("regions", "lesions")
    )


def test_all_failing_is_a_page_too(tmp_path):
    failed = with_gains([row("cubic", "a", 0, "k", error="no")])
    assert "<h2>Failures</h2>" in page(failed, about_this_machine(1, "cpu", [0]), "cubic", tmp_path)


@pytest.mark.parametrize("name", ["tool", "input", "truth", "a$b$\nc"])
def test_a_case_is_drawn_whatever_the_method_is_called(name, make_phantom, tmp_path):
    truth = make_phantom((34, 38, 33))
    low = degrade(truth, NAMED["thick3"], rng_for(0))
    scans = {"input": low, "result": low, "truth": truth}
    judged = replace(row(name, "a", 20.0, "k"), fit=IntensityFit(gain=2.0, offset=1.0))
    draw_case(judged, Case(Scan("a", tmp_path), NAMED["thick3"], 0), scans, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)
    assert torch.equal(scans["truth"].data_XYZ, truth.data_XYZ)


def test_a_result_of_the_same_shape_that_lies_elsewhere_is_drawn_where_it_was_judged(make_phantom):
    truth = make_phantom((16, 18, 14), (12.0, 12.0, 12.0))
    affine = truth.affine.clone()
    affine[0, 3] -= 12  # one plane more at one end, one less at the other
    pred = Volume(truth.data_XYZ.roll(1, 0), affine)
    scans = {"input": truth, "result": pred, "truth": truth}
    panels, title = case_panels(row("ours", "a", 20.0, "k"), scans)
    assert title == "ours"
    assert_close(panels["ours"].data_XYZ[:-1], truth.data_XYZ[:-1], atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("recipes", "said", "unsaid"),
    [
        (("thick5",), "simulated from sharp ones", "measured as such"),
        (("measured",), "measured as such: each is paired", "simulated"),
        (("thick5", "measured"), "some simulated from sharp ones and some measured", "paired"),
    ],
)
def test_the_words_fit_what_was_run(recipes, said, unsaid):
    rows = [replace(row("cubic", "a", 20.0, r), recipe=r) for r in recipes]
    text = what_was_run(rows)
    assert said in text and unsaid not in text and "without a fit of intensities" in text
    fitted = [replace(one, fit=IntensityFit(gain=1.0, offset=0.0)) for one in rows]
    assert "after one robust fit of gain and offset" in what_was_run(fitted)
