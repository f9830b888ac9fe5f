"""Learning on from thick-slice scans: what of them is learned from, what changes, and what is refused."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.point_spread import Sampling, attenuation
from moediff.acquisition.prepare import PrepareSettings
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import CannotCreate, ConfigError, DataError
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import score
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import LoadedScan, from_volume
from moediff.model.bundle import Bundle, check_free, load_bundle, save_bundle
from moediff.training.adapt import AdaptOptions, adapt
from moediff.training.cache import ScanSource, Stack, TrainingScan, read_training_scans, write_training_scans
from moediff.training.patches import PatchSource
from moediff.training.self_supervised import scan_from_slices, slices_of
from moediff.training.sources import load_training_scans

QUICK = AdaptOptions(steps=2, patch=32, processes=1, device="cpu")


def loaded(volume: Volume) -> LoadedScan:
    return from_volume(volume)


@pytest.fixture(scope="module")
def thick(make_phantom) -> LoadedScan:
    """A phantom head of 1 mm voxels with slices of 4 mm stacked along its second axis, 2 % noise."""
    truth = make_phantom((64, 72, 60), (1.0, 1.0, 1.0))
    return loaded(degrade(truth, thick_slices(4, 0.02, "thick4", axis=1), rng_for(0)))


@pytest.fixture
def weights(bundle: Path) -> Bundle:
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def adapted(thick, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """What QUICK makes of a scan that bears a person's name, and where it was written; all work was done there too."""
    folder = tmp_path_factory.mktemp("adapted")
    named = replace(thick, path=Path("/home/someone/sub-jane_doe_T2w.nii.gz"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(folder))
        return adapt([named], load_bundle(bundle), QUICK, out=folder / "mine"), folder / "mine"


def test_a_thick_scan_is_learned_from_on_isotropic_voxels(thick, weights):
    head = scan_from_slices(thick, slices_of(plan_grids(thick, EnhanceOptions())), Enhancer(weights))
    assert head.data_XYZ.shape == (64, 72, 60)
    assert head.stack is not None and head.stack.axis == 1
    across = head.stack.recipe.axes[2]
    assert (across.method, across.factor) == ("gaussian", pytest.approx(4.0))
    assert head.stack.recipe.noise == pytest.approx(0.02, rel=0.3)
    brain = head.data_XYZ[21:43, 24:48, 20:40].float()
    assert 0.4 < float(brain[brain > 0.2].median()) < 0.9 and head.region_XYZ is None


@pytest.mark.parametrize(
    ("options", "across"),
    [
        ({"slice_thickness": 2.0}, Sampling("gaussian", 0.5)),
        ({"profile": (Sampling("box", 0.8),)}, Sampling("box", 0.8)),
    ],
)
def test_slices_are_learned_from_as_they_were_stated(options, across, thick, weights, tmp_path, monkeypatch):
    """The scan is enhanced, cut and shown to the network with the same profile."""
    used: list[EnhanceOptions] = []
    enhance = Enhancer.__call__

    def spied(self: Enhancer, source: object, options: EnhanceOptions) -> object:
        used.append(options)
        return enhance(self, source, options)

    monkeypatch.setattr(Enhancer, "__call__", spied)
    slices = slices_of(plan_grids(thick, EnhanceOptions(**options)))
    write_training_scans(tmp_path / "scans.safetensors", [scan_from_slices(thick, slices, Enhancer(weights))])
    (head,) = read_training_scans(tmp_path / "scans.safetensors")
    assert used[0].profile is not None and used[0].profile[1] == across
    assert head.stack is not None
    cut = head.stack.recipe.axes[2]
    assert (cut.method, cut.thickness, cut.factor) == (across.method, across.width, pytest.approx(4.0))
    source = PatchSource(scans=[head], patch=32, seed=0, settings=PrepareSettings(), augment=None)
    expected = torch.tensor(attenuation(across))
    assert torch.allclose(source.example(0).attenuation_AF[-1].float(), expected.float(), atol=1e-4)


@pytest.mark.parametrize(
    ("plane_mm", "voxel_size", "size_mm"),
    [
        ((1.5, 1.5), None, (1.5, 1.5, 1.5)),  # no finer than the plane was measured
        ((1.0, 1.0), (0.7,), (1.0, 1.0, 1.0)),
        ((1.0, 1.0), (1.5,), (1.5, 1.5, 1.5)),  # but as coarse as is asked for
        ((1.0, 0.9), None, (1.0, 0.9, 1.0)),  # nearly as long as wide: as the result will be
        ((0.5, 0.5), None, (1.0, 1.0, 1.0)),  # far from it: isotropic
    ],
)
def test_voxels_are_those_of_the_result_where_the_plane_allows(make_phantom, weights, plane_mm, voxel_size, size_mm):
    low = make_phantom((64, 64, 21), (*plane_mm, 4.5))
    slices = slices_of(plan_grids(from_volume(low), EnhanceOptions(voxel_size=voxel_size)))
    assert slices.voxel_mm == pytest.approx(size_mm) and slices.axis == 2
    head = scan_from_slices(loaded(low), slices, Enhancer(weights))
    assert head.stack is not None and head.stack.recipe.axes[2].factor == pytest.approx(4.5 / size_mm[2])
    extent_mm = (64 * plane_mm[0], 64 * plane_mm[1], 21 * 4.5)
    assert head.data_XYZ.shape == tuple(round(mm / size) for mm, size in zip(extent_mm, size_mm, strict=True))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.5, 1.5, 2.0), (1.0, 1.0, 10.0)])
def test_other_scans_are_refused(make_phantom, spacing_mm):
    with pytest.raises(DataError, match=r"times as thick as the voxels of their plane, expected 1\.8 to 8"):
        slices_of(plan_grids(from_volume(make_phantom((48, 48, 32), spacing_mm)), EnhanceOptions()))


def test_slices_that_were_stated_to_average_nothing_are_refused(thick):
    with pytest.raises(ConfigError, match="--profile says that slices average nothing"):
        slices_of(plan_grids(thick, EnhanceOptions(profile=(Sampling(),))))


def test_all_scans_are_looked_at_before_any_work(thick, make_phantom, weights, monkeypatch):
    thin = replace(loaded(make_phantom((48, 48, 32), (1.0, 1.0, 1.0))), path=Path("thin_T1w.nii.gz"))
    monkeypatch.setattr("moediff.training.adapt.scan_from_slices", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(DataError, match=r"thin_T1w\.nii\.gz: slices are"):
        adapt([thick, thin], weights)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch": 40}, "patch=40 must be a multiple of 16"),
        ({"rate": 0.0}, "learning_rate=0.0 must be a positive number"),
        ({"device": "cuda:1", "processes": 2}, "device='cuda:1' is one GPU, which 2 processes cannot share"),
        ({"device": "tpu"}, "device='tpu' must be 'auto'"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_any_work(options, words, thick, weights, monkeypatch):
    monkeypatch.setattr("moediff.training.adapt._training_scans", lambda *_: pytest.fail("worked on a scan"))
    with pytest.raises(ConfigError, match=words):
        adapt([thick], weights, replace(QUICK, **options))


def test_at_least_one_scan_is_asked_for(weights):
    with pytest.raises(ConfigError, match="no scan to learn from"):
        adapt([], weights)


def ridged(axis: int) -> TrainingScan:
    """A head that varies along one axis only, from voxel to voxel."""
    line = torch.rand(60, generator=rng_for(0)) + 0.5
    data = line.reshape([-1 if a == axis else 1 for a in range(3)]).expand(60, 60, 60).half()
    stack = Stack(axis, thick_slices(4, 0.0, "slices"))
    return TrainingScan(data.contiguous(), torch.tensor([[30, 30, 30]]), 1.0, None, 1.0, stack)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nothing_is_learned_along_the_axis_that_was_not_measured(axis):
    source = PatchSource(scans=[ridged(axis)], patch=32, seed=0, settings=PrepareSettings(kernel="cubic"), augment=None)
    varying = set()
    for number in range(12):
        example = source.example(number)
        assert (
            float((example.interpolated_XYZ - example.truth_XYZ).abs().max()) < 1e-3
        )  # only flat directions were cut thick
        varying.add(max(range(3), key=lambda a: float(example.truth_XYZ.diff(dim=a).abs().mean())))
        assert 1 / float(example.positions[2].diff().mean()) == pytest.approx(4)
    assert varying == {0, 1}


def test_without_a_stack_every_axis_takes_its_turn():
    head = replace(ridged(0), stack=None)
    source = PatchSource(
        scans=[head],
        patch=32,
        seed=0,
        settings=PrepareSettings(kernel="cubic"),
        augment=None,
        recipe=thick_slices(4, 0.0, "slices"),
    )
    gaps = [float((e.interpolated_XYZ - e.truth_XYZ).abs().max()) for e in map(source.example, range(12))]
    assert max(gaps) > 0.1 and min(gaps) < 1e-3


def test_heads_come_back_from_a_file(tmp_path):
    plain, stacked = replace(ridged(1), stack=None, weight=2.0), ridged(1)
    write_training_scans(tmp_path / "some.safetensors", [plain, stacked])
    first, second = load_training_scans(
        [ScanSource(path="some.safetensors", prepared=True)], tmp_path, 0, tmp_path / "kept"
    )
    assert first.stack is None and first.weight == 2.0
    assert second.stack == stacked.stack and torch.equal(second.data_XYZ, stacked.data_XYZ)
    assert not (tmp_path / "kept").exists()  # they are prepared already
    assert len(read_training_scans(tmp_path / "some.safetensors")) == 2


def test_only_what_sharpens_learns(adapted, weights):
    made, folder = adapted
    old, new = weights.denoiser.state_dict(), made.denoiser.state_dict()
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"embedding", "backbone", "experts"}
    assert made.config == weights.config and made.sha256 != weights.sha256
    told = made.provenance["adapted"]
    assert (told["scans"], told["slice_factors"], told["steps"]) == (1, [4.0], 2)
    assert told["from_sha256"] == weights.sha256 and made.provenance["name"].endswith(", adapted")
    assert load_bundle(folder).sha256 == made.sha256


def test_nothing_that_names_the_scan_is_kept(adapted):
    _, folder = adapted
    text = (folder / "bundle.json").read_text()
    assert "jane" not in text and "someone" not in text and str(folder.parent) not in text


def test_the_same_seed_gives_the_same_weights(adapted, thick, weights):
    again, other = (adapt([thick], weights, replace(QUICK, seed=seed)).sha256 for seed in (0, 1))
    assert adapted[0].sha256 == again != other


def test_a_result_says_what_its_weights_were_adapted_to(adapted, thick, weights):
    result = Enhancer(adapted[0])(thick, EnhanceOptions())
    assert result.sidecar.weights.adapted["from_sha256"] == weights.sha256
    assert Enhancer(weights)(thick, EnhanceOptions()).sidecar.weights.adapted is None
    json.loads(result.sidecar.to_json())


def test_weights_get_better_on_the_scan_they_learn_from(make_phantom, weights):
    truth = make_phantom((72, 72, 64), (1.0, 1.0, 1.0))
    low = degrade(truth, thick_slices(4, 0.01, "thick4"), rng_for(0))
    options = EnhanceOptions(like=truth.grid)
    learned = adapt([loaded(low)], weights, replace(QUICK, steps=40, rate=5e-3, share=1.0))
    before, after = (
        score(Enhancer(one)(low, options).volume.data_XYZ, truth.data_XYZ).psnr for one in (weights, learned)
    )
    assert after > before + 0.05


def test_weights_go_part_of_the_way(adapted, thick, weights):
    whole = adapt([thick], weights, replace(QUICK, share=1.0)).denoiser.state_dict()
    half = adapted[0].denoiser.state_dict()  # the default of `share`
    begun = weights.denoiser.state_dict()
    for name, value in begun.items():
        torch.testing.assert_close(half[name] - value, 0.5 * (whole[name] - value), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_the_share_has_limits(share):
    with pytest.raises(ConfigError, match="expected more than 0, at most 1"):
        AdaptOptions(share=share)


@pytest.mark.parametrize("processes", [-1, 3])
def test_processes_share_the_patches_of_a_step(processes):
    with pytest.raises(ConfigError, match=f"processes is {processes}, which cannot share 2 patches"):
        AdaptOptions(processes=processes)


@pytest.mark.parametrize("steps", [0, -1, 100_001])
def test_steps_have_limits(steps):
    with pytest.raises(ConfigError, match=f"steps is {steps}, expected 1 to 100000"):
        AdaptOptions(steps=steps)


def test_a_bundle_is_not_written_over_other_things(bundle, tmp_path):
    check_free(tmp_path / "new", overwrite=False)
    check_free(bundle, overwrite=True)
    with pytest.raises(CannotCreate, match="a model bundle is there already"):
        check_free(bundle, overwrite=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    (tmp_path / "file").touch()
    for name in ("thesis", "file"):
        with pytest.raises(CannotCreate):
            check_free(tmp_path / name, overwrite=True)
    with pytest.raises(CannotCreate, match="does not exist"):
        check_free(tmp_path / "nowhere" / "bundle", overwrite=False)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_an_empty_folder_is_filled(empty, weights):
    """Made beforehand by a user or a script, it holds nothing that could be lost."""
    check_free(empty, overwrite=False)
    save_bundle(empty, weights.config, weights.denoiser.state_dict(), {"name": "filled"})
    assert load_bundle(empty).provenance["name"] == "filled"
    assert [path.name for path in empty.parent.iterdir()] == ["empty"]


def test_the_current_folder_cannot_be_replaced(empty, monkeypatch):
    monkeypatch.chdir(empty)
    with pytest.raises(CannotCreate, match="name a new one inside it"):
        check_free(Path("."), overwrite=False)


def test_threads_have_a_limit_and_are_passed_on(thick, weights, monkeypatch):
    seen = []

    def training(config, options):
        seen.append(options.threads)
        raise ConfigError("enough")

    monkeypatch.setattr("moediff.training.adapt.train", training)
    with pytest.raises(ConfigError, match="enough"):
        adapt([thick], weights, replace(QUICK, threads=3))
    assert seen == [3]
    with pytest.raises(ConfigError, match="threads is 0"):
        AdaptOptions(threads=0)
