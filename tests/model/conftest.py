"""A small denoiser whose weights matter everywhere."""

import pytest
import torch

from moediff.model.denoiser import Denoiser, DenoiserConfig, TrunkConfig
from moediff.model.encoder import EncoderConfig
from moediff.model.experts import ExpertsConfig

SMALL = DenoiserConfig(
    vector=16,
    trunk=TrunkConfig(width=8, deep_width=8, blocks_deep=1),
    encoder=EncoderConfig(width=16, heads=2),
    experts=ExpertsConfig(width=16),
)


@pytest.fixture
def small() -> Denoiser:
    """Untrained, with every zero-initialised layer made to matter."""
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if float(parameter.abs().max()) == 0:
                parameter.normal_(std=0.1)
    return denoiser
