"""Bundles: exact round trip, and every kind of damage refused."""

import json

import pytest
import torch
import torch.nn.functional as F

from moediff.acquisition.point_spread import FREQUENCIES
from moediff.core.errors import BundleError
from moediff.model.bundle import MANIFEST, WEIGHTS, BundleConfig, load_bundle, save_bundle, sha256_of
from moediff.model.conditioning import NetworkInput, PerAxis
from moediff.model.routing import make_condition


@pytest.fixture
def folder(tmp_path, small):
    path = tmp_path / "bundle"
    save_bundle(path, BundleConfig(denoiser=small.config), small.state_dict(), {"name": "test"})
    return path


def change(folder, **values):
    manifest = json.loads((folder / MANIFEST).read_text()) | values
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_round_trip_is_exact(folder, small):
    bundle = load_bundle(folder)
    assert bundle.config.denoiser == small.config
    assert bundle.provenance["name"] == "test"
    for name, tensor in small.state_dict().items():
        assert torch.equal(bundle.denoiser.state_dict()[name], tensor)


def test_saving_again_replaces_the_whole(folder, small):
    save_bundle(folder, BundleConfig(denoiser=small.config), small.state_dict(), {"name": "second"})
    assert load_bundle(folder).provenance["name"] == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


@pytest.mark.fault(49)
def test_a_flipped_byte_is_refused(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(BundleError, match="checksum"):
        load_bundle(folder)


@pytest.mark.fault(49)
def test_a_pickle_is_refused(folder, small):
    torch.save(small.state_dict(), folder / WEIGHTS)
    change(folder, sha256=sha256_of(folder / WEIGHTS))
    with pytest.raises(BundleError, match="pickled weights are never loaded"):
        load_bundle(folder)


@pytest.mark.fault(49)
def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / MANIFEST).read_text())["config"]
    config["denoiser"]["backbone"]["width"] = 16
    change(folder, config=config)
    with pytest.raises(BundleError, match="shape"):
        load_bundle(folder)


@pytest.mark.fault(49)
def test_an_unknown_setting_is_refused(folder):
    config = json.loads((folder / MANIFEST).read_text())["config"]
    config["denoiser"]["magic"] = 1
    change(folder, config=config)
    with pytest.raises(BundleError, match="magic"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"schema": 1}'])
@pytest.mark.fault(49)
def test_a_broken_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(BundleError):
        load_bundle(folder)


@pytest.mark.fault(49)
def test_missing_parts_are_refused(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    with pytest.raises(BundleError, match="missing"):
        load_bundle(folder)
    with pytest.raises(BundleError, match="no model bundle"):
        load_bundle(tmp_path / "nowhere")


def test_whoever_may_read_the_manifest_may_read_the_weights(tmp_path, small):
    save_bundle(tmp_path / "shared", BundleConfig(denoiser=small.config), small.state_dict(), {})
    modes = {path.stat().st_mode for path in (tmp_path / "shared").iterdir()}
    assert len(modes) == 1


@pytest.mark.fault(50)
def test_nan_weights_are_never_saved(tmp_path, small):
    weights = dict(small.state_dict())
    weights["backbone.input_projection.bias"] = torch.full_like(weights["backbone.input_projection.bias"], torch.nan)
    with pytest.raises(BundleError, match="NaN"):
        save_bundle(tmp_path / "bad", BundleConfig(denoiser=small.config), weights, {})
    assert not list(tmp_path.iterdir())


def test_the_embedded_bundle_loads_and_is_small():
    bundle = load_bundle()
    assert bundle.provenance["name"] == "default"
    assert sum(p.numel() for p in bundle.denoiser.parameters()) * 4 < 12 * 2**20


@torch.no_grad()
def test_every_part_of_the_embedded_network_matters():
    """A part that training has silenced costs time and brings nothing: without it the result must change."""
    denoiser = load_bundle().denoiser
    torch.manual_seed(0)
    scan = F.avg_pool3d(torch.rand(1, 1, 38, 38, 38), 7, stride=1)[0]
    positions = PerAxis(*(torch.arange(32)[None] / ratio for ratio in (1.0, 1.0, 4.0)))
    scans = NetworkInput(
        scan,
        torch.stack([scan.roll(1, 3), scan.roll(-1, 3)], 1),
        positions,
        torch.tensor([0.02]),
        torch.rand(1, 3, len(FREQUENCIES)) if denoiser.config.reads_sampling else None,
    )

    def result():
        condition = make_condition(denoiser, scans, sparse=False)
        return denoiser(torch.zeros_like(scan), torch.tensor([1.0]), condition)

    whole = result()
    size = float(whole.square().mean().sqrt())
    backbone = denoiser.backbone
    parts = [block.second for block in (*backbone.before, *backbone.bottleneck, *backbone.after)]
    parts += [backbone.up, backbone.token_projection, *(expert.output_projection for expert in denoiser.experts.each)]
    parts += [] if denoiser.sampling is None else [denoiser.sampling]
    for part in parts:
        weight = part.weight.clone()
        part.weight.zero_()
        changed = float((result() - whole).square().mean().sqrt())
        part.weight.copy_(weight)
        assert changed > 1e-3 * size, part
