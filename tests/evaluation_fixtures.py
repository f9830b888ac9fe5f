"""A small head and a blurred, noisy version of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moediff.benchmark.aggregate import with_gains
from moediff.core.config import rng_for
from moediff.core.resample import apply_axes
from moediff.core.volume import Volume
from moediff.core.windows import gaussian_matrix

SHAPE = (40, 44, 36)


@pytest.fixture(scope="session")
def head(make_phantom) -> Volume:
    """4 mm phantom head."""
    return make_phantom(SHAPE)


@pytest.fixture(scope="session")
def blurred(head: Volume) -> Tensor:
    """The head blurred by one voxel with 2 % noise."""
    data = apply_axes(head.data_XYZ, [gaussian_matrix(n, 1.0, 3) for n in SHAPE])
    return data + 20 * torch.randn(SHAPE, generator=rng_for(0, "blurred"))


@pytest.fixture(scope="session")
def everywhere() -> Tensor:
    """A mask of the whole volume."""
    return torch.ones(SHAPE, dtype=torch.bool)


@pytest.fixture(scope="session")
def slices():
    """`slices((a, b))` -> the two pictures that numbers of piq in these tests were computed of."""

    def made(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """A pattern that fades to zero at the rim, and the same with ripples; 0..1."""
        a, b = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape)
        fade = (1 - a[:, None] ** 4) * (1 - b**4)
        truth = fade * (
            0.5 + 0.3 * torch.sin(9 * a[:, None] * (1 + b)) + 0.2 * torch.sign(torch.cos(7 * b + 2 * a[:, None]))
        )
        pred = truth + 0.05 * fade * torch.sin(40 * a[:, None]) * torch.cos(33 * b)
        truth[:2], truth[-2:], truth[:, :2], truth[:, -2:] = 0, 0, 0, 0
        pred[:2], pred[-2:], pred[:, :2], pred[:, -2:] = 0, 0, 0, 0
        return pred.clamp(0, 1), truth.clamp(0, 1)

    return made


PSNR = {"cubic": (20.0, 30.0), "zero-fill": (21.0, 29.0), "tv": (24.0, 30.5), "ours": (23.0, 33.0)}
HF = {"cubic": 0.5, "zero-fill": 0.6, "tv": 1.1, "ours": 0.8}


def _lesions(lost, kept):
    return {
        "count": 4,
        "lost": lost,
        "invented": 1,
        "volume_ref_ml": 2.0,
        "volume_pred_ml": 1.5,
        "contrast_kept": kept,
        "dice": 0.5,
        "cnr_ref": 3.0,
        "cnr_pred": 2.0,
    }


def _row(method, scan, psnr, *, counts=True):
    parts = {"cortex": {"voxels": 200, "psnr": psnr - 2, "ssim": 0.8, "nrmse": 0.1}} if scan == "a" else None
    return {
        "method": method,
        "kind": "interpolation",
        "scan": scan,
        "recipe": "thick5",
        "seed": 0,
        "counts": counts,
        "metrics": {"psnr": psnr, "ssim": psnr / 100, "hf_ratio": HF[method]},
        "consistency": None,
        "warnings": [],
        "error": "",
        "seconds": 2.0,
        "cpu_s": 1.5,
        "compute_s": 1.0,
        "gflop": None,
        "peak_mib": 300.0,
        "parts": parts,
        "lesions": _lesions(2, 0.5) if scan == "b" else _lesions(1, 0.7),
    }


@pytest.fixture
def known_rows():
    """A benchmark's rows whose sums are easy: two persons, and one for behaviour only who is in nothing."""
    made = [_row(m, s, v) for m, values in PSNR.items() for s, v in zip("ab", values, strict=True)]
    return with_gains([*made, *(_row(m, "c", 99.0, counts=False) for m in PSNR)])
