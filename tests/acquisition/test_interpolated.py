"""Scans that were interpolated before are noticed, acquired ones are not."""

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.interpolated import interpolated_axes
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.io.scans import load
from moediff.registration.rigid import Rigid


@pytest.fixture(scope="module")
def head(mni_path):
    volume = centre_crop(load(mni_path).volume, 72)
    noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
    data = volume.data_XYZ / volume.data_XYZ.median() / 2
    return volume.with_data(data + 0.02 * noise)


def test_an_acquired_scan_is_not_suspected(head):
    assert interpolated_axes(head.data_XYZ) == ()


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_thick_slices_resampled_to_thin_ones_are(head, kernel):
    thick = degrade(head.with_data(head.data_XYZ.clamp_min(0)), thick_slices(4, 0.01, "thick", axis=1), rng_for(0))
    assert interpolated_axes(resample(thick, head.grid, kernel).data_XYZ) == (1,)


def test_also_when_they_were_registered_to_another_frame(head):
    thick = degrade(head.with_data(head.data_XYZ.clamp_min(0)), thick_slices(4, 0.01, "thick", axis=2), rng_for(0))
    turned = Rigid.of((4, -3, 5), (1, 2, 3)).placed_grid(head.grid)
    assert interpolated_axes(resample(thick, turned).data_XYZ) == (2,)


def test_lines_too_short_say_nothing(head):
    assert interpolated_axes(head.data_XYZ[:20, :20, :20]) == ()
