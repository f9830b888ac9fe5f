"""The recipe for one fast GPU, as far as a CPU can check it: its numbers, its phases, and the whole path in small."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from moediff.acquisition.prepare import PrepareSettings
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.diffusion.schedule import DiffusionConfig
from moediff.io.scans import save
from moediff.model.bundle import load_bundle
from moediff.model.denoiser import Denoiser
from moediff.training.cache import ScanSource, TrainingScan, cached
from moediff.training.config import Phase, TrainConfig
from moediff.training.losses import LossConfig
from moediff.training.muon import Muon, orthogonalise
from moediff.training.patches import Batch, PatchSource
from moediff.training.step import Draws, batch_loss
from moediff.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
TINY = """
[model.denoiser]
embedding_width = 8
uncertainty_width = 8
[model.denoiser.backbone]
width = 8
bottleneck_width = 8
blocks_bottleneck = 1
[model.denoiser.encoder]
width = 16
attention_heads = 2
[model.denoiser.gate]
experts = {experts}
top_k = 1
[model.denoiser.experts]
width = 8
branches = {branches}
"""


@pytest.fixture(scope="module")
def batch() -> Batch:
    data = torch.rand(52, 52, 52, generator=rng_for(0))
    head = TrainingScan(data.half(), torch.tensor([[26, 26, 26]]), 1.0, None, 1.0)
    return PatchSource(scans=[head], patch=32, seed=0, settings=PrepareSettings()).batch(0, 2)


def loss_and_gradient(denoiser: Denoiser, batch: Batch) -> tuple[float, Tensor]:
    loss, _ = batch_loss(denoiser, batch, Draws(DiffusionConfig(), rng_for(1)), LossConfig())
    denoiser.zero_grad()
    loss.backward()
    own = [p.grad.flatten() for p in denoiser.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(own)


def test_bfloat16_gives_the_loss_and_the_direction_of_float32(batch):
    denoiser = load_bundle(None).denoiser.requires_grad_(True)
    loss, gradient = loss_and_gradient(denoiser, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough, other = loss_and_gradient(denoiser, batch)
    assert rough == pytest.approx(loss, rel=0.01) and rough != loss
    assert float(nn.functional.cosine_similarity(gradient, other, 0)) > 0.99


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's tracing warns itself of tensors that are no leaves
def test_compiled_blocks_give_the_same_loss_and_gradient(batch):
    """Graphs are captured whole, without a compiler's own kernels: those are torch's to test."""
    results = []
    for compiled in (False, True):
        denoiser = load_bundle(None).denoiser.requires_grad_(True)
        if compiled:
            denoiser.compile_blocks("aot_eager")
        names = list(denoiser.state_dict())
        results.append((names, *loss_and_gradient(denoiser, batch)))
    assert results[0][0] == results[1][0]  # checkpoints and bundles do not notice
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-5)
    assert_close(results[1][2], results[0][2], rtol=1e-3, atol=1e-4 * float(results[0][2].abs().max()))


def test_matrices_of_one_shape_are_updated_as_each_alone():
    torch.manual_seed(0)
    stack = torch.randn(3, 9, 16)
    assert_close(orthogonalise(stack), torch.stack([orthogonalise(matrix) for matrix in stack]))
    layers = [nn.Linear(16, 9), nn.Linear(16, 9), nn.Linear(9, 16)]
    alone, together = ([nn.Parameter(p.detach().clone()) for layer in layers for p in layer.parameters()] for _ in "ab")
    every = Muon(together, weight_decay=0.1)
    each = [Muon([parameter], weight_decay=0.1) for parameter in alone]
    for _ in range(3):
        for one, other in zip(alone, together, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        every.step()
        for optimiser in each:
            optimiser.step()
    for one, other in zip(alone, together, strict=True):
        assert_close(one, other)


def test_phases_follow_each_other():
    config = TrainConfig(out="", phases=(Phase(until=0.5, batch=8, patch=32), Phase(until=1, batch=2, patch=64)))
    assert [config.phase_at(share).patch for share in (0, 0.49, 0.5, 0.99)] == [32, 32, 64, 64]
    plain = TrainConfig(out="", batch=3, patch=48)
    assert plain.phase_at(0.7) == Phase(until=1, batch=3, patch=48)


@pytest.mark.parametrize("ends", [(0.5,), (0.7, 0.5, 1), (0.5, 0.5, 1)])
def test_phases_must_rise_to_the_end(ends):
    with pytest.raises(ConfigError, match="expected rising shares of the run, the last of them 1"):
        TrainConfig(out="", phases=tuple(Phase(until=end, batch=1, patch=32) for end in ends))


def test_a_run_goes_through_its_phases(tmp_path, make_phantom, monkeypatch):
    save(make_phantom((72, 72, 72), (2.5, 2.5, 2.5)), tmp_path / "head_T1w.nii.gz")
    phases = (Phase(until=0.5, batch=2, patch=32), Phase(until=1, batch=1, patch=48))
    scans = (ScanSource(path="head_T1w.nii.gz"),)
    trainer = Trainer(
        TrainConfig(
            out=str(tmp_path / "run"),
            data=str(tmp_path),
            scans=scans,
            steps=4,
            phases=phases,
            device="cpu",
            cache=str(tmp_path / "heads"),
            save_every=100,
        )
    )
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        trainer, "step", lambda batch: seen.append(tuple(batch.interpolated_BXYZ.shape)) or {"loss": 1.0}
    )
    trainer.run()
    assert seen == [(2, 32, 32, 32)] * 2 + [(1, 48, 48, 48)] * 2
    told = load_bundle(tmp_path / "run" / "bundle").provenance
    assert told["commit"] and "CPU cores, torch" in told["hardware"] and told["training"]["seed"] == 0
    assert str(tmp_path) not in json.dumps(dict(told))
    assert len(list((tmp_path / "heads").iterdir())) == 1


def test_cached_scans_are_those_that_were_prepared(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"first")
    source, made = ScanSource(path="a.nii.gz", weight=2.0), []
    region = torch.zeros(4, 5, 6, dtype=torch.uint8)

    def make(source: ScanSource, root: Path, seed: int) -> list[TrainingScan]:
        made.append(seed)
        data = torch.rand(4, 5, 6, generator=rng_for(seed)).half()
        return [TrainingScan(data, torch.tensor([[1, 2, 3]]), 0.1 + seed, known, 2.0) for known in (region, None)]

    def again(seed: int = 0) -> list[TrainingScan]:
        return cached(source, tmp_path, seed, tmp_path / "kept", make)

    first, second = again(), again()
    assert made == [0]
    for one, other, fresh in zip(first, second, make(source, tmp_path, 0), strict=True):
        for head in (one, other):
            assert torch.equal(head.data_XYZ, fresh.data_XYZ) and torch.equal(head.inside_N3, fresh.inside_N3)
            assert (head.reference, head.weight) == (fresh.reference, fresh.weight)
            assert (head.region_XYZ is None) == (fresh.region_XYZ is None)
    made.clear()
    again(1)  # another seed
    (tmp_path / "a.nii.gz").write_bytes(b"another file")
    again()
    source = replace(source, weight=1.0)
    again()
    assert made == [1, 0, 0]


def test_what_killed_saves_left_in_a_cache_goes_a_day_later(tmp_path):
    """A save that another run may still be doing stays."""
    (tmp_path / "a.nii.gz").write_bytes(b"a")
    old, young = (tmp_path / "kept" / f".moediff-{name}-12.tmp" for name in ("old", "young"))
    for left in (old, young):
        left.mkdir(parents=True)
        (left / "half").write_bytes(b"half")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    scan = TrainingScan(torch.rand(4, 5, 6).half(), torch.tensor([[1, 2, 3]]), 0.1, None, 2.0)
    cached(ScanSource(path="a.nii.gz"), tmp_path, 0, tmp_path / "kept", lambda *_: [scan])
    assert young.exists() and not old.exists() and len(list((tmp_path / "kept").iterdir())) == 2
