"""A training step on a GPU that is only pretended: nothing meets across devices, and what it is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.noise import ESTIMATORS
from moediff.acquisition.prepare import PrepareSettings
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import TryAgain
from moediff.io.scans import load, save
from moediff.model.bundle import BundleConfig, load_bundle, save_bundle
from moediff.training import prefetch as ahead
from moediff.training.adapt import AdaptOptions, adapt
from moediff.training.cache import Measured, ScanSource, TrainingScan
from moediff.training.config import TrainConfig
from moediff.training.losses import LossConfig
from moediff.training.patches import PatchSource
from moediff.training.preemption import Preemption
from moediff.training.trainer import RunOptions, Trainer, train
from moediff.training.validate import Validation
from pretend_gpu import OnGpu, pretended

GPU = torch.device("cuda:0")
SAME = ("region", "balance", "agreement", "aggregate")  # other parts depend on noise, which a GPU draws itself
EVERYTHING = LossConfig(shift_consistency=0.5, lesion=5.0, gradient=1.0, normalise_expert_loss=True)


class AtOnce:
    """Draws ahead in the thread that asks: what is pretended is pretended in one thread."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def submit(self, work: Callable, *args: object) -> Future:
        done: Future = Future()
        done.set_result(work(*args))
        return done

    def shutdown(self, **_: object) -> None:
        """Nothing waits."""


@pytest.fixture
def config(tmp_path: Path, make_denoiser) -> TrainConfig:
    return TrainConfig(
        out=str(tmp_path / "run"),
        model=BundleConfig(denoiser=make_denoiser().config),
        steps=40,
        warmup_steps=4,
        learning_rate=0.01,
        batch=2,
        patch=32,
        precision="float32",
        loss=EVERYTHING,
    )


def three_steps(config: TrainConfig, device: str) -> tuple[Trainer, list[dict[str, float]]]:
    """Losses of a new trainer whose heads lie on the device."""
    data = torch.rand(60, 60, 60, generator=rng_for(0))
    region = (4 * torch.rand(60, 60, 60, generator=rng_for(1))).to(torch.uint8)
    head = TrainingScan(data.half(), torch.tensor([[26, 26, 26]]), 1.0, region, 1.0).to(torch.device(device))
    trainer = Trainer(config)
    source = PatchSource(scans=[head], patch=32, seed=0, settings=config.model.prepare)
    return trainer, [trainer.step(source.batch(step, 2)) for step in range(3)]


def test_a_step_on_a_gpu_is_that_of_a_cpu(config):
    _, plain = three_steps(replace(config, device="cpu"), "cpu")
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
    assert files == {"model/execution.py": 2 * 3, "training/trainer.py": 3}


@pytest.mark.parametrize("paired", [True, False], ids=["pair", "simulated"])
@pytest.mark.parametrize("noise", ESTIMATORS)
def test_patches_are_cut_on_the_gpu(noise, paired):
    data = torch.rand(48, 48, 48, generator=rng_for(0)).half()
    low, affine = torch.rand(48, 48, 12, generator=rng_for(1)).half(), torch.eye(4, dtype=torch.float64)
    affine[2, 2], affine[2, 3] = 4, 1.5
    measured = Measured(low, affine, torch.ones(48, 48, 48, dtype=torch.bool))
    head = TrainingScan(data, torch.tensor([[24, 24, 24]]), 1.0, None, 1.0, measured=measured if paired else None)
    made = []
    for device in ("cpu", "cuda"):
        with pretended() as gpu:
            there = head.to(torch.device(device))
            settings = PrepareSettings(noise_estimator=noise)
            batch = PatchSource(scans=[there], patch=32, seed=0, settings=settings).batch(0, 6)  # several recipes
            assert batch.interpolated_BXYZ.device.type == device and not gpu.waits
            made.append(batch.to(torch.device("cpu")))
    for one, other in zip(*(batch.tensors() for batch in made), strict=True):
        assert_close(one, other)


def test_a_whole_run_is_saved_validated_and_resumed(config, tmp_path, make_phantom, monkeypatch):
    monkeypatch.setattr(ahead, "ThreadPoolExecutor", AtOnce)
    save(make_phantom((44, 44, 44), (3.0, 3.0, 3.0)), tmp_path / "head_T1w.nii.gz")
    judged = Validation(scans=("head_T1w.nii.gz",), recipes=("iso2",), side=32)
    config = replace(
        config, data=str(tmp_path), scans=(ScanSource(path="head_T1w.nii.gz"),), steps=2, batch=1, save_every=2
    )
    weights = []
    for out, validation in (("whole", Validation()), ("parts", judged)):
        with pretended():
            here = replace(config, out=str(tmp_path / out), validation=validation)
            if out == "parts":
                with monkeypatch.context() as stopped, pytest.raises(TryAgain):
                    stopped.setattr(Preemption, "due", lambda self: True)
                    train(here, RunOptions(progress=False))
            bundle = load_bundle(train(here, RunOptions(progress=False, resume=out == "parts")))
        assert bundle.provenance["hardware"].startswith("1 x none,")
        weights.append(torch.cat([weight.flatten() for weight in bundle.denoiser.state_dict().values()]))
    assert bool(torch.isfinite(weights[0]).all()) and torch.equal(*weights)
    assert "mean/iso2" in (tmp_path / "parts" / "validation.csv").read_text()


def test_weights_adapt_on_a_gpu(tmp_path, make_phantom, make_denoiser, monkeypatch):
    monkeypatch.setattr(ahead, "ThreadPoolExecutor", AtOnce)
    small = make_denoiser(awake=True)
    save_bundle(tmp_path / "start", BundleConfig(denoiser=small.config), small.state_dict(), {})
    low = degrade(make_phantom((44, 44, 44), (3.0, 3.0, 3.0)), thick_slices(4, 0.01, "thick4"), rng_for(0))
    save(low, tmp_path / "low_T1w.nii.gz")
    with pretended():
        options = AdaptOptions(steps=1, patch=32, batch=1)
        made = adapt([load(tmp_path / "low_T1w.nii.gz")], load_bundle(tmp_path / "start", GPU), options)
        assert all(isinstance(weight, OnGpu) for weight in made.denoiser.parameters())
        learned = [weight.cpu() for weight in made.denoiser.backbone.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(learned, small.backbone.parameters(), strict=True))
    before, after = made.provenance["adapted"]["error_over_interpolation"]
    assert 0 < after < 2 * before
