"""The page in a real browser, with and without WebGL. Needs Debian's Chromium and playwright; see CONTRIBUTING."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moediff.acquisition.data_consistency import ConsistencySummary
from moediff.benchmark.aggregate import with_gains
from moediff.benchmark.records import BenchmarkRow, about_this_machine
from moediff.report.benchmark_page import page as benchmark_page
from moediff.report.codec import BLOCK_PLANES
from moediff.report.cohort import cohort_entry, write_index
from moediff.report.data import NO_SOURCE, ReportScans
from moediff.report.display import display
from moediff.report.embed import SIZES as PAGE_SIZES
from moediff.report.embed import in_levels
from moediff.report.page import render, write_page
from report.browser import CHROMIUM, NO_GL, QUIET, SOFTWARE_GL, WAIT_MS, canvas_grey, pixels, serious, settled, state
from report.test_benchmark_page import row as benchmark_row

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)

SIZES = [(1280, 800), (1920, 1080), (2560, 1440), (820, 1180)]  # the last is a tablet
RECORDS = [
    {"data_consistency": {"rms_over_range": 0.9 if i == 4 else 0.01 + i / 1000, "noise_over_range": 0.01 + i / 100}}
    for i in range(6)
]
SCANS = ("input", "interpolated", "enhanced", "truth")

PIXEL = """([x, y]) => {
  const [view] = moediffViewer.views, g = view.geometry(moediffViewer.state);
  const at = [g.x - (x + 0.5) * 4 * g.scale, g.y - (y + 0.5) * 4 * g.scale].map(Math.round);
  return view.canvas.getContext("2d").getImageData(...at, 1, 1).data[0];
}"""  # red in the middle of a voxel of an axial plane of 4 mm voxels
MAP_READY = """key => (async () => {
  while (!moediffViewer.maps[key]) await new Promise(requestAnimationFrame);
})()"""

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """Pages that several tests open, rendered once."""
    return {}


@pytest.fixture
def file(request, rendered, tmp_path) -> Path:
    """The hostile report with everything it can hold, under a hostile name."""
    if "full" not in rendered:
        rendered["full"] = render(request.getfixturevalue("full_scans"))
    path = tmp_path / "<img src=x> & 'report'.html"
    path.write_text(rendered["full"], encoding="utf-8")
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
    """`open_page(*flags, width=1280, height=900, path=file, **context)` -> the page, its scripts done."""
    opened = []

    def page_of(*flags: str, width: int = 1280, height: int = 900, path: Path = file, **context: Any) -> Any:
        page = browsers(flags or NO_GL).new_page(viewport={"width": width, "height": height}, **context)
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


@pytest.fixture
def ramp(request, rendered, tmp_path, phantom) -> Path:
    """A page of a 12-bit scan whose every axial plane is a ramp of 1000..2000, with air and fat at two sides."""
    if "ramp" not in rendered:
        x, y, z = phantom.shape
        data = torch.linspace(1000, 2000, x * y).reshape(x, y, 1).expand(x, y, z).clone()
        data[:3], data[-3:] = 0, 4095
        least = replace(PAGE_SIZES["full"], most_bytes=0)  # as few grey levels as a full page may have
        rendered["ramp"] = render(ReportScans(enhanced=phantom.with_data(data), name="ramp"), least)
    path = tmp_path / "ramp.html"
    path.write_text(rendered["ramp"], encoding="utf-8")
    return path


def names(page: Any) -> list[str]:
    """Name of every view that is seen."""
    return [text for text in page.locator(".view:visible .name").all_inner_texts() if text]


@pytest.mark.parametrize("flags", [SOFTWARE_GL, NO_GL], ids=["webgl", "no webgl"])
def test_views_are_drawn_and_nothing_is_asked_for_or_harmed(open_page, file, said, flags):
    page = open_page(*flags)
    assert [name.split(",")[0] for name in names(page)] == list(SCANS)
    assert all(canvas_grey(page, i).std() > 20 for i in range(4))
    assert said == [f"request {file.as_uri()}"]
    assert page.evaluate("window.harmed") is None
    assert page.inner_text("#status") == ""


def test_the_brains_window_has_more_than_200_grey_levels_on_the_screen(open_page, ramp):
    page = open_page(path=ramp)
    page.uncheck("#smooth")  # else the browser would make levels of its own between voxels
    page.keyboard.press("1")
    levels = np.unique(canvas_grey(page, 0, 0.8))
    assert len(levels) > 200 and levels.max() >= 240 and levels.min() <= 20
    page.select_option("#window", "lesion")
    assert len(np.unique(canvas_grey(page, 0, 0.8))) > 200


PLANE_SUMS = """() => { const { levels, shape: [x, y, z] } = moediffViewer.volumes.enhanced, plane = x * y;
  return Array.from({ length: z }, (_, k) => levels.slice(k * plane, (k + 1) * plane).reduce((a, b) => a + b, 0)); }"""


def test_every_block_of_planes_is_unpacked_in_its_place_and_the_one_on_show_first(open_page, scans, tmp_path):
    assert scans.enhanced.shape[2] > 2 * BLOCK_PLANES
    shown, path = display(scans), tmp_path / "blocks.html"
    write_page(scans, path)
    page = open_page(path=path)
    low, step = page.evaluate("[moediffViewer.data.scans[0].low, moediffViewer.data.scans[0].step]")
    expected = in_levels(shown.enhanced.volume.data_XYZ, low, step).sum((0, 1))
    assert np.array_equal(page.evaluate(PLANE_SUMS), expected)
    drawn, ready = page.evaluate("[performance.getEntriesByName('drawn')[0].startTime, performance.now()]")
    assert 0 < drawn < ready


def test_a_window_set_by_numbers_is_what_is_seen(open_page, ramp, phantom):
    page = open_page(path=ramp)
    page.uncheck("#smooth")
    page.fill("#low", "1250")
    page.fill("#high", "1750")
    page.press("#high", "Enter")
    assert state(page)["window"] == {"name": "own", "low": 1250, "high": 1750}
    corner = page.evaluate("moediffViewer.data.affine.map(row => row[3])")
    first = [round((corner[axis] - float(phantom.affine[axis, 3])) / 4) for axis in (0, 1)]
    for x, y in ((8, 5), (14, 50), (24, 28), (30, 9), (40, 40)):
        intensity = 1000 + 1000 * (x * 56 + y) / (48 * 56 - 1)
        expected = min(255, max(0, round(255 * (intensity - 1250) / 500)))
        assert page.evaluate(PIXEL, [x - first[0], y - first[1]]) == pytest.approx(expected, abs=1)
    page.fill("#high", "10")  # white below black is refused: the window stays
    page.press("#high", "Enter")
    assert state(page)["window"]["high"] == 1750


def test_dragging_with_the_right_button_or_the_tool_sets_one_window_for_all(open_page):
    page = open_page()
    before = state(page)["window"]
    box = page.locator(".view").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 160, box["y"] + 100, steps=5)
    page.mouse.up(button="right")
    wider = state(page)["window"]
    assert wider["high"] - wider["low"] > 1.2 * (before["high"] - before["low"]) and wider["name"] == "own"
    page.select_option("#drag", "window")
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 160, steps=5)
    page.mouse.up()
    brighter = state(page)["window"]
    assert brighter["low"] > wider["low"] and brighter["high"] > wider["high"]
    page.keyboard.press("w")
    assert state(page)["window"]["name"] == "brain"


def test_click_keys_wheel_and_slider_move_one_cross_for_all(open_page):
    page = open_page()
    box = page.locator(".view").nth(2).bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.45 * box["height"])
    clicked = state(page)["at"]
    page.keyboard.press("ArrowUp")
    assert state(page)["at"] == pytest.approx([clicked[0], np.floor(clicked[1] / 4) * 4 + 6, clicked[2]])
    before = canvas_grey(page, 0), canvas_grey(page, 3)
    page.locator(".view").first.hover()
    page.mouse.wheel(0, -120)
    settled(page)
    assert state(page)["at"][2] == pytest.approx(clicked[2] + 4)
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    after = canvas_grey(page, 0), canvas_grey(page, 3)
    assert all((b != a).mean() > 0.05 for b, a in zip(before, after, strict=True))
    page.fill("#slice", "10")
    settled(page)
    assert page.inner_text("#position").startswith("axial 10/") and "mm" in page.inner_text("#position")
    page.focus("#slice")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.inner_text("#position").startswith("axial 11/")


def test_the_millimetres_are_those_of_the_scanner(open_page, full_scans):
    page = open_page()
    page.evaluate("moediffViewer.moveTo(moediffViewer.middle([0, 0, 0]))")
    settled(page)
    grid = page.evaluate("moediffViewer.data.affine")
    place = [f"{'RAS'[i] if grid[i][3] >= 0 else 'LPI'[i]} {abs(grid[i][3]):.1f}" for i in range(3)]
    assert f"({', '.join(place)} mm)" in page.inner_text("#readout")


def test_zoom_and_pan_are_linked_and_keep_the_place_under_the_pointer(open_page):
    page = open_page()
    box = page.locator(".view").first.bounding_box()
    x, y = round(box["x"] + 90), round(box["y"] + 140)
    under = "([x, y]) => moediffViewer.views.slice(0, 2).map(v => v.positionAt(x, y, moediffViewer.state))"
    before = page.evaluate(under, [x, y])[0]
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    for _ in range(6):
        page.mouse.wheel(0, -120)
    page.keyboard.up("Control")
    settled(page)
    assert state(page)["zoom"] > 2
    assert page.evaluate(under, [x, y])[0] == pytest.approx(before, abs=0.01)
    zoomed = [canvas_grey(page, i) for i in range(4)]
    page.keyboard.press("Shift+ArrowLeft")
    assert all((canvas_grey(page, i) != zoomed[i]).mean() > 0.05 for i in range(4))
    page.keyboard.down("Shift")
    centre = state(page)["centre"]
    page.mouse.down()
    page.mouse.move(x + 40, y + 20, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    moved = np.subtract(state(page)["centre"], centre)
    assert moved[0] > 1 and moved[1] > 1 and moved[2] == 0
    page.keyboard.press("0")
    assert state(page)["zoom"] == 1


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_layout_fills_the_window_and_keeps_the_tools_in_reach(open_page, size):
    page = open_page(width=size[0], height=size[1])
    for layout, count in (("all", 4), ("planes", 3), ("swipe", 1), ("blink", 1)):
        page.select_option("#layout", layout)
        settled(page)
        views = [view.bounding_box() for view in page.locator(".view:visible").all()]
        stage = page.locator("#views").bounding_box()
        assert len(views) == count
        assert sum(v["width"] * v["height"] for v in views) > 0.7 * stage["width"] * stage["height"]
        assert stage["width"] > 0.97 * size[0] and stage["height"] > 0.55 * size[1]
        tools, slices = page.locator("#tools").bounding_box(), page.locator("#slices").bounding_box()
        assert tools["y"] >= 0 and slices["y"] + slices["height"] <= size[1]  # both on the first screen
        assert tools["height"] < (60 if size[0] >= 1280 else 100)  # one row; two on a tablet
        page.select_option("#overlay", "single1" if layout == "swipe" else "")  # the longest name, the most tools
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_letters_and_scale_bar_belong_to_each_plane(open_page):
    page = open_page()
    page.keyboard.press("2")
    settled(page)
    letters = [[s.inner_text() for s in view.locator(".letter").all()] for view in page.locator(".view").all()]
    assert letters == [list("RLAP"), list("RLSI"), list("APSI")]
    widths = page.evaluate(
        "moediffViewer.views.map(v =>"
        " [v.bar.clientWidth, v.geometry(moediffViewer.state).scale / v.density, v.bar.textContent])"
    )
    for pixels_wide, pixels_a_mm, text in widths:
        mm = float(text.split()[0]) * (10 if text.endswith("cm") else 1)
        assert pixels_wide == pytest.approx(mm * pixels_a_mm, abs=3)


def test_the_right_of_the_patient_is_on_the_left_and_above_is_front(open_page, phantom, tmp_path):
    data = torch.full(phantom.shape, 10.0)
    data[:3] = 0
    data[30:36, 40:46, 20:26] = 90  # right, front of the middle
    path = tmp_path / "marked.html"
    write_page(ReportScans(enhanced=phantom.with_data(data), name="a"), path)
    page = open_page(path=path)
    page.uncheck("#smooth")
    page.select_option("#window", "full")
    page.evaluate("moediffViewer.moveTo([0, 0, 23 * 4])")
    grey = canvas_grey(page, 0)
    rows, columns = np.nonzero(grey > 200)
    assert rows.mean() < grey.shape[0] / 2 and columns.mean() < grey.shape[1] / 2


def test_swipe_shows_one_scan_on_each_side_of_its_edge_with_both_names(open_page):
    page = open_page()
    page.keyboard.press("3")
    page.select_option("#against", "truth")
    drawn = {}
    for edge in (0, 100, 50):
        page.fill("#edge", str(edge))
        drawn[edge] = canvas_grey(page, 0)
    half = drawn[50].shape[1] // 2
    assert (drawn[0] != drawn[100]).mean() > 0.05
    assert np.array_equal(drawn[50][:, : half - 3], drawn[100][:, : half - 3])  # left of it: the other scan
    assert np.array_equal(drawn[50][:, half + 3 :], drawn[0][:, half + 3 :])
    assert page.inner_text(".view .name").startswith("truth") and page.inner_text(".view .other").startswith("enhanced")
    box = page.locator(".view").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 200, steps=4)
    page.mouse.up()
    assert state(page)["edge"] == pytest.approx(0.25, abs=0.01)
    page.keyboard.press(".")
    assert state(page)["edge"] == pytest.approx(0.3, abs=0.01) and page.input_value("#edge") == "30"


def test_blink_alternates_and_names_what_is_visible(open_page):
    page = open_page()
    page.keyboard.press("4")
    seen = {}
    for _ in range(40):
        # one step in the page, so that the timer cannot come between
        name, pixel_sum = page.evaluate(
            """() => { moediffViewer.draw(); const { canvas, name } = moediffViewer.views[0];
               const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
               return [name.textContent.split(",")[0], data.reduce((a, b) => a + b, 0)]; }"""
        )
        seen.setdefault(name, set()).add(pixel_sum)
        page.wait_for_timeout(60)
    assert set(seen) == {"enhanced", "input"} and all(len(sums) == 1 for sums in seen.values())
    assert seen["enhanced"] != seen["input"]
    page.keyboard.press("1")
    before = state(page)["blinked"]
    page.wait_for_timeout(1000)
    assert state(page)["blinked"] == before  # the timer ends with the layout
    page.keyboard.press("4")
    page.evaluate("clearInterval(moediffViewer.timer)")
    page.keyboard.press(" ")
    assert state(page)["blinked"] != before


def test_double_click_and_keys_enlarge_one_view_and_give_it_back(open_page):
    page = open_page()
    small = page.locator(".view").nth(1).bounding_box()
    page.locator(".view").nth(1).dblclick()
    assert len(names(page)) == 1 and names(page)[0].startswith("interpolated")
    assert page.locator(".view:visible").bounding_box()["width"] > 1.8 * small["width"]
    page.keyboard.press("Escape")
    assert len(names(page)) == 4
    for name in SCANS:
        page.keyboard.press("e")
        settled(page)
        assert names(page)[0].startswith(name)
    page.keyboard.press("e")
    settled(page)
    assert len(names(page)) == 4


def test_overlays_follow_their_opacity_and_lie_over_the_enhanced_scan_alone(open_page):
    page = open_page()
    plain = [pixels(page, f".view >> nth={i}") for i in (2, 3)]
    for key in ("uncertainty", "experts", "change", "single1", "single4", "residual", "lesions"):
        page.select_option("#overlay", key)
        page.evaluate(
            "key => (async () => { while (!moediffViewer.maps[key]) await new Promise(requestAnimationFrame); })()", key
        )
        settled(page)
        row = page.locator("#scale p:visible")
        assert row.count() == 1 and row.inner_text()
        if key == "lesions":
            assert "outlined lesion" in page.inner_text("#readout")  # views open inside one
            page.keyboard.press("o")
            continue
        assert "units" in row.inner_text() or "largest" in row.inner_text()
        colour = []
        for opacity in (0, 20, 100):
            page.fill("#opacity", str(opacity))
            colour.append(np.ptp(pixels(page, ".view >> nth=2"), axis=-1))
        assert colour[2].mean() > 2 * colour[1].mean() > 2 * colour[0].mean()
        assert colour[2].max() > (0.15 if key in ("uncertainty", "experts", "change") else 0.03)
    assert np.abs(pixels(page, ".view >> nth=3") - plain[1]).mean() < 0.001
    assert state(page)["overlay"] == "" and np.abs(pixels(page, ".view >> nth=2") - plain[0]).mean() < 0.001


def test_where_a_map_is_zero_the_scan_is_seen_as_it_is(open_page, scans, tmp_path):
    change = torch.zeros(scans.enhanced.shape)
    change[20:28, 24:32, 18:26] = 40.0
    path = tmp_path / "change.html"
    write_page(replace(scans, interpolated=scans.enhanced.with_data(scans.enhanced.data_XYZ - change)), path)
    page = open_page(path=path)
    page.keyboard.press("e")
    page.keyboard.press("e")
    page.keyboard.press("e")
    plain = pixels(page, ".view:visible")
    page.select_option("#overlay", "change")
    page.evaluate(MAP_READY, "change")
    over = pixels(page, ".view:visible")
    changed = np.abs(over - plain).max(-1) > 0.02
    assert 0.005 < changed.mean() < 0.15


def test_three_planes_show_the_chosen_scan_and_the_cross(open_page):
    page = open_page()
    page.keyboard.press("2")
    page.select_option("#scan", "truth")
    settled(page)
    assert all(name.startswith("truth") for name in names(page)) and len(names(page)) == 3
    plain = pixels(page, ".view >> nth=1")
    page.keyboard.press("x")
    crossed = pixels(page, ".view >> nth=1")
    share = (np.abs(crossed - plain).max(-1) > 0.1).mean()
    assert 0.001 < share < 0.02  # thin
    page.locator(".view").nth(2).click(position={"x": 60, "y": 90})
    settled(page)
    assert page.input_value("#plane") == "sagittal"  # the slider follows the view that was used
    page.keyboard.press(" ")
    settled(page)
    assert names(page)[0].startswith("input")


def test_keys_belong_to_the_control_that_has_the_focus(open_page):
    page = open_page()
    page.focus("#low")
    page.keyboard.type("0")
    assert state(page)["zoom"] == 1 and page.input_value("#low").endswith("0")
    page.focus("#layout")
    page.keyboard.press("s")  # chooses "swipe" there, not the sagittal plane
    assert state(page)["plane"] == "axial"
    page.focus("#cross")
    page.keyboard.press(" ")
    assert state(page)["cross"] is True
    page.keyboard.press("?")
    assert page.locator("#help").is_visible() and "blink" in page.inner_text("#help")
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_everything_can_be_reached_by_tab_in_the_order_of_the_page(open_page):
    page = open_page()
    page.keyboard.press("3")
    page.select_option("#overlay", "change")
    order = []
    for _ in range(24):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    expected = ["layout", "plane", "window", "low", "high", "overlay", "drag", "cross", "smooth", "opacity", "scan"]
    expected += ["against", "edge", "reset", "fill", "keys", "views", "slice"]
    found = [name for name in dict.fromkeys(order) if name in expected]
    start = found.index("layout")
    assert found[start:] + found[:start] == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_either_theme_and_any_layout(open_page, scheme):
    page = open_page(color_scheme=scheme)
    for layout in ("all", "planes", "swipe"):
        page.select_option("#layout", layout)
        settled(page)
        assert serious(page) == []
    papers = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (papers == "rgb(20, 22, 26)") == (scheme == "dark")


def test_axe_finds_nothing_serious_in_the_list_of_scans(open_page, scans, file):
    index = file.with_name("index.html")
    write_index([cohort_entry(replace(scans, name="a", record=RECORDS[0]), file)], index)
    assert serious(open_page(path=index)) == []


def test_a_result_without_its_input_is_shown_alone_and_says_so(open_page, scans, tmp_path):
    path = tmp_path / "alone.html"
    bare = ReportScans(enhanced=scans.enhanced, name="a", source_note=NO_SOURCE)
    write_page(bare, path)
    page = open_page(path=path)
    assert "was not found" in page.inner_text("header") and len(names(page)) == 1
    assert page.locator("#layout option").count() == 2
    page.keyboard.press("3")  # a layout that is not offered
    assert state(page)["layout"] == "all"


def touched(page: Any, paths: list[list[tuple[float, float]]]) -> None:
    """Fingers put down, moved along their paths, and lifted."""
    client = page.context.new_cdp_session(page)
    for moment, points in enumerate(zip(*paths, strict=True)):
        fingers = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(points)]
        kind = "touchMove" if moment else "touchStart"
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settled(page)


def test_two_fingers_zoom(open_page):
    page = open_page(has_touch=True)
    box = page.locator(".view").first.bounding_box()
    x, y = box["x"] + 120, box["y"] + 120
    touched(page, [[(x + side * apart, y) for apart in range(30, 91, 10)] for side in (-1, 1)])
    assert state(page)["zoom"] == pytest.approx(3, rel=0.1)


def test_one_finger_moves_the_cross_or_changes_slices_by_how_far_it_moves(open_page):
    page = open_page(width=820, height=1180, has_touch=True)
    box = page.locator(".view").first.bounding_box()
    x, y = box["x"] + 120, box["y"] + 120
    before = state(page)
    touched(page, [[(x, y), (x, y)]])
    assert state(page)["at"][:2] != before["at"][:2] and state(page)["at"][2] == before["at"][2]
    page.select_option("#drag", "slices")
    touched(page, [[(x, y), (x, y - 3), (x, y - 4), (x, y - 31)]])
    assert state(page)["at"][2] == pytest.approx(before["at"][2] + 6 * 4)


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


def test_without_scripts_the_stills_are_there(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#stills img").first.is_visible() and not page.is_visible("#viewer")
    assert "Scripts are turned off" in page.inner_text("body")


def test_an_old_browser_gets_stills_and_the_reason(file, browsers):
    page = browsers(NO_GL).new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert "too old" in page.inner_text("#status") and page.locator("#stills img").first.is_visible()
    page.close()


def test_on_paper_stand_stills_and_settings_without_controls(open_page):
    page = open_page(width=718, color_scheme="dark")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = false")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert not page.is_visible("#viewer") and page.locator("#stills img").last.is_visible()
    assert page.locator("#settings dd").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


def test_nothing_sticks_out_on_a_phone(open_page):
    page = open_page(width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_columns_of_a_benchmark_fit_at_800_pixels(open_page, tmp_path):
    names = ("cubic", "zero-fill", "tv", "faithful", "detail")
    rows = [wide_row(name, scan, f"{i}{scan}") for i, name in enumerate(names) for scan in "ab"]
    path = tmp_path / "benchmark.html"
    path.write_text(benchmark_page(with_gains(rows), about_this_machine(2, "cpu", [0]), "faithful", tmp_path), "utf-8")
    page = open_page(width=800, path=path, java_script_enabled=False)
    holders = page.locator(".wide:has(table)").all()
    tables = [(one.bounding_box(), one.locator("table").bounding_box()) for one in holders]
    assert len(tables) >= 3
    assert all(table["x"] + table["width"] <= outer["x"] + outer["width"] + 1 for outer, table in tables)


def test_axe_finds_nothing_serious_in_a_benchmark(browsers, tmp_path):
    rows = [wide_row(name, "a", name) for name in ("cubic", "zero-fill", "faithful")]
    path = tmp_path / "benchmark.html"
    path.write_text(benchmark_page(with_gains(rows), about_this_machine(2, "cpu", [0]), "faithful", tmp_path), "utf-8")
    for scheme in ("light", "dark"):
        page = browsers(NO_GL).new_context(color_scheme=scheme, bypass_csp=True).new_page()
        page.goto(path.as_uri())
        assert serious(page) == []
        page.context.close()


def wide_row(method: str, scan: str, key: str) -> BenchmarkRow:
    """A row with every column of the page."""
    one = replace(benchmark_row(method, scan, 31.25, key), recipe="thick5")
    agreement = ConsistencySummary(0.0123, 0.01, ("same", "same", "slice"))
    return replace(
        one,
        metrics={**one.metrics, "hf_ratio": 0.91},
        data_consistency=agreement,
        cpu_s=123.4,
        compute_s=12.34,
        gflop=1234.0,
    )
