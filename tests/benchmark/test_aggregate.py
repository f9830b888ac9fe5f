"""What rows say together: known gains, means without failures, intervals that hold the truth."""

import math

import pytest
import torch

from moediff.benchmark.aggregate import about, as_csv, bootstrap, markdown, means, pairs, with_gains
from moediff.core.config import rng_for

PSNR = {"cubic": (20.0, 30.0, 10.0), "zero-fill": (21.0, 29.0, 10.0), "ours": (23.0, 33.0, 5.0)}


def row(method, scan, psnr, *, counts=True, error=""):
    metrics = {} if error else {"psnr": psnr, "ssim": psnr / 100}
    return {
        "method": method,
        "kind": "interpolation",
        "scan": scan,
        "recipe": "thick5",
        "seed": 0,
        "counts": counts,
        "metrics": metrics,
        "consistency": None if error else {"rms_over_range": 0.01},
        "warnings": [],
        "error": error,
        "seconds": None if error else 2.0,
        "compute_s": None,
        "gflop": None,
        "peak_mib": None if error else psnr,
    }


@pytest.fixture
def rows():
    """Three scans, the third for behaviour only, and a method that fails."""
    scans = ("a", "b", "c")
    made = [row(m, s, v, counts=s != "c") for m, values in PSNR.items() for s, v in zip(scans, values, strict=True)]
    return with_gains([*made, *(row("broken", s, 0, counts=s != "c", error="it failed") for s in scans)])


def test_gains_count_from_the_better_interpolation_of_the_case(rows):
    assert [r["gain_psnr"] for r in rows if r["method"] == "ours"] == [2.0, 3.0, -5.0]
    assert [r["gain_psnr"] for r in rows if r["method"] == "broken"] == [None] * 3


def test_without_both_baselines_there_is_no_gain(rows):
    kept = with_gains(r for r in rows if r["method"] != "cubic")
    assert all(r["gain_psnr"] is None for r in kept)


def test_means_leave_out_failures_and_behaviour(rows):
    ours, broken = (next(r for r in means(rows) if r["method"] == m) for m in ("ours", "broken"))
    assert (ours["psnr"], ours["gain_psnr"], ours["persons"], ours["failed"]) == (28.0, 2.5, 2, 0)
    assert ours["gain_ssim"] == pytest.approx(0.025) and ours["peak_mib"] == 33.0
    assert (broken["persons"], broken["failed"], broken["gain_psnr"]) == (0, 3, None)


def test_pairs_are_focus_minus_the_other(rows):
    found = {(r["against"], r["metric"]): r for r in pairs(rows, "ours")}
    assert set(found) == {(m, k) for m in ("cubic", "zero-fill") for k in ("psnr", "ssim")}
    pair = found["cubic", "psnr"]
    assert pair["by_scan"] == {"a": 3.0, "b": 3.0}
    assert (pair["mean"], pair["low"], pair["high"], pair["persons"]) == (3.0, 3.0, 3.0, 2)


def test_a_perfect_result_is_infinite_as_json_writes_it_and_in_no_pair(rows):
    perfect = [r | {"metrics": {"psnr": "inf", "ssim": 1.0}} if r["method"] == "ours" else r for r in rows]
    found = with_gains(perfect)
    assert all(r["gain_psnr"] == math.inf for r in found if r["method"] == "ours")
    assert {r["metric"] for r in pairs(found, "ours")} == {"ssim"}


def test_an_interval_holds_the_mean_and_is_as_wide_as_theory_says():
    values = (3 + 2 * torch.randn(400, generator=rng_for(0, "interval"))).tolist()
    found = bootstrap(values, "key")
    half = 1.96 * float(torch.tensor(values).std()) / 20
    assert found.low < found.mean < found.high and found.persons == 400
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found == bootstrap(values, "key")


def test_one_person_has_no_width():
    assert vars(bootstrap([2.0])) == {"mean": 2.0, "low": 2.0, "high": 2.0, "persons": 1}


def test_csv_has_a_line_per_row_and_the_error_last(rows):
    lines = as_csv(rows).splitlines()
    assert len(lines) == 1 + len(rows) and lines[0].startswith("method,kind,scan,recipe,seed,counts,gain_psnr")
    assert lines[-1].startswith("broken,") and lines[-1].endswith(",it failed")


def test_the_table_says_failures_and_escapes_bars(rows):
    text = markdown([r | {"method": "a|b"} if r["method"] == "broken" else r for r in rows], "ours")
    assert "a\\|b" in text and "c (behaviour only)" in text and "+2.00 / +0.020" in text


def test_about_names_no_machine():
    import platform

    told = about(2, "cpu", [0])
    assert told["threads"] == 2 and told["seeds"] == [0] and told["cpus"] >= 1
    assert platform.node() not in map(str, told.values())


def test_every_scan_counts_alike_however_many_seeds_failed():
    made = [row("ours", "a", 20.0), row("ours", "b", 30.0), row("ours", "b", 30.0) | {"seed": 1}]
    (mean,) = means(with_gains(made))
    assert mean["psnr"] == 25.0 and mean["persons"] == 2
