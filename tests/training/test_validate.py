"""Validation through a saved bundle: one gain per scan and recipe, and their means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moediff.acquisition.prepare import PrepareSettings
from moediff.core.errors import ConfigError, DataError, InputMissing, MoeDiffError
from moediff.core.volume import Volume
from moediff.io.scans import load, save
from moediff.model.bundle import BundleConfig, load_bundle, save_bundle
from moediff.model.config import BackboneConfig, DenoiserConfig, EncoderConfig, ExpertsConfig
from moediff.model.denoiser import Denoiser
from moediff.training.validate import Pair, Validation, validate

SILENT = BundleConfig(  # an untrained network adds nothing, so the result is the cubic interpolation it starts from
    prepare=PrepareSettings(kernel="cubic"),
    denoiser=DenoiserConfig(
        embedding_width=8,
        backbone=BackboneConfig(width=8, bottleneck_width=8, blocks_bottleneck=1),
        encoder=EncoderConfig(width=16, attention_heads=2),
        experts=ExpertsConfig(width=8),
    ),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_bundle(tmp_path / "bundle", SILENT, Denoiser(SILENT.denoiser).state_dict(), {})
    return tmp_path / "bundle"


@pytest.fixture
def data(tmp_path: Path, make_phantom) -> Path:
    for seed in (0, 1):
        save(make_phantom((40, 48, 36), (4.0, 4.0, 4.0), seed=seed), tmp_path / f"{seed}.nii.gz")
    return tmp_path


@pytest.mark.parametrize(
    ("wrong", "words"), [({"recipes": ("thik5",)}, r"\['thik5'\] are unknown"), ({"side": 0}, "side=0 must be")]
)
def test_what_cannot_be_judged_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Validation(**wrong)


def test_missing_files_are_named_before_anything_is_trained(data):
    Validation(scans=("0.nii.gz",), pairs=(Pair(path="0.nii.gz", input="0.nii.gz"),)).check(data)
    for missing in (
        Validation(scans=("2.nii.gz",)),
        Validation(label_maps=("2.nii.gz",)),
        Validation(pairs=(Pair(path="0.nii.gz", input="2.nii.gz"),)),
    ):
        with pytest.raises(InputMissing, match=r"2\.nii\.gz: no such scan"):
            missing.check(data)


def test_without_scans_nothing_is_loaded(tmp_path):
    assert validate(tmp_path / "no bundle here", Validation(), tmp_path) == {}


def test_a_gain_for_every_case_and_their_mean(bundle, data):
    gains = validate(bundle, Validation(scans=("0.nii.gz", "1.nii.gz"), recipes=("thick3", "iso2")), data)
    assert set(gains) == {
        f"{case}/{recipe}" for case in ("0.nii.gz", "1.nii.gz", "mean") for recipe in ("thick3", "iso2")
    }
    for recipe in ("thick3", "iso2"):
        one, two, mean = (gains[f"{case}/{recipe}"] for case in ("0.nii.gz", "1.nii.gz", "mean"))
        assert one != two and mean == pytest.approx((one + two) / 2)
        assert -0.1 < one < 0.6 and -0.1 < two < 0.6  # no network: only the correction towards the measurement is left


def test_a_network_that_adds_nonsense_loses(bundle, data):
    denoiser = load_bundle(bundle).denoiser
    torch.manual_seed(1)
    weights = {name: value + 0.1 * torch.randn(value.shape) for name, value in denoiser.state_dict().items()}
    save_bundle(bundle, SILENT, weights, {})
    gains = validate(bundle, Validation(scans=("0.nii.gz",), recipes=("iso2",)), data)
    assert gains["mean/iso2"] == gains["0.nii.gz/iso2"] < -0.5


def test_the_same_validation_twice_is_the_same(bundle, data):
    validation = Validation(scans=("0.nii.gz",), recipes=("thick3",))
    assert validate(bundle, validation, data) == validate(bundle, validation, data)


def test_label_maps_become_scans_and_only_the_middle_is_judged(bundle, data, brain_labels):
    save(Volume(brain_labels.float(), torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))), data / "map.nii")
    validation = Validation(scans=("0.nii.gz",), label_maps=("map.nii",), recipes=("iso2",), side=32)
    truths = dict(validation.truths(data))
    assert {path: truth.shape for path, truth in truths.items()} == {"0.nii.gz": (32,) * 3, "map.nii": (32,) * 3}
    assert len(truths["map.nii"].data_XYZ.unique()) > 1000  # a scan, no longer labels
    assert set(validate(bundle, validation, data)) == {"0.nii.gz/iso2", "map.nii/iso2", "mean/iso2"}


def test_a_missing_scan_is_named(bundle, data):
    with pytest.raises(InputMissing, match=r"none\.nii\.gz"):
        validate(bundle, Validation(scans=("none.nii.gz",)), data)


def test_what_cannot_be_read_is_refused_before_anything_is_trained(data):
    (data / "junk.nii.gz").write_text("no scan")
    with pytest.raises(MoeDiffError):
        Validation(scans=("junk.nii.gz",)).check(data)
    with pytest.raises(DataError, match=r"0\.nii\.gz: .*label map"):
        Validation(label_maps=("0.nii.gz",)).check(data)


def test_a_pair_that_shows_two_heads_is_refused_before_anything_is_trained(data):
    flipped = load(data / "0.nii.gz").volume
    save(flipped.with_data(flipped.data_XYZ.flip(1)), data / "flipped.nii.gz")
    with pytest.raises(DataError, match=r"flipped\.nii\.gz: "):
        Validation(pairs=(Pair(path="0.nii.gz", input="flipped.nii.gz"),)).check(data)
