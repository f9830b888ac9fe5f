"""`moediff study export-html` and `moediff study merge`."""

import json
import shutil
import subprocess
from importlib.resources import files

import pytest

from moediff.cli.main import main
from moediff.study.answers import AnswerStore, now
from study.conftest import CASES, METHODS


def saved(made, reader="ann", trials=3, **changes):
    """A file as a page saves it."""
    answers = [
        {"trial": t, "value": {"choice": "left"}, "seconds": 2.0, "ticket": f"ticket-{t:04d}", "answered_at": now()}
        for t in range(1, trials + 1)
    ]
    path = made.folder.with_name(f"answers-{reader}-{trials}.json")
    path.write_text(json.dumps({"schema": 1, "study": made.study.name, "reader": reader, "answers": answers} | changes))
    return path


def test_an_offline_page_needs_nothing_else_and_unblinds_nothing(all_tasks, tmp_path, capsys):
    assert main(["study", "export-html", str(all_tasks.folder), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("ann  ")
    pages = sorted((tmp_path / "out").iterdir())
    assert len(pages) == 2
    images = {image for case in all_tasks.key.cases for image in case.images.values()}
    for page in pages:
        text = page.read_text()
        assert (
            "default-src 'none'" in text
            and 'src="' not in text
            and 'href="/' not in text
            and "[[" not in text.split("<script")[0]
        )
        words = [*METHODS, *CASES, *images, "sub-0", "mirrored", "identical", all_tasks.key.salt]
        assert not [word for word in words if word.lower() in (text + page.name).lower()]


def test_answers_are_merged_once(new_study, capsys):
    made = new_study()
    first, more = saved(made), saved(made, trials=5)
    assert main(["study", "merge", str(made.folder), str(first), str(more), str(first)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ann: 3 new answers, 3 of 18",
        "ann: 2 new answers, 5 of 18",
        "ann: 0 new answers, 5 of 18",
    ]
    with AnswerStore(made.folder, made.study) as store:
        assert store.done("ann") == 5 and store.done("bob") == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"study": "other"}, "another study"),
        ({"reader": "carl"}, "does not know"),
        ({"answers": [{"trial": 1}]}, "lacks"),
        (
            {"answers": [{"trial": 4, "value": {"choice": "left"}, "seconds": 1, "ticket": "x", "answered_at": ""}]},
            "missing",
        ),
        (
            {"answers": [{"trial": 1, "value": {"choice": "up"}, "seconds": 1, "ticket": "x", "answered_at": ""}]},
            "choice",
        ),
        ({"answers": 5}, "offline page"),
    ],
)
def test_wrong_files_are_refused(new_study, capsys, changes, said):
    made = new_study()
    assert main(["study", "merge", str(made.folder), str(saved(made, **changes))]) == 65
    assert said in capsys.readouterr().err
    with AnswerStore(made.folder, made.study) as store:
        assert store.answers() == []


def test_a_second_reading_of_the_same_reader_is_refused(new_study, capsys):
    made = new_study()
    assert main(["study", "merge", str(made.folder), str(saved(made)), "-q"]) == 0
    other = saved(made, trials=2)
    other.write_text(other.read_text().replace("ticket-0001", "ticket-9999"))
    assert main(["study", "merge", str(made.folder), str(other)]) == 65
    assert "read twice" in capsys.readouterr().err


TWO_TABS = """
const kept = {};
let full = false;
globalThis.localStorage = {
  getItem: (name) => kept[name] ?? null,
  setItem(name, text) { if (full) throw new Error("full"); kept[name] = text; },
};
const views = [1, 2, 3].map((trial) => ({ trial, undo: trial - 1 }));
const data = { study: "s", reader: "ann", reader_number: 1, views, panels: [], images: {} };
const [old, late] = [offline(data), offline(data)];
const trials = async () => JSON.parse(await late.file().text()).answers.map((one) => one.trial);
const fault = async (act) => act.then(() => "", (error) => error.constructor.name);
(async () => {
  await old.trial();
  for (const trial of [1, 2]) await late.answer({ trial });
  const said = [await fault(old.answer({ trial: 1 })), await trials()];
  full = true;
  said.push(await fault(late.answer({ trial: 3 })), (await late.trial()).trial);
  said.push(await fault(late.undo(2)), await trials());
  full = false;
  said.push((await late.answer({ trial: 3 })).finished, await trials());
  said.push(await late.undo(3), await trials());
  console.log(JSON.stringify(said));
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js runs the page's script here")
def test_offline_answers_are_those_stored_also_by_another_tab_and_where_storage_is_full():
    script = files("moediff.study").joinpath("static", "study.js").read_text(encoding="utf-8")
    program = script[script.index("class Stale") : script.index("const packed")] + TWO_TABS
    ran = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True, timeout=60)
    stale, after, failed, next_trial, undo, unchanged, finished, whole, view, undone = json.loads(ran.stdout)
    assert (stale, after) == ("Stale", [1, 2])
    assert (failed, next_trial, undo, unchanged) == ("Error", 3, "Error", [1, 2])
    assert (finished, whole) == (True, [1, 2, 3])
    assert (view, undone) == ({"trial": 3, "undo": 0}, [1, 2])
