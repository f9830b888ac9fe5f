"""MS-SSIM against MONAI, GMSD and VIF against scipy, and answers known in closed form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from moediff.core.errors import DataError
from moediff.evaluation.metrics.structural import SCALE_WEIGHTS, gmsd, ms_ssim, scale_count, scale_terms, vif

L = 1000.0
MEASURES = [ms_ssim, gmsd, vif]


def monai_terms(x, y):
    """SSIM and contrast-structure of two volumes mirrored by half a window, so that 'valid' covers them."""
    from monai.metrics.regression import compute_ssim_and_cs  # here, since importing it takes seconds

    wide = [torch.from_numpy(np.pad(t.numpy(), 5, mode="symmetric"))[None, None] for t in (x, y)]
    ssim, structure = compute_ssim_and_cs(*wide, 3, (11,) * 3, (1.5,) * 3, L)
    return float(ssim.double().mean()), float(structure.double().mean())


def test_ms_ssim_equals_monai(head, blurred, everywhere):
    x, y = blurred, head.data_XYZ
    assert scale_count(tuple(y.shape)) == 2
    fine = monai_terms(x, y)
    coarse = monai_terms(*(F.avg_pool3d(t[None, None], 2)[0, 0] for t in (x, y)))
    total = sum(SCALE_WEIGHTS[:2])
    expected = fine[1] ** (SCALE_WEIGHTS[0] / total) * coarse[0] ** (SCALE_WEIGHTS[1] / total)
    assert ms_ssim(x, y, everywhere, L) == pytest.approx(expected, abs=1e-5)
    assert scale_terms(x / L, y / L, everywhere) == pytest.approx(fine, abs=1e-5)


@pytest.mark.parametrize(("side", "scales"), [(4, 1), (21, 1), (22, 2), (44, 3), (176, 5), (500, 5)])
def test_small_volumes_have_fewer_scales(side, scales):
    assert scale_count((side, 500, 500)) == scales


def test_gmsd_equals_a_plain_version(head, blurred, everywhere):
    def gradient(data):
        half = F.avg_pool3d(data[None, None], 2)[0, 0].double().numpy() / L
        return np.sqrt(sum((ndimage.prewitt(half, axis, mode="reflect") / 9) ** 2 for axis in range(3)))

    g, h = gradient(blurred), gradient(head.data_XYZ)
    c = 170 / 255**2
    expected = ((2 * g * h + c) / (g**2 + h**2 + c)).std()
    assert gmsd(blurred, head.data_XYZ, everywhere, L) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "expected"), [((64, 80), 0.00257077), ((96, 112), 0.0264794), ((98, 114), 0.0296378)]
)
def test_gmsd_of_equal_slices_is_piqs(shape, expected, slices):
    """piq 0.8.0 (whose import of torchvision was stubbed), gmsd of one slice; a stack has no gradient across it."""
    pred, truth = (L * t.float()[None].expand(4, -1, -1).contiguous() for t in slices(shape))
    assert gmsd(pred, truth, torch.ones(pred.shape, dtype=torch.bool), L) == pytest.approx(expected, abs=1e-6)


def plain_vif(x, y):
    """Pixel-domain VIF written with scipy's filters in float64, on 0..255."""
    x, y = (t.double().numpy() * 255 / L for t in (x, y))
    seen = present = 0.0
    for scale, reach in enumerate((8, 4, 2, 1)):

        def smooth(a, reach=reach):
            return ndimage.gaussian_filter(a, (2 * reach + 1) / 5, radius=reach, mode="reflect")

        if scale:
            x, y = smooth(x)[::2, ::2, ::2], smooth(y)[::2, ::2, ::2]
        mx, my = smooth(x), smooth(y)
        vx, vy = (np.maximum(smooth(a * a) - m * m, 0) for a, m in ((x, mx), (y, my)))
        cov = smooth(x * y) - mx * my
        gain = np.where(vy > 1e-5, cov / np.maximum(vy, 1e-5), 0)
        rest = np.where(gain > 0, vx - gain * cov, vx).clip(1e-10)
        gain = gain.clip(0)
        seen += np.log(1 + gain**2 * vy / (rest + 2)).sum()
        present += np.log(1 + vy / 2).sum()
    return seen / present


def test_vif_equals_a_plain_version(head, blurred, everywhere):
    assert vif(blurred, head.data_XYZ, everywhere, L) == pytest.approx(plain_vif(blurred, head.data_XYZ), abs=1e-4)


@pytest.mark.parametrize("gain", [0.25, 1.0, 2.0])
def test_vif_of_a_scaled_checkerboard_is_known(gain):
    """Its local variance is its squared amplitude at the finest scale and nothing at coarser ones."""
    x, y, z = torch.meshgrid(*[torch.arange(24)] * 3, indexing="ij")
    board = 0.1 * (1 - 2 * ((x + y + z) % 2)).float()
    power = 0.1**2 / (2 / 255**2)
    result = vif(0.5 + gain * board, 0.5 + board, torch.ones(board.shape, dtype=torch.bool), 1.0)
    assert result == pytest.approx(math.log(1 + gain**2 * power) / math.log(1 + power), rel=2e-3)


@pytest.mark.parametrize(("measure", "perfect"), [(ms_ssim, 1.0), (gmsd, 0.0), (vif, 1.0)])
def test_identical_volumes_score_perfectly(measure, perfect, head, everywhere):
    assert measure(head.data_XYZ, head.data_XYZ, everywhere, L) == pytest.approx(perfect, abs=1e-4)


@pytest.mark.parametrize(("measure", "sign"), [(ms_ssim, -1), (gmsd, 1), (vif, -1)])
def test_more_noise_scores_worse(measure, sign, head, blurred, everywhere):
    noise = blurred - head.data_XYZ
    mild, strong = (measure(head.data_XYZ + k * noise, head.data_XYZ, everywhere, L) for k in (0.3, 1.0))
    assert sign * (strong - mild) > 0.001


@pytest.mark.parametrize("measure", MEASURES)
def test_what_lies_far_outside_the_mask_does_not_count(measure, head, blurred):
    mask = torch.zeros(head.shape, dtype=torch.bool)
    mask[:6] = True
    changed = blurred.clone()
    changed[36:] += 300
    reached = {ms_ssim: 1e-6, gmsd: 1e-6, vif: 5e-3}[measure]  # VIF's coarsest windows see 40 voxels
    one, other = (measure(t, head.data_XYZ + 50, mask, L) for t in (blurred, changed))
    assert other == pytest.approx(one, abs=reached)


@pytest.mark.parametrize("measure", MEASURES)
def test_slabs_change_nothing(measure, head, blurred, everywhere, monkeypatch):
    whole = measure(blurred, head.data_XYZ, everywhere, L)
    monkeypatch.setattr("moediff.core.windows.TILE_VOX", 9)
    assert measure(blurred, head.data_XYZ, everywhere, L) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_mask_of_one_voxel_and_thin_volumes_are_judged(measure):
    truth = torch.rand((3, 20, 2), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(truth.shape, dtype=torch.bool)
    mask[1, 7, 1] = True
    assert math.isfinite(measure(truth, truth, mask, 1.0))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("broken", ["nan", "mask", "range"])
def test_what_cannot_be_judged_is_refused(measure, broken):
    pred = torch.full((4, 4, 4), math.nan if broken == "nan" else 1.0)
    mask = torch.full((4, 4, 4), broken != "mask")
    with pytest.raises(DataError):
        measure(pred, torch.ones(4, 4, 4), mask, 0.0 if broken == "range" else 1.0)
