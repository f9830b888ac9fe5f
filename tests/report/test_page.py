"""The page as text: nothing can be requested, nothing hostile becomes markup, stills are there, size is bounded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from moediff.core.errors import CannotCreate, ConfigError, DataError, GeometryError
from moediff.core.geometry import resample
from moediff.core.volume import Grid, Volume
from moediff.report.data import NO_SOURCE, ReportScans
from moediff.report.embed import SIZES, Embedded
from moediff.report.page import dropped, render, script_json, viewer_script, write_page


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


@pytest.fixture
def text(scans) -> str:
    return render(scans)


def test_the_policy_forbids_every_request_and_names_the_one_script(text):
    tags = Tags(text)
    policy = next(a["content"] for t, a in tags.tags if t == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "connect-src" not in policy and "http" not in policy
    digest = base64.b64encode(hashlib.sha256(tags.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert tags.scripts[-1] == viewer_script() and viewer_script().count("</") == 0


def test_hostile_names_stay_text(text):
    tags = Tags(text)
    assert len([a for t, a in tags.tags if t == "script" and "type" not in a]) == 1
    assert not [a for _, a in tags.tags if any(name.startswith("on") for name in a)]
    assert all((a.get("src") or "data:").startswith("data:") for _, a in tags.tags)
    assert "{{ 7 * 7 }}" in text and "<script>window" not in text
    data = json.loads(tags.scripts[-2])
    experts = next(m for m in data["maps"] if m["key"] == "experts")
    assert "<script>window" in experts["labels"][1]["name"]


def test_nothing_but_known_fields_of_the_sidecar_is_shown(text):
    assert "Nobody" not in text


def test_no_address_of_another_place(text):
    assert not re.findall(r"https?://|//[a-z]+\\.[a-z]", text.split("<div hidden>")[0])


def test_every_scan_and_map_has_a_still_in_every_plane(text):
    stills = [a for t, a in Tags(text).tags if t == "img"]
    assert len(stills) == 3 * (4 + 3)
    assert all(a["src"].startswith("data:image/png;base64,") for a in stills)


def test_it_says_what_it_is_for_and_what_was_found(text):
    assert text.count("Research use only; not for diagnostic use") >= 3
    assert "1.23 % of its intensity range" in text and "PSNR" in text and "4.0 s" in text


def test_the_experts_are_explained(text):
    assert text.count("mean change there") == 1 and "the border between grey and white matter" in text


def test_uncertainty_and_true_error_are_listed_by_region(text, full_scans):
    assert "mean uncertainty" in text and "mean true error" in text and "whole head" in text
    assert "outlined lesions</th>" not in text and "outlined lesions</th>" in render(full_scans)


def test_the_verdict_says_what_was_tested_and_what_that_does_not_mean(text, scans):
    assert "differs from the input by no more than its noise" in text
    assert "it does not mean that finer details are right" in text
    record = {"data_consistency": {"rms_over_range": 0.09, "noise_over_range": 0.01}}
    page = render(replace(scans, record=record))
    assert "9.0 times its noise" in page and "no more than its noise" not in page
    assert "agrees with what was measured" not in text + page


def test_a_result_whose_input_is_gone_says_so_and_offers_no_comparison(scans):
    alone = replace(scans, source=None, interpolated=None, truth=None, source_note=NO_SOURCE)
    text = render(alone)
    assert "was not found, so this page shows the result without it" in text
    assert "before and after" not in text and 'value="swipe"' not in text and 'value="change"' not in text


@pytest.mark.parametrize(("corrected", "word"), [(True, "corrected"), (False, "not corrected")])
def test_slices_that_alternate_are_named_with_what_was_done(corrected, word, scans):
    slices = {"difference": 0.0409, "noticeable": True, "corrected": corrected}
    assert f"4.1% brighter than those between, {word}" in render(replace(scans, record={"slice_intensity": slices}))
    assert "Every other slice" not in render(
        replace(scans, record={"slice_intensity": {**slices, "noticeable": False}})
    )
    assert "Every other slice" not in render(replace(scans, record={"slice_intensity": "odd"}))


@pytest.mark.parametrize(
    ("scans_learned", "words"), [(1, "1 thick-slice scan, 50% of the way"), (7, "7 thick-slice scans, 50%")]
)
def test_adapted_weights_are_named(scans_learned, words, scans):
    record = {"weights": {"adapted": {"scans": scans_learned, "share": 0.5}}}
    assert words in render(replace(scans, record=record))
    assert "Learned on from" not in render(replace(scans, record={}))


def test_a_bare_result_still_makes_a_page(scans):
    text = render(ReportScans(enhanced=scans.enhanced, name="a.nii.gz"))
    assert "a.nii.gz" in text and 'value="swipe"' not in text


def test_size_is_bounded(text):
    assert len(text.encode()) < 1_500_000


def large_head(mni_scan) -> ReportScans:
    """224x224x208 voxels from slices five times as thick; noise packs worst, and fills input and truth."""
    shape, generator = (224, 224, 208), torch.Generator().manual_seed(0)
    affine = mni_scan.affine.clone()
    affine[:3, :3] @= torch.diag(torch.tensor([a / b for a, b in zip(mni_scan.shape, shape, strict=True)]).double())
    head = resample(mni_scan, Grid(shape, affine), "linear")
    noise = torch.randn(shape, generator=generator) * 0.02 * float(head.data_XYZ.max())
    truth, mild = head.with_data((head.data_XYZ + noise).abs()), head.with_data((head.data_XYZ + noise / 4).abs())
    affine[:3, 3] += 2 * affine[:3, 2]
    affine[:3, 2] *= 5
    source, gap = (Volume(data[..., 2::5].contiguous(), affine) for data in (truth.data_XYZ, noise))
    gate_XYZE = torch.zeros(*shape, 4)
    for expert in range(4):
        gate_XYZE[..., expert::8, expert] = 1.0
    return ReportScans(
        enhanced=mild,
        name="a",
        source=source,
        interpolated=head,
        truth=truth,
        residual=gap,
        uncertainty_XYZ=head.data_XYZ,
        gate_XYZE=gate_XYZE,
        expert_names=("a", "b", "c", "d"),
        changed_XYZE=(noise / 4)[..., None].expand(-1, -1, -1, 4),
        lesions=head.with_data((noise > 9).float()),
    )


@pytest.mark.slow
def test_pages_of_a_large_head_with_a_noisy_truth_and_every_map_keep_their_sizes(mni_scan):
    scans = large_head(mni_scan)
    page = render(scans)
    assert len(page.encode()) <= SIZES["full"].most_bytes
    assert int(re.findall(r"in (\d+) grey levels of the brain", page)[0]) >= 200
    page = render(scans, SIZES["small"])
    assert len(page.encode()) <= SIZES["small"].most_bytes
    assert "<strong>Small page</strong>" in page and "Judge fine differences on the full page" in page


def test_an_existing_page_is_kept_unless_asked(scans, tmp_path):
    page = tmp_path / "a.html"
    page.write_text("old")
    with pytest.raises(CannotCreate, match="overwrite"):
        write_page(scans, page)
    assert page.read_text() == "old"
    write_page(scans, page, overwrite=True)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_without_jinja2_the_error_names_the_remedy(scans, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"moediff-sr\[report\]"):
        render(scans)


def test_a_constant_scan_is_refused(phantom):
    with pytest.raises(DataError, match="contrast"):
        render(ReportScans(enhanced=phantom.with_data(phantom.data_XYZ * 0), name="a"))


def test_a_map_of_another_grid_is_refused(phantom):
    with pytest.raises(GeometryError, match="uncertainty"):
        ReportScans(enhanced=phantom, name="a", uncertainty_XYZ=phantom.data_XYZ[1:])


def test_json_cannot_end_its_script_element():
    assert "<" not in script_json({"a": "</script>"})
    assert json.loads(script_json({"a": "</script>&"})) == {"a": "</script>&"}


@pytest.mark.parametrize(
    ("levels", "halved", "said"),
    [
        (127, False, "127 grey levels in the brain's window; maps in blocks of 3 x 3 x 3 voxels. Judge"),
        (255, True, "255 grey levels in the brain's window; scans in blocks of 2 x 2 x 2 voxels, so fine detail is"),
        (511, False, "maps in blocks of 3 x 3 x 3 voxels. Judge"),
    ],
)
def test_a_small_page_says_what_it_gave_up_and_no_more(levels, halved, said):
    assert dropped(Embedded((), (), levels, halved, SIZES["small"])).startswith(said)
    assert dropped(Embedded((), (), levels, halved, SIZES["full"])) == ""
