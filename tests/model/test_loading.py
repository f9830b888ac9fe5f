"""Loading a bundle: quick, and nothing of torch's compiler is imported for it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import torch

from moediff.model.bundle import WEIGHTS, BundleConfig, load_bundle, save_bundle
from moediff.model.denoiser import Denoiser

LOAD = """
import sys
from moediff.model.bundle import load_bundle
load_bundle()
print([name for name in ("sympy", "torch.fx.experimental.symbolic_shapes", "torch._dynamo") if name in sys.modules])
"""


def test_loading_imports_no_symbolic_machinery():
    """It would take a second or two of every process."""
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_draws_no_random_numbers(bundle):
    before = torch.random.get_rng_state()
    load_bundle(bundle)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loaded_weights_do_not_lie_in_the_file(tmp_path, small):
    folder = tmp_path / "bundle"
    save_bundle(folder, BundleConfig(denoiser=small.config), small.state_dict(), {})
    loaded = load_bundle(folder)
    (folder / WEIGHTS).write_bytes(b"")
    assert all(torch.equal(a, b) for a, b in zip(loaded.denoiser.parameters(), small.parameters(), strict=True))


def test_loaded_weights_can_be_trained(bundle):
    denoiser = load_bundle(bundle).denoiser
    assert not denoiser.training and all(p.requires_grad and p.is_leaf for p in denoiser.parameters())


def test_initial_weights_of_a_seed_stay_the_same_over_versions(small):
    """Written down once: a change in the order of what is drawn would make every training another one."""
    torch.manual_seed(0)
    sums = Counter[str]()
    for name, parameter in Denoiser(small.config).named_parameters():
        sums[name.split(".")[0]] += float(parameter.detach().double().sum())  # type: ignore[assignment]
    expected = {
        "encoder": 126.081,
        "gate": -23.723,
        "embedding": 6.043,
        "backbone": -21.956,
        "experts": -17.465,
        "uncertainty_head": -5.101,
    }
    assert dict(sums) == pytest.approx(expected, abs=2e-3)
