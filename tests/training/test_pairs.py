"""Pairs of scans: patches as they were measured, whatever way they are turned, and pairs that are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.point_spread import Sampling, attenuation
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError, InputMissing
from moediff.core.geometry import canonicalise, resample, with_spacing
from moediff.core.volume import Grid, Volume
from moediff.inference.enhancer import Enhancer
from moediff.io.scans import save
from moediff.model.bundle import BundleConfig, load_bundle, save_bundle
from moediff.training import patches as dataset
from moediff.training.cache import ScanSource, cached, read_training_scans, write_training_scans
from moediff.training.config import TrainConfig, load_config
from moediff.training.pairs import corners_known, pair_of
from moediff.training.patches import PatchSource
from moediff.training.sources import brain_scaled, load_training_scans
from moediff.training.trainer import RunOptions, train
from moediff.training.validate import Pair, Validation, validate

ROOT = Path(__file__).resolve().parents[2]
SHAPE, SPACING = (60, 68, 56), (3.0, 3.0, 3.0)
SETTINGS = PrepareSettings()


@pytest.fixture(scope="module")
def sharp(make_phantom) -> Volume:
    return make_phantom(SHAPE, SPACING)


@pytest.fixture(scope="module")
def low(sharp) -> Volume:
    return degrade(sharp, thick_slices(4, 0.01, "thick4"), rng_for(0))


def pair(sharp: Volume, low: Volume):
    """Both scaled, as training reads them."""
    return pair_of(*(brain_scaled(canonicalise(volume)[0])[0] for volume in (sharp, low)), 1.0)


def moved(volume: Volume, *by_mm: float) -> Volume:
    affine = volume.affine.clone()
    affine[:3, 3] += torch.tensor(by_mm, dtype=torch.float64)
    return Volume(volume.data_XYZ, affine)


def turned(grid: Grid, degrees: float) -> Grid:
    """A grid turned about its centre, in the plane of its first and last axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = c, -s, s, c
    centre = grid.affine @ torch.tensor([*((n - 1) / 2 for n in grid.shape), 1.0], dtype=torch.float64)
    there, back = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    there[:3, 3], back[:3, 3] = centre[:3], -centre[:3]
    return Grid(grid.shape, there @ turn @ back @ grid.affine)


def fixed(monkeypatch: pytest.MonkeyPatch, turn: torch.Tensor, start: list[int]) -> None:
    monkeypatch.setattr(dataset, "_signed_permutation", lambda rng: turn)
    monkeypatch.setattr(PatchSource, "_start_in_both", lambda *_: start)


def test_a_patch_is_cut_from_what_was_measured(sharp, low, monkeypatch):
    head, start = pair(sharp, low), [12, 20, 9]
    fixed(monkeypatch, torch.eye(4, dtype=torch.float64), start)
    example = PatchSource(scans=[head], patch=32, seed=0, settings=SETTINGS, augment=None).example(0)
    box = tuple(slice(a, a + 32) for a in start)
    whole = prepare(low, sharp.grid, SETTINGS)
    assert torch.equal(example.truth_XYZ, head.data_XYZ[box].float())
    assert_close(example.neighbours_NXYZ, whole.neighbours()[(slice(None), *box)], atol=1e-3, rtol=1e-3)
    inner = (slice(4, -4),) * 3
    assert_close(example.interpolated_XYZ[inner], whole.interpolated_XYZ[box][inner], atol=0.01, rtol=0.02)
    steps = [float(positions[1] - positions[0]) for positions in example.positions]
    assert steps == pytest.approx([1, 1, 0.25], abs=1e-4)
    place = float(example.positions[2][0] - whole.positions[2][start[2]])
    assert place == pytest.approx(round(place), abs=1e-3)  # another first slice, the same place between two
    assert float(example.noise) == pytest.approx(whole.noise, rel=0.5)


@pytest.mark.parametrize("number", range(6))
def test_both_scans_are_turned_alike(sharp, low, number, monkeypatch):
    head, start = pair(sharp, low), [12, 20, 9]
    plain = torch.eye(4, dtype=torch.float64)
    turn = dataset._signed_permutation(rng_for(number, "turn"))
    source = PatchSource(scans=[head], patch=32, seed=0, settings=SETTINGS, augment=None)
    errors = []
    for chosen in (plain, turn):
        fixed(monkeypatch, chosen, start)
        example = source.example(0)
        assert float(example.positions[2][1] - example.positions[2][0]) == pytest.approx(0.25, abs=1e-4)
        errors.append(
            [
                (example.truth_XYZ - volume).abs().flatten().sort().values
                for volume in (example.interpolated_XYZ, *example.neighbours_NXYZ)
            ]
        )
    (base, before, after), (other_base, *other_slices) = errors
    assert_close(other_base, base, atol=2e-3, rtol=1e-3)
    same = [torch.allclose(other_slices[side], wanted, atol=1e-3) for side, wanted in ((0, before), (1, after))]
    swapped = [torch.allclose(other_slices[side], wanted, atol=1e-3) for side, wanted in ((0, after), (1, before))]
    assert all(same) or all(swapped)


def test_the_sampling_that_the_spectrum_shows_is_that_of_every_patch(sharp, low, tmp_path, monkeypatch):
    """As in `enhance`, which reads it from the whole scan, also after the axes of a patch were exchanged."""
    shown = Sampling("hamming", 1.2), Sampling(), Sampling("gaussian", 0.8)
    monkeypatch.setattr("moediff.training.pairs.estimated_sampling", lambda *_: shown)
    write_training_scans(tmp_path / "pair.safetensors", [pair(sharp, low)])
    (scan,) = read_training_scans(tmp_path / "pair.safetensors")
    assert scan.measured is not None and scan.measured.sampling == shown
    exchanged = torch.eye(4, dtype=torch.float64)[[1, 0, 2, 3]]
    for turn, order in ((torch.eye(4, dtype=torch.float64), (0, 1, 2)), (exchanged, (1, 0, 2))):
        fixed(monkeypatch, turn, [4, 4, 4])
        source = PatchSource(scans=[scan], patch=32, seed=0, settings=SETTINGS, augment=None)
        expected = torch.tensor([attenuation(shown[axis]) for axis in order])
        torch.testing.assert_close(source.example(0).attenuation_AF.float(), expected.float(), atol=1e-4, rtol=0)


def test_only_brightness_is_changed(sharp, low):
    head = pair(sharp, low)
    plain = PatchSource(scans=[head], patch=32, seed=0, settings=SETTINGS, augment=None)
    varied = PatchSource(scans=[head], patch=32, seed=0, settings=SETTINGS)
    gains = []
    for number in range(4):
        one, other = plain.example(number), varied.example(number)
        gains.append(float(other.truth_XYZ.sum() / one.truth_XYZ.sum()))
        assert_close(other.truth_XYZ, one.truth_XYZ * gains[-1], rtol=1e-4, atol=1e-4)
        assert_close(other.interpolated_XYZ, one.interpolated_XYZ * gains[-1], rtol=0.02, atol=0.01)
    assert max(gains) > 1.1 * min(gains)


def test_an_oblique_input_keeps_its_slices(sharp):
    fine = turned(sharp.grid, 8.0)
    low = degrade(resample(sharp, fine), thick_slices(4, 0.01, "thick4"), rng_for(0))
    head = pair(sharp, low)
    assert head.measured is not None and not bool(head.measured.known_XYZ.all())
    off = head.measured.affine[:3, :3] - torch.diag(torch.diagonal(head.measured.affine)[:3])
    assert float(off.abs().max()) < 1e-6
    source = PatchSource(scans=[head], patch=32, seed=0, settings=SETTINGS, augment=None)
    for number in range(8):
        example = source.example(number)
        both = torch.stack([example.truth_XYZ.flatten(), example.interpolated_XYZ.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.9
    with pytest.raises(ConfigError, match="no patch of 64 voxels was found that both scans of a pair cover"):
        replace(source, patch=64).example(0)


def test_a_cube_lies_in_a_convex_set_where_its_corners_do():
    known = torch.zeros(10, 10, 10, dtype=torch.bool)
    known[:5, :, :8] = True
    assert corners_known(known, (0, 0, 0), 5) and corners_known(known, (0, 5, 3), 5)
    assert not corners_known(known, (1, 0, 0), 5) and not corners_known(known, (-1, 0, 0), 4)


@pytest.mark.parametrize(
    ("by_mm", "told"),
    [
        ((9.0, 0, 0), r"\+[89]\.\d mm to the right, [+-]0\.\d mm to the front and [+-]0\.\d mm above"),
        ((0, -12.0, 0), r"-1[12]\.\d mm to the front"),
    ],
)
def test_scans_that_lie_apart_are_refused(sharp, low, by_mm, told):
    pair(sharp, moved(low, 0.5, 0, 0))
    with pytest.raises(DataError, match=told):
        pair(sharp, moved(low, *by_mm))


def test_a_mirrored_input_is_refused(make_phantom):
    """The phantom head is symmetric but for its folds; a bright spot on one side makes it less so."""
    head = make_phantom(SHAPE, SPACING)
    data = head.data_XYZ.clone()
    data[12:20, 20:44, 14:40] *= 1.8
    lopsided = Volume(data, head.affine)
    low = degrade(lopsided, thick_slices(4, 0.01, "thick4"), rng_for(0))
    pair(lopsided, low)
    with pytest.raises(DataError, match="mirrored left to right"):
        pair(lopsided, Volume(low.data_XYZ.flip(0), low.affine))


def test_two_heads_are_no_pair(sharp, low):
    swapped = resample(Volume(sharp.data_XYZ.permute(1, 2, 0).contiguous(), sharp.affine), low.grid)
    with pytest.raises(DataError, match=r"do not look like one head .* name scans of one person"):
        pair(sharp, swapped)
    with pytest.raises(DataError, match="no place in common"):
        pair(sharp, moved(low, 900.0, 0, 0))


def test_labels_have_no_input():
    with pytest.raises(ConfigError, match="`input` goes with sharp scans"):
        ScanSource(path="a.nii.gz", input="b.nii.gz", labels=True)


@pytest.fixture
def data(tmp_path: Path, sharp, low) -> Path:
    return saved(sharp, low, tmp_path)


def saved(sharp: Volume, low: Volume, folder: Path) -> Path:
    save(sharp, folder / "sub-01_7T.nii.gz")
    save(Volume(low.data_XYZ * 3, low.affine), folder / "sub-01_3T.nii.gz")  # another scanner's unit
    return folder


def test_kept_pairs_are_those_that_were_made(data):
    source = ScanSource(path="sub-01_7T.nii.gz", input="sub-01_3T.nii.gz")
    (head,) = load_training_scans([source], data, 0)
    write_training_scans(data / "heads.safetensors", [head])
    (again,) = read_training_scans(data / "heads.safetensors")
    assert head.measured is not None and again.measured is not None
    for name in ("data_XYZ", "affine", "known_XYZ"):
        assert torch.equal(getattr(head.measured, name), getattr(again.measured, name))
    made: list[str] = []

    def make(source: ScanSource, root: Path, seed: int):
        made.append(source.path)
        return [head]

    for _ in range(2):
        cached(source, data, 0, data / "kept", make)
    (data / "sub-01_3T.nii.gz").write_bytes(b"another file")
    cached(source, data, 0, data / "kept", make)
    assert len(made) == 2
    with pytest.raises(InputMissing, match=r"none\.nii\.gz"):
        cached(replace(source, input="none.nii.gz"), data, 0, data / "kept", make)


def test_weights_learn_from_pairs_and_are_judged_by_them(tmp_path, make_phantom, make_denoiser: Callable):
    sharp = make_phantom((40, 44, 40), SPACING)
    low = degrade(sharp, thick_slices(4, 0.01, "thick4"), rng_for(0))
    data = saved(sharp, low, tmp_path)
    source = ScanSource(path="sub-01_7T.nii.gz", input="sub-01_3T.nii.gz", licence="own")
    config = TrainConfig(
        out=str(data / "run"),
        data=str(data),
        scans=(source,),
        steps=1,
        batch=1,
        patch=32,
        device="cpu",
        model=BundleConfig(denoiser=make_denoiser().config, data_consistency=False),
        validation=Validation(pairs=(Pair(path="sub-01_7T.nii.gz", input="sub-01_3T.nii.gz"),)),
    )
    bundle = load_bundle(train(config, RunOptions(processes=1, progress=False)))
    (told,) = bundle.provenance["training"]["scans"]
    assert told["input"] == "sub-01_3T.nii.gz" and told["licence"] == "own"
    assert "mean/pair" in (data / "run" / "validation.csv").read_text()
    result = Enhancer(bundle)(low)
    assert result.sidecar.settings.data_consistency is False  # asked for, but not wanted by these weights


def test_the_gain_of_a_pair_counts_where_both_were_measured(data, sharp, low, make_denoiser: Callable):
    """Interpolation cannot know the intensities of another scanner, so each is fitted; the cut half does not count."""
    cubic = BundleConfig(
        denoiser=make_denoiser().config, prepare=PrepareSettings(kernel="cubic"), data_consistency=False
    )
    silent = make_denoiser()
    with torch.no_grad():
        for expert in silent.experts.each:
            expert.output_projection.weight.zero_()
    save_bundle(data / "silent", cubic, silent.state_dict(), {})
    pairs = (Pair(path="sub-01_7T.nii.gz", input="sub-01_3T.nii.gz"),)
    whole = validate(data / "silent", Validation(pairs=pairs), data)
    assert whole["sub-01_7T.nii.gz/pair"] == pytest.approx(0, abs=0.1)
    save(Volume(low.data_XYZ[:30] * 3, low.affine), data / "half.nii.gz")
    half = validate(data / "silent", Validation(pairs=(Pair(path=pairs[0].path, input="half.nii.gz"),)), data)
    assert half["mean/pair"] == pytest.approx(0, abs=0.1)


def test_coarser_voxels_can_be_asked_for(data):
    source = ScanSource(path="sub-01_7T.nii.gz", input="sub-01_3T.nii.gz", spacing_mm=(4.0,), weight=2.0)
    (head,) = load_training_scans([source], data, 0)
    assert head.measured is not None and head.weight == 2
    shape = with_spacing(Grid(SHAPE, torch.diag(torch.tensor([3.0, 3, 3, 1], dtype=torch.float64))), (4.0,) * 3).shape
    assert all(abs(a - b) <= 1 for a, b in zip(head.data_XYZ.shape, shape, strict=True))
    assert torch.diagonal(head.measured.affine)[:3].tolist() == pytest.approx([0.75, 0.75, 3.0])


def test_the_template_goes_on_from_the_embedded_weights():
    config = load_config(ROOT / "recipes" / "pairs.toml")
    assert (
        all(source.input for source in config.scans) and config.validation.pairs and not config.model.data_consistency
    )
    bundle = load_bundle(config.start)
    ours, theirs = config.model, bundle.config
    assert (ours.denoiser, ours.prepare, ours.diffusion) == (theirs.denoiser, theirs.prepare, theirs.diffusion)
    assert {source.path for source in config.scans}.isdisjoint(pair.path for pair in config.validation.pairs)
