"""Warm start: a network filled with another one's weights, or its experts branched from a uniform denoiser."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from moediff.core.errors import ConfigError
from moediff.model.denoiser import Denoiser
from moediff.model.expert_table import UNIFORM
from moediff.model.experts import Expert

SHARED = ("encoder", "embedding", "backbone", "uncertainty_head")  # parts that do not depend on the experts


@torch.no_grad()
def begin_from(denoiser: Denoiser, trained: Denoiser) -> None:
    """Fill `denoiser` with trained weights.

    A network of the same shape is copied; where only the new one reads how axes were sampled, that is silent at first.
    A uniform one (one expert of `UNIFORM`) becomes every expert: each starts as the uniform denoiser, its own branch
    silent, and grows from there; the aggregate starts as the uniform result.

    Raises:
        ConfigError: the shapes differ in anything but the experts.
    """
    own, given = denoiser.config, trained.config
    names, given_names = own.experts.branches, given.experts.branches
    as_own = replace(
        given,
        gate=own.gate,
        experts=replace(given.experts, branches=names),
        reads_sampling=given.reads_sampling or own.reads_sampling,
    )
    if as_own != own:
        raise ConfigError("start: that bundle's network has another backbone, encoder or expert width; train it anew")
    if names == given_names:
        denoiser.load_state_dict(denoiser.state_dict() | trained.state_dict())
        return
    if len(given_names) != 1 or given_names[0] not in UNIFORM:
        one = " or ".join(repr(name) for name in UNIFORM)
        raise ConfigError(f"start: experts branch from one expert called {one}, not from {list(given_names)}")
    if denoiser.sampling is not None and trained.sampling is not None:
        denoiser.sampling.load_state_dict(trained.sampling.state_dict())
    for name in SHARED:
        getattr(denoiser, name).load_state_dict(getattr(trained, name).state_dict())
    (uniform,) = cast(list[Expert], list(trained.experts.each))
    for expert in cast(list[Expert], list(denoiser.experts.each)):
        for name in ("modulate", "layers", "output_projection"):
            getattr(expert, name).load_state_dict(getattr(uniform, name).state_dict())
        expert.input_projection.load_state_dict(uniform.input_projection.state_dict())
        if uniform.branch_projection is not None:  # of the features themselves: both projections read the same
            expert.input_projection.weight.add_(uniform.branch_projection.weight)
        if expert.branch_projection is not None:
            expert.branch_projection.weight.zero_()
