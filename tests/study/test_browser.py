"""The reader's page in a real browser: keys, slices, two tabs, a lost connection, and a whole study read by script."""

from __future__ import annotations

import shutil
import threading

import pytest

from moediff.cli.main import main
from moediff.study.answers import AnswerStore
from moediff.study.links import new_link
from moediff.study.strengths import numpy_rng
from report.browser import serious
from study.scripted import read_all, scripted_value

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
]
KEYS = {"left": "1", "right": "2", "same": "0"}
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def served(new_study):
    """`served(*options)` -> the study, its store and its address, served by uvicorn in a thread."""
    import uvicorn

    from moediff.study.server import StudyServer, bind

    running = []

    def start(*options):
        made = new_study("--seed", "5", *options)
        store = AnswerStore(made.folder, made.study)
        listening = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(StudyServer(made.folder, store).app(), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread, store))
        return made, store, f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread, store in running:
        server.should_exit = True
        thread.join(20)
        store.__exit__()


def open_page(browser, address, word):
    """A reader's page that shows her first trial, and what the console said."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(WAIT_MS)
    said = []
    page.on("console", lambda message: "willReadFrequently" in message.text or said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address}/start/{word}")
    page.click("text=Start")
    wait(page, 1)
    return page, said


def wait(page, trial):
    page.wait_for_function(
        "t => typeof view !== 'undefined' && view && (view.finished || (view.trial === t && ready))", arg=trial
    )


def bright(page, panel):
    """Sum of a picture's pixels."""
    return page.evaluate(
        "p => { const c = document.querySelector(`canvas[data-panel=${p}]`);"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((a, b) => a + b, 0); }",
        panel,
    )


def test_a_reader_chooses_by_keys_and_takes_one_answer_back(browser, served):
    _, store, address = served()
    page, said = open_page(browser, address, new_link(store, "ann"))
    assert page.locator("#progress").inner_text() == "Training, trial 1 of 18"
    assert page.locator("figcaption").all_inner_texts() == ["Left", "Right", "Input", "Reference"]
    before = [bright(page, panel) for panel in ("left", "input")]
    page.keyboard.press("ArrowDown")
    after = [bright(page, panel) for panel in ("left", "input")]
    assert all(a != b for a, b in zip(before, after, strict=True))  # all pictures show the same slice
    assert page.locator("#slice-number").inner_text() == "5 of 6"
    for trial, key in enumerate(("1", "0"), 1):
        page.keyboard.press(key)
        wait(page, trial + 1)
    page.keyboard.press("u")
    wait(page, 2)
    assert page.locator("#undo").is_hidden()
    page.keyboard.press("2")
    wait(page, 3)
    assert [one.value["choice"] for one in store.answers()] == ["left", "right"]
    assert all(0 < one.seconds < 60 for one in store.answers())
    page.reload()
    wait(page, 3)
    assert page.locator("#progress").inner_text().endswith("trial 3 of 18")
    assert said == []


def test_a_second_tab_is_brought_up_to_date(browser, served):
    _, store, address = served()
    page, _ = open_page(browser, address, new_link(store, "ann"))
    tab = page.context.new_page()
    tab.goto(address)
    wait(tab, 1)
    page.bring_to_front()
    page.keyboard.press("1")
    wait(page, 2)
    tab.bring_to_front()
    tab.keyboard.press("2")
    wait(tab, 2)
    assert "answered already" in tab.locator("#message").inner_text()
    assert [one.value["choice"] for one in store.answers()] == ["left"]


def test_an_answer_waits_for_a_lost_connection(browser, served):
    _, store, address = served()
    page, _ = open_page(browser, address, new_link(store, "ann"))
    page.context.set_offline(True)
    page.keyboard.press("1")
    page.wait_for_selector("text=not saved yet")
    assert store.answers() == []
    page.context.set_offline(False)
    page.click("text=Try again")
    wait(page, 2)
    assert len(store.answers()) == 1


def test_two_scripted_readers_read_all_tasks_to_the_end(browser, served):
    made, store, address = served("--tasks", "choice", "scores", "search", "--window", "free")
    for reader, trials in made.study.readers.items():
        rng = numpy_rng(1, reader)
        page, said = open_page(browser, address, new_link(store, reader))
        for trial in trials:
            page.wait_for_function("t => view.trial === t && !sending", arg=trial.number)
            if page.evaluate("view.pause_days") is not None:
                page.click("text=Go on now")
            wait(page, trial.number)
            value = scripted_value(made.key, reader, trial.number, (-2, 0, 2), rng)
            if trial.task == "choice":
                page.keyboard.press(KEYS[value["choice"]])
            elif trial.task == "scores":
                for grade in value["scores"].values():
                    page.keyboard.press(str(grade))
                page.keyboard.press("Enter")
            else:
                for mark in value["marks"]:
                    page.evaluate("i => { index = i; draw(); }", mark["slice"])
                    box = page.locator("canvas[data-panel=image]").bounding_box()
                    page.mouse.click(box["x"] + mark["x"] * box["width"], box["y"] + mark["y"] * box["height"])
                    page.keyboard.press(str(mark["confidence"]))
                page.keyboard.press("Enter")
        page.wait_for_selector("text=Thank you")
        page.context.close()
        assert said == []
    assert store.unfinished() == {}
    marked = [one for one in store.answers() if one.value.get("marks")]
    assert len(marked) > 5
    about = made.key.readers[marked[0].reader][marked[0].trial - 1]
    assert about.kind in ("main", "training") and marked[0].value["marks"][0]["confidence"] in (2, 4)
    assert all(one.value["window"] == [1, 1] for one in store.answers())


def test_an_offline_file_saves_answers_that_can_be_merged(browser, new_study, tmp_path):
    made = new_study("--training", "0", "--repeats", "0", "--catches", "0", "--seed", "5")
    assert main(["study", "export-html", str(made.folder), "-o", str(tmp_path / "out"), "-q"]) == 0
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(WAIT_MS)
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or said.append(request.url))
    page.goto(sorted((tmp_path / "out").iterdir())[0].as_uri())
    for trial in range(1, 16):
        wait(page, trial)
        if trial == 3:
            page.keyboard.press("u")
            wait(page, 2)
            page.keyboard.press("1")
            wait(page, 3)
            page.reload()  # answers lie in the browser's storage
            wait(page, 3)
        page.keyboard.press("1")
    with page.expect_download() as saving:
        page.click("text=Save the answers")
    saving.value.save_as(tmp_path / "answers.json")
    assert main(["study", "merge", str(made.folder), str(tmp_path / "answers.json"), "-q"]) == 0
    with AnswerStore(made.folder, made.study) as store:
        assert store.unfinished() == {"bob": 15} and {one.value["choice"] for one in store.answers()} == {"left"}
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page_of_a_study(browser, served, scheme):
    _, store, address = served("--tasks", "choice", "scores", "search")
    page = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme, bypass_csp=True).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{address}/start/{new_link(store, 'ann')}")
    assert serious(page) == []
    page.click("text=Start")
    wait(page, 1)
    assert serious(page) == []
    page.goto(f"{address}/start/wrong")
    assert serious(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_an_analysis(browser, new_study, tmp_path, scheme):
    made = new_study("--tasks", "choice", "scores", "search", "--seed", "5")
    with AnswerStore(made.folder, made.study) as store:
        read_all(store, made.study, made.key, (-2, 0, 2))
    assert main(["study", "analyse", str(made.folder), "-o", str(tmp_path / "out"), "-q"]) == 0
    page = browser.new_context(viewport={"width": 800, "height": 800}, color_scheme=scheme, bypass_csp=True).new_page()
    page.goto((tmp_path / "out" / "analysis.html").as_uri())
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
