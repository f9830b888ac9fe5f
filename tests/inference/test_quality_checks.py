"""Quality checks: a phantom head raises no warning; each fault raises its own sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moediff.acquisition.normalisation import Scaling
from moediff.acquisition.prepare import Prepared, PrepareSettings, prepare
from moediff.core.config import rng_for
from moediff.core.geometry import with_spacing
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.inference.options import EnhanceOptions
from moediff.inference.quality_checks import (
    COVERAGE_OF_A_SAMPLE,
    FACE,
    HEAD_ML,
    INTERVAL_SD,
    best_coverage,
    sample_warnings,
    scan_warnings,
)
from moediff.report.layers import nearest


@pytest.fixture(scope="module")
def head(make_phantom) -> Volume:
    return make_phantom((48, 56, 22), (4.0, 4.0, 8.0))


def prepared_at(scan: Volume, spacing, **known) -> Prepared:
    return prepare(scan, with_spacing(scan.grid, spacing), PrepareSettings(), **known)


def test_a_head_raises_no_warning(head):
    assert scan_warnings(prepared_at(head, (4, 4, 4))) == []


def rescaled(volume: Volume, factor: float) -> Volume:
    affine = volume.affine.clone()
    affine[:3] *= factor
    return Volume(volume.data_XYZ, affine)


@pytest.mark.parametrize("factor", [0.3, 2.5])
@pytest.mark.fault(41)
def test_a_wrong_head_size_is_warned_of_with_its_volume(factor, head):
    prepared = prepared_at(rescaled(head, factor), (4 * factor,) * 3)
    volume_ml = float(prepared.mask_XYZ.sum()) * (4 * factor) ** 3 / 1000
    notes = [d for d in scan_warnings(prepared) if "mL" in d]
    assert notes and f"fills {volume_ml:.0f} mL, a head fills {HEAD_ML[0]:.0f} to {HEAD_ML[1]:.0f}" in notes[0]


@pytest.mark.fault(41)
def test_a_flat_head_has_no_tissue_contrast(head):
    flat = head.with_data((head.data_XYZ > 0).float() * 500)
    assert any(
        d.startswith("tissue contrast 0.0") and "outside 0.08..1.5" in d
        for d in scan_warnings(prepared_at(flat, (4, 4, 4)))
    )


def test_noise_is_warned_of_from_above_the_trained_level_on(head):
    prepared = prepared_at(head, (4, 4, 4))
    bright = quantile(prepared.source.data_XYZ, 0.999)
    assert scan_warnings(replace(prepared, noise_sigma=torch.tensor(0.08 * bright))) == []
    assert scan_warnings(replace(prepared, noise_sigma=torch.tensor(0.15 * bright))) == [
        "noise of 15% of the intensity range is above what the model was trained on (6 %)"
    ]


@pytest.mark.parametrize(("spacing_z", "sides"), [(3.0, "176 x 224 x 64"), (20.0, "176 x 224 x 440")])
@pytest.mark.fault(41)
def test_slices_of_another_thickness_than_the_header_says(spacing_z, sides, make_phantom):
    """A head of 160 mm whose slice distance was mistyped: its volume alone may still be that of a head."""
    scan = make_phantom((48, 56, 22), (4.0, 4.0, spacing_z))
    notes = [d for d in scan_warnings(prepared_at(scan, (4, 4, 4))) if d.startswith("the foreground measures")]
    assert notes and notes[0].startswith(f"the foreground measures {sides} mm: not a whole head")


@pytest.mark.fault(42)
def test_measured_noise_reaches_the_doubts(head):
    for sigma, doubted in ((30.0, False), (250.0, True)):  # the brain's median is about 500
        channel = sigma * torch.randn(2, *head.shape, generator=rng_for(0))
        noisy = head.with_data(torch.hypot(head.data_XYZ + channel[0], channel[1]))
        notes = scan_warnings(prepared_at(noisy, (4, 4, 4)))
        assert any(d.startswith("noise of") for d in notes) is doubted


@pytest.mark.parametrize(("lowest", "doubted"), [(-90.0, False), (-1000.0, True)])
@pytest.mark.fault(41)
def test_hounsfield_numbers_are_recognised(lowest, doubted, head):
    data = head.data_XYZ.clone()
    data[:3] = lowest  # air, not single outliers
    known = Scaling(0.0, 1100.0)  # in raw intensities, whatever the scaling
    notes = scan_warnings(prepared_at(head.with_data(data), (4, 4, 4), scaling=known))
    assert any("computed tomography" in d for d in notes) is doubted


@pytest.mark.parametrize(("spacing", "doubted"), [((4, 4, 1.2), False), ((4, 4, 1.0), True), ((5, 4, 4), True)])
def test_spacing_ratios_beyond_training_are_doubted(spacing, doubted, head):
    notes = [d for d in scan_warnings(prepared_at(head, spacing)) if "spacing ratios" in d]
    assert bool(notes) is doubted


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fewer_than_8_voxels_along_any_axis_are_doubted(axis, make_phantom):
    for count, doubted in ((7, True), (8, False)):
        shape, spacing = [40, 40, 40], [5.0, 5.0, 5.0]
        shape[axis], spacing[axis] = count, 200.0 / count
        scan = make_phantom(tuple(shape), spacing)
        notes = scan_warnings(prepared_at(scan, (5.0, 5.0, 5.0)))
        assert ("fewer than 8 voxels along an axis" in notes) is doubted


@pytest.mark.parametrize(("size", "spacing_mm", "warned"), [(1.0, 1.5, True), (1.0, 2.0, False), (0.62, 1.5, False)])
def test_a_fine_head_with_its_face_is_warned_of_once(size, spacing_mm, warned, make_phantom):
    """A whole head of 4 litres, and one of the size of a stripped brain; at 2 mm nobody is recognised."""
    scan = make_phantom((48, 56, 44), (4.0 * size,) * 3)
    notes = scan_warnings(prepared_at(scan, (spacing_mm,) * 3))
    assert notes.count(FACE) == warned and "deface" in FACE


@pytest.mark.parametrize("noise", [0.0, 0.08])
def test_a_stripped_brain_has_no_face_however_noisy_its_air(noise, mni_scan):
    """Noise of this share of the brain's median, as in magnitude images; the mask of the noisy one fills 3 litres."""
    coarse = with_spacing(mni_scan.grid, (3.0, 3.0, 3.0))
    data_XYZ = nearest(mni_scan, coarse)
    channel = (
        noise * quantile(data_XYZ[data_XYZ > 0], 0.5) * torch.randn(2, *coarse.shape, generator=rng_for(0, "face"))
    )
    noisy = Volume(torch.hypot(data_XYZ + channel[0], channel[1]), coarse.affine)
    assert FACE not in scan_warnings(prepared_at(noisy, (1.5, 1.5, 1.5)))


@pytest.mark.fault(59)
@pytest.mark.parametrize("mode", ["faithful", "detail"])
@pytest.mark.parametrize("count", sorted(COVERAGE_OF_A_SAMPLE))
def test_best_coverage_is_that_of_perfect_samples(mode, count):
    """Samples and truth drawn from one Gaussian: the result is the mean, or the first sample."""
    draws = torch.randn(100_000, count + 1, generator=rng_for(0, "coverage"))
    samples, truth = draws[:, 1:], draws[:, 0]
    result = samples[:, 0] if mode == "detail" else torch.zeros(())
    share = float(((truth - result).abs() <= INTERVAL_SD * samples.std(1)).float().mean())
    assert best_coverage(EnhanceOptions(mode=mode, samples=count)) == pytest.approx(share, abs=0.007)


@pytest.mark.fault(59)
def test_two_samples_are_warned_of_with_a_number_that_does():
    (note,) = sample_warnings(EnhanceOptions(mode="detail", samples=2))
    assert "standard deviation of 2 samples and too small: its 90 % intervals hold 56% of the truth at best" in note
    assert "give --samples 16 or more" in note and "--mode faithful predicts" in note
    assert "hold 65% of the truth" in sample_warnings(EnhanceOptions(samples=2))[0]
    (note,) = sample_warnings(EnhanceOptions(mode="detail", samples=64))
    assert "hold 74%" in note and "--samples 16" not in note
    for fine in (EnhanceOptions(samples=16), EnhanceOptions(), EnhanceOptions(mode="detail")):
        assert sample_warnings(fine) == []
