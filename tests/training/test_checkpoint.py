"""A run put back from its checkpoint takes exactly the step that the uninterrupted one takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from moediff.core.config import rng_for
from moediff.io.atomic import name_hash
from moediff.io.tensors import save_tensors
from moediff.model.config import BackboneConfig, DenoiserConfig, EncoderConfig, ExpertsConfig
from moediff.model.denoiser import Denoiser
from moediff.training.checkpoint import STATE, State, has_checkpoint, load_checkpoint, save_checkpoint, saved_place
from moediff.training.muon import Muon, is_matrix
from moediff.training.provenance import Restart, Session

TINY = DenoiserConfig(
    embedding_width=8,
    backbone=BackboneConfig(width=8, bottleneck_width=8, blocks_bottleneck=1),
    encoder=EncoderConfig(width=16, attention_heads=2),
    experts=ExpertsConfig(width=8),
)


def fresh(seed: int) -> State:
    """Networks of random weights and an optimiser that has not stepped."""
    torch.manual_seed(seed)
    denoiser, average = Denoiser(TINY), Denoiser(TINY)
    return State(denoiser, average, Muon(denoiser.parameters(), lr=1e-2, weight_decay=0.1))


def train(state: State, steps: range) -> None:
    """Steps whose gradients depend on the number of the step alone."""
    for step in steps:
        for name, parameter in state.denoiser.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=rng_for(step, name))
        state.optimiser.step()
        state.step, state.seconds = step + 1, state.seconds + 0.1


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[State, Path]:
    """A run of three steps and the folder of its checkpoint."""
    state = fresh(0)
    train(state, range(3))
    save_checkpoint(tmp_path / "deep" / "checkpoint", state)
    return state, tmp_path / "deep" / "checkpoint"


def test_what_a_killed_save_left_is_no_checkpoint_and_goes_with_the_next(saved, tmp_path):
    state, folder = saved
    assert has_checkpoint(folder) and not has_checkpoint(tmp_path / "none")
    half = tmp_path / "half" / f".moediff-{name_hash(Path(STATE))}-12.tmp"
    half.parent.mkdir()
    half.write_bytes(b"half")
    assert not has_checkpoint(half.parent)
    save_checkpoint(half.parent, state)
    assert has_checkpoint(half.parent) and not half.exists()


def test_weights_average_and_progress_come_back(saved):
    state, folder = saved
    other = fresh(1)
    assert not equal(weights(other.denoiser), weights(state.denoiser))
    load_checkpoint(folder, other)
    assert equal(weights(other.denoiser), weights(state.denoiser))
    assert equal(weights(other.average), weights(state.average))
    assert not equal(weights(other.average), weights(other.denoiser))
    assert (other.step, other.seconds) == (3, state.seconds)


def test_the_next_steps_are_bitwise_the_same(saved):
    state, folder = saved
    other = fresh(1)
    load_checkpoint(folder, other)
    train(state, range(3, 5))
    train(other, range(3, 5))
    assert equal(weights(other.denoiser), weights(state.denoiser))


def test_without_the_moments_the_next_step_would_differ(saved):
    """So the test above does see the optimiser's part of the checkpoint, for both of its rules."""
    _, folder = saved
    for wanted in (True, False):
        other = fresh(1)
        load_checkpoint(folder, other)
        for parameter in other.denoiser.parameters():
            if is_matrix(parameter) is wanted:
                other.optimiser.state.pop(parameter)
        train(other, range(3, 4))
        kept = fresh(2)
        load_checkpoint(folder, kept)
        train(kept, range(3, 4))
        assert not equal(weights(other.denoiser), weights(kept.denoiser))


def test_sessions_and_restarts_come_back_and_older_checkpoints_have_none(saved):
    state, folder = saved
    state.sessions = (Session(step=0, commit="c", torch="2.6", hardware="1 x x86_64", precision="float32"),)
    state.restarts = (Restart(step=1, seconds=0.5, from_sha256="ab"),)
    save_checkpoint(folder, state)
    other = fresh(1)
    load_checkpoint(folder, other)
    assert (other.sessions, other.restarts) == (state.sessions, state.restarts)
    assert saved_place(folder) == (3, state.restarts)
    with safe_open(folder / STATE, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_tensors(tensors, folder / STATE, {"step": "3", "seconds": "0.3", "best": "-inf"})
    load_checkpoint(folder, other)
    assert (other.step, other.sessions, other.restarts) == (3, (), ())


def test_a_run_that_has_not_stepped_can_be_saved(tmp_path):
    state, other = fresh(0), fresh(1)
    save_checkpoint(tmp_path, state)
    load_checkpoint(tmp_path, other)
    assert equal(weights(other.denoiser), weights(state.denoiser))
    assert (other.step, other.seconds) == (0, 0.0) and not any(other.optimiser.state.values())


def test_saving_again_replaces_the_file_and_leaves_nothing_else(saved):
    state, folder = saved
    train(state, range(3, 4))
    save_checkpoint(folder, state)
    assert [file.name for file in folder.iterdir()] == ["state.safetensors"]
    other = fresh(1)
    load_checkpoint(folder, other)
    assert other.step == 4 and equal(weights(other.denoiser), weights(state.denoiser))
