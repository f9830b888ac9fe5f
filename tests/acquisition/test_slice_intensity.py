"""Slices that alternate in brightness: found as they are, taken out, and nothing found where nothing alternates."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.normalisation import Scaling
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.acquisition.recipe import NAMED
from moediff.acquisition.slice_intensity import measure_slice_intensity
from moediff.core.geometry import canonicalise, with_spacing
from moediff.core.volume import Volume
from moediff.io.scans import load

CUBIC = PrepareSettings(kernel="cubic")


def alternating(volume: Volume, log_gain: float, axis: int = 2) -> Volume:
    sides = [1, 1, 1]
    sides[axis] = -1
    sign = 1 - 2 * (torch.arange(volume.shape[axis]) % 2)
    return volume.with_data(volume.data_XYZ * torch.exp(log_gain * sign).reshape(sides))


@pytest.fixture(scope="module")
def thick(make_phantom) -> Volume:
    return make_phantom((60, 70, 30), (3.0, 3.0, 6.0))


def prepared(scan: Volume, *, correct_slices: bool = False):
    return prepare(scan, with_spacing(scan.grid, (3, 3, 3)), CUBIC, scaling=SCALING, correct_slices=correct_slices)


SCALING = Scaling(0.0, 700.0)


@pytest.mark.parametrize("log_gain", [0.02, -0.02, 0.05])
def test_what_alternates_is_found_with_its_sign(log_gain, thick):
    before = prepared(thick).slice_intensity
    found = prepared(alternating(thick, log_gain)).slice_intensity
    assert found.axis == 2 and found.noticeable
    assert found.log_gain - before.log_gain == pytest.approx(log_gain, abs=0.003)
    assert found.difference == pytest.approx(math.exp(2 * abs(found.log_gain)) - 1)


def test_a_scan_that_does_not_alternate_is_left_as_it_is(thick):
    ready = prepared(thick)
    assert not ready.slice_intensity.noticeable
    assert torch.equal(prepared(thick, correct_slices=True).source.data_XYZ, ready.source.data_XYZ)


def test_a_bias_along_the_slices_does_not_alternate(thick):
    bias = torch.linspace(-0.4, 0.4, thick.shape[2]).exp()
    biased = thick.with_data(thick.data_XYZ * bias)
    assert prepared(biased).slice_intensity.log_gain == pytest.approx(
        prepared(thick).slice_intensity.log_gain, abs=0.002
    )


def test_corrected_slices_are_those_before_they_alternated(thick):
    uneven = alternating(thick, 0.03)
    ready = prepared(uneven, correct_slices=True)
    left, took = ready.source.data_XYZ, prepared(uneven).source.data_XYZ
    truth = prepared(thick).source.data_XYZ
    assert (left - truth).abs().max() < 0.2 * (took - truth).abs().max()
    assert_close(ready.undo(ready.interpolated_XYZ).data_XYZ.mean(), thick.data_XYZ.mean(), rtol=0.01, atol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_along_any_axis(axis, thick, stored):
    order = {0: (2, 0, 1), 1: (0, 2, 1)}[axis]
    turned = stored(alternating(thick, 0.03), order, ())
    scaled = canonicalise(turned)[0]
    assert turned.spacing_mm[axis] == pytest.approx(6)
    found = measure_slice_intensity(scaled.data_XYZ / 700, scaled.spacing_mm)
    assert found.noticeable and abs(found.log_gain) == pytest.approx(0.03, abs=0.004)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((60, 70, 30), (3, 3, 3)), ((60, 70, 8), (3, 3, 6)), ((4, 4, 40), (1, 1, 3))]
)
def test_nothing_is_said_without_enough_thick_slices(shape, spacing):
    assert measure_slice_intensity(torch.full(shape, 0.5), spacing) is None


def test_real_scans_of_known_gain(shared_data):
    for name in ("ljms07_FLAIR", "fsf_T1w"):
        truth = load(shared_data / "val" / f"{name}.nii.gz").volume
        low = degrade(truth, NAMED["thick3"], torch.Generator().manual_seed(0))
        axis = max(range(3), key=lambda each: low.spacing_mm[each])
        goal = with_spacing(low.grid, (2, 2, 2))
        assert not prepare(low, goal, CUBIC).slice_intensity.noticeable
        found = prepare(alternating(low, 0.02, axis), goal, CUBIC).slice_intensity
        assert found.noticeable and found.log_gain == pytest.approx(0.02, abs=0.002)
