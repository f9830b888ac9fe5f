"""What a result's sidecar says of how it was made, before anything is measured on it."""

from __future__ import annotations

from typing import Any

import torch

from moediff._version import RESEARCH_ONLY, __version__
from moediff.acquisition.prepare import Prepared
from moediff.core.volume import Grid
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import Loaded
from moediff.model.bundle import Bundle


def record_of(
    bundle: Bundle, where: tuple[torch.device, torch.dtype], loaded: Loaded, goal: Grid, options: EnhanceOptions
) -> dict[str, Any]:
    """Software, weights, settings and grids; `where` is the network's device and precision."""
    device, dtype = where
    adapted = bundle.provenance.get("adapted")
    return {
        "software": f"moediff-sr {__version__}",
        "notice": RESEARCH_ONLY,
        "bundle_sha256": bundle.sha256,
        "bundle_name": str(bundle.provenance.get("name", "unnamed")),
        **({"bundle_adapted": adapted} if adapted else {}),
        "mode": options.mode,
        "sampler": options.sampler,
        "steps": options.steps if options.mode == "detail" or options.samples > 1 else 1,
        "mirrors": options.mirrors,
        "samples": options.samples,
        "uncertainty": _uncertainty(options),
        "seed": options.seed,
        "consistency": options.consistency,
        "input_shape": list(loaded.volume.shape),
        "input_spacing_mm": [round(s, 5) for s in loaded.volume.spacing_mm],
        "output_shape": list(goal.shape),
        "output_spacing_mm": [round(s, 5) for s in goal.spacing_mm],
        "experts": list(bundle.config.denoiser.experts.regions),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
    }


def alternation(prepared: Prepared, *, asked: bool) -> dict[str, Any]:
    """How much brighter every other slice was, and whether that was taken out.

    Where that cannot be measured it says so if it was asked for.
    """
    found = prepared.slice_intensity
    if found is None:
        return {"slices": {"evened": False}} if asked else {}
    told = {
        "alternate_by": round(found.difference, 4),
        "noticeable": found.noticeable,
        "evened": prepared.slices_corrected,
    }
    return {"slices": told}


def _uncertainty(options: EnhanceOptions) -> str:
    """What the uncertainty map holds, in words."""
    if options.samples > 1:
        return f"standard deviation of {options.samples} samples, not calibrated"
    return "standard deviation foretold by the network, calibrated" if options.mode == "faithful" else "none"
