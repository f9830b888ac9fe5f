"""A training step on a GPU that is only pretended: nothing meets across devices, and what it is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.testing import assert_close

from moediff.config import rng_for
from moediff.model.bundle import BundleConfig
from moediff.training.dataset import PatchSource
from moediff.training.kept import Head, Measured
from moediff.training.losses import LossConfig
from moediff.training.settings import TrainConfig
from moediff.training.trainer import Trainer
from moediff.volume.prepare import PrepareSettings
from pretend_gpu import OnGpu, pretended

SAME = ("region", "balance", "agreement", "aggregate")  # other parts depend on noise, which a GPU draws itself
EVERYTHING = LossConfig(steady=0.5, gradient=1.0, expert_evenly=True)


@pytest.fixture(autouse=True)
def forget_the_device() -> Iterator[None]:
    """Accelerate remembers the first device that it was asked for."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def config(tmp_path: Path, make_denoiser) -> TrainConfig:
    return TrainConfig(
        out=str(tmp_path / "run"), model=BundleConfig(denoiser=make_denoiser().config), steps=40, warmup=4, rate=0.01,
        batch=2, patch=32, precision="float32", loss=EVERYTHING,
    )  # fmt: skip


def three_steps(config: TrainConfig, device: str) -> tuple[Trainer, list[dict[str, float]]]:
    """Losses of a new trainer whose heads lie on the device."""
    data = torch.rand(60, 60, 60, generator=rng_for(0))
    region = (4 * torch.rand(60, 60, 60, generator=rng_for(1))).to(torch.uint8)
    head = Head(data.half(), torch.tensor([[26, 26, 26]]), 1.0, region, 1.0).to(torch.device(device))
    trainer = Trainer(config)
    source = PatchSource(heads=[head], patch=32, seed=0, settings=config.model.prepare)
    return trainer, [trainer.step(source.batch(step, 2)) for step in range(3)]


def test_a_step_on_a_gpu_is_that_of_a_cpu(config):
    _, plain = three_steps(replace(config, device="cpu"), "cpu")
    AcceleratorState._reset_state(True)
    with pretended() as gpu:
        trainer, there = three_steps(config, "cuda")
        networks = trainer.state.denoiser, trainer.state.average
        assert all(isinstance(weight, OnGpu) for network in networks for weight in network.parameters())
    for one, other in zip(plain, there, strict=True):
        assert [other[name] for name in SAME] == pytest.approx([one[name] for name in SAME], rel=2e-3)
        assert set(one) == set(other)
    assert plain[2]["region"] < plain[0]["region"] - 0.01  # it learns, on either
    files = Counter[str]()
    for place, count in gpu.waits.items():
        files[place.split()[1].split(":")[0]] += count
    # Rows of the experts and how many; what the log says. Patches are cut and degraded without waiting.
    assert files == {"model/experts.py": 2 * 3, "training/trainer.py": 3}


def test_patches_of_a_pair_are_cut_on_the_gpu():
    data = torch.rand(48, 48, 48, generator=rng_for(0)).half()
    low, affine = torch.rand(48, 48, 12, generator=rng_for(1)).half(), torch.eye(4, dtype=torch.float64)
    affine[2, 2], affine[2, 3] = 4, 1.5
    measured = Measured(low, affine, torch.ones(48, 48, 48, dtype=torch.bool))
    head = Head(data, torch.tensor([[24, 24, 24]]), 1.0, None, 1.0, measured=measured)
    made = []
    for device in ("cpu", "cuda"):
        with pretended() as gpu:
            there = head.to(torch.device(device))
            batch = PatchSource(heads=[there], patch=32, seed=0, settings=PrepareSettings()).batch(0, 2)
            assert batch.base_BXYZ.device.type == device and not gpu.waits
            made.append(batch.to(torch.device("cpu")))
    for one, other in zip(*(batch.tensors() for batch in made), strict=True):
        assert_close(one, other)
