"""Metrics against closed forms, scikit-image and MONAI."""

import math
import time

import pytest
import torch
from skimage.metrics import normalized_root_mse, structural_similarity

from moediff.core.config import rng_for
from moediff.core.errors import DataError, GeometryError
from moediff.evaluation.metrics.fidelity import Scores, data_range, head_mask, nrmse, psnr, score, ssim

INTERIOR = 5  # voxels from the faces where boundary handling has no say


def everywhere(x):
    return torch.ones(x.shape, dtype=torch.bool)


def interior(x):
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[INTERIOR:-INTERIOR, INTERIOR:-INTERIOR, INTERIOR:-INTERIOR] = True
    return mask


@pytest.fixture
def pair(make_phantom):
    truth = make_phantom((40, 44, 36)).data_XYZ
    return truth + 30 * torch.randn(truth.shape, generator=rng_for(0, "metrics")), truth


@pytest.mark.parametrize(("error", "expected_db"), [(1.0, 40.0), (10.0, 20.0), (100.0, 0.0)])
def test_psnr_of_a_known_error(error, expected_db):
    truth = torch.full((4, 5, 6), 50.0)
    sign = torch.ones(truth.shape)
    sign[::2] = -1
    assert psnr(truth + error * sign, truth, everywhere(truth), 100.0) == pytest.approx(expected_db, abs=1e-4)


def test_identical_volumes_score_perfectly(phantom):
    assert score(phantom.data_XYZ, phantom.data_XYZ) == Scores(psnr=math.inf, ssim=pytest.approx(1.0), nrmse=0.0)


def test_ssim_of_two_constants_is_the_luminance_term():
    x, y, c1 = 0.5, 0.8, 0.01**2
    ones = torch.ones(12, 13, 14)
    result = ssim(x * ones, y * ones, everywhere(ones), 1.0)
    assert result == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1), abs=1e-5)


def test_a_constant_shift_changes_psnr_and_nrmse_as_computed_by_hand(pair):
    _, truth = pair
    mask = head_mask(truth)
    top = data_range(truth, mask)
    assert psnr(truth + 0.1 * top, truth, mask, top) == pytest.approx(20.0, abs=1e-3)
    expected = 0.1 * top * math.sqrt(int(mask.sum()) / float(truth[mask].double().square().sum()))
    assert nrmse(truth + 0.1 * top, truth, mask) == pytest.approx(expected, rel=1e-5)


def test_errors_outside_the_mask_do_not_count(pair):
    _, truth = pair
    mask = interior(truth)
    other = torch.where(mask, truth, truth + 500)
    assert psnr(other, truth, mask, 1000.0) == math.inf
    assert nrmse(other, truth, mask) == 0


def test_ssim_equals_scikit_image_on_the_interior(pair):
    pred, truth = pair
    _, wanted = structural_similarity(
        pred.numpy(),
        truth.numpy(),
        data_range=1000.0,
        full=True,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    mask = interior(truth)
    assert ssim(pred, truth, mask, 1000.0) == pytest.approx(float(wanted[mask.numpy()].mean()), abs=1e-5)
    assert ssim(pred, truth, everywhere(truth), 1000.0) == pytest.approx(float(wanted.mean()), abs=1e-5)


def test_psnr_and_ssim_equal_monai(pair):
    from monai.metrics.regression import PSNRMetric, SSIMMetric  # here, since importing it takes seconds

    pred, truth = pair
    batch = (pred[None, None], truth[None, None])
    expected_psnr = float(PSNRMetric(max_val=1000.0)(*batch))
    expected_ssim = float(SSIMMetric(3, data_range=1000.0, win_size=11, kernel_sigma=1.5)(*batch))
    assert psnr(pred, truth, everywhere(truth), 1000.0) == pytest.approx(expected_psnr, abs=1e-4)
    assert ssim(pred, truth, interior(truth), 1000.0) == pytest.approx(expected_ssim, abs=1e-4)


def test_nrmse_equals_scikit_image(pair):
    pred, truth = pair
    expected = normalized_root_mse(truth.numpy().astype(float), pred.numpy().astype(float))
    assert nrmse(pred, truth, everywhere(truth)) == pytest.approx(float(expected), rel=1e-5)


def test_ssim_does_not_depend_on_the_tiles(pair, monkeypatch):
    pred, truth = pair
    whole = ssim(pred, truth, everywhere(truth), 1000.0)
    monkeypatch.setattr("moediff.core.windows.TILE_VOX", 7)
    assert ssim(pred, truth, everywhere(truth), 1000.0) == pytest.approx(whole, abs=1e-6)


def test_a_volume_thinner_than_the_window_has_an_ssim():
    truth = torch.rand((3, 20, 2), generator=rng_for(0, "thin"))
    assert ssim(truth, truth, everywhere(truth), 1.0) == pytest.approx(1.0, abs=1e-5)


def test_data_range_ignores_a_bright_speck():
    truth = torch.full((20, 20, 20), 100.0)
    truth[3, 3, 3] = 1e6
    assert data_range(truth, everywhere(truth)) == 100.0


def test_head_mask_fills_the_cavity_and_leaves_air_and_open_tubes():
    truth = torch.zeros(30, 30, 30)
    truth[6:24, 6:24, 6:24] = 100.0
    truth[10:20, 10:20, 10:20] = 0.0  # closed cavity, wider than the closing mends
    truth[12:19, 12:19, 20:] = 0.0  # a second cut opens it upwards
    opened = head_mask(truth)
    assert not bool(opened[15, 15, 15])
    truth[6:24, 6:24, 23] = 100.0
    sealed = head_mask(truth)
    assert bool(sealed[6:24, 6:24, 6:24].all())
    assert int(sealed.sum()) == 18**3


def test_head_mask_closes_narrow_gaps():
    truth = torch.zeros(30, 30, 30)
    truth[6:24, 6:24, 6:24] = 100.0
    truth[14:18, 6:24, 6:] = 0.0
    assert bool(head_mask(truth)[14:18, 8:22, 8:22].all())


def test_head_mask_finds_the_way_through_a_winding_tunnel():
    solid = torch.full((60, 60, 24), 100.0)
    solid[:, :, :6] = solid[:, :, 18:] = 0
    for step, y in enumerate((6, 18, 30, 42)):  # wide lanes joined at alternating ends
        solid[6:54, y : y + 6, 9:15] = 0
        end = 6 if step % 2 else 48
        solid[end : end + 6, y : min(y + 18, 48), 9:15] = 0
    assert bool(head_mask(solid)[30, 33, 12])  # sealed: filled
    solid[6:12, 6:12, :15] = 0  # one door to the outside opens it all
    assert not bool(head_mask(solid)[30, 33, 12])


@pytest.mark.parametrize(
    ("pred", "mask", "error", "match"),
    [
        (torch.zeros(4, 4, 5), torch.ones(4, 4, 4, dtype=torch.bool), GeometryError, r"\(4, 4, 5\), \(4, 4, 4\)"),
        (torch.zeros(4, 4, 4), torch.ones(4, 4, 3, dtype=torch.bool), GeometryError, "one 3-D shape"),
        (torch.full((4, 4, 4), math.nan), torch.ones(4, 4, 4, dtype=torch.bool), DataError, "prediction has 64"),
        (torch.zeros(4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.bool), DataError, "boolean mask"),
    ],
)
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_what_cannot_be_judged_is_refused(metric, pred, mask, error, match):
    with pytest.raises(error, match=match):
        metric(pred, torch.ones(4, 4, 4), mask, 1.0)


@pytest.mark.parametrize("top", [0.0, -1.0, math.nan, math.inf])
def test_a_range_that_is_not_positive_is_refused(top):
    x = torch.ones(4, 4, 4)
    with pytest.raises(DataError, match="data_range"):
        psnr(x, x, everywhere(x), top)


def test_an_empty_truth_is_refused():
    with pytest.raises(DataError, match="empty"):
        score(torch.ones(4, 4, 4), torch.zeros(4, 4, 4))


@pytest.mark.slow
def test_ten_million_voxels_take_seconds():
    truth = torch.rand((224, 224, 208), generator=rng_for(0, "big"))
    start = time.perf_counter()
    ssim(truth + 0.1, truth, everywhere(truth), 1.0)
    assert time.perf_counter() - start < 8
