"""LPIPS and DISTS against scipy in numpy, with small random networks; and what a bad file of weights gets."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import maximum_filter
from scipy.signal import correlate2d

from moediff.cli.main import main
from moediff.core.errors import DataError, InputMissing
from moediff.evaluation.metrics.perceptual import STAGES, load_perceptual, perceptual
from moediff.io.scans import save

CHANNELS = (4, 5, 3, 6, 4)
HANN = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])


def weights_of(*, lpips: bool = True, dists: bool = True) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    tensors, before = {}, 3
    for stage, channels in zip(STAGES, CHANNELS, strict=True):
        for number in stage:
            tensors[f"features.{number}.weight"] = draw(channels, before, 3, 3) * (2 / 9 / before) ** 0.5
            tensors[f"features.{number}.bias"] = 0.1 * draw(channels)
            before = channels
    if lpips:
        tensors |= {f"lpips.{i}": draw(n).abs() for i, n in enumerate(CHANNELS)}
    if dists:
        tensors |= {f"dists.{name}": draw(3 + sum(CHANNELS)).abs() for name in ("alpha", "beta")}
    return tensors


@pytest.fixture
def weights_file(tmp_path):
    def write(**options):
        save_file(weights_of(**options), tmp_path / "w.safetensors")
        return tmp_path / "w.safetensors"

    return write


def convolved(h, tensors, number):
    weight, bias = (tensors[f"features.{number}.{part}"].numpy().astype(float) for part in ("weight", "bias"))
    rows = [sum(correlate2d(h[i], w[i], mode="same") for i in range(len(h))) for w in weight]
    return np.maximum(np.stack(rows) + bias[:, None, None], 0)


def stages(picture, tensors, pool):
    h, result = picture, []
    for index, stage in enumerate(STAGES):
        h = np.stack([pool(channel) for channel in h]) if index else h
        for number in stage:
            h = convolved(h, tensors, number)
        result.append(h)
    return result


def halved_by_maximum(x):
    return maximum_filter(x, 2, origin=-1)[::2, ::2][: len(x) // 2, : x.shape[1] // 2]


def halved_by_power(x):
    return np.sqrt(correlate2d(x**2, HANN, mode="same")[::2, ::2] + 1e-12)


def coloured(picture, shift, scale):
    return (picture - np.array(shift)[:, None, None]) / np.array(scale)[:, None, None]


def lpips_by_hand(pictures, tensors):
    total, sides = 0.0, []
    for picture in pictures:
        scaled = coloured(2 * picture - 1, (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
        sides.append([h / (np.linalg.norm(h, axis=0) + 1e-10) for h in stages(scaled, tensors, halved_by_maximum)])
    for index, (one, other) in enumerate(zip(*sides, strict=True)):
        weight = tensors[f"lpips.{index}"].numpy()[:, None, None]
        total += ((one - other) ** 2 * weight).sum(0).mean()
    return total


def dists_by_hand(pictures, tensors):
    sides = []
    for picture in pictures:
        scaled = coloured(picture, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        maps = [picture, *stages(scaled, tensors, halved_by_power)]
        sides.append([channel.ravel() for h in maps for channel in h])
    alpha, beta = (tensors[f"dists.{name}"].numpy().astype(float) for name in ("alpha", "beta"))
    alike = 0.0
    for a, b, x, y in zip(alpha, beta, *sides, strict=True):
        alike += a * (2 * x.mean() * y.mean() + 1e-6) / (x.mean() ** 2 + y.mean() ** 2 + 1e-6)
        alike += b * (2 * np.cov(x, y, bias=True)[0, 1] + 1e-6) / (x.var() + y.var() + 1e-6)
    return 1 - alike / (alpha.sum() + beta.sum())


def pair(shape=(32, 48, 1)):
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(shape, generator=rng)
    return (truth + 0.2 * torch.randn(shape, generator=rng)).clamp(0, 1), truth


def test_both_agree_with_numpy(weights_file):
    pred, truth = pair()
    result = perceptual(200 * pred, 200 * truth, torch.ones_like(truth) > 0, 200.0, load_perceptual(weights_file()))
    pictures = [np.stack([x[..., 0].double().numpy()] * 3) for x in (pred, truth)]
    assert result["lpips"] == pytest.approx(lpips_by_hand(pictures, weights_of()), rel=1e-4)
    assert result["dists"] == pytest.approx(dists_by_hand(pictures, weights_of()), rel=1e-3)
    assert min(result.values()) > 0.001


def test_equal_scans_are_at_zero_and_worse_ones_further(weights_file):
    weights = load_perceptual(weights_file())
    pred, truth = pair((32, 32, 20))
    inside = torch.ones_like(truth) > 0
    assert list(perceptual(truth, truth, inside, 1.0, weights).values()) == pytest.approx([0, 0], abs=1e-6)
    near, far = (perceptual(truth + s * (pred - truth), truth, inside, 1.0, weights) for s in (0.3, 1.0))
    assert near["lpips"] < far["lpips"] and near["dists"] < far["dists"]


def test_only_slices_of_the_mask_count(weights_file):
    pred, truth = pair((32, 32, 6))
    pred[..., 3:] = truth[..., 3:]
    inside = torch.zeros_like(truth) > 0
    inside[..., 3:] = True
    result = perceptual(pred, truth, inside, 1.0, load_perceptual(weights_file()))
    assert result["lpips"] == pytest.approx(0, abs=1e-6)


def test_slices_are_axial_however_a_scan_is_stored(weights_file):
    weights, (pred, truth) = load_perceptual(weights_file()), pair((32, 40, 36))
    stored = perceptual(pred, truth, truth >= 0, 1.0, weights)
    turned = [volume.permute(2, 0, 1) for volume in (pred, truth, truth >= 0)]
    assert perceptual(*turned, 1.0, weights, axial=0) == pytest.approx(stored, rel=1e-5)
    assert perceptual(*turned, 1.0, weights)["lpips"] != pytest.approx(stored["lpips"], rel=1e-3)


def test_a_file_with_one_of_them_gives_one(weights_file):
    pred, truth = pair()
    weights = load_perceptual(weights_file(lpips=False))
    assert list(perceptual(pred, truth, truth > 0, 1.0, weights)) == ["dists"]


def test_the_command_adds_them(weights_file, make_phantom, tmp_path, capsys):
    save(make_phantom(), tmp_path / "a.nii.gz")
    files = ["--pred", str(tmp_path / "a.nii.gz"), "--ref", str(tmp_path / "a.nii.gz"), "--metrics", "psnr"]
    assert main(["evaluate", *files[:-1], "all"]) == 0
    assert re.search(r"lpips +not computed: needs network weights", capsys.readouterr().out)
    assert main(["evaluate", *files, "--perceptual", str(weights_file(dists=False))]) == 0
    said = capsys.readouterr().out
    assert "\nlpips " in said and re.search(r"dists +not computed", said)


def test_bad_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputMissing, match="no such file"):
        load_perceptual(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="not a safetensors file"):
        load_perceptual(path)
    for change, words in (
        ({"features.7.weight": torch.zeros(5, 4, 3, 3)}, r"features\.7 is missing or not a 3x3 convolution of 5"),
        ({"lpips.4": torch.zeros(9)}, r"lpips\.4 holds 9 weights; expected 4"),
    ):
        save_file(weights_of() | change, path)
        with pytest.raises(DataError, match=words):
            load_perceptual(path)
    save_file(weights_of(lpips=False, dists=False), path)
    with pytest.raises(DataError, match="neither"):
        load_perceptual(path)


def test_small_slices_are_refused(weights_file):
    pred, truth = pair((31, 40, 2))
    with pytest.raises(DataError, match="slices have 31x40 voxels"):
        perceptual(pred, truth, truth > 0, 1.0, load_perceptual(weights_file()))
