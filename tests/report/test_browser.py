"""The page in a real browser. Needs Debian's Chromium and playwright's Python package; see CONTRIBUTING."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from moediff.report.cohort import summarise, write_index
from moediff.report.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)

QUIET = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
SOFTWARE_GL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NO_GL = ["--disable-gpu", "--disable-3d-apis"]
WAIT_MS = 60_000
RECORDS = [
    {"data_consistency": {"rms_over_range": 0.9 if i == 4 else 0.01 + i / 1000, "noise_over_range": 0.01 + i / 100}}
    for i in range(6)
]

Open = Callable[..., Any]


@pytest.fixture
def file(full_scans, tmp_path) -> Path:
    """The hostile report with everything it can hold, under a hostile name."""
    path = tmp_path / "<img src=x> & 'report'.html"
    write_page(full_scans, path)
    return path


@pytest.fixture
def said() -> list[str]:
    """What the browser complained of, and every address that it asked for."""
    return []


@pytest.fixture
def open_page(file, said) -> Iterator[Open]:
    """`open_page(*flags, width=1280, path=file)` -> the page, its scripts done."""
    with playwright.sync_playwright() as driver:
        browsers = []

        def opened(*flags: str, width: int = 1280, path: Path = file) -> Any:
            arguments = [*QUIET, *(flags or SOFTWARE_GL)]
            browsers.append(driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments))
            page = browsers[-1].new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda e: said.append(str(e)))
            page.on("request", lambda r: said.append(f"request {r.url}"))
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready=yes]", timeout=WAIT_MS)
            return page

        yield opened
        for browser in browsers:
            browser.close()


def pixels(page: Any, selector: str) -> np.ndarray:
    """What is seen of an element, [rows, columns, RGB], 0..1."""
    page.wait_for_timeout(300)
    return matplotlib.image.imread(BytesIO(page.locator(selector).screenshot()))[..., :3]


def choose(page: Any, name: str, value: str) -> None:
    page.check(f"input[name={name}][value='{value}']")


def slide(page: Any, name: str, value: int) -> None:
    page.locator(f"#{name}").fill(str(value))


def crosses(page: Any) -> list[list[float]]:
    """Where each view's cross is, as fractions of the volume."""
    return page.evaluate("Object.values(moediffViews).map(v => [...v.scene.crosshairPos])")


def test_views_are_drawn_and_nothing_is_asked_for_or_harmed(open_page, file, said):
    page = open_page()
    for key in ("input", "interpolated", "enhanced", "truth"):
        assert pixels(page, f"#canvas-{key}").std() > 0.1
    assert said == [f"request {file.as_uri()}"]
    assert page.evaluate("window.harmed") is None
    assert page.inner_text("#status") == ""


def test_a_click_moves_every_cross(open_page):
    page = open_page()
    before = crosses(page)
    page.locator("#canvas-enhanced").click(position={"x": 100, "y": 120})
    page.wait_for_timeout(300)
    after = crosses(page)
    assert after[0] != before[0]
    assert np.ptp(np.array(after), axis=0).max() < 1e-3


def test_arrow_keys_move_every_cross(open_page):
    page = open_page()
    before = crosses(page)
    page.focus("#views")
    page.keyboard.press("PageUp")
    after = crosses(page)
    assert after[0][2] > before[0][2] and np.ptp(np.array(after), axis=0).max() < 1e-6


def test_the_window_is_one_for_all_and_follows_the_sliders(open_page):
    page = open_page()
    window = "Object.values(moediffViews).map(v => [v.volumes[0].cal_min, v.volumes[0].cal_max].join())"
    assert page.evaluate(window) == ["0,255"] * 4
    bright = pixels(page, "#canvas-truth").mean()
    slide(page, "low", 100)
    assert page.evaluate(window) == ["100,255"] * 4
    assert pixels(page, "#canvas-truth").mean() < bright


@pytest.mark.parametrize("overlay", ["uncertainty", "experts", "change"])
def test_overlays_follow_their_opacity(open_page, overlay):
    page = open_page()
    plain = pixels(page, "#canvas-enhanced")
    choose(page, "overlay", overlay)
    half = pixels(page, "#canvas-enhanced")
    slide(page, "opacity", 100)
    full = pixels(page, "#canvas-enhanced")
    assert np.abs(half - plain).mean() > 0.002
    assert np.abs(full - plain).mean() > 1.2 * np.abs(half - plain).mean()
    assert np.ptp(full, axis=-1).max() > 0.3  # in colour


def test_every_other_map_is_drawn_in_colour_and_goes_away_again(open_page):
    page = open_page()
    plain = pixels(page, "#canvas-enhanced")
    for overlay in ("alone1", "alone4", "residual", "lesions", ""):
        choose(page, "overlay", overlay)
        page.wait_for_selector(f"#views[data-overlay='{overlay}']")
        drawn = pixels(page, "#canvas-enhanced")
        assert (np.abs(drawn - plain).mean() > 0.002) == bool(overlay)
        assert page.locator("#scale p:visible").count() == bool(overlay)


def test_3d_is_shaded_turns_by_keys_and_planes_come_back(open_page):
    page = open_page()
    plain = pixels(page, "#canvas-truth")
    choose(page, "plane", "solid")
    solid = pixels(page, "#canvas-truth")
    page.focus("#views")
    page.keyboard.press("ArrowRight")
    turned = pixels(page, "#canvas-truth")
    assert solid.std() > 0.03
    assert np.abs(solid - plain).mean() > 0.02 and np.abs(turned - solid).mean() > 0.001
    choose(page, "plane", "axial")
    assert np.abs(pixels(page, "#canvas-truth") - plain).mean() < 0.002


def test_the_index_sorts_links_and_asks_for_nothing(open_page, scans, file, said):
    entries = [
        summarise(replace(scans, name=f"{'<b>' * (i % 2)}{i}", record=RECORDS[i]), file.with_name(f"{i} #?.html"))
        for i in range(6)
    ]
    index = file.with_name("index.html")
    write_index(entries, index)
    page = open_page(width=390, path=index)
    first = "document.querySelector('#scans tbody th').dataset.value"
    assert page.evaluate(first) == "4" and page.locator("tr.flagged").count() == 1
    page.get_by_role("button", name="noise").click()
    assert page.evaluate(first) == "0"
    page.get_by_role("button", name="noise").click()
    assert page.evaluate(first) == "<b>5"
    assert page.evaluate("document.querySelector('#scans tbody a').href") == entries[5].page.as_uri()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert said == [f"request {index.as_uri()}"]


def test_swipe_shows_the_input_left_of_its_edge(open_page):
    page = open_page()
    choose(page, "plane", "coronal")
    choose(page, "compare", "swipe")
    slide(page, "edge", 0)
    enhanced = pixels(page, "#views")
    slide(page, "edge", 100)
    measured = pixels(page, "#views")
    slide(page, "edge", 50)
    both = pixels(page, "#views")
    assert np.abs(enhanced - measured).mean() > 0.005
    middle = both.shape[1] // 2
    assert np.abs(both - measured)[60:, : middle - 20].mean() < 0.002
    assert np.abs(both - enhanced)[60:, middle + 20 :].mean() < 0.002


def test_blink_alternates(open_page):
    page = open_page()
    choose(page, "compare", "blink")
    page.wait_for_selector("#view-enhanced.off", state="attached", timeout=5000)
    page.wait_for_selector("#view-enhanced:not(.off)", timeout=5000)


def test_stills_and_a_reason_without_webgl(open_page, said):
    page = open_page(*NO_GL)
    assert "WebGL" in page.inner_text("#status")
    assert not page.is_visible("#viewer")
    assert page.locator("#stills img").first.is_visible()
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert len(said) == 1


def test_nothing_sticks_out_on_a_phone(open_page):
    page = open_page(width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
