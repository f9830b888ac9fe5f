"""A small denoiser whose weights matter everywhere."""

import pytest

from moediff.model.denoiser import Denoiser


@pytest.fixture
def small(make_denoiser) -> Denoiser:
    """Untrained, with every zero-initialised layer made to matter."""
    return make_denoiser(seed=0, awake=True)
