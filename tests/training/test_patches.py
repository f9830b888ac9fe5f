"""Training examples: what number i gives, what truth, base and region have to do with each other."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from moediff.acquisition.degrade import reference_intensity
from moediff.acquisition.prepare import PrepareSettings
from moediff.acquisition.recipe import AxisRecipe, Recipe, RecipeRanges, thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.training.augment import AugmentConfig
from moediff.training.cache import TrainingScan
from moediff.training.patches import (
    NO_REGION,
    Batch,
    Example,
    PatchSource,
)
from moediff.training.synthetic_lesions import LesionConfig

CUBIC = PrepareSettings(kernel="cubic")
EYE = torch.eye(4, dtype=torch.float64)


def training_scan(data: Tensor, region: Tensor | None = None, weight: float = 1.0) -> TrainingScan:
    return TrainingScan(data.half(), (data > 0).nonzero(), reference_intensity(data), region, weight)


@pytest.fixture(scope="module")
def head(make_phantom) -> TrainingScan:
    return training_scan(make_phantom((72, 80, 64), (2.0, 2.0, 2.0)).data_XYZ / 1500)


@pytest.fixture
def source(head: TrainingScan) -> PatchSource:
    return PatchSource(scans=[head], patch=32, seed=3, settings=CUBIC)


def tensors(record: Example | Batch) -> list[Tensor]:
    """Everything that an example or a batch holds."""
    values = [getattr(record, field.name) for field in fields(record)]
    flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return [torch.as_tensor(part, dtype=None if isinstance(part, Tensor) else torch.float32) for part in flat]


def same(one: Example, two: Example) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(two), strict=True))


def error(example: Example) -> float:
    return float((example.truth_XYZ - example.interpolated_XYZ).square().mean().sqrt())


def iso(factor: float, noise: float = 0.0) -> Recipe:
    return Recipe(axes=(AxisRecipe(method="truncate", factor=factor),) * 3, noise=noise)


def test_an_example_depends_on_seed_and_number_alone(source):
    first = [source.example(number) for number in (4, 0, 4)]
    torch.manual_seed(0)
    again = replace(source).example(4)
    assert same(first[0], first[2]) and same(first[0], again)
    assert not same(first[0], first[1])
    assert not same(first[0], replace(source, seed=4).example(4))


def test_a_batch_is_its_examples_side_by_side(source):
    batch = source.batch(2, 3)
    assert batch.truth_BXYZ.shape == (3, 32, 32, 32) and batch.noise_B.shape == (3,)
    for index, number in enumerate((6, 7, 8)):
        expected = source.example(number)
        assert torch.equal(batch.truth_BXYZ[index], expected.truth_XYZ)
        assert torch.equal(batch.region_BXYZ[index], expected.region_XYZ)
        for ours, theirs in zip(tensors(batch), tensors(expected), strict=True):
            assert torch.equal(ours[index], theirs)


def test_batches_do_not_share_examples(source):
    small, large = source.batch(1, 2), Batch.of([source.example(number) for number in range(4)])
    assert torch.equal(small.truth_BXYZ, large.truth_BXYZ[2:])
    assert not torch.equal(small.truth_BXYZ, large.truth_BXYZ[:2])


@pytest.mark.parametrize("patch", [32, 48])
def test_shapes_types_and_regions_that_are_not_known(source, patch):
    example = replace(source, patch=patch).example(0)
    assert example.truth_XYZ.shape == example.interpolated_XYZ.shape == example.region_XYZ.shape == (patch,) * 3
    assert [len(positions) for positions in example.positions] == [patch] * 3
    assert example.truth_XYZ.dtype == example.interpolated_XYZ.dtype == torch.float32
    assert example.region_XYZ.dtype == torch.uint8 and (example.region_XYZ == NO_REGION).all()
    assert all(torch.isfinite(t).all() for t in tensors(example))


def test_lesions_are_where_the_truth_was_changed():
    """Flat heads of 0.5 with lesions of 40 %, on every axis and mirrored: nothing else differs from 0.5."""
    lesions = LesionConfig(probability=1.0, contrast=(0.4, 0.4), density=30.0)
    plain = AugmentConfig(
        amplitude=(1.0, 1.0),
        gamma=(1.0, 1.0),
        bias=0.0,
        blur_probability=0,
        sharpen_probability=0,
        synthetic_lesions=lesions,
    )
    source = PatchSource(
        scans=[training_scan(torch.full((60, 72, 80), 0.5))], patch=32, seed=0, settings=CUBIC, augment=plain
    )
    changed = []
    for example in map(source.example, range(6)):
        assert torch.equal(example.lesion_XYZ > 0.05, (example.truth_XYZ - 0.5).abs() > 0.01)
        changed.append(int((example.lesion_XYZ > 0.5).sum()))
    assert sum(changed) > 20


def test_without_planting_there_are_no_lesions(source):
    assert source.example(0).lesion_XYZ.count_nonzero() == 0
    assert replace(source, augment=None).example(0).lesion_XYZ.count_nonzero() == 0


def test_batches_move_to_a_device_whole(source):
    batch = source.batch(0, 1)
    moved = batch.to(torch.device("meta"))
    assert [tensor.shape for tensor in tensors(moved)] == [tensor.shape for tensor in tensors(batch)]
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}


@pytest.mark.parametrize("patch", [-32, 0, 16, 40, 33])
def test_a_patch_that_does_not_fit_the_network_is_refused(source, patch):
    with pytest.raises(ConfigError, match=f"patch={patch} must be a multiple of 16, at least 32"):
        replace(source, patch=patch)


def test_without_degradation_the_base_is_the_truth(source):
    """Base, truth and margin are cut alike: any shift, flip or scale between them would show."""
    for number in range(4):
        example = replace(source, recipe=Recipe()).example(number)
        assert float(example.truth_XYZ.std()) > 0.01
        assert_close(example.interpolated_XYZ, example.truth_XYZ, atol=1e-5, rtol=0)


def test_a_fixed_recipe_is_used_for_every_example(source):
    """Slices three voxels apart: positions run in steps of a third along the axis put last, one elsewhere."""
    fixed = replace(source, recipe=thick_slices(3, 0.0, "thick3", axis=0))
    for number in range(3):
        x, y, z = (positions.diff() for positions in fixed.example(number).positions)
        assert_close(x, torch.ones(31))
        assert_close(y, torch.ones(31))
        assert_close(z, torch.full((31,), 1 / 3), atol=1e-5, rtol=0)


def test_drawn_recipes_differ_between_examples(source):
    steps = {tuple(round(float(p[1] - p[0]), 3) for p in source.example(number).positions) for number in range(8)}
    assert len(steps) > 4
    assert all(list(step) == sorted(step, reverse=True) for step in steps)  # coarse axes come last


def test_drawn_recipes_obey_the_ranges(source):
    ranges = RecipeRanges(thick=1, truncated=0, mixed=0, native=0, slice_factor=(4.0, 4.0))
    for number in range(3):
        z = replace(source, ranges=ranges).example(number).positions[2]
        assert_close(z.diff(), torch.full((31,), 0.25), atol=1e-5, rtol=0)


def test_the_base_is_nearer_to_the_truth_after_mild_degradation(source):
    mild, strong = (replace(source, recipe=iso(factor)) for factor in (1.3, 3.0))
    for number in range(4):
        one, two = mild.example(number), strong.example(number)
        assert torch.equal(one.truth_XYZ, two.truth_XYZ)
        assert error(one) < 0.7 * error(two)


@pytest.mark.parametrize("kernel", ["wiener", "cubic"])
def test_the_base_resembles_the_truth(source, kernel):
    fixed = replace(source, settings=PrepareSettings(kernel=kernel), recipe=iso(1.5, 0.01))
    for number in range(3):
        example = fixed.example(number)
        assert error(example) < 0.5 * float(example.truth_XYZ.std())


def test_noise_is_a_share_of_the_whole_heads_reference(source):
    """A flat patch of a head whose reference is told: only the noise differs, also when intensities get a gain."""
    data = torch.full((64, 64, 64), 0.5)
    flat = TrainingScan(data.half(), (data > 0).nonzero(), 0.8, None, 1.0)
    level = AugmentConfig(amplitude=(2.0, 2.0), gamma=(1.0, 1.0), bias=0.0, blur_probability=0, sharpen_probability=0)
    for augment, gain in ((None, 1.0), (level, 2.0)):
        fixed = replace(source, scans=[flat], augment=augment, recipe=Recipe(noise=0.1))
        example = fixed.example(0)
        assert_close(example.truth_XYZ, torch.full((32, 32, 32), 0.5 * gain))
        assert float((example.interpolated_XYZ - example.truth_XYZ).std()) == pytest.approx(0.08 * gain, rel=0.03)
        assert example.noise == pytest.approx(0.08 * gain, rel=0.05)


def test_regions_follow_the_truth_through_flips_turns_and_padding(source):
    """Every region has its own intensity, so truth and region must agree voxel by voxel."""
    region = (torch.rand(40, 60, 34, generator=rng_for(0)) * 4).to(torch.uint8)
    region[:, :, 10:] = 3
    level = torch.zeros(256)
    level[:4] = torch.tensor([0.25, 0.5, 0.75, 1.0])
    known = replace(source, scans=[training_scan(level[region.long()], region)], augment=None, recipe=Recipe())
    seen = set()
    for number in range(6):
        example = known.example(number)
        assert torch.equal(example.truth_XYZ, level[example.region_XYZ.long()])
        seen |= set(example.region_XYZ.unique().tolist())
    assert seen == {0, 1, 2, 3, NO_REGION}  # heads smaller than the cut are padded with nothing


def test_heads_are_drawn_by_their_weight(source):
    heads = [
        training_scan(torch.full((56, 56, 56), value), None, weight) for value, weight in ((0.25, 0.0), (0.75, 1.0))
    ]
    only_second = replace(source, scans=heads, augment=None, recipe=Recipe())
    assert {float(only_second.example(number).truth_XYZ.max()) for number in range(6)} == {0.75}
    both = replace(only_second, scans=[replace(heads[0], weight=1.0), heads[1]])
    assert {float(both.example(number).truth_XYZ.max()) for number in range(12)} == {0.25, 0.75}


def test_patches_are_turned_and_flipped(source):
    """A ramp along x shows up along every axis, in both directions."""
    ramp = (torch.arange(60.0) + 4)[:, None, None].expand(60, 60, 60) / 64
    turned = replace(source, scans=[training_scan(ramp)], augment=None, recipe=Recipe())
    found = set()
    for number in range(40):
        truth = turned.example(number).truth_XYZ
        slopes = [float(truth.diff(dim=axis).mean()) for axis in range(3)]
        axis = max(range(3), key=lambda a: abs(slopes[a]))
        found.add((axis, slopes[axis] > 0))
    assert len(found) == 6


def test_augmentation_stays_inside_its_ranges(source):
    """Of a constant patch, amplitude, contrast and bias can each be undone from the range of values."""
    flat = training_scan(torch.full((64, 64, 64), 0.5))
    gains = AugmentConfig(amplitude=(0.5, 2.0), gamma=(1.0, 1.0), bias=0.0, blur_probability=0, sharpen_probability=0)
    made = replace(source, scans=[flat], augment=gains, recipe=Recipe())
    levels = [float(made.example(number).truth_XYZ.mean()) / 0.5 for number in range(12)]
    assert all(0.5 <= level <= 2.0 for level in levels) and min(levels) < 0.8 and max(levels) > 1.25
    biased = replace(made, augment=replace(gains, amplitude=(1.0, 1.0), bias=0.3))
    fields = [(biased.example(number).truth_XYZ / 0.5).log().abs().max() for number in range(4)]
    assert all(0.01 < float(field) <= 0.3001 for field in fields)


def test_blur_softens_edges_and_sharpening_lifts_them(source):
    still = AugmentConfig(
        amplitude=(1.0, 1.0), gamma=(1.0, 1.0), bias=0.0, blur_vox=2.0, blur_probability=0, sharpen_probability=0
    )

    def edge(augment: AugmentConfig, number: int) -> float:
        truth = replace(source, augment=augment, recipe=Recipe()).example(number).truth_XYZ
        return float(sum(truth.diff(dim=axis).square().mean() for axis in range(3)))

    for number in range(3):
        plain = edge(still, number)
        assert edge(replace(still, blur_probability=1.0), number) < 0.95 * plain
        assert edge(replace(still, sharpen_probability=1.0), number) > 1.01 * plain


def on_meta(head: TrainingScan) -> TrainingScan:
    """Voxels on torch's device without memory: it refuses both a tensor left on the CPU and any wait for a value."""
    return head.to(torch.device("meta"))


@pytest.mark.parametrize(
    "recipe", [None, iso(1.5, 0.04), replace(thick_slices(4, 0.01, "warped"), bias=0.2, gamma=0.9, warp_mm=1)]
)
def test_examples_are_made_on_the_heads_device_without_waiting_for_it(source, recipe):
    region = (torch.rand(72, 80, 64, generator=rng_for(0)) * 4).to(torch.uint8)
    fixed = replace(source, settings=PrepareSettings(), recipe=recipe)
    away = replace(fixed, scans=[on_meta(replace(source.scans[0], region_XYZ=region))])
    for number in range(12):  # blurred, sharpened, and neither
        here, there = fixed.example(number), away.example(number)
        for name in ("truth_XYZ", "interpolated_XYZ", "neighbours_NXYZ", "noise", "region_XYZ"):
            assert getattr(there, name).device.type == "meta"
            assert getattr(there, name).shape == getattr(here, name).shape
        assert all(torch.equal(a, b) for a, b in zip(here.positions, there.positions, strict=True))
    assert away.batch(0, 3).interpolated_BXYZ.device.type == "meta"


def test_a_patch_is_told_the_noise_of_its_whole_scan(head):
    """Wherever it lies, and as bright as it was made: what `prepare` finds in the scan that it is a part of."""
    quiet = PrepareSettings(kernel="cubic", noise_estimator="quiet")
    recipe = Recipe(noise=0.03)
    told = {}
    bright = AugmentConfig(amplitude=(1.5, 1.5), blur_probability=0.0, sharpen_probability=0.0)
    for name, augment in (("plain", None), ("bright", bright)):
        source = PatchSource(scans=[head], patch=32, seed=3, settings=quiet, augment=augment, recipe=recipe)
        told[name] = [float(source.example(number).noise) for number in range(4)]
    sigma = 0.03 * head.reference
    assert told["plain"] == pytest.approx([sigma] * 4, rel=0.15)
    assert told["bright"] == pytest.approx([1.5 * sigma] * 4, rel=0.15)


def test_the_network_is_told_how_a_resampled_patch_was_sampled_three_times_in_four(source, monkeypatch):
    halved = replace(source, recipe=iso(2.0)).example(0).attenuation_AF
    assert halved[:, :4].abs().max() == 0 and halved[:, 4:].min() == 1  # all up to the Nyquist frequency, nothing above
    only = replace(source, ranges=RecipeRanges(thick=0, truncated=0, mixed=0, native=0, resampled=1.0))
    told = [only.example(number) for number in range(40)]
    monkeypatch.setattr("moediff.training.patches.KNOWN", 0.0)
    guessed = [only.example(number) for number in range(40)]
    unlike = [not torch.equal(a.attenuation_AF, b.attenuation_AF) for a, b in zip(told, guessed, strict=True)]
    assert 22 <= sum(unlike) <= 37
    assert all(torch.equal(a.truth_XYZ, b.truth_XYZ) for a, b in zip(told, guessed, strict=True))
