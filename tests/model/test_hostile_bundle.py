"""Bundles made to harm: refused before anything is unpickled, read outside the folder, or allocated."""

from __future__ import annotations

import json
import math
import pickle
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moediff.cli.main import main
from moediff.core.errors import BundleError
from moediff.io.scans import save
from moediff.model import bundle as module
from moediff.model.bundle import MANIFEST, WEIGHTS, BundleConfig, load_bundle, save_bundle, sha256_of

pytestmark = pytest.mark.fault(49)


@pytest.fixture
def folder(tmp_path, small):
    path = tmp_path / "bundle"
    save_bundle(path, BundleConfig(denoiser=small.config), small.state_dict(), {"name": "test"})
    return path


def manifest_with(folder, **values):
    manifest = json.loads((folder / MANIFEST).read_text()) | values
    (folder / MANIFEST).write_text(json.dumps(manifest))


def weights_are(folder, raw: bytes) -> None:
    """Other weights under a checksum that fits them, as a forger would have it."""
    (folder / WEIGHTS).write_bytes(raw)
    manifest_with(folder, sha256=sha256_of(folder / WEIGHTS))


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return (type(self.mark).touch, (self.mark,))


@pytest.mark.parametrize("name", [WEIGHTS, "model.pt", "pytorch_model.bin", "extra.pkl"])
def test_a_pickle_is_never_opened(name, folder, tmp_path):
    mark = tmp_path / "exploded"
    raw = pickle.dumps(Bomb(mark))
    if name == WEIGHTS:
        weights_are(folder, raw)
        with pytest.raises(BundleError, match="pickled weights are never loaded"):
            load_bundle(folder)
    else:
        (folder / name).write_bytes(raw)
        load_bundle(folder)
    assert not mark.exists()


def headed(text: bytes, size: int | None = None) -> bytes:
    """A safetensors file that says its header is this long."""
    return struct.pack("<Q", len(text) if size is None else size) + text


HEADERS = {
    "a header of many gigabytes": headed(b"{}", 2**40),
    "a header of 2**63": headed(b"{}", 2**63),
    "a header that is no JSON": headed(b"\xff" * 8),
    "offsets past the end": headed(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,99999999999]}}'),
    "shapes of 2**60": headed(b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}') + bytes(4),
    "empty": b"",
}


@contextmanager
def at_most(room: int) -> Iterator[None]:
    """This process may reserve no more than `room` bytes of further memory, used or not."""
    reserved = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (reserved + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what is reserved is read from /proc")
@pytest.mark.parametrize("raw", HEADERS.values(), ids=HEADERS.keys())
def test_a_lying_header_reserves_no_memory(raw, folder):
    weights_are(folder, raw)
    with at_most(256 * 2**20), pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, folder):
    weights = load_file(folder / WEIGHTS)
    name = next(iter(weights))
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, folder / WEIGHTS)
    manifest_with(folder, sha256=sha256_of(folder / WEIGHTS))
    with pytest.raises(BundleError, match="NaN or infinite"):
        load_bundle(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_refused(change, folder):
    weights = load_file(folder / WEIGHTS)
    name = next(iter(weights))
    first = weights.pop(name)
    if change == "extra":
        weights |= {name: first, "intruder": torch.zeros(1)}
    if change == "shape":
        weights[name] = torch.zeros(3, 3, 3)
    save_file(weights, folder / WEIGHTS)
    manifest_with(folder, sha256=sha256_of(folder / WEIGHTS))
    with pytest.raises(BundleError, match=r"missing|unexpected|has shape"):
        load_bundle(folder)


MANIFESTS = {
    "unknown key": {"run": "rm"},
    "schema of tomorrow": {"schema": 3},
    "checksum of another": {"sha256": "0" * 64},
    "checksum that is a path": {"sha256": "../../model.safetensors"},
    "checksum that is no text": {"sha256": None},
    "config that is a list": {"config": []},
    "huge width": {"config": {"denoiser": {"backbone": {"width": 10**9}}}},
    "endless layers": {"config": {"denoiser": {"backbone": {"blocks_bottleneck": 10**9}}}},
    "unknown setting": {"config": {"denoiser": {"hook": "os.system"}}},
    "wrong type": {"config": {"diffusion": {"sigma_max": "large"}}},
    "provenance that is no table": {"provenance": None},
    "adapted that is no table": {"provenance": {"adapted": "yes"}},
    "no curvature": {"config": {"diffusion": {"rho": 0}}},
    "endless noise": {"config": {"diffusion": {"sigma_max": math.inf}}},
    "endless data": {"config": {"denoiser": {"sigma_data": math.inf}}},
    "no data": {"config": {"denoiser": {"sigma_data": 0}}},
    "uncertainty below 0": {"config": {"uncertainty_scale": -1}},
    "uncertainty that is no number": {"config": {"uncertainty_scale": math.nan}},
    "exponent that is no number": {"config": {"anisotropy_exponent": math.nan}},
}


@pytest.mark.parametrize("values", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_lies_is_refused(values, folder):
    manifest_with(folder, **values)
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert str(caught.value).startswith(f"{folder}: ") and caught.value.exit_code == 78


def test_a_manifest_that_is_too_deep_is_refused(folder):
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(BundleError, match=r"bundle\.json is not JSON"):
        load_bundle(folder)


def test_files_that_are_too_large_are_refused_before_they_are_read(folder, monkeypatch):
    """A manifest that is right but for its size; weights that a file system stores as a hole."""
    manifest_with(folder, provenance={"name": "x" * module.MAX_MANIFEST_BYTES})
    with pytest.raises(BundleError, match=r"bundle\.json has \d+ bytes; at most 4194304 are read"):
        load_bundle(folder)
    manifest_with(folder, provenance={"name": "test"})
    monkeypatch.setattr(module, "sha256_of", lambda path: pytest.fail("the weights were read"))
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(module.MAX_BYTES + 1)
    with pytest.raises(BundleError, match=rf"has {module.MAX_BYTES + 1} bytes; at most {module.MAX_BYTES} are read"):
        load_bundle(folder)


def test_the_command_says_it_in_one_line_and_writes_nothing(folder, tmp_path, make_phantom, capsys):
    save(make_phantom(), tmp_path / "a.nii.gz")
    weights_are(folder, pickle.dumps({"a": 1}))
    assert main(["enhance", str(tmp_path / "a.nii.gz"), "--voxel-size", "3", "--bundle", str(folder)]) == 78
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pickled" in said
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii.gz", "bundle"}
