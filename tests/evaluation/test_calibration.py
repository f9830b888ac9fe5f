"""Standard deviations that are right, too small, or know nothing; ranks against scipy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.errors import DataError, GeometryError
from moediff.core.geometry import with_spacing
from moediff.core.volume import Volume
from moediff.evaluation.calibration import calibration, spearman
from moediff.evaluation.evaluate import Annotations, EvaluateOptions, evaluate
from moediff.evaluation.per_region import Regions
from moediff.io.scans import save

SHAPE = (40, 40, 40)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)
SD = 1 + 9 * torch.rand(SHAPE, generator=rng_for(0, "sd"))
ERROR = SD * torch.randn(SHAPE, generator=rng_for(0, "error"))


def test_standard_deviations_that_are_right():
    result = calibration(ERROR, SD, EVERYWHERE)["all"]
    coverage = [result.coverage_50, result.coverage_80, result.coverage_90, result.coverage_95]
    assert coverage == pytest.approx([0.5, 0.8, 0.9, 0.95], abs=0.006)
    assert result.scale_90 == pytest.approx(1, abs=0.02)
    assert 0 < result.ause < 0.6 * result.ause_of_chance


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_standard_deviations_that_are_too_small_or_large_are_measured(factor):
    result = calibration(ERROR, factor * SD, EVERYWHERE)["all"]
    assert result.scale_90 == pytest.approx(1 / factor, rel=0.02)
    inside = math.erf(1.6448536 * factor / math.sqrt(2))
    assert result.coverage_90 == pytest.approx(inside, abs=0.006)


def test_perfect_order_leaves_no_area_and_no_knowledge_all_of_it():
    perfect = calibration(ERROR, ERROR.abs(), EVERYWHERE)["all"]
    assert perfect.ause == pytest.approx(0, abs=1e-9) and perfect.spearman == pytest.approx(1)
    assert perfect.coverage_50 == 0 and perfect.coverage_80 == 1  # every error is one standard deviation
    other = calibration(ERROR, torch.rand(SHAPE, generator=rng_for(1)), EVERYWHERE)["all"]
    assert other.ause == pytest.approx(other.ause_of_chance, abs=0.02) and abs(other.spearman) < 0.02


def test_sparsification_of_four_voxels_by_hand(monkeypatch):
    monkeypatch.setattr("moediff.evaluation.calibration.LEFT_OUT", 4)
    error = torch.tensor([4.0, 2.0, 1.0, 1.0]).reshape(4, 1, 1)
    sd = torch.tensor([1.0, 4.0, 3.0, 2.0]).reshape(4, 1, 1)  # leaves out 2, 1, 1 first
    mask = torch.ones(error.shape, dtype=torch.bool)
    best = [2, 4 / 3, 1, 1]
    ours = [2, 2, 2.5, 4]
    expected = sum(a - b for a, b in zip(ours, best, strict=True)) / 4 / 2
    assert calibration(error, sd, mask)["all"].ause == pytest.approx(expected)


def test_certain_but_wrong_is_never_covered():
    sd = SD.clone()
    sd[:20] = 0
    result = calibration(ERROR, sd, EVERYWHERE)["all"]
    assert result.coverage_95 == pytest.approx(0.475, abs=0.01) and result.scale_90 == math.inf
    assert calibration(ERROR * (sd > 0), sd, EVERYWHERE)["all"].coverage_95 == pytest.approx(0.975, abs=0.01)


def test_ranks_are_scipys_even_with_ties():
    x = torch.randint(0, 30, (500,), generator=rng_for(0)).float()
    y = x + 20 * torch.rand(500, generator=rng_for(1)).round()
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x.numpy(), y.numpy()).statistic, abs=1e-6)
    assert spearman(x, torch.ones(500)) == 0


def test_regions_are_judged_by_their_own_voxels():
    number = torch.zeros(SHAPE, dtype=torch.long)
    number[:20], number[39, 39] = 1, 2
    result = calibration(
        ERROR * (1 + (number == 1)), SD, EVERYWHERE, Regions(number, {0: "right", 1: "wrong", 2: "tiny"})
    )
    assert set(result) == {"all", "right", "wrong"}
    assert result["right"].scale_90 == pytest.approx(1, abs=0.03)
    assert result["wrong"].scale_90 == pytest.approx(2, abs=0.06)


@pytest.mark.parametrize(("value", "words"), [(-1.0, "negative"), (math.nan, "NaN"), (0.0, "0 all over")])
def test_what_is_no_standard_deviation_is_refused(value, words):
    with pytest.raises(DataError, match=words):
        calibration(ERROR, torch.full(SHAPE, value), EVERYWHERE)


def test_uncertainty_follows_the_fit_and_lies_on_the_predictions_grid(head, blurred):
    pred, sd = head.with_data(0.5 * blurred + 7), head.with_data(10 + 0 * blurred + 5 * torch.rand(head.shape))
    options = EvaluateOptions(metrics=("psnr",))
    one = evaluate(head.with_data(blurred), head, options, annotations=Annotations(uncertainty=sd)).uncertainty["all"]
    half = sd.with_data(0.5 * sd.data_XYZ)
    scaled = evaluate(pred, head, options, annotations=Annotations(uncertainty=half)).uncertainty["all"]
    assert vars(scaled) == pytest.approx(vars(one), abs=2e-3)
    grid = with_spacing(head.grid, (5.0, 5.0, 5.0))
    with pytest.raises(GeometryError, match="uncertainty lies on another grid"):
        evaluate(pred, head, options, annotations=Annotations(uncertainty=Volume(torch.ones(grid.shape), grid.affine)))


def test_the_command_prints_and_writes_it(head, blurred, tmp_path, capsys):
    files = {"p": head.with_data(blurred), "r": head, "u": head.with_data(20 + torch.rand(head.shape))}
    for name, volume in files.items():
        save(volume, tmp_path / f"{name}.nii.gz")
    p, r, u = (str(tmp_path / f"{name}.nii.gz") for name in files)
    out = tmp_path / "o.csv"
    command = ["evaluate", "--pred", p, "--ref", r, "--uncertainty", u, "--metrics", "psnr", "--csv", str(out)]
    assert main(command) == 0
    assert "uncertainty, all" in capsys.readouterr().out
    assert {"uncertainty", "uncertainty_coverage_90_all", "uncertainty_ause_all"} <= set(
        out.read_text().splitlines()[0].split(",")
    )
