"""Evaluation of one pair: its record, and wrong inputs that are refused or flagged."""

import math

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError, GeometryError
from moediff.core.geometry import crop, resample, with_spacing
from moediff.core.volume import Volume
from moediff.evaluation.data_consistency import consistency
from moediff.evaluation.evaluate import METRICS, Annotations, EvaluateOptions, evaluate
from moediff.evaluation.metrics.fidelity import head_mask, score
from moediff.evaluation.records import JudgedMask

FAST = EvaluateOptions(metrics=("psnr",))
PLAIN = EvaluateOptions(metrics=("psnr", "ssim", "nrmse"), fit=False)


def corner(shape, side):
    """1 in a corner of the volume, where there is air."""
    mask = torch.zeros(shape)
    mask[:side, :side, :side] = 1
    return mask


@pytest.fixture(scope="module")
def pred(head, blurred):
    return head.with_data(blurred)


def test_all_metrics_of_an_exact_copy_are_perfect(head):
    record = evaluate(head, head)
    assert list(record.metrics) == list(METRICS)
    perfect = {
        "psnr": math.inf,
        "nrmse": 0,
        "ssim": 1,
        "ms_ssim": 1,
        "haarpsi": 1,
        "haarpsi_med": 1,
        "gmsd": 0,
        "vif": 1,
        "fsim": 1,
        "ssim_all": 1,
        "hf_ratio": 1,
        "spectral_distance_db": 0,
    }
    rounding = {name: record.metrics[name] for name in perfect if name not in ("psnr", "nrmse")}
    assert rounding == pytest.approx({name: perfect[name] for name in rounding}, abs=2e-4)
    assert record.metrics["psnr"] > 100 and record.metrics["nrmse"] < 1e-5  # the fit rounds
    assert record.metrics["sharpness"] == pytest.approx(record.metrics["sharpness_ref"], rel=1e-4)
    assert record.metrics["noise"] == pytest.approx(record.metrics["noise_ref"], rel=1e-4)
    assert record.warnings == () and record.resampled is None and record.data_consistency is None


def test_without_a_fit_the_numbers_are_those_of_score(head, pred):
    record = evaluate(pred, head, PLAIN)
    wanted = score(pred.data_XYZ, head.data_XYZ)
    assert record.metrics == pytest.approx(vars(wanted))
    assert record.fit is None
    assert record.mask == JudgedMask(source="head of the reference", voxels=int(head_mask(head.data_XYZ).sum()))


def test_what_lies_outside_the_mask_counts_in_all_alone(head, pred):
    air = ~head_mask(head.data_XYZ)
    spoilt = pred.with_data(pred.data_XYZ + 300 * air)
    names = ("psnr", "ssim", "nrmse", "psnr_all", "ssim_all", "nrmse_all")
    options = EvaluateOptions(metrics=names, fit=False)
    one, other = (evaluate(p, head, options).metrics for p in (pred, spoilt))
    assert other["psnr"] == one["psnr"] and other["nrmse"] == one["nrmse"]
    assert other["psnr_all"] < one["psnr_all"] - 5 and other["nrmse_all"] > 2 * one["nrmse_all"]
    assert other["ssim_all"] < one["ssim_all"] - 0.1 < one["ssim"]


def test_the_fit_undoes_another_scanners_intensities(head, pred):
    plain = evaluate(pred, head, FAST)
    scaled = evaluate(pred.with_data(0.01 * pred.data_XYZ + 5), head, FAST)
    assert scaled.metrics["psnr"] == pytest.approx(plain.metrics["psnr"], abs=1e-3)
    assert scaled.fit.gain == pytest.approx(100 * plain.fit.gain, rel=1e-3)


def test_a_prediction_on_another_grid_needs_permission(head):
    coarse = resample(head, with_spacing(head.grid, (6.0, 6.0, 6.0)))
    with pytest.raises(GeometryError, match="--resample"):
        evaluate(coarse, head, FAST)
    record = evaluate(coarse, head, EvaluateOptions(metrics=("psnr",), resample=True))
    assert record.resampled == "cubic" and 15 < record.metrics["psnr"] < 40


def test_another_field_of_view_is_judged_where_both_are(head):
    part = crop(head, (0, 0, 6), (40, 44, 30))
    with pytest.raises(GeometryError, match="shape"):
        evaluate(part, head, FAST)
    record = evaluate(part, head, EvaluateOptions(metrics=("psnr",), resample=True))
    assert record.metrics["psnr"] > 60 and any("field of view" in note for note in record.warnings)


def test_a_mask_decides_where(head, pred):
    inside = torch.zeros(head.shape)
    inside[10:30, 10:30, 10:30] = 1
    spoilt = torch.where(inside > 0, pred.data_XYZ, torch.tensor(0.0))
    one, other = (
        evaluate(head.with_data(t), head, FAST, annotations=Annotations(mask=head.with_data(inside)))
        for t in (pred.data_XYZ, spoilt)
    )
    assert other.metrics["psnr"] == pytest.approx(one.metrics["psnr"])
    assert one.mask == JudgedMask(source="given", voxels=8000)


@pytest.mark.parametrize(
    ("mask", "error", "match"),
    [
        (lambda v: v.with_data(torch.zeros(v.shape)), DataError, "mask is empty"),
        (lambda v: v.with_data(corner(v.shape, 4)), DataError, "mask lies wholly outside the reference's head"),
        (lambda v: v.with_data(torch.full(v.shape, math.nan)), DataError, "mask holds NaN"),
        (lambda v: crop(v, (1, 0, 0), (39, 44, 36)), GeometryError, "mask lies on another grid"),
    ],
)
def test_a_wrong_mask_is_refused(head, pred, mask, error, match):
    with pytest.raises(error, match=match):
        evaluate(pred, head, FAST, annotations=Annotations(mask=mask(head)))


def test_a_mask_mostly_outside_the_head_is_a_warning(head, pred):
    record = evaluate(pred, head, FAST, annotations=Annotations(mask=head.with_data(corner(head.shape, 14))))
    assert any("of the mask lies inside the reference's head" in note for note in record.warnings)


def test_a_head_of_another_person_is_a_warning(head, make_phantom):
    other = make_phantom(head.shape, seed=7)
    shifted = other.with_data(other.data_XYZ.roll((5, -7, 4), (0, 1, 2)).flip(1))
    record = evaluate(shifted, head, PLAIN)
    assert any("different heads" in note for note in record.warnings)


def test_a_field_of_view_elsewhere_is_refused_even_with_resampling(head):
    affine = head.affine.clone()
    affine[2, 3] += 100
    with pytest.raises(GeometryError, match=r"field of view misses \d+% of the mask"):
        evaluate(Volume(head.data_XYZ, affine), head, EvaluateOptions(metrics=("psnr",), resample=True))


def test_a_constant_reference_is_refused(head, pred):
    with pytest.raises(DataError, match="reference is constant"):
        evaluate(pred, head.with_data(torch.full(head.shape, 5.0)), FAST)


def test_nan_in_the_reference_is_refused(head, pred):
    with pytest.raises(DataError, match="NaN"):
        evaluate(pred, head.with_data(torch.where(head.data_XYZ > 700, torch.nan, head.data_XYZ)), FAST)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda t: torch.full_like(t, 3.0), DataError, "prediction is constant"),
        (lambda t: torch.where(t > 700, torch.nan, t), DataError, "prediction has .* NaN"),
        (lambda t: 1000 - t, DataError, "another contrast"),
    ],
)
def test_a_wrong_prediction_is_refused(head, change, error, match):
    with pytest.raises(error, match=match):
        evaluate(head.with_data(change(head.data_XYZ)), head, FAST)


def test_a_shifted_grid_is_refused(head, pred):
    affine = pred.affine.clone()
    affine[2, 3] += 2
    with pytest.raises(GeometryError, match=r"2\.00 mm apart"):
        evaluate(Volume(pred.data_XYZ, affine), head, FAST)


def test_a_flip_is_a_warning(head, pred):
    record = evaluate(pred.with_data(pred.data_XYZ.flip(0)), head, PLAIN)
    assert any("left to right" in note for note in record.warnings)


def test_another_head_is_a_warning(head):
    other = head.with_data(torch.rand(head.shape, generator=rng_for(0, "another")) * 1000)
    record = evaluate(other, head, PLAIN)
    assert any("different heads" in note for note in record.warnings)


@pytest.mark.parametrize("names", [("psnr", "lpips"), ()])
def test_unknown_metrics_are_refused_with_the_list(names):
    with pytest.raises(ConfigError, match="choose from psnr, nrmse"):
        EvaluateOptions(metrics=names)


def test_the_truth_is_consistent_with_its_own_degradation(head):
    low = degrade(head, thick_slices(3, 0, "thick"), rng_for(0))
    summary = evaluate(head, head, FAST, measured=low).data_consistency
    assert summary.rms_over_range == pytest.approx(0.0, abs=1e-4)
    assert summary.assumed == ("none", "none", "gaussian slice profile")


@pytest.mark.parametrize(("fit", "expected"), [(True, 0.0), (False, 0.1)])
def test_consistency_forgives_brightness_only_when_fitted(head, fit, expected):
    low = degrade(head, thick_slices(3, 0, "thick"), rng_for(0))
    top = float(torch.quantile(low.data_XYZ, 0.999))
    brighter = head.with_data(head.data_XYZ + 0.1 * top)
    assert consistency(brighter, low, fit=fit).rms_over_range == pytest.approx(expected, abs=1e-3)


def test_an_oblique_input_is_a_warning(head):
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[1, 1] = math.cos(0.2)
    turn[0, 1], turn[1, 0] = -math.sin(0.2), math.sin(0.2)
    record = evaluate(head, head, FAST, measured=Volume(head.data_XYZ, turn @ head.affine))
    assert record.data_consistency is None
    assert any("data consistency was not computed" in note for note in record.warnings)
