"""Weight averages: bundles of one descent, often better together than any of them (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from moediff.core.errors import ConfigError
from moediff.model.bundle import Bundle


def average_weights(bundles: Sequence[Bundle]) -> dict[str, Tensor]:
    """The mean of the weights of bundles of one network.

    Raises:
        ConfigError: fewer than two bundles, or different networks.
    """
    if len(bundles) < 2:
        raise ConfigError(f"an average needs two bundles or more, found {len(bundles)}: name others")
    first, *others = bundles
    if any(other.config.denoiser != first.config.denoiser for other in others):
        raise ConfigError("the bundles hold different networks; only weights of one network can be averaged")
    weights = [bundle.denoiser.state_dict() for bundle in bundles]
    return {name: sum(one[name] for one in weights) / len(weights) for name in weights[0]}
