"""Calibration: intervals that hold what they say, the exponent of anisotropy, statistics of training scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError
from moediff.core.volume import Volume
from moediff.io.scans import save
from moediff.model.bundle import load_bundle, save_bundle
from moediff.training.cache import ScanSource
from moediff.training.calibrate import (
    Calibration,
    HeadFit,
    StatisticsFit,
    Unit,
    _statistics,
    calibrate,
    covered,
    fit_exponent,
    fit_scale,
    fit_statistics,
    fit_uncertainty_head,
)
from moediff.training.patches import PatchSource
from moediff.training.sources import coarsest_truth, load_training_scans

EVEN = torch.arange(1, 1001) / 100  # 0.01 .. 10
QUICK = HeadFit(patches=2, cells=64, steps=30, rows=32)


class Store:
    """Units that are computed once, and counted."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}
        self.computed = 0

    def __call__(self, name: str, compute: Callable[[], Unit]) -> Unit:
        if name not in self.units:
            self.units[name] = compute()
            self.computed += 1
        return self.units[name]


@pytest.fixture
def data(tmp_path: Path, make_phantom: Callable[..., Volume]) -> Path:
    """A noisy head of 2 mm voxels."""
    noisy = make_phantom((48, 48, 48), (2.0, 2.0, 2.0))
    noise = 0.05 * float(noisy.data_XYZ.max()) * torch.randn(noisy.shape, generator=rng_for(0))
    save(noisy.with_data((noisy.data_XYZ + noise).clamp_min(0)), tmp_path / "head_T1w.nii.gz")
    return tmp_path


def test_the_factor_that_holds_nine_tenths():
    assert fit_scale([EVEN]) == pytest.approx(9.0, abs=0.02)
    assert fit_scale([EVEN, 3 * EVEN]) == pytest.approx(fit_scale([3 * EVEN, EVEN]))
    ratios = [EVEN, 3 * EVEN]  # the mean of both cases counts, however many voxels either has
    assert covered(ratios, fit_scale(ratios)) == pytest.approx(0.9, abs=2e-3)
    assert fit_scale([EVEN, (3 * EVEN).repeat(5)]) == pytest.approx(fit_scale(ratios), rel=1e-3)


def test_errors_beyond_all_intervals_are_refused():
    with pytest.raises(DataError, match=r"intervals 100 times as wide hold under 0\.9 of voxels: fit the unc"):
        fit_scale([torch.full((10,), 1e4)])


def test_the_exponent_is_the_power_by_which_errors_grow():
    anisotropy = [1.0, 1.0, 3.0, 5.0]
    assert fit_exponent([EVEN * times**0.2 for times in anisotropy], anisotropy) == pytest.approx(0.2, abs=1e-3)
    assert fit_exponent([EVEN, 2 * EVEN], [3.0, 3.0]) == 0  # cases of one kind say nothing


def test_a_bundle_is_scaled_and_stays_so(data, bundle):
    scans, options = [ScanSource(path="head_T1w.nii.gz"), ScanSource(path="x", labels=True)], Calibration(side=32)
    store, before = Store(), load_bundle(bundle)
    once = calibrate(before, scans, data, options, store)
    assert once.config.uncertainty_scale != before.config.uncertainty_scale and once.config.anisotropy_exponent == 0
    assert once.record["cases"] == 4 == store.computed
    assert calibrate(before, scans, data, options, store).config == once.config and store.computed == 4
    save_bundle(data / "once", once.config, once.weights, {})
    again = calibrate(load_bundle(data / "once"), scans, data, options)
    assert again.config.uncertainty_scale == pytest.approx(once.config.uncertainty_scale, rel=1e-3)


def test_the_exponent_is_fitted_on_request_and_coverage_then_holds(data, bundle):
    scans, options = [ScanSource(path="head_T1w.nii.gz")], Calibration(side=32, exponent=True)
    once = calibrate(load_bundle(bundle), scans, data, options)
    save_bundle(data / "once", once.config, once.weights, {})
    assert once.config.anisotropy_exponent != 0
    again = calibrate(load_bundle(data / "once"), scans, data, options)
    assert again.config.anisotropy_exponent == pytest.approx(once.config.anisotropy_exponent, abs=2e-3)
    assert again.record["covered_before"] == pytest.approx(0.9, abs=5e-3)


def test_a_scan_counts_on_the_coarsest_voxels_that_it_is_learned_on(data, bundle):
    """As if it had been stored on them, under the name that keys the noise."""
    before, options = load_bundle(bundle), Calibration(side=32, recipes=("iso2",))
    source, stored = ScanSource(path="head_T1w.nii.gz", spacing_mm=(2.0, 3.0)), ScanSource(path="head_T1w.nii.gz")
    truth = coarsest_truth(source, data)
    (data / "coarse").mkdir()
    save(truth, data / "coarse" / "head_T1w.nii.gz")
    stores = Store(), Store()
    calibrate(before, [source], data, options, stores[0])
    calibrate(before, [stored], data / "coarse", options, stores[1])
    (one,), (other,) = (list(store.units.values()) for store in stores)
    torch.testing.assert_close(one["ratio"], other["ratio"], rtol=1e-3, atol=1e-3)
    seen = [_statistics(before, folder, scan, "iso2") for folder, scan in ((data, source), (data / "coarse", stored))]
    torch.testing.assert_close(seen[0]["statistics"], seen[1]["statistics"], rtol=1e-3, atol=1e-3)


def test_cases_without_a_voxel_to_judge_are_left_out_and_counted(data, bundle):
    """A pair on one grid: the scan is as fine as its truth, nothing is enhanced and no error predicted."""
    before, pair = load_bundle(bundle), ScanSource(path="head_T1w.nii.gz", input="head_T1w.nii.gz")
    options = Calibration(side=32, recipes=("iso2",))
    result = calibrate(before, [ScanSource(path="head_T1w.nii.gz"), pair], data, options)
    assert (result.record["cases"], result.record["left_out"]) == (1, 1)
    assert result.config == calibrate(before, [ScanSource(path="head_T1w.nii.gz")], data, options).config
    with pytest.raises(DataError, match=r"none of 1 cases has a voxel with a predicted error; .* leave this stage out"):
        calibrate(before, [pair], data, replace(options, exponent=True))


@pytest.mark.parametrize("ratios", [[], [torch.empty(0)], [EVEN, torch.empty(0)]], ids=["none", "empty", "one empty"])
def test_no_factor_is_made_up_of_nothing(ratios):
    with pytest.raises(DataError, match="a case without a voxel to judge has no factor"):
        fit_scale(ratios)


def test_label_maps_alone_leave_scale_and_exponent(bundle, tmp_path):
    before = load_bundle(bundle)
    result = calibrate(before, [ScanSource(path="x", labels=True)], tmp_path, Calibration())
    assert result.config == before.config and result.record == {"cases": 0}


def test_the_head_learns_how_large_errors_are_and_nothing_else_moves(data, bundle):
    before = load_bundle(bundle)
    heads = load_training_scans([ScanSource(path="head_T1w.nii.gz")], data, 0)
    source = PatchSource(scans=heads, patch=32, seed=QUICK.seed, settings=before.config.prepare, recipe=NAMED["thick3"])
    store, weights = Store(), {name: value.clone() for name, value in before.denoiser.state_dict().items()}
    result = fit_uncertainty_head(before, source, QUICK, store)
    moved = {name for name, value in result.weights.items() if not torch.equal(value, weights[name])}
    assert moved and all(name.startswith("uncertainty_head.") for name in moved) and store.computed == 2
    again = fit_uncertainty_head(load_bundle(bundle), source, QUICK, store)
    assert store.computed == 2 and all(torch.equal(again.weights[name], result.weights[name]) for name in moved)
    short = fit_uncertainty_head(load_bundle(bundle), source, replace(QUICK, steps=10), store)
    assert result.record["loss"] < short.record["loss"]


def test_statistics_need_four_scans(data, bundle, make_phantom):
    before, options = load_bundle(bundle), StatisticsFit(recipes=("thick3",))
    scans = [ScanSource(path="head_T1w.nii.gz"), ScanSource(path="x", labels=True)]
    assert fit_statistics(before, scans, data, options).config.out_of_distribution is None
    for seed in (1, 2, 3):
        save(make_phantom((32, 32, 32), (3.0, 3.0, 3.0), seed=seed), data / f"{seed}.nii.gz")
        scans.append(ScanSource(path=f"{seed}.nii.gz"))
    typical = fit_statistics(before, scans, data, options).config.out_of_distribution
    assert typical is not None and len(typical.mean) == 2 * before.config.denoiser.encoder.width
    assert min(typical.std) >= 1e-3


def test_scans_of_one_name_in_several_folders_are_all_taken(tmp_path, bundle, make_phantom):
    scans = []
    for seed in (1, 2, 3, 4):
        scans.append(ScanSource(path=f"sub-{seed}/T1w.nii.gz"))
        (tmp_path / f"sub-{seed}").mkdir()
        save(make_phantom((32, 32, 32), (3.0, 3.0, 3.0), seed=seed), tmp_path / scans[-1].path)
    store = Store()
    fit_statistics(load_bundle(bundle), scans, tmp_path, StatisticsFit(recipes=("iso2",)), store)
    assert list(store.units) == [f"{scan.path} iso2" for scan in scans]
    first, *others = (unit["statistics"] for unit in store.units.values())
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Calibration(recipes=("thik5",)), r"not \['thik5'\]"),
        (lambda: StatisticsFit(recipes=()), "name some of"),
        (lambda: Calibration(side=0), "side=0"),
        (lambda: HeadFit(patches=0), "must be 1 or more"),
        (lambda: HeadFit(learning_rate=0), "must be a positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
