"""Aggregation of rows: known gains, means without failures, intervals that hold the truth, regions, lesions, losses."""

import math
from dataclasses import replace

import pytest
import torch

from moediff.acquisition.data_consistency import ConsistencySummary
from moediff.benchmark.aggregate import (
    bootstrap,
    differences,
    lesion_sums,
    losses,
    means,
    region_means,
    with_gains,
)
from moediff.benchmark.markdown_tables import markdown, rows_csv
from moediff.benchmark.records import BenchmarkRow, RegionMean, about_this_machine
from moediff.core.config import rng_for

PSNR = {"cubic": (20.0, 30.0, 10.0), "zero-fill": (21.0, 29.0, 10.0), "ours": (23.0, 33.0, 5.0)}


def row(method, scan, psnr, *, in_means=True, error=""):
    return BenchmarkRow(
        method=method,
        kind="interpolation",
        scan=scan,
        recipe="thick5",
        seed=0,
        in_means=in_means,
        metrics={} if error else {"psnr": psnr, "ssim": psnr / 100},
        data_consistency=None if error else ConsistencySummary(0.01, 0.02, ("none",) * 3),
        error=error,
        seconds=None if error else 2.0,
        peak_mib=None if error else psnr,
    )


@pytest.fixture
def rows():
    """Three scans, the third excluded from means, and a method that fails."""
    scans = ("a", "b", "c")
    good = [row(m, s, v, in_means=s != "c") for m, values in PSNR.items() for s, v in zip(scans, values, strict=True)]
    return with_gains([*good, *(row("broken", s, 0, in_means=s != "c", error="it failed") for s in scans)])


def test_gains_count_from_the_better_interpolation_of_the_case(rows):
    assert [r.gain_psnr for r in rows if r.method == "ours"] == [2.0, 3.0, -5.0]
    assert [r.gain_psnr for r in rows if r.method == "broken"] == [None] * 3


def test_without_both_baselines_there_is_no_gain(rows):
    rest = with_gains(r for r in rows if r.method != "cubic")
    assert all(r.gain_psnr is None for r in rest)


def test_means_leave_out_failures_and_excluded_scans(rows):
    ours, broken = (next(r for r in means(rows) if r.method == m) for m in ("ours", "broken"))
    assert (ours.metrics["psnr"], ours.gain_psnr, ours.persons, ours.failed) == (28.0, 2.5, 2, 0)
    assert ours.gain_ssim == pytest.approx(0.025) and ours.peak_mib == 33.0 and ours.data_consistency == 0.01
    assert (broken.persons, broken.failed, broken.gain_psnr) == (0, 3, None)


def test_differences_are_focus_minus_the_other(rows):
    entries = {(r.against, r.metric): r for r in differences(rows, "ours")}
    assert set(entries) == {(m, k) for m in ("cubic", "zero-fill") for k in ("psnr", "ssim")}
    entry = entries["cubic", "psnr"]
    assert entry.by_scan == {"a": 3.0, "b": 3.0}
    assert (entry.mean, entry.low, entry.high, entry.persons) == (3.0, 3.0, 3.0, 2)


def test_a_perfect_result_is_infinite_and_in_no_difference(rows):
    perfect = [replace(r, metrics={"psnr": math.inf, "ssim": 1.0}) if r.method == "ours" else r for r in rows]
    gained = with_gains(perfect)
    assert all(r.gain_psnr == math.inf for r in gained if r.method == "ours")
    assert {r.metric for r in differences(gained, "ours")} == {"ssim"}


def test_an_interval_holds_the_mean_and_is_as_wide_as_theory_says():
    values = (3 + 2 * torch.randn(400, generator=rng_for(0, "interval"))).tolist()
    interval = bootstrap(values, "key")
    half = 1.96 * float(torch.tensor(values).std()) / 20
    assert interval.low < interval.mean < interval.high and interval.persons == 400
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert interval == bootstrap(values, "key")


def test_one_person_has_no_width():
    assert vars(bootstrap([2.0])) == {"mean": 2.0, "low": 2.0, "high": 2.0, "persons": 1}


def test_csv_has_a_line_per_row_and_the_error_last(rows):
    lines = rows_csv(rows).splitlines()
    assert len(lines) == 1 + len(rows) and lines[0].startswith("method,kind,scan,recipe,seed,in_means,gain_psnr")
    assert lines[-1].startswith("broken,") and lines[-1].endswith(",it failed")


def test_the_table_lists_failures_and_escapes_bars(rows):
    text = markdown([replace(r, method="a|b") if r.method == "broken" else r for r in rows], "ours")
    assert "a\\|b" in text and "c (excluded from means)" in text and "+2.00 / +0.020" in text


def test_about_names_no_machine():
    import platform

    about = about_this_machine(2, "cpu", [0])
    assert about.threads == 2 and about.seeds == (0,) and about.cpus >= 1
    assert platform.node() not in map(str, vars(about).values())


def test_every_scan_counts_alike_however_many_seeds_failed():
    rows = [row("ours", "a", 20.0), row("ours", "b", 30.0), replace(row("ours", "b", 30.0), seed=1)]
    (mean,) = means(with_gains(rows))
    assert mean.metrics["psnr"] == 25.0 and mean.persons == 2


def test_rows_of_several_recipes_under_one_name_all_count():
    """As scripts/benchmark_tables.py averages times."""
    rows = [replace(row("ours", "a", 20.0), seconds=seconds) for seconds in (1.0, 3.0, 8.0)]
    assert means(rows)[0].seconds == 4.0


def test_losses_are_means_over_persons():
    """b is better by 1 dB in three seeds of one scan, and worse by 2 dB in the only one of the other."""
    one = [replace(row(m, "P1", v), seed=seed) for seed in range(3) for m, v in (("a", 30.0), ("b", 31.0))]
    rows = [*one, row("a", "P2", 30.0), row("b", "P2", 28.0)]
    assert [mean.metrics["psnr"] for mean in means(rows)] == [30.0, 29.5]
    assert losses(rows, "a") == []
    lost = {entry.metric: entry for entry in losses(rows, "b")}["psnr"]
    assert (lost.ours, lost.other, lost.worse_in, lost.cases) == (29.5, 30.0, 1, 4)


def test_scans_of_one_bids_subject_are_one_person():
    psnr = {"sub-1_ses-a_T1w": 20.0, "sub-1_ses-b_T1w": 22.0, "sub-2_T1w": 30.0, "sub-10": 40.0, "x_sub-1_T1w": 40.0}
    rows = [row(m, scan, v + (m == "ours")) for scan, v in psnr.items() for m in ("cubic", "ours")]
    ours = means(rows)[1]
    assert ours.metrics["psnr"] == (22 + 31 + 41 + 41) / 4 and ours.persons == 4
    (one,) = [entry for entry in differences(rows, "ours") if entry.metric == "psnr"]
    assert one.persons == 4 and list(one.by_scan) == list(psnr)
    assert {entry.metric: entry for entry in losses(rows, "cubic")}["psnr"].other == ours.metrics["psnr"]


def test_regions_are_averaged_over_scans_that_have_them(known_rows):
    entries = {(entry.region, entry.method): entry for entry in region_means(known_rows)}
    assert set(entries) == {("cortex", m) for m in ("cubic", "zero-fill", "tv", "ours")}
    assert entries["cortex", "ours"] == RegionMean(
        recipe="thick5", region="cortex", method="ours", scans=("a",), psnr=21.0, ssim=0.8, gain_psnr=2.0
    )


def test_regions_without_both_baselines_have_no_gain(known_rows):
    entries = region_means([r for r in known_rows if r.method != "cubic"])
    assert entries and all(entry.gain_psnr is None for entry in entries)


def test_lesions_are_summed_over_scans(known_rows):
    ours = next(entry for entry in lesion_sums(known_rows) if entry.method == "ours")
    assert (ours.count, ours.false_negatives, ours.false_positives, ours.scans) == (8, 3, 2, ("a", "b"))
    assert ours.volume_pred_ml == 3.0 and ours.contrast_recovery == pytest.approx(0.6)


def test_several_seeds_count_as_their_mean(known_rows):
    """The same rows again with another seed, better by 4 dB in all methods: gains stay, PSNR rises by 2."""

    def again(row: BenchmarkRow) -> BenchmarkRow:
        regions = row.regions and {name: replace(one, psnr=one.psnr + 4) for name, one in row.regions.items()}
        return replace(row, seed=1, regions=regions)

    both = [*known_rows, *map(again, known_rows)]
    for one, two in zip(region_means(known_rows), region_means(both), strict=True):
        assert two == replace(one, psnr=one.psnr + 2)
    assert lesion_sums(both) == lesion_sums(known_rows)


def test_losses_name_the_best_other_method_and_in_how_many_persons_it_wins(known_rows):
    entries = {entry.metric: entry for entry in losses(known_rows, "ours")}
    assert set(entries) == {"hf_ratio", "psnr cortex"}  # tv wins PSNR in person a, the only one with regions
    assert (entries["hf_ratio"].method, entries["hf_ratio"].worse_in, entries["hf_ratio"].cases) == ("tv", 2, 2)
    against = {entry.metric: entry for entry in losses(known_rows, "tv")}
    assert set(against) == {"psnr", "ssim"}
    assert (against["psnr"].method, against["psnr"].worse_in) == ("ours", 1)
    assert (against["psnr"].ours, against["psnr"].other) == (27.25, 28.0)


def test_a_loss_in_false_negatives_is_listed(known_rows):
    worse = [replace(r, lesions=replace(r.lesions, false_negatives=3)) if r.method == "ours" else r for r in known_rows]
    entries = {entry.metric: entry for entry in losses(worse, "ours")}
    assert (entries["lesions_false_negatives"].ours, entries["lesions_false_negatives"].other) == (3.0, 1.5)
    assert losses([replace(r, regions=None, lesions=None) for r in known_rows], "ours")[0].metric == "hf_ratio"


def test_a_method_that_failed_everywhere_loses_to_nobody(known_rows):
    failed = [replace(r, metrics={}, regions=None, lesions=None) if r.method == "ours" else r for r in known_rows]
    assert losses(failed, "ours") == []
