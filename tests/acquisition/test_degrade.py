"""Acquiring a scan: tissue stays where it is in mm, slices and k-space do what physics says, noise is Rician."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from moediff.acquisition.degrade import bias_field, degrade, gradient_warp, reference_intensity
from moediff.acquisition.recipe import NAMED, AxisRecipe, Recipe
from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.core.volume import Volume

EYE = torch.eye(4, dtype=torch.float64)
NONE = AxisRecipe()
OBLIQUE = torch.tensor(
    [[0.9, -0.35, 0.1, -31.0], [0.3, 1.1, -0.2, 12.0], [-0.15, 0.25, 1.3, 7.5], [0, 0, 0, 1]], dtype=torch.float64
)


def along(axis: int, **values: object) -> Recipe:
    """A recipe that samples one axis only."""
    axes = [NONE, NONE, NONE]
    axes[axis] = AxisRecipe(**values)  # type: ignore[arg-type]
    return Recipe(axes=(axes[0], axes[1], axes[2]))


def acquire(data: Tensor, recipe: Recipe, seed: int = 0, reference: float | None = 1.0) -> Tensor:
    """Degrade voxels of 1 mm; the reference intensity is 1 unless told."""
    return degrade(Volume(data, EYE), recipe, rng_for(seed), reference=reference).data_XYZ


def on_axis(values: Tensor, axis: int, shape: Sequence[int] = (6, 6, 6)) -> Tensor:
    """A block of this shape, but as long along one axis as the values that it takes there."""
    whole, view = list(shape), [1, 1, 1]
    whole[axis] = view[axis] = len(values)
    return values.reshape(view).expand(whole).contiguous()


def centre_of_mass_mm(volume: Volume) -> Tensor:
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in volume.shape], indexing="ij"), -1).double()
    weight = volume.data_XYZ.double()[..., None]
    centre = (index * weight).sum((0, 1, 2)) / weight.sum()
    return volume.affine[:3, :3] @ centre + volume.affine[:3, 3]


def blob(shape: tuple[int, int, int], centre: tuple[float, float, float], sigma: float = 4.0) -> Tensor:
    lines = [torch.exp(-0.5 * ((torch.arange(n) - c) / sigma) ** 2) for n, c in zip(shape, centre, strict=True)]
    return lines[0][:, None, None] * lines[1][:, None] * lines[2]


PLACED = {
    "gaussian3": along(2, method="gaussian", factor=3.0),
    "gaussian4.3": along(0, method="gaussian", factor=4.3, thickness=0.9),
    "box5": along(1, method="box", factor=5.0),
    "truncate": Recipe(axes=(AxisRecipe(method="truncate", factor=1.7),) * 3),
    "mixed": Recipe(axes=(AxisRecipe(method="truncate", factor=1.25), AxisRecipe(method="gaussian", factor=4.0), NONE)),
}


@pytest.mark.parametrize("recipe", PLACED.values(), ids=PLACED.keys())
def test_tissue_keeps_its_place_in_mm(recipe):
    scan = Volume(blob((53, 50, 56), (24.3, 27.1, 25.6)), OBLIQUE)
    low = degrade(scan, recipe, rng_for(0))
    assert low.shape != scan.shape
    assert_close(centre_of_mass_mm(low), centre_of_mass_mm(scan), atol=0.02, rtol=0)


def test_shapes_and_voxel_sizes():
    axes = (
        AxisRecipe(method="truncate", factor=1.5),
        AxisRecipe(method="gaussian", factor=4.0),
        AxisRecipe(method="box", factor=3.0),
    )
    low = degrade(
        Volume(torch.rand(31, 30, 33), torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.0]))), Recipe(axes=axes), rng_for(0)
    )
    assert low.shape == (21, 8, 11)  # 31 / 1.5 rounded; 30 / 4 up to the last slice; 33 / 3
    assert low.spacing_mm == pytest.approx((31 / 21, 8.0, 1.5))  # truncation keeps the field of view exactly
    assert low.affine[:3, 3].tolist() == pytest.approx([(31 / 21 - 1) / 2, 2 * 1.5, 0.5 * 1])


def test_without_sampling_nothing_changes():
    scan = Volume(torch.rand(9, 8, 7), OBLIQUE)
    same = degrade(scan, Recipe(), rng_for(0))
    assert torch.equal(same.data_XYZ, scan.data_XYZ) and torch.equal(same.affine, scan.affine)


def cosine(n: int, harmonic: int) -> Tensor:
    """A standing wave of harmonic/2 periods over n voxels, in the middle of the voxels."""
    return torch.cos(math.pi * harmonic * (torch.arange(n) + 0.5) / n)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("n", "kept"), [(48, 24), (45, 30), (40, 27)])
def test_truncation_keeps_low_frequencies_exactly_and_drops_high_ones(axis, n, kept):
    recipe = along(axis, method="truncate", factor=n / kept)
    level = 2.0  # scans are magnitudes
    for harmonic in (0, 1, 7, kept - 1):
        found = acquire(on_axis(level + cosine(n, harmonic), axis), recipe)
        assert_close(found, on_axis(level + cosine(kept, harmonic), axis), atol=1e-5, rtol=0)
    for harmonic in (kept + 1, n - 1):
        assert float((acquire(on_axis(level + cosine(n, harmonic), axis), recipe) - level).abs().max()) < 1e-5


@given(st.sampled_from(["gaussian", "box", "truncate"]), st.floats(1, 7), st.floats(0.3, 2), st.integers(8, 30))
def test_a_constant_stays_constant(method, factor, thickness, n):
    recipe = Recipe(axes=(AxisRecipe(method=method, factor=factor, thickness=thickness),) * 3)
    assert_close(
        acquire(torch.full((n, n + 1, 8), 3.0), recipe),
        torch.tensor(3.0).expand_as(acquire(torch.zeros(n, n + 1, 8), recipe)),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    ("method", "factor", "tolerance"),
    [
        ("box", 3.0, 1e-4),
        ("box", 4.0, 1e-4),
        ("gaussian", 3.0, 1e-4),
        ("gaussian", 4.0, 1e-3),
        ("gaussian", 2.7, 5e-3),
    ],
)
def test_a_ramp_is_read_at_slice_centres(axis, method, factor, tolerance):
    low = acquire(on_axis(torch.arange(60.0), axis), along(axis, method=method, factor=factor)).movedim(axis, 0)
    centres = (factor - 1) / 2 + factor * torch.arange(len(low))
    away = (centres > 2 * factor) & (centres < 59 - 2 * factor)
    assert int(away.sum()) > 8
    assert_close(low[away], centres[away][:, None, None].expand(-1, 6, 6), atol=tolerance, rtol=0)


def test_a_gaussian_profile_is_half_as_high_at_half_its_width():
    impulse = torch.zeros(21)
    impulse[10] = 1.0
    line = acquire(on_axis(impulse, 1), along(1, method="gaussian", factor=1.0, thickness=2.0))[3, :, 3]
    assert float(line[9] / line[10]) == pytest.approx(0.5, rel=1e-3)  # FWHM of 2 voxels: half height 1 voxel away
    assert float(line[8] / line[10]) == pytest.approx(0.5**4, rel=1e-3)
    assert float(line.sum()) == pytest.approx(1, rel=1e-3)


def test_a_box_profile_averages_the_slice():
    steps = torch.rand(24, generator=rng_for(0))
    low = acquire(on_axis(steps, 2), along(2, method="box", factor=4.0))
    assert_close(low[0, 0], steps.reshape(6, 4).mean(1))


def test_noise_is_rician():
    sigma, level = 0.05, 1.0
    data = torch.zeros(40, 40, 80)
    data[..., 40:] = level
    noisy = acquire(data, Recipe(noise=sigma))
    air, tissue = noisy[..., :40], noisy[..., 40:]
    assert float(tissue.std()) == pytest.approx(sigma, rel=0.02)
    assert float(tissue.mean()) == pytest.approx(level + sigma**2 / (2 * level), abs=0.015 * sigma)
    assert float(air.mean()) == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
    assert float(air.std()) == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.02)
    assert float(noisy.min()) >= 0


def test_without_noise_a_scan_is_a_magnitude_too():
    """Ringing below zero loses its sign, as with the least noise."""
    block = torch.zeros(32, 32, 32)
    block[8:22, 8:22, 8:22] = 1000.0
    half = AxisRecipe(method="truncate", factor=2)
    silent, nearly = (acquire(block, Recipe(axes=(half,) * 3, noise=noise)) for noise in (0.0, 1e-6))
    assert float(silent.min()) >= 0
    assert_close(silent, nearly, atol=1e-4, rtol=0)


def test_noise_does_not_repeat_between_voxels():
    noisy = acquire(torch.ones(32, 32, 32), Recipe(noise=0.1)) - 1
    for axis in range(3):
        product = noisy.narrow(axis, 0, 31) * noisy.narrow(axis, 1, 31)
        assert abs(float(product.mean() / noisy.var())) < 0.03


@pytest.mark.parametrize("reference", [1.0, 40.0])
def test_noise_is_a_fraction_of_the_reference(reference):
    noisy = acquire(torch.full((32, 32, 32), 1000.0), Recipe(noise=0.1), reference=reference)
    assert float(noisy.std()) == pytest.approx(0.1 * reference, rel=0.02)


def test_the_reference_is_measured_when_not_given(phantom):
    measured = degrade(phantom, NAMED["iso2"], rng_for(3))
    given_ = degrade(phantom, NAMED["iso2"], rng_for(3), reference=reference_intensity(phantom.data_XYZ))
    assert torch.equal(measured.data_XYZ, given_.data_XYZ)


def test_reference_is_the_bright_end_of_tissue():
    data = torch.zeros(50, 50, 50)
    data[10:40, 10:40, 10:40] = 800.0
    data[0, 0, :20] = 1e6  # an artefact smaller than a thousandth of the volume
    assert reference_intensity(data) == pytest.approx(800)
    assert reference_intensity(3 * data) == pytest.approx(2400)


def test_reference_ignores_air_and_reads_a_percentile():
    data = torch.zeros(100, 50, 20)
    data[:50] = torch.linspace(0.5, 1, 50_000).reshape(50, 50, 20)
    assert reference_intensity(data) == pytest.approx(0.995, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, -5.0, math.nan])
def test_an_empty_scan_is_refused(value):
    with pytest.raises(DataError, match="no positive intensities"):
        degrade(Volume(torch.full((8, 8, 8), value), EYE), Recipe(), rng_for(0))


@given(st.integers(0, 999), st.floats(0.01, 1))
def test_the_bias_field_reaches_its_peak_and_no_further(seed, peak):
    low = acquire(torch.ones(12, 10, 14), Recipe(bias=peak), seed)
    assert float(low.log().abs().max()) == pytest.approx(peak, rel=1e-4)


def test_the_bias_field_is_smooth():
    field = bias_field((40, 44, 48), 0.5, rng_for(0)).log()
    for axis, n in enumerate(field.shape):
        cell = (n - 1) / 3  # voxels between the 4 values of the lattice
        assert float(field.diff(dim=axis).abs().max()) <= 2 * 0.5 / cell + 1e-5


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gamma_bends_intensities_about_the_reference(gamma):
    data = torch.linspace(-0.5, 2, 216).reshape(6, 6, 6)
    found = acquire(data, Recipe(gamma=gamma), reference=2.0)
    assert_close(found, 2 * (data.clamp_min(0) / 2) ** gamma)
    assert float(found.max()) == pytest.approx(2)


def test_the_warp_is_the_radial_cubic_law():
    """A scan whose values are its own x in mm: the warped one shows where every voxel was read."""
    scan = Volume(torch.zeros(41, 21, 31), torch.diag(torch.tensor([2.0, 1.0, 1.5, 1.0])))
    half_mm = (41.0, 10.5, 23.25)
    for axis, (n, step) in enumerate(zip(scan.shape, scan.spacing_mm, strict=True)):
        place = (torch.arange(n) - (n - 1) / 2) * step
        warped = gradient_warp(scan.with_data(on_axis(place, axis, scan.shape)), 3.0).data_XYZ
        centre = [15, 10, 15]
        unit = [torch.linspace(-1, 1, m)[c] * h for m, c, h in zip(scan.shape, centre, half_mm, strict=True)]
        radius2 = sum(float(u) ** 2 for u in unit)
        at = float(place[centre[axis]])
        assert float(warped[tuple(centre)]) == pytest.approx(at * (1 + radius2 * 3 / 41**3), abs=1e-4)
        assert float(warped[20, 10, 15]) == pytest.approx(0, abs=1e-5)


def test_the_warp_moves_by_its_peak_at_the_edge_of_the_longest_axis():
    line = torch.arange(101.0)
    warped = acquire(on_axis(line, 0, (101, 9, 9)), Recipe(warp_mm=4.0))
    quarter = 25  # half way from the centre to the face: an eighth of the peak
    assert float(line[quarter] - warped[quarter, 4, 4]) == pytest.approx(4 / 8, rel=0.02)
    assert float(warped[75, 4, 4] - line[75]) == pytest.approx(4 / 8, rel=0.02)


@pytest.mark.parametrize("recipe", [NAMED["mixed"], Recipe(bias=0.3, noise=0.1)], ids=["mixed", "bias"])
def test_the_same_seed_gives_the_same_voxels(recipe, phantom):
    first, again, other = (degrade(phantom, recipe, rng_for(seed)).data_XYZ for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_scan_itself_is_left_alone(phantom):
    before = phantom.data_XYZ.clone(), phantom.affine.clone()
    degrade(phantom, Recipe(axes=NAMED["mixed"].axes, noise=0.1, bias=0.4, gamma=2.0, warp_mm=2.0), rng_for(0))
    assert torch.equal(phantom.data_XYZ, before[0]) and torch.equal(phantom.affine, before[1])


@pytest.mark.parametrize("axis", range(3))
def test_every_slice_has_a_gain_of_its_own(axis):
    plain = along(axis, method="box", factor=3.0)
    level = torch.full((12, 15, 18), 100.0)
    gain = acquire(level, replace(plain, slice_gain=0.1)) / acquire(level, plain)
    across = gain.movedim(axis, 0).flatten(1)
    assert float(across.std(1).max()) < 1e-5  # the same all over a slice
    logs = across[:, 0].log()
    assert float(logs.abs().max()) <= 0.1 + 1e-6 and float(logs.std()) > 0.02


def test_only_slices_have_gains():
    level = torch.full((16, 16, 16), 100.0)
    for recipe in (NAMED["iso2"], Recipe()):
        clean = replace(recipe, noise=0.0)
        assert torch.equal(acquire(level, replace(clean, slice_gain=0.3)), acquire(level, clean))


# Sums of the voxels and of their squares before slices could have gains.
FROZEN = {
    "thick3": [247792.91180971265, 55852244.3796495],
    "thick5": [150474.18369087577, 31093004.27695076],
    "low1.5": [283475.7439160943, 56596721.426904336],
    "iso1.5": [220724.2270629108, 52243625.49533414],
    "iso2": [92471.15985125303, 21857955.000480294],
    "mixed": [131676.95697814226, 26785687.643609177],
    "low-field": [378998.97639632225, 88952335.45244274],
    "inplane2": [185375.55048704147, 43826193.59594345],
}


@pytest.mark.parametrize("name", NAMED)
def test_frozen_recipes_give_the_same_voxels_as_ever(name):
    scan = Volume(blob((24, 22, 26), (11.0, 10.5, 13.2)) * 700, EYE)
    low = degrade(scan, NAMED[name], rng_for(0, name)).data_XYZ.double()
    assert [float(low.sum()), float(low.square().sum())] == pytest.approx(FROZEN[name], rel=1e-6)
