"""`moediff study create`: blinded images, the key, and what is refused."""

import hashlib
import json
import struct
import zlib

import numpy as np
import pytest
import torch

from moediff.cli.main import main
from moediff.core.errors import DataError
from moediff.io.scans import load, save
from moediff.study.cases import Case, case_name, cases_from_options, cases_from_table
from moediff.study.records import read_key
from moediff.study.render import RenderOptions, render_case
from study.conftest import CASES, METHODS


def pixels(png: bytes) -> np.ndarray:
    """Grey pixels of a PNG without filters."""
    width, height = struct.unpack(">II", png[16:24])
    start = png.index(b"IDAT") + 4
    raw = np.frombuffer(zlib.decompress(png[start:-16]), np.uint8)
    return raw.reshape(height, width + 1)[:, 1:]


def test_every_image_is_rendered_and_the_key_names_it(all_tasks):
    assert all_tasks.key.methods == METHODS
    assert {case.name for case in all_tasks.key.cases} == set(CASES)
    for case in all_tasks.key.cases:
        assert set(case.images) == {*METHODS, "input", "reference"}
        for image in case.images.values():
            assert (
                len(list((all_tasks.folder / "images" / image).glob("*.png"))) == all_tasks.study.stacks[image].slices
            )
        assert len(case.lesions) == 1 + CASES.index(case.name) % 2


def test_the_study_commits_to_its_key(all_tasks, tmp_path):
    assert hashlib.sha256(all_tasks.key_path.read_bytes()).hexdigest() == all_tasks.study.key_sha256
    changed = tmp_path / "changed.json"
    changed.write_text(all_tasks.key_path.read_text().replace('"cubic"', '"other"'))
    with pytest.raises(DataError, match="restore the key"):
        read_key(changed, all_tasks.study)


def test_nothing_in_the_folder_tells_a_method_a_case_or_a_file(all_tasks):
    words = [w.lower() for w in (*METHODS, *CASES, "sub-0", ".nii.gz", "totalv", "faithful", "lesion")]
    for file in all_tasks.folder.rglob("*"):
        name, content = str(file.relative_to(all_tasks.folder)).lower(), b""
        if file.is_file():
            content = file.read_bytes().lower()
        assert not [w for w in words if w in name or w.encode() in content], file
    assert not {"main", "repeat", "identical", "mirrored"} & set(
        (all_tasks.folder / "study.json").read_text().split('"')
    )


def test_pngs_hold_nothing_but_pixels(all_tasks):
    file = next(all_tasks.folder.glob("images/*/0.png")).read_bytes()
    kinds, at = [], 8
    while at < len(file):
        length = struct.unpack(">I", file[at : at + 4])[0]
        kinds.append(file[at + 4 : at + 8])
        at += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


def test_trials_show_what_the_key_says(all_tasks):
    images = {case.name: case.images for case in all_tasks.key.cases}
    for reader, trials in all_tasks.study.readers.items():
        for trial, key in zip(trials, all_tasks.key.readers[reader], strict=True):
            assert trial.number == key.number and trial.training == (key.kind == "training")
            assert trial.images == tuple(images[key.case][method] for method in key.methods)
            assert set(trial.context) == (set() if trial.task == "search" else {"input", "reference"})


def test_all_results_get_one_window(tmp_path, make_phantom):
    head = make_phantom((20, 22, 18), (8.0, 8.0, 8.0))
    save(head, tmp_path / "a.nii")
    save(head.with_data(head.data_XYZ * 0.8), tmp_path / "b.nii")
    case = Case(
        name="x", results={"A": tmp_path / "a.nii", "B": tmp_path / "b.nii"}, others={"input": tmp_path / "a.nii"}
    )
    rendered = render_case(case, RenderOptions(slices=3))
    a, b, source = (pixels(rendered.images[name][1]).astype(float) for name in ("A", "B", "input"))
    assert np.array_equal(a, source) and rendered.stack.slices == 3
    assert np.abs(b - 0.8 * a)[a < 255].max() <= 1
    matched = render_case(case, RenderOptions(slices=3, match_intensity=True))
    assert np.abs(pixels(matched.images["B"][1]).astype(float) - a).max() <= 1
    save(head.with_data(head.data_XYZ / 1000), tmp_path / "b.nii", overwrite=True)
    with pytest.raises(DataError, match="--match-intensity"):
        render_case(case, RenderOptions())


def test_lesions_are_runs_of_the_pixels_shown(tmp_path, make_phantom):
    head = make_phantom((20, 22, 18), (8.0, 8.0, 8.0))
    save(head, tmp_path / "a.nii")
    mask = torch.zeros(head.shape)
    mask[4:7, 10, 9] = 1
    save(head.with_data(mask), tmp_path / "l.nii")
    case = Case(name="x", results={m: tmp_path / "a.nii" for m in "AB"}, others={"lesions": tmp_path / "l.nii"})
    rendered = render_case(case, RenderOptions())
    ((run,),) = [lesion.runs for lesion in rendered.lesions]
    place, row, start, stop = run
    picture = pixels(rendered.images["A"][place])
    shown = head.data_XYZ[4:7, 10, 9].flip(0).numpy()
    low, high = rendered.window
    expected = np.clip((shown - low) / (high - low) * 255, 0, 255).round()
    assert np.array_equal(picture[row, start:stop], expected)


def test_cases_from_a_table(study_scans, tmp_path):
    table = tmp_path / "cases.csv"
    names = [load(study_scans / "input" / f"{case}.nii.gz").path for case in CASES[:2]]
    table.write_text("case,input,A,B\n" + "".join(f"c{i},{n},{n},{n}\n" for i, n in enumerate(names)))
    cases = cases_from_table(table)
    assert [case.name for case in cases] == ["c0", "c1"] and set(cases[0].results) == {"A", "B"}
    assert case_name(names[0]) == "sub-00_T1w"


@pytest.fixture
def named(tmp_path):
    """Results of two methods and two cases, as `moediff bids` names them: words for `--results`."""

    def touch(*names: str):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()

    touch(*(f"{method}/sub-0{case}_res-iso1_desc-sr_FLAIR.nii.gz" for method in "ab" for case in (1, 2)))
    return touch, [f"{method}={tmp_path / method}" for method in "ab"]


def test_files_of_one_head_are_found_without_entities_of_results(named, tmp_path):
    touch, results = named
    touch("input/sub-01_FLAIR.nii.gz", "input/sub-02_FLAIR.nii.gz", "input/sub-03_FLAIR.nii.gz")
    cases = cases_from_options(results, {"input": [tmp_path / "input"]})
    assert [(case.name, case.others["input"].name) for case in cases] == [
        ("sub-01_FLAIR", "sub-01_FLAIR.nii.gz"),
        ("sub-02_FLAIR", "sub-02_FLAIR.nii.gz"),
    ]


def test_outlines_that_fit_no_case_are_no_head_without_lesions(named, tmp_path):
    touch, results = named
    touch("l/sub-01_FLAIR.nii.gz")
    assert ["lesions" in case.others for case in cases_from_options(results, {"lesions": [tmp_path / "l"]})] == [1, 0]
    touch("l/sub-02_FLAIR_lesions.nii.gz")
    with pytest.raises(DataError, match=r"sub-02_FLAIR_lesions.nii.gz would be of .* expected one of sub-02_FLAIR:"):
        cases_from_options(results, {"lesions": [tmp_path / "l"]})
    touch("l/sub-02_FLAIR.nii.gz")  # every case has its own now; a folder may hold more
    assert len(cases_from_options(results, {"lesions": [tmp_path / "l"]})) == 2
    with pytest.raises(DataError, match="would be of the case sub-02_FLAIR_lesions"):
        cases_from_options(results, {"reference": [tmp_path / "l/sub-02_FLAIR_lesions.nii.gz"]})


def test_a_case_without_its_input_is_warned_of(study_scans, tmp_path, capsys):
    words = [f"{method}={study_scans / method}" for method in METHODS]
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / f"{CASES[0]}.nii.gz").symlink_to(study_scans / "input" / f"{CASES[0]}.nii.gz")
    create = ["study", "create", str(tmp_path / "new"), "--results", *words, "--readers", "ann", "--slices", "1"]
    assert main([*create, "--input", str(tmp_path / "some")]) == 0
    said = capsys.readouterr().err
    assert f"warning: {CASES[1]}: no --input has its name" in said and f"warning: {CASES[0]}: no" not in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--results", "cubic={s}/cubic"], 78, "two or more"),
        (["--results", "cubic={s}/cubic", "nothing"], 78, "METHOD=FOLDER"),
        (
            ["--results", "cubic={s}/cubic", "other={s}/reference/sub-00_T1w.nii.gz"],
            65,
            "every method needs every case",
        ),
        (["--results", "cubic={s}/cubic", "other={s}/none"], 66, "no such file"),
        (["--results", "cubic={s}/cubic", "other={s}/reference", "--title", "Is Cubic good?"], 78, "names a method"),
        (["--results", "cubic={s}/cubic", "other={s}/reference", "--tasks", "search"], 65, "--lesions"),
        (
            [
                "--results",
                "cubic={s}/cubic",
                "other={s}/cubic",
                "--lesions",
                "{s}/lesions",
                "--tasks",
                "search",
                "--slices",
                "1",
            ],
            65,
            "between the slices",
        ),
        (["--results", "cubic={s}/cubic", "other={s}/reference", "--key", "{t}/new/key.json"], 73, "does not exist"),
    ],
)
def test_what_cannot_be_a_study_is_refused(study_scans, tmp_path, capsys, words, code, said):
    words = [word.format(s=study_scans, t=tmp_path) for word in words]
    assert main(["study", "create", str(tmp_path / "new"), *words, "-q", "--readers", "ann"]) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_create_says_what_it_made(new_study, capsys, study_scans, tmp_path):
    made = new_study("--seed", "3")
    assert json.loads(made.key_path.read_text())["seed"] == 3
    words = [f"{method}={study_scans / method}" for method in METHODS]
    assert main(["study", "create", str(tmp_path / "other"), "--results", *words, "--readers", "ann"]) == 0
    out = capsys.readouterr().out
    assert "ann: 18 trials, sessions: 1" in out and "keep it from readers" in out
