"""The UNI image of MP2RAGE: air takes any value, so noise is read in tissue, and a warning names the remedy."""

from __future__ import annotations

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.noise import has_noisy_air
from moediff.acquisition.prepare import Prepared, prepare
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.inference.quality_checks import NOISY_AIR, scan_warnings

pytestmark = pytest.mark.fault(61)


@pytest.fixture(scope="module")
def plain(make_phantom) -> Volume:
    """A phantom head between 0 and 4095 with 2 % noise, quiet air."""
    head = make_phantom((60, 64, 60), (3.0, 3.0, 3.0))
    head = head.with_data(head.data_XYZ * (3000 / float(head.data_XYZ.max())))
    return degrade(head, thick_slices(2, 0.02, "thick2"), rng_for(0))


@pytest.fixture(scope="module")
def uniform(plain) -> Volume:
    """The same with air of any value."""
    air = torch.rand(plain.shape, generator=rng_for(1)) * 4095
    return plain.with_data(torch.where(plain.data_XYZ > 300, plain.data_XYZ, air))


def prepared(volume: Volume, enhancer) -> Prepared:
    return prepare(volume, volume.grid, enhancer.bundle.config.prepare)


def test_noise_is_read_in_tissue(plain, uniform, enhancer):
    quiet, noisy = prepared(plain, enhancer), prepared(uniform, enhancer)
    assert noisy.noise < 2 * quiet.noise  # as if air were read: 10 times
    assert noisy.scaling.scale == pytest.approx(quiet.scaling.scale, rel=0.1)


def test_one_warning_names_the_remedy(plain, uniform, enhancer):
    assert NOISY_AIR not in scan_warnings(prepared(plain, enhancer))
    assert scan_warnings(prepared(uniform, enhancer)).count(NOISY_AIR) == 1
    assert "INV2" in NOISY_AIR and "denoised UNI" in NOISY_AIR


@pytest.mark.parametrize(
    ("corner", "expected"),
    [("any value", True), ("quiet", False), ("tissue", False), ("magnitude", False), ("four corners", False)],
)
def test_what_counts_as_noisy_air(corner, expected):
    rng = rng_for(2)
    data = torch.rand((40, 40, 40), generator=rng) * 1.2
    smooth = 0.5 + 0.02 * torch.randn((40, 40, 40), generator=rng)
    if corner == "quiet":
        data *= 0.05
    elif corner == "tissue":  # a slab that fills its field of view
        data = smooth
    elif corner == "magnitude":
        data = 0.05 * torch.hypot(torch.randn((40, 40, 40), generator=rng), torch.randn((40, 40, 40), generator=rng))
    elif corner == "four corners":  # a neck and shoulders below
        data[:, :, :20] = smooth[:, :, :20]
    assert has_noisy_air(data) is expected
