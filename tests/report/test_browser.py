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

from moediff.report.cohort import cohort_entry, write_index
from moediff.report.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)

QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
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


@pytest.fixture(scope="module")
def browsers() -> Iterator[Callable[..., Any]]:
    """`browsers(flags)` -> a running Chromium, one for each set of flags."""
    with playwright.sync_playwright() as driver:
        running: dict[tuple[str, ...], Any] = {}

        def browser(flags: tuple[str, ...]) -> Any:
            if flags not in running:
                running[flags] = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*QUIET, *flags])
            return running[flags]

        yield browser
        for one in running.values():
            one.close()


@pytest.fixture
def open_page(file, said, browsers) -> Iterator[Open]:
    """`open_page(*flags, width=1280, path=file, **context)` -> the page, its scripts done."""
    opened = []

    def page_of(*flags: str, width: int = 1280, path: Path = file, **context: Any) -> Any:
        page = browsers(flags or tuple(SOFTWARE_GL)).new_page(viewport={"width": width, "height": 900}, **context)
        opened.append(page)
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("request", lambda r: said.append(f"request {r.url}"))
        page.goto(path.as_uri())
        if context.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready=yes]", timeout=WAIT_MS)
        return page

    yield page_of
    for page in opened:
        page.close()


@pytest.fixture(params=[SOFTWARE_GL, NO_GL], ids=["webgl", "no webgl"])
def any_page(request, open_page) -> Open:
    """The page with NiiVue, and with planes drawn without WebGL: both do the same."""
    return lambda **options: open_page(*request.param, **options)


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


def test_a_click_moves_every_cross(any_page):
    page = any_page()
    before = crosses(page)
    page.locator("#canvas-enhanced").click(position={"x": 100, "y": 120})
    page.wait_for_timeout(300)
    after = crosses(page)
    assert after[0] != before[0]
    assert np.ptp(np.array(after), axis=0).max() < 1e-3


def test_arrow_keys_move_every_cross(any_page):
    page = any_page()
    before = crosses(page)
    page.focus("#views")
    page.keyboard.press("PageUp")
    after = crosses(page)
    assert after[0][2] > before[0][2] and np.ptp(np.array(after), axis=0).max() < 1e-6


def test_the_window_is_one_for_all_and_follows_the_sliders(any_page):
    page = any_page()
    window = "Object.values(moediffViews).map(v => [v.volumes[0].cal_min, v.volumes[0].cal_max].join())"
    assert page.evaluate(window) == ["0,255"] * 4
    bright = pixels(page, "#canvas-truth").mean()
    slide(page, "low", 100)
    assert page.evaluate(window) == ["100,255"] * 4
    assert pixels(page, "#canvas-truth").mean() < bright


@pytest.mark.parametrize("overlay", ["uncertainty", "experts", "change"])
def test_overlays_follow_their_opacity(any_page, overlay):
    page = any_page()
    plain = pixels(page, "#canvas-enhanced")
    choose(page, "overlay", overlay)
    half = pixels(page, "#canvas-enhanced")
    slide(page, "opacity", 100)
    full = pixels(page, "#canvas-enhanced")
    assert np.abs(half - plain).mean() > 0.002
    assert np.abs(full - plain).mean() > 1.2 * np.abs(half - plain).mean()
    assert np.ptp(full, axis=-1).max() > 0.3  # in colour


def test_every_other_map_is_drawn_in_colour_and_goes_away_again(any_page):
    page = any_page()
    plain = pixels(page, "#canvas-enhanced")
    for overlay in ("single1", "single4", "residual", "lesions", ""):
        choose(page, "overlay", overlay)
        page.wait_for_selector(f"#views[data-overlay='{overlay}']")
        drawn = pixels(page, "#canvas-enhanced")
        assert (np.abs(drawn - plain).mean() > 0.001) == bool(overlay)
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
        cohort_entry(replace(scans, name=f"{'<b>' * (i % 2)}{i}", record=RECORDS[i]), file.with_name(f"{i} #?.html"))
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


def test_swipe_shows_the_input_left_of_its_edge(any_page):
    page = any_page()
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


def test_blink_alternates(any_page):
    page = any_page()
    choose(page, "compare", "blink")
    page.wait_for_selector("#view-enhanced.off", state="attached", timeout=5000)
    page.wait_for_selector("#view-enhanced:not(.off)", timeout=5000)


def test_without_webgl_planes_are_drawn_stills_stay_and_a_reason_is_given(open_page, said):
    page = open_page(*NO_GL)
    assert "WebGL" in page.inner_text("#status") and "3-D" in page.inner_text("#status")
    assert page.locator("input[name=plane][value=solid]").count() == 0
    for key in ("input", "interpolated", "enhanced", "truth"):
        assert pixels(page, f"#canvas-{key}").std() > 0.1
    assert page.locator("#stills img").first.is_visible()
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert len(said) == 1 and page.evaluate("window.harmed") is None


def test_both_ways_of_drawing_show_the_same(open_page):
    drawn = []
    for flags in (SOFTWARE_GL, NO_GL):
        page = open_page(*flags)
        page.uncheck("#cross")
        choose(page, "plane", "sagittal")
        drawn.append(pixels(page, "#canvas-truth").mean(-1)[40:-40, 40:-40])
    assert np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1] > 0.9


def test_without_scripts_the_stills_are_there(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#stills img").first.is_visible() and not page.is_visible("#viewer")
    assert "Scripts are turned off" in page.inner_text("main")


def test_no_key_or_click_makes_one_view_unlike_the_others(open_page):
    """NiiVue's own keys would turn a single view, even to 3-D, where a face shows; its drags reset a single window."""
    page = open_page()
    slide(page, "low", 60)
    box = page.locator("#canvas-enhanced").bounding_box()
    x, y = box["x"] + 120, box["y"] + 120
    page.mouse.dblclick(x, y)
    for key in ("v", "c", "p", "h", "V"):
        page.keyboard.press(key)
        page.wait_for_timeout(80)
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x + 40, y + 30, steps=4)
    page.mouse.up(button="right")
    page.wait_for_timeout(300)
    alike = page.evaluate(
        "Object.values(moediffViews).map(v => [v.volumes[0].cal_min, v.volumes[0].cal_max, v.opts.sliceType].join())"
    )
    assert len(set(alike)) == 1 and alike[0].endswith(",0")
    assert alike[0].split(",")[0] == page.input_value("#low") != "60"  # the drag moved every window, and the slider


def test_zoom_is_one_for_all_and_keeps_the_cross_where_it_is(any_page):
    page = any_page()
    zooms = "Object.values(moediffViews).map(v => [...v.scene.pan2Dxyzmm].map(n => Math.round(n)).join())"
    plain = pixels(page, "#canvas-enhanced")
    page.focus("#views")
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert {z.split(",")[3] for z in page.evaluate(zooms)} == {"2"} and len(set(page.evaluate(zooms))) == 1
    assert page.input_value("#zoom") == "2"
    zoomed = pixels(page, "#canvas-enhanced")
    assert np.abs(zoomed - plain).mean() > 0.02
    cross = (plain[..., 0] - plain[..., 2] > 0.3) & (zoomed[..., 0] - zoomed[..., 2] > 0.3)  # yellow in both
    assert cross.sum() > 100
    page.keyboard.press("0")
    assert set(page.evaluate(zooms)) == {"0,0,0,1"}


def test_shift_and_drag_moves_every_zoomed_picture(any_page):
    page = any_page()
    slide(page, "zoom", 3)
    pans = "Object.values(moediffViews).map(v => [...v.scene.pan2Dxyzmm])"
    before, box = page.evaluate(pans), page.locator("#canvas-enhanced").bounding_box()
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 120, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_timeout(300)
    after = page.evaluate(pans)
    assert np.abs(np.array(after[0]) - before[0]).max() > 1
    assert np.ptp(np.array(after), axis=0).max() < 1e-3


def test_scrolling_changes_the_slice_of_every_view(any_page):
    page = any_page()
    before = crosses(page)
    page.locator("#canvas-input").hover()
    page.mouse.wheel(0, -120)
    page.wait_for_timeout(300)
    after = crosses(page)
    assert after[0][2] > before[0][2] and after[0][:2] == before[0][:2]
    assert np.ptp(np.array(after), axis=0).max() < 1e-6


def test_the_cross_can_be_hidden_and_values_under_it_are_told(any_page):
    page = any_page()
    told = page.inner_text("#readout")
    assert all(f"{name} " in told for name in ("input", "interpolated", "enhanced", "truth"))
    choose(page, "overlay", "lesions")
    page.wait_for_selector("#views[data-overlay=lesions]")
    assert "outlined lesions: outlined lesion" in page.inner_text("#readout")  # views open inside one
    with_cross = pixels(page, "#canvas-truth")
    page.uncheck("#cross")
    without = pixels(page, "#canvas-truth")
    assert np.abs(with_cross - without).mean() > 0.001 and np.ptp(without, axis=-1).max() < 0.1


def test_the_swipe_line_can_be_dragged(any_page):
    page = any_page()
    choose(page, "compare", "swipe")
    box = page.locator("#divider").bounding_box()
    page.mouse.move(box["x"] + 12, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] - 100, box["y"] + 200, steps=4)
    page.mouse.up()
    assert int(page.input_value("#edge")) < 45
    assert page.locator("#divider").bounding_box()["x"] < box["x"] - 60


def test_dark_and_light_follow_the_system_and_stay_legible(open_page):
    """WCAG contrast of the text that readers need, in both themes."""

    def luminance(colour: str) -> float:
        parts = [float(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    papers = []
    for scheme in ("light", "dark"):
        page = open_page(*NO_GL, color_scheme=scheme)
        paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for selector in ("h1", ".hint", "dt", "thead th", ".warnings li"):
            ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"))
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5
        for key in ("input", "interpolated", "enhanced", "truth"):
            ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('.curve.k-{key}')).stroke"))
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 3
        papers.append(paper)
    assert papers[0] > 0.8 and papers[1] < 0.05


def test_on_paper_stand_stills_and_settings_without_controls(open_page):
    page = open_page(*NO_GL, width=718, color_scheme="dark")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = false")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert not page.is_visible("#viewer") and page.locator("#stills img").last.is_visible()
    assert page.locator("#settings dd").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


def test_nothing_sticks_out_on_a_phone(any_page):
    page = any_page(width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
