"""Enhancer: geometry, determinism, tiles, warnings."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import anisotropy_ratio, prepare
from moediff.acquisition.recipe import Recipe, thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError, TryAgain
from moediff.core.geometry import crop, with_spacing
from moediff.core.volume import Volume
from moediff.diffusion.samplers import SAMPLERS
from moediff.evaluation.data_consistency import consistency
from moediff.inference import tiling
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import is_as_fine
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import denoise_tiled
from moediff.model.bundle import Bundle


def thick_scan(make_phantom, shape: tuple[int, int, int]) -> Volume:
    """A phantom of 3 mm voxels in slices of 12 mm."""
    return degrade(make_phantom(shape, (3.0, 3.0, 3.0)), thick_slices(4, 0.01, "thick4"), rng_for(0))


@pytest.fixture(scope="module")
def low(make_phantom) -> Volume:
    return thick_scan(make_phantom, (44, 48, 44))


def test_default_grid_keeps_the_field_of_view(enhancer, low):
    result = enhancer(low, EnhanceOptions(voxel_size=(3.0,)))
    assert result.volume.spacing_mm == pytest.approx((3, 3, 3))
    assert result.volume.shape == (44, 48, 44)
    assert bool(torch.isfinite(result.volume.data_XYZ).all())
    assert not result.gate_XYZE.requires_grad and not result.volume.data_XYZ.requires_grad


def test_storage_order_does_not_change_the_result(enhancer, low, stored):
    plain = enhancer(low, EnhanceOptions(voxel_size=(3.0,))).volume
    other = enhancer(stored(low, (2, 0, 1), (0, 2)), EnhanceOptions(voxel_size=(3.0,))).volume
    assert_close(other.affine, plain.affine)
    assert_close(other.data_XYZ, plain.data_XYZ, atol=1e-2, rtol=1e-4)


def test_a_result_is_written_in_the_axis_order_of_its_input(enhancer, low, stored):
    other = stored(low, (2, 0, 1), (0, 2))
    result = enhancer(other, EnhanceOptions(voxel_size=(3.0, 4.0, 5.0)))
    expected = with_spacing(other.grid, (3.0, 4.0, 5.0))
    written = result.storage.undo_grid(result.volume.grid)
    assert written.shape == expected.shape == result.sidecar.output.shape
    assert_close(written.affine, expected.affine)
    assert result.volume.spacing_mm == pytest.approx((4, 5, 3))


def test_tiles_do_not_show(enhancer, low, monkeypatch):
    options, tiles, real = EnhanceOptions(voxel_size=(3.0, 3.0, 1.5), memory_mb=64), [], tiling.cut
    whole = enhancer(low, options)
    monkeypatch.setattr(
        tiling, "BYTES_PER_CHANNEL", 48
    )  # 64 MiB hold 48 x 48 x 75 voxels, the input crop has 96 slices
    monkeypatch.setattr(tiling, "cut", lambda condition, box: tiles.append(box) or real(condition, box))
    tiled = enhancer(low, options)
    assert len(tiles) == 2
    assert_close(tiled.volume.data_XYZ, whole.volume.data_XYZ, atol=1e-2, rtol=1e-4)
    assert_close(tiled.uncertainty.data_XYZ, whole.uncertainty.data_XYZ, atol=1e-3, rtol=1e-4)


NO_MEMORY = {
    "host": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    "accelerator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY.keys())
def test_row48_tiles_shrink_until_they_fit(error, enhancer, low, monkeypatch):
    options, budgets = EnhanceOptions(voxel_size=(3.0,), memory_mb=512), []
    plain = enhancer(low, options).volume.data_XYZ

    def scarce(denoiser, x, sigma, context, budget, **more):
        budgets.append(budget >> 20)
        if budget > 200 * 2**20:
            raise error
        return denoise_tiled(denoiser, x, sigma, context, budget, **more)

    monkeypatch.setattr("moediff.inference.session.denoise_tiled", scarce)
    assert_close(enhancer(low, options).volume.data_XYZ, plain, atol=1e-2, rtol=1e-4)
    assert budgets == [512, 256, 128]


def test_row48_without_room_for_the_smallest_tile_the_user_may_try_again(enhancer, low, monkeypatch):
    def never(*args, **more):
        torch.empty(10**15)

    monkeypatch.setattr("moediff.inference.session.denoise_tiled", never)
    with pytest.raises(TryAgain, match="memory ran out even with small tiles"):
        enhancer(low, EnhanceOptions(voxel_size=(3.0,)))


def test_other_faults_are_not_taken_for_a_lack_of_memory(enhancer, low, monkeypatch):
    def wrong(*args, **more):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("moediff.inference.session.denoise_tiled", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        enhancer(low, EnhanceOptions(voxel_size=(3.0,)))


def test_every_expert_alone_and_its_differences(enhancer, low):
    """Where the gate gives all weight to one expert, that expert's own result is the aggregate."""
    options = EnhanceOptions(voxel_size=(3.0,), single_experts=True, data_consistency=False)
    result = enhancer(low, options)
    experts = len(result.expert_names)
    assert result.single_experts_XYZE.shape == (*result.volume.shape, experts)
    assert float((result.single_experts_XYZE[..., 0] - result.single_experts_XYZE[..., 1]).abs().max()) > 0
    highest, lowest = result.single_experts_XYZE.amax(-1), result.single_experts_XYZE.amin(-1)
    aggregate = result.volume.data_XYZ
    assert bool((aggregate <= highest + 0.01).all()) and bool((aggregate >= lowest - 0.01).all())  # a weighted mean
    differences = result.differences_XYZN()
    assert_close(differences[..., :experts] + aggregate[..., None], result.single_experts_XYZE, atol=1e-3, rtol=1e-5)
    from_input = differences[..., experts:] + result.interpolated.data_XYZ[..., None]
    assert_close(from_input, result.single_experts_XYZE, atol=1e-3, rtol=1e-5)


def test_differences_from_a_sample_are_refused(enhancer, low):
    sampled = enhancer(low, EnhanceOptions(voxel_size=(3.0,), mode="detail", steps=2, single_experts=True))
    with pytest.raises(ConfigError, match=r"differences .* 'detail' draws samples; leave one out"):
        sampled.differences_XYZN()
    assert sampled.sidecar.experts == sampled.expert_names


@pytest.mark.fault(38)
@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float16, torch.float64])
@pytest.mark.parametrize("size", [3.0, 12.0])
def test_row38_a_volume_of_any_type_is_taken_as_a_file_is(dtype, size, enhancer, low):
    """At 12 mm the scan is passed through."""
    whole = low.with_data((low.data_XYZ / 4).clamp(0, 255).round())
    options = EnhanceOptions(voxel_size=(size,))
    expected, result = enhancer(whole, options), enhancer(whole.with_data(whole.data_XYZ.to(dtype)), options)
    assert float(result.interpolated.data_XYZ.abs().mean()) > 1 and result.volume.data_XYZ.dtype == torch.float32
    assert_close(result.interpolated.data_XYZ, expected.interpolated.data_XYZ)
    assert_close(result.volume.data_XYZ, expected.volume.data_XYZ)


@pytest.mark.fault(32)
def test_row32_a_volume_with_one_nan_is_filled_and_says_so(enhancer, low):
    data_XYZ = low.data_XYZ.clone()
    data_XYZ[20, 20, 5] = torch.nan
    result = enhancer(low.with_data(data_XYZ), EnhanceOptions(voxel_size=(3.0,)))
    assert bool(torch.isfinite(result.volume.data_XYZ).all())
    assert any("1 voxels that were NaN" in warning for warning in result.sidecar.warnings)
    assert bool(data_XYZ[20, 20, 5].isnan())  # the caller's own is left alone


@pytest.mark.fault(34)
@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_row34_a_volume_that_is_no_scan_is_refused(dtype, enhancer, low):
    with pytest.raises(DataError, match="expected real voxels, got"):
        enhancer(low.with_data(low.data_XYZ.to(dtype)))


def test_differences_need_experts_run_alone(enhancer, low):
    with pytest.raises(ConfigError, match="ask for single_experts"):
        enhancer(low, EnhanceOptions(voxel_size=(3.0,))).differences_XYZN()


def test_same_seed_same_sample_and_other_seed_another(enhancer, low):
    first, again, other = (
        enhancer(low, EnhanceOptions(voxel_size=(3.0,), mode="detail", steps=3, seed=seed)).volume.data_XYZ
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert float((first - other).abs().max()) > 0


def test_a_sampler_is_taken_by_name_and_its_evaluations_are_counted(enhancer, low, monkeypatch):
    """A table's new row is all that a sampler needs."""
    monkeypatch.setitem(SAMPLERS, "one look", lambda denoise, x, sigmas: denoise(x, sigmas[0]))
    shares: list[float] = []
    options = EnhanceOptions(voxel_size=(3.0,), mode="detail", steps=2)
    usual = enhancer(low, options)
    result = enhancer(low, replace(options, sampler="one look"), lambda share, word: shares.append(share))
    assert not torch.equal(result.volume.data_XYZ, usual.volume.data_XYZ)
    assert (usual.sidecar.settings.sampler, result.sidecar.settings.sampler) == ("dpm-solver++", "one look")
    enhancer(low, replace(options, sampler="heun"), lambda share, word: shares.append(share))
    assert max(shares) <= 1


def test_samples_give_uncertainty_only_inside(enhancer, low):
    result = enhancer(low, EnhanceOptions(voxel_size=(3.0,), samples=3, steps=2))
    assert any("standard deviation of 3 samples and too small" in warning for warning in result.sidecar.warnings)
    assert result.uncertainty is not None
    assert float(result.uncertainty.data_XYZ[result.mask_XYZ].mean()) > 0
    assert float(result.uncertainty.data_XYZ[~result.mask_XYZ].abs().max()) == 0


def test_uncertainty_is_predicted_without_samples(enhancer, low):
    options = EnhanceOptions(voxel_size=(3.0,))
    result, config = enhancer(low, options), enhancer.bundle.config
    assert result.uncertainty is not None and result.sidecar.uncertainty.kind == "predicted"
    inside = result.uncertainty.data_XYZ[result.mask_XYZ]
    assert float(inside.min()) > 0 and float(result.uncertainty.data_XYZ[~result.mask_XYZ].abs().max()) == 0
    doubled = Bundle(replace(config, uncertainty_scale=2 * config.uncertainty_scale), enhancer.bundle.denoiser, {}, "")
    twice = Enhancer(doubled)(low, options)
    assert twice.uncertainty is not None
    assert_close(twice.uncertainty.data_XYZ, 2 * result.uncertainty.data_XYZ, atol=1e-4, rtol=1e-5)
    more = replace(config, anisotropy_exponent=config.anisotropy_exponent + 1)
    steep = Bundle(more, enhancer.bundle.denoiser, {}, "")
    raised = Enhancer(steep)(low, options).uncertainty
    assert raised is not None
    ratio = anisotropy_ratio(prepare(low, raised.grid, config.prepare))
    assert ratio > 1.5
    assert_close(raised.data_XYZ, ratio * result.uncertainty.data_XYZ, atol=1e-4, rtol=1e-4)
    assert enhancer(low, replace(options, mode="detail", steps=2)).uncertainty is None


def test_intensity_factor_passes_through(enhancer, low):
    plain = enhancer(low, EnhanceOptions(voxel_size=(3.0,))).volume.data_XYZ
    scaled = enhancer(low.with_data(low.data_XYZ * 1000), EnhanceOptions(voxel_size=(3.0,))).volume.data_XYZ
    assert_close(scaled / 1000, plain, atol=1e-2, rtol=1e-4)


def test_oblique_reference_grid_is_met_exactly(enhancer, low, make_phantom):
    angle = math.radians(20)
    affine = low.affine.clone()
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]], dtype=torch.float64
    )
    affine[:3, :3] = turn * 3.0
    target = make_phantom((50, 50, 50), affine=affine).grid
    result = enhancer(low, EnhanceOptions(like=target))
    assert result.volume.shape == (50, 50, 50)
    assert_close(result.volume.affine, affine)


@pytest.mark.fault(40)
def test_a_fine_scan_is_passed_through_with_a_warning(enhancer, low):
    result = enhancer(low, EnhanceOptions(voxel_size=(3.0, 3.0, 12.0)))
    assert "already as fine" in result.sidecar.warnings[-1]
    assert is_as_fine(low.grid, low.grid)


@pytest.mark.fault(41)
def test_a_ball_of_noise_is_doubted(enhancer):
    noise = Volume(
        torch.rand(40, 40, 40, generator=rng_for(0)), torch.diag(torch.tensor([2.0, 2, 4, 1], dtype=torch.float64))
    )
    warnings = enhancer(noise, EnhanceOptions(voxel_size=(2.0,))).sidecar.warnings
    assert any("is above what the model was trained on" in warning for warning in warnings)


def test_an_empty_scan_is_refused(enhancer):
    with pytest.raises(DataError):
        enhancer(Volume(torch.zeros(40, 40, 40), torch.eye(4)))


def test_consistency_brings_the_result_closer_to_the_measurement(enhancer, low):
    gaps = [
        enhancer(low, EnhanceOptions(voxel_size=(3.0,), data_consistency=flag)).sidecar.data_consistency.rms_over_range
        for flag in (False, True)
    ]
    assert gaps[1] < gaps[0]


@pytest.mark.parametrize(
    "wrong", [{"mode": "pretty"}, {"steps": 1}, {"samples": 0}, {"voxel_size": (0.01,)}, {"voxel_size": (1.0, 1.0)}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ConfigError):
        EnhanceOptions(**wrong)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(ConfigError):
        Enhancer(device=device)


def test_recipe_none_changes_nothing_geometric(enhancer, make_phantom):
    truth = make_phantom((48, 48, 48), (4.0, 4.0, 4.0))
    same = degrade(truth, Recipe(), rng_for(0))
    assert torch.equal(same.affine, truth.affine)


@pytest.mark.parametrize(("tta", "axes"), [(2, [(), (0, 1, 2)]), (4, [(), (0, 1, 2), (0,), (1, 2)])])
def test_tta_is_the_mean_of_flipped_scans(tta, axes, enhancer, make_phantom):
    """Every mirrored scan, enhanced and mirrored back, adds as much to result, spread and experts."""
    low = thick_scan(make_phantom, (52, 56, 52))  # large enough for its noise to be measured well
    options = EnhanceOptions(voxel_size=(3.0,), data_consistency=False, sparse=False, single_experts=True)

    def results(scan: Volume, given: EnhanceOptions) -> torch.Tensor:
        result = enhancer(scan, given)
        each = result.single_experts_XYZE.movedim(-1, 0)
        return torch.cat([torch.stack([result.volume.data_XYZ, result.uncertainty.data_XYZ]), each])

    turned = [
        results(low.with_data(low.data_XYZ.flip(along)), options).flip([axis + 1 for axis in along]) for along in axes
    ]
    together = results(low, replace(options, tta=tta))
    mean = sum(turned) / tta
    positive = torch.stack(turned).amin(0) > 0  # negative intensities are cut off at the end, after the mean
    for own, expected, first, inside in zip(together, mean, turned[0], positive, strict=True):
        # A mirrored scan's noise is estimated a little differently, so the two agree as far as that goes.
        off, moved = ((one - expected)[inside].square().mean().sqrt() for one in (own, first))
        assert off < 0.01 * moved
    assert enhancer(low, replace(options, tta=tta)).sidecar.settings.tta == tta


def test_all_eight_flips_of_a_symmetric_scan_give_a_symmetric_result(enhancer, low):
    data = low.data_XYZ
    for axis in range(3):
        data = (data + data.flip(axis)) / 2
    result = enhancer(low.with_data(data), EnhanceOptions(voxel_size=(3.0,), tta=8, data_consistency=False)).volume
    scale = float(result.data_XYZ.std())
    for axis in range(3):
        assert float((result.data_XYZ - result.data_XYZ.flip(axis)).abs().max()) < 1e-3 * scale


def test_slices_that_alternate_are_named_and_corrected_on_request(enhancer, make_phantom):
    thick = make_phantom((48, 56, 22), (4.0, 4.0, 8.0))
    sign = 1 - 2 * (torch.arange(22) % 2)
    uneven = thick.with_data(thick.data_XYZ * torch.exp(0.05 * sign))
    left = enhancer(uneven, EnhanceOptions(voxel_size=(4.0,)))
    taken = enhancer(uneven, EnhanceOptions(voxel_size=(4.0,), correct_slice_intensity=True))
    assert left.sidecar.slice_intensity == replace(taken.sidecar.slice_intensity, corrected=False)
    assert taken.sidecar.slice_intensity.noticeable and taken.sidecar.slice_intensity.corrected
    assert taken.sidecar.slice_intensity.difference == pytest.approx(math.exp(0.1) - 1, abs=0.01)
    notes = [warning for warning in left.sidecar.warnings if "--correct-slice-intensity" in warning]
    assert (
        len(notes) == 1 and f"every other slice is {left.sidecar.slice_intensity.difference:.1%} brighter" in notes[0]
    )
    assert not any("--correct-slice-intensity" in warning for warning in taken.sidecar.warnings)
    even = enhancer(thick, EnhanceOptions(voxel_size=(4.0,))).volume.data_XYZ
    uncorrected_gap, corrected_gap = ((result.volume.data_XYZ - even).abs().mean() for result in (left, taken))
    assert corrected_gap < 0.3 * uncorrected_gap
    assert torch.equal(taken.interpolated.data_XYZ, left.interpolated.data_XYZ), "the input is shown as it came"


def test_the_first_of_several_samples_is_the_result(enhancer, low):
    """Their mean would be smoother than any scan."""
    options = EnhanceOptions(voxel_size=(3.0,), mode="detail", steps=2)
    one, three = enhancer(low, options), enhancer(low, replace(options, samples=3))
    assert torch.equal(one.volume.data_XYZ, three.volume.data_XYZ) and three.uncertainty is not None


def test_a_result_beyond_the_scan_is_judged_where_it_was_measured(enhancer, make_phantom):
    """Re-measuring from files says what the sidecar says: air filled in outside contradicts nothing."""
    whole = make_phantom((32, 36, 28), (6.0, 6.0, 6.0))
    slab = crop(whole, (0, 0, 8), (32, 36, 12))
    target = with_spacing(whole.grid, (6.0, 6.0, 3.0))
    result = enhancer(slab, EnhanceOptions(like=target))
    again = consistency(result.volume, slab, fit=False)
    assert again.rms_over_range == pytest.approx(result.sidecar.data_consistency.rms_over_range, rel=0.1)
