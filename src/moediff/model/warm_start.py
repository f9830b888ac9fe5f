"""Starting a network from another one: the same weights, or experts branched from a uniform denoiser."""

from __future__ import annotations

from typing import cast

import torch

from moediff.core.errors import ConfigError
from moediff.model.denoiser import Denoiser
from moediff.model.experts import Expert


@torch.no_grad()
def begin_from(denoiser: Denoiser, trained: Denoiser) -> None:
    """Fill `denoiser` with trained weights.

    A network of the same shape is copied. A uniform one (one "plain" expert) becomes every expert: each starts as the
    uniform denoiser, its own view silent, and grows from there; the aggregate starts as the uniform result.

    Raises:
        ConfigError: the shapes differ in anything but the experts.
    """
    own, given = denoiser.config, trained.config
    same_body = (own.trunk, own.encoder, own.vector, own.error_width, own.sigma_data) == (
        given.trunk,
        given.encoder,
        given.vector,
        given.error_width,
        given.sigma_data,
    )
    if not same_body or (own.experts.width, own.experts.layers) != (given.experts.width, given.experts.layers):
        raise ConfigError("start: that bundle's network has another trunk, encoder or expert width; train it anew")
    if (own.gate.experts, own.experts.views) == (given.gate.experts, given.experts.views):
        denoiser.load_state_dict(trained.state_dict())
        return
    if given.experts.views != ("plain",):
        raise ConfigError(f"start: experts branch from one 'plain' expert, not from {list(given.experts.views)}")
    for name in ("encoder", "vector", "trunk", "error"):
        getattr(denoiser, name).load_state_dict(getattr(trained, name).state_dict())
    uniform, *_ = cast(list[Expert], list(trained.experts.each))
    for expert in cast(list[Expert], list(denoiser.experts.each)):
        for name in ("modulate", "layers", "head"):
            getattr(expert, name).load_state_dict(getattr(uniform, name).state_dict())
        expert.enter.weight.copy_(uniform.enter.weight + uniform.enter_view.weight)  # a plain view is the features
        expert.enter.bias.copy_(uniform.enter.bias)
        expert.enter_view.weight.zero_()
