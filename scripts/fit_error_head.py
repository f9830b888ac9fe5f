"""Last of the embedded weights: the head that foretells the error, fitted to the finished network.

    python scripts/fit_error_head.py BUNDLE OUT [--config configs/wide.toml] [--patches 150]

Features and errors of training patches are computed once and kept; the head then takes thousands of quick steps on
them, which a training run that computes the network anew for each step cannot (LOG.md, 2026-11-23). Nothing but the
head changes. Axes: N cells, C channels, G modulation vector, V voxels of a cell.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from moediff.core.config import rng_for
from moediff.core.memory import keep_memory
from moediff.model.bundle import load_bundle, save_bundle
from moediff.model.denoiser import Denoiser, condition_from
from moediff.model.layers import to_lattice
from moediff.training.config import load_config
from moediff.training.losses import error_loss
from moediff.training.patches import PatchSource
from moediff.training.sources import load_heads

SEED = 77  # patches that the network itself was not trained on
CELLS = 6000  # kept of every patch
STEPS, ROWS, RATE = 4000, 4096, 2e-3
Rows = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def rows(denoiser: Denoiser, source: PatchSource, number: int, sigma: float) -> Rows:
    """Features [N, C], modulation [N, G] and errors in units of sigma_data [N, V] of one patch at sigma_max."""
    device = next(denoiser.parameters()).device
    batch = source.batch(number, 1).to(device)
    token, weight = denoiser.routing(batch.interpolated_BXYZ)
    scan = batch.interpolated_BXYZ, batch.neighbours_BNXYZ
    condition = condition_from(denoiser.config, scan, batch.positions, batch.noise_B, token, weight, sparse=True)
    x, sigma_B = torch.zeros_like(batch.interpolated_BXYZ), torch.tensor([sigma], device=device)
    feature, vector = denoiser.features(x, sigma_B, condition)
    mean = denoiser.precondition(x, sigma_B, denoiser.experts.blend(feature, vector, condition.weight_BxyzE))
    error = (batch.truth_BXYZ - batch.interpolated_BXYZ - mean) / denoiser.config.sigma_data
    kept = torch.randperm(feature[..., 0].numel(), generator=rng_for(SEED, number))[:CELLS].to(device)
    cells = to_lattice(error[..., None]).flatten(0, 3)[kept]
    return feature.flatten(0, 3)[kept], vector.expand(len(kept), -1), cells


def fit(denoiser: Denoiser, data: Rows) -> float:
    """Minimise the Laplace likelihood; returns its mean over the last tenth of the steps."""
    feature_NC, vector_NG, error_NV = data
    optimiser, rng, last = torch.optim.AdamW(denoiser.error.parameters(), RATE), rng_for(SEED, "fit"), []
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * RATE * (1 + math.cos(math.pi * step / STEPS))
        some = torch.randint(len(feature_NC), (ROWS,), generator=rng).to(feature_NC.device)
        log_error = denoiser.error(feature_NC[some][:, None, None, None], vector_NG[some])
        loss = error_loss(error_NV[some][:, None, None, None], log_error)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step >= 0.9 * STEPS:
            last.append(float(loss.detach()))
    return sum(last) / len(last)


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().parent.parent / "configs" / "wide.toml")
    parser.add_argument("--patches", type=int, default=150)
    parser.add_argument("--data", type=Path, help="where the scans lie (default: as configured)")
    args = parser.parse_args()
    keep_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, bundle = load_config(args.config), load_bundle(args.bundle, device)
    denoiser, sigma = bundle.denoiser, bundle.config.process.sigma_max * bundle.config.denoiser.sigma_data
    keep = None if config.heads is None else Path(config.heads)
    heads = load_heads(config.scans, args.data or Path(config.data), config.seed, keep)
    source = PatchSource(
        heads=[head.to(device) for head in heads],
        patch=config.patch,
        seed=SEED,
        settings=bundle.config.prepare,
        ranges=config.recipes,
        augment=config.augment,
    )
    parts = [rows(denoiser, source, number, sigma) for number in range(args.patches)]
    feature, vector, error = (torch.cat(part) for part in zip(*parts, strict=True))
    loss = fit(denoiser, (feature, vector, error))
    told = {"patches": args.patches, "cells": CELLS, "steps": STEPS, "loss": round(loss, 4), "seed": SEED}
    save_bundle(args.out, bundle.config, denoiser.state_dict(), {**bundle.provenance, "error_head": told})
    print(f"{args.out}: loss {loss:.4f}")


if __name__ == "__main__":
    main()
