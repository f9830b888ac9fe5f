"""`moediff benchmark`: tables, files, exit codes, and continuing."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import head_mask
from moediff.io.scans import save

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_tables.py"
TOOL = f"{sys.executable} -S -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{input}} {{output}}"
FAILING = f"{sys.executable} -S -c 'import sys; sys.exit(4)' {{input}} {{output}}"


@pytest.fixture
def data(tmp_path, make_phantom):
    """Two heads."""
    (tmp_path / "data" / "val").mkdir(parents=True)
    for seed, name in enumerate(("one_T1w", "two_T1w")):
        save(make_phantom((34, 38, 33), seed=seed), tmp_path / "data" / "val" / f"{name}.nii.gz")
    return tmp_path / "data"


@pytest.fixture
def run(data, tmp_path):
    """`run(*options)` -> exit code; quick metrics, one recipe."""
    fixed = ["--data", str(data), "--recipes", "thick3", "--metrics", "psnr,ssim,haarpsi", "--threads", "1"]
    return lambda *options: main(["benchmark", *fixed, "-o", str(tmp_path / "out"), *options])


def test_tables_files_and_continuing(run, tmp_path, capsys, monkeypatch):
    methods = ["--exclude-from-means", "two_T1w", "--methods", f"tool={TOOL}", f"bad={FAILING}"]
    assert run(*methods) == 8
    said, out = capsys.readouterr(), tmp_path / "out"
    assert "8/8 two_T1w thick3 bad: it failed with exit code 4" in said.err
    assert "| bad " in said.out and "two_T1w (excluded from means)" in said.out and "Research use only" in said.out
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [r["method"] for r in rows[:4]] == ["cubic", "zero-fill", "tool", "bad"] and len(rows) == 8
    assert {r["in_means"] for r in rows if r["scan"] == "two_T1w"} == {"False"}
    assert max(float(r["gain_psnr"]) for r in rows[:2]) == 0 and rows[3]["error"] and not rows[3]["psnr"]
    record = json.loads((out / "results.json").read_text())
    assert record["schema"] == 2 and record["focus"] == "tool" and record["about"]["threads"] == 1
    tool = next(r for r in record["means"] if r["method"] == "tool")
    assert tool["persons"] == 1 and tool["metrics"]["psnr"] == pytest.approx(float(rows[2]["psnr"]))
    assert {one["region"] for one in record["regions"]} and record["rows"][2]["not_computed"] == {}
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and len(list((out / "pictures").iterdir())) == 6

    times = {file.name: file.stat().st_mtime_ns for file in (out / "rows").iterdir()}
    assert run(*methods[:-1], "--focus", "tool", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert {file.name: file.stat().st_mtime_ns for file in (out / "rows").iterdir()} == times
    again = json.loads((out / "results.json").read_text())
    assert len(again["rows"]) == 6 and {p["focus"] for p in again["differences"]} == {"tool"}
    check_tables_of_documents(out, tmp_path, monkeypatch)


def check_tables_of_documents(out, tmp_path, monkeypatch):
    """The script fills documents from what was written, and the same picture comes out twice."""
    document, plots = tmp_path / "page.md", [tmp_path / "a.svg", tmp_path / "b.svg"]
    document.write_text("<!-- benchmark gains -->\n<!-- end -->\nrest\n")
    for plot in plots:
        monkeypatch.setattr(sys, "argv", ["", str(out / "results.json"), str(document), "--plot", str(plot)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "| one_T1w " in document.read_text() and document.read_text().endswith("<!-- end -->\nrest\n")
    assert plots[0].read_bytes() == plots[1].read_bytes() and b">thick3<" in plots[0].read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--methods", "best"], 78, "choose from linear"),
        (["--pairs", "list.csv"], 78, "--pairs brings its own scans, already acquired; leave out --data"),
        (["--recipes", "thick9"], 78, "choose from thick3"),
        (["--recipes", "thick3", "thick3"], 78, "two recipes share a name"),
        (["--scans", "gone"], 66, "no scan 'gone'"),
        (["--exclude-from-means", "two"], 78, "'two' is not among the scans one_T1w, two_T1w: check the name"),
        (["--metrics", "beauty"], 78, "no metric called"),
        (["--focus", "best"], 78, "not among the methods"),
        (["--timeout", "0"], 78, "above 0 s"),
        (["--methods", "x=no/bundle"], 78, "no model bundle"),
    ],
)
def test_wrong_choices_end_with_one_sentence_before_any_work(run, capsys, tmp_path, options, code, words):
    assert run(*options) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_a_folder_ends_with_73(run, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert run("--methods", "cubic") == 73
    assert (tmp_path / "out").read_text() == "mine" and "cannot be used as a folder" in capsys.readouterr().err


def test_a_folder_without_val_is_refused_and_none_means_mni152(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("moediff.benchmark.run.run_benchmark", lambda _, cases, *__, **___: seen.append(cases) or [])
    words = ["benchmark", "--methods", "cubic", "--recipes", "iso2", "-o", str(tmp_path)]
    assert main([*words, "--data", str(tmp_path / "none")]) == 66
    assert not seen and f"{tmp_path / 'none' / 'val'}: no such folder" in capsys.readouterr().err
    assert main(words) == 0
    assert [case.scan.name for case in seen[0]] == ["MNI152"]
    assert main([*words, "--exclude-from-means", "MNI152"]) == 0
    assert [case.scan.in_means for case in seen[1]] == [False]


def test_pairs_can_be_excluded_from_means(tmp_path, capsys, monkeypatch):
    for name in ("a.nii.gz", "one_7T.nii.gz", "two_7T.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "pairs.csv").write_text("input,ref\na.nii.gz,one_7T.nii.gz\na.nii.gz,two_7T.nii.gz\n")
    seen = []
    monkeypatch.setattr("moediff.benchmark.run.run_benchmark", lambda _, cases, *__, **___: seen.append(cases) or [])
    words = ["benchmark", "--pairs", str(tmp_path / "pairs.csv"), "--methods", "cubic", "-o", str(tmp_path)]
    assert main([*words, "--exclude-from-means", "two_7T"]) == 0
    assert [case.scan.in_means for case in seen[0]] == [True, False]
    assert main([*words, "--exclude-from-means", "one_3T"]) == 78
    assert "'one_3T' is not among the scans one_7T, two_7T" in capsys.readouterr().err


def test_pairs_are_judged_as_they_were_measured(tmp_path, make_phantom, capsys):
    sharp = make_phantom((34, 38, 33))
    low = degrade(sharp, thick_slices(3, 0.01, "thick3"), rng_for(0))
    save(sharp, tmp_path / "one_7T.nii.gz")
    save(Volume(low.data_XYZ[:20], low.affine), tmp_path / "one_3T.nii.gz")  # half of the head
    listed = tmp_path / "pairs.csv"
    listed.write_text("input,ref\none_3T.nii.gz,one_7T.nii.gz\n")
    fixed = ["benchmark", "--pairs", str(listed), "--metrics", "psnr", "--threads", "1", "--no-pictures", "-q"]
    out = tmp_path / "out"
    assert main([*fixed, "--methods", "cubic", "-o", str(out)]) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert sorted((row["recipe"], row["method"]) for row in rows) == [("measured", "cubic"), ("measured", "zero-fill")]
    inside = head_mask(sharp.data_XYZ)
    assert rows[0]["mask"] == {"source": "given", "voxels": int(inside[:20].sum())}
    assert (
        rows[0]["input_shape"][0] == 20 and rows[0]["data_consistency"]["assumed"].count("gaussian slice profile") == 1
    )
    before = set((out / "rows").iterdir())
    assert main([*fixed, "--methods", "cubic", "-o", str(out)]) == 0 and set((out / "rows").iterdir()) == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("listed", "code", "words"),
    [
        ("input,ref\nnone.nii.gz,one.nii.gz\n", 66, "no such file"),
        ("pred,ref\na.nii.gz,b.nii.gz\n", 65, "unknown column 'pred'; expected columns input,ref[,lesions]"),
        ("input,ref\none.nii.gz,one.nii.gz\none.nii.gz,one.nii.gz\n", 78, "two sharp scans share a name"),
    ],
)
def test_wrong_lists_of_pairs_end_with_one_sentence(tmp_path, phantom, capsys, listed, code, words):
    save(phantom, tmp_path / "one.nii.gz")
    (tmp_path / "pairs.csv").write_text(listed)
    assert main(["benchmark", "--pairs", str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "out")]) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
