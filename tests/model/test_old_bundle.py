"""Bundles of schema 1: read by the present names, with the same results. `schema1/` was written by the last version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from moediff.core.errors import BundleError
from moediff.diffusion.schedule import DiffusionConfig
from moediff.model.bundle import (
    MANIFEST,
    PARAMETER_PARTS,
    WEIGHTS,
    OutOfDistributionStatistics,
    embedded_path,
    load_bundle,
    present_names,
    read_manifest,
    save_bundle,
    sha256_of,
)
from moediff.model.conditioning import NetworkInput, PerAxis
from moediff.model.config import BackboneConfig, DenoiserConfig, EncoderConfig, ExpertsConfig, GateConfig
from moediff.model.denoiser import Denoiser
from moediff.model.routing import make_condition

OLD = Path(__file__).parent / "schema1"
SHA256 = "8d8aeaadca62256707edbc8208edb71cfdab8934e6aedf592d86bdfb9c5e21bb"
MEAN, STD = [0.008978630396216526, 0.01979565073139611], [0.03352613003078483, 0.006339970003970952]  # of the results
VOXEL = [0.02857392095029354, 0.018956298008561134]  # at 3, 4, 5


def result_of(denoiser: Denoiser) -> torch.Tensor:
    """Posterior mean and its expected error on a cube of ramps, [2, 1, 32, 32, 32]."""
    ramp = torch.arange(32.0)
    scan = ((ramp[:, None, None] * 7 + ramp[:, None] * 5 + ramp * 3) % 16 / 16)[None]
    at = PerAxis(*(ramp[None] / ratio for ratio in (1.0, 1.0, 4.0)))
    scans = NetworkInput(scan, torch.stack([scan.roll(1, 3), scan.roll(-1, 3)], 1), at, torch.tensor([0.02]))
    with torch.no_grad():
        return denoiser.with_uncertainty(scan - 0.5, torch.tensor([0.2]), make_condition(denoiser, scans)).double()


def test_settings_get_their_present_names():
    config = load_bundle(OLD).config
    assert config.denoiser == DenoiserConfig(
        embedding_width=4,
        uncertainty_width=4,
        backbone=BackboneConfig(width=8, bottleneck_width=8, blocks_before=1, blocks_bottleneck=1, blocks_after=1),
        encoder=EncoderConfig(width=4, attention_heads=2),
        gate=GateConfig(threshold=0.0, patch_offsets=(0, 6), smoothing_passes=1),
        experts=ExpertsConfig(branches=("detail", "smooth", "plain", "window"), width=8, layers=1),
    )
    assert config.diffusion == DiffusionConfig(probability_sigma_max=0.8)
    assert (config.uncertainty_scale, config.anisotropy_exponent, config.data_consistency) == (1.5, 0.25, False)
    assert config.out_of_distribution == OutOfDistributionStatistics(mean=(0.5,) * 8, std=(2.0,) * 8)


def test_weights_give_the_results_of_the_version_before():
    bundle = load_bundle(OLD)
    assert bundle.sha256 == SHA256 == sha256_of(OLD / WEIGHTS)
    result = result_of(bundle.denoiser)
    assert result.mean((1, 2, 3, 4)).tolist() == pytest.approx(MEAN, rel=1e-5)
    assert result.std((1, 2, 3, 4)).tolist() == pytest.approx(STD, rel=1e-5)
    assert result[:, 0, 3, 4, 5].tolist() == pytest.approx(VOXEL, rel=1e-5)


def test_saved_again_it_is_of_the_present_schema_and_gives_the_same(tmp_path):
    old = load_bundle(OLD)
    save_bundle(tmp_path / "new", old.config, old.denoiser.state_dict(), old.provenance)
    manifest, new = read_manifest(tmp_path / "new"), load_bundle(tmp_path / "new")
    assert manifest["schema"] == 2 and "backbone" in manifest["config"]["denoiser"]
    assert new.config == old.config and torch.equal(result_of(new.denoiser), result_of(old.denoiser))


def test_an_unknown_setting_beside_old_ones_is_refused(tmp_path):
    folder = shutil.copytree(OLD, tmp_path / "bundle")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["config"]["denoiser"]["trunk"]["magic"] = 1
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"unknown setting 'denoiser\.backbone\.magic'"):
        load_bundle(folder)


def test_the_embedded_bundle_keeps_its_checksum():
    assert load_bundle().sha256 == read_manifest(embedded_path())["sha256"] == sha256_of(embedded_path() / WEIGHTS)


def test_present_names_of_parameters_stay_as_they_are():
    """No former part of a name is a present one, so that reading twice changes nothing."""
    names = {name: 0 for name in load_bundle(OLD).denoiser.state_dict()}
    assert present_names(names) == names
    assert not set(PARAMETER_PARTS) & {part for name in names for part in name.split(".")}
