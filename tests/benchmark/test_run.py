"""Run of a benchmark: rows, failures, and finished rows that are not run again."""

import json
import sys
from dataclasses import asdict, replace

import pytest

from moediff.acquisition.recipe import NAMED
from moediff.benchmark.cases import Case, Scan
from moediff.benchmark.methods import Method, parse_methods
from moediff.benchmark.run import ROWS, WORK, Settings, _locked, key_of, run_benchmark
from moediff.core.errors import CannotCreate, DataError, TryAgain
from moediff.evaluation.evaluate import NEEDS_WEIGHTS, EvaluateOptions, evaluate
from moediff.io.scans import save

PSNR_ONLY = EvaluateOptions(metrics=("psnr",), resample=True)
SETTINGS = Settings(threads=1, limit_s=120, judging=PSNR_ONLY)


def command(code, name="tool"):
    """A method that runs a line of Python with `source` and `target` at hand."""
    words = (sys.executable, "-S", "-c", f"import sys; source, target = sys.argv[1:]; {code}", "{input}", "{output}")
    return Method(name=name, kind="command", command=words)


COPY = "import shutil; shutil.copy(source, target)"


@pytest.fixture
def case(tmp_path, make_phantom):
    """A phantom of 4 mm voxels as 12 mm slices."""
    save(make_phantom((34, 38, 33)), tmp_path / "head_T1w.nii.gz")
    return Case(Scan("head", tmp_path / "head_T1w.nii.gz"), NAMED["thick3"], 0)


@pytest.fixture
def run(case, tmp_path):
    """`run(*methods, **changes)` -> rows, in a folder that stays."""
    return lambda *methods, **changes: run_benchmark(methods, [case], replace(SETTINGS, **changes), tmp_path / "out")


def test_every_kind_of_method_is_measured_and_judged(run, bundle, tmp_path):
    rows = run(*parse_methods(["cubic", "tv", f"small={bundle}"])[1:], command(COPY))
    assert [r.method for r in rows] == ["cubic", "tv", "small", "tool"] and not any(r.error for r in rows)
    cubic, tv, small, tool = rows
    assert tool.metrics == cubic.metrics  # resampled on the truth's grid by the same spline
    assert tv.metrics["psnr"] > cubic.metrics["psnr"]
    assert all(r.seconds > r.compute_s > 0 and r.peak_mib > 100 for r in (cubic, tv, small))
    assert all(r.cpu_s > 0.3 for r in (cubic, tv, small))
    assert tool.compute_s is None and 0 < tool.peak_mib < 100
    assert len(small.identity.bundle_sha256) == 64
    assert all(0 < r.data_consistency.rms_over_range < 0.2 for r in (cubic, tv, small))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {ROWS}


def test_operations_are_counted_on_request_in_a_run_of_their_own(run):
    cubic, tool = run(parse_methods(["cubic"])[1], command(COPY), flops=True)
    products = 34 * 34 * 38 * 11 + 34 * 38 * 38 * 11 + 34 * 38 * 11 * 33  # one matrix per axis, slices last
    assert cubic.gflop == pytest.approx(2 * products / 1e9, rel=1e-3)  # affines add a little
    assert cubic.compute_s > 0 and tool.gflop is None


FAILURES = {
    "exit code": ("print('no licence'); sys.exit(3)", "exit code 3: no licence"),
    "nothing written": ("pass", "wrote no file"),
    "rubbish": ("open(target, 'w').write('rubbish')", "cannot be read"),
    "signal": ("import os; os.kill(os.getpid(), 11)", "signal 11"),
    "own folder": ("print(source); sys.exit(1)", "exit code 1: input.nii.gz"),
}


@pytest.mark.parametrize(("code", "words"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failing_method_is_a_row_that_says_so(run, code, words, tmp_path):
    bad, good = run(command(code, "bad"), command(COPY, "good"))
    assert words in bad.error and str(tmp_path) not in bad.error
    assert bad.metrics == {} and bad.seconds is None and not good.error


def test_a_method_that_does_not_end_is_stopped(run):
    (row,) = run(command("import time; time.sleep(60)"), limit_s=1.0)
    assert row.error == "it was stopped after 1 s; allow more with --timeout"


def test_a_program_that_is_not_there_is_a_row(run):
    (row,) = run(Method(name="x", kind="command", command=("no-such-program", "{input}", "{output}")))
    assert "did not start" in row.error


def test_a_result_of_another_head_is_a_row(run, tmp_path, make_phantom):
    inverted = make_phantom((34, 38, 33))
    save(inverted.with_data(1000 - inverted.data_XYZ), tmp_path / "other.nii.gz")
    (row,) = run(command(f"source = {str(tmp_path / 'other.nii.gz')!r}; {COPY}"))
    assert "intensities fall" in row.error and row.metrics == {}


def test_a_row_says_why_a_metric_has_no_value(run, monkeypatch):
    """But not that weights, which are not shipped, are absent."""

    def without_metrics(*args, **options):
        reasons = {"vif": "no detail", "lpips": NEEDS_WEIGHTS}
        return replace(evaluate(*args, **options), not_computed=reasons)

    monkeypatch.setattr("moediff.benchmark.run.evaluate", without_metrics)
    (row,) = run(command(COPY))
    assert row.not_computed["vif"] == "no detail" and "lpips" not in row.not_computed


def counting(tmp_path):
    """A command that notes every time it runs, and how often it did."""
    log = tmp_path / "ran"
    method = command(f"open({str(log)!r}, 'a').write('x'); {COPY}")
    return method, lambda: len(log.read_text())


def test_finished_rows_are_not_done_again(run, tmp_path):
    method, ran = counting(tmp_path)
    first = run(method)
    assert run(method) == first and ran() == 1
    other = replace(SETTINGS.judging, metrics=("nrmse",))
    assert run(method, judging=other)[0].metrics.keys() == {"nrmse"} and ran() == 2
    assert run(method) == first and ran() == 2


def test_failed_and_damaged_rows_are_done_again(run, tmp_path, case):
    method, ran = counting(tmp_path)
    file = tmp_path / "out" / ROWS / f"{key_of(method, case, SETTINGS)}.json"
    first = run(method)
    file.write_text(file.read_text()[:40])
    assert run(method)[0].metrics == first[0].metrics and ran() == 2
    file.write_text(json.dumps(asdict(replace(first[0], error="it failed"))))
    assert not run(method)[0].error and ran() == 3


def test_everything_that_numbers_depend_on_is_in_the_key(case, tmp_path):
    inputs = [tmp_path / "one_3T.nii.gz", tmp_path / "again_3T.nii.gz"]  # of a pair; any bytes
    for path in inputs:
        path.write_text(path.name)
    cubic, zero = parse_methods(["cubic", "zero-fill"])
    keys = {
        key_of(cubic, case, SETTINGS),
        key_of(zero, case, SETTINGS),
        key_of(cubic, replace(case, seed=1), SETTINGS),
        key_of(cubic, replace(case, recipe=NAMED["iso2"]), SETTINGS),
        key_of(cubic, case, replace(SETTINGS, threads=2)),
        key_of(replace(cubic, bundle_sha256="other"), case, SETTINGS),
        key_of(cubic, case, replace(SETTINGS, judging=replace(PSNR_ONLY, fit=False))),
        *(key_of(cubic, replace(case, scan=replace(case.scan, input=path)), SETTINGS) for path in inputs),
    }
    assert len(keys) == 9
    assert key_of(cubic, case, SETTINGS) == key_of(cubic, case, replace(SETTINGS, limit_s=5))


def test_a_new_rule_for_lesions_concerns_scans_with_outlines_only(case, monkeypatch):
    cubic, _ = parse_methods(["cubic", "zero-fill"])
    outlined = replace(case, scan=replace(case.scan, lesions=case.scan.path))
    before = key_of(cubic, case, SETTINGS), key_of(cubic, outlined, SETTINGS)
    monkeypatch.setattr("moediff.benchmark.run.LESION_RULE", -1)
    assert key_of(cubic, case, SETTINGS) == before[0] and key_of(cubic, outlined, SETTINGS) != before[1]


@pytest.mark.parametrize("name", ["tool", "input", "truth"])
def test_a_picture_is_drawn_after_judging_and_may_fail_alone(name, case, tmp_path):
    def draw(row, of, scans, path):
        assert row.metrics["psnr"] > 0 and of == case and list(scans) == ["input", "result", "truth"]
        path.write_text("drawn")
        raise DataError("no contrast")

    (row,) = run_benchmark([command(COPY, name)], [case], SETTINGS, tmp_path / "out", draw=draw)
    assert row.method == name and row.warnings[-1] == "no picture: no contrast" and not row.error
    assert (tmp_path / "out" / "pictures" / f"{row.key}.png").read_text() == "drawn"


def test_a_folder_of_other_things_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / WORK).write_text("mine")
    with pytest.raises(CannotCreate, match="holds other things"):
        run(command(COPY))
    assert (tmp_path / "out" / WORK).read_text() == "mine"


def test_row47_two_runs_in_one_folder(run, tmp_path):
    with _locked(tmp_path / "out"), pytest.raises(TryAgain, match="another benchmark"):
        run(command(COPY))
    assert not run(command(COPY))[0].error
