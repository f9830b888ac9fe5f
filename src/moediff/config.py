"""Keys for randomness and the settings that belong to no single part."""

from __future__ import annotations

import hashlib

import torch

RESEARCH_ONLY = "Research use only; not for diagnostic use."


def rng_for(seed: int, *ids: object) -> torch.Generator:
    """A CPU generator keyed by what it is for, e.g. rng_for(0, "sub-01", "noise"); order of calls never matters."""
    digest = hashlib.sha256(repr((seed, *ids)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
