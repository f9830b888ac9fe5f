"""Weights that learn on from thick-slice scans themselves, with no sharp scan at hand.

Slices are thick in one direction only. A scan as enhanced so far is acquired again as if its slices had been stacked
along either axis of their plane; what is lost there was measured, so it can be learned. Networks trained on nothing
else are the self-supervised way to sharpen such scans (Zhao et al. 2021, SMORE); here trained weights learn what they
lack for one scan, or for all scans of one protocol. Gate, encoder and the foretelling of errors stay as they are.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moediff import __version__
from moediff.errors import ConfigError, DataError, naming
from moediff.inference.engine import Enhancer
from moediff.inference.grids import target_grid
from moediff.inference.hardware import device_named
from moediff.inference.options import EnhanceOptions
from moediff.model.bundle import Bundle, load_bundle, save_bundle
from moediff.simulate.degrade import reference_intensity
from moediff.simulate.recipe import thick_slices
from moediff.training.augment import AugmentConfig
from moediff.training.heads import head_of, shrink
from moediff.training.kept import Head, ScanSource, Stack, write_heads
from moediff.training.losses import LossConfig
from moediff.training.settings import TrainConfig
from moediff.training.trainer import train
from moediff.volume.geometry import canonicalise
from moediff.volume.intensity import brain_scaling, foreground
from moediff.volume.io import Loaded
from moediff.volume.prepare import prepare

PARTS = ("vector", "trunk", "experts")
THINNEST, THICKEST = 1.8, 8.0  # slice distance in voxels of what is learned from: no gap to learn of; too few slices
MOST_NOISE = 0.2  # of the scan's intensity
DEFAULTS = EnhanceOptions(even_slices=True)  # bands are no anatomy to learn from
AS_IT_IS = AugmentConfig(amplitude=(1.0, 1.0), gamma=(1.0, 1.0), bias=0.0, blur_share=0.0, sharpen_share=0.0)
LOSS = LossConfig(expert=0.0, region=0.0, agreement=0.0, balance=0.0, error=0.0, gradient=1.0)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """How weights learn on.

    Args:
        steps: optimiser steps, 1..100000, of `batch` patches; the learning rate falls to zero at the end.
        batch, patch: examples a step and their side in voxels.
        rate: the learning rate at its highest.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "cuda:N".
        processes: that share a batch; 0 chooses as `train` does.

    Raises:
        ConfigError: a value is out of range.
    """

    steps: int = 100
    batch: int = 2
    patch: int = 48
    rate: float = 1e-3
    seed: int = 0
    device: str = "auto"
    processes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100_000:
            raise ConfigError(f"steps is {self.steps}, expected 1 to 100000: choose one of these")


def adapt(
    scans: Sequence[Loaded],
    bundle: Bundle,
    options: AdaptOptions | None = None,
    *,
    out: Path | None = None,
    progress: bool = False,
) -> Bundle:
    """Let a bundle's weights learn on from thick-slice scans, best all of one protocol and contrast.

    Args:
        scans: as `load` returns them, raw intensities, slices along any axis.
        bundle: the weights to begin with, on the device of the options.
        options: how; defaults suit one scan.
        out: folder to write the adapted bundle to, replaced whole where there is one; None writes nothing.
        progress: show a line about it.

    Returns:
        The adapted bundle as it is written; its provenance says from which weights, and from how many scans.

    Raises:
        DataError: a scan's slices are not thick, or too thick.
        ConfigError: there is no scan.
    """
    chosen = options or AdaptOptions()
    if not scans:
        raise ConfigError("there is no scan to learn from; name at least one")
    heads = [_named_head(scan, bundle, chosen) for scan in scans]
    with TemporaryDirectory(prefix="moediff-adapt-") as name:
        work = Path(name)
        write_heads(work / "heads.safetensors", heads)
        save_bundle(work / "start", bundle.config, bundle.denoiser.state_dict(), {})
        learned = load_bundle(train(_config(work, bundle, chosen), processes=chosen.processes, progress=progress))
        made = work / "made" if out is None else out
        save_bundle(made, bundle.config, learned.denoiser.state_dict(), _provenance(bundle, heads, chosen))
        return load_bundle(made, device_named(chosen.device))


def head_from(scan: Loaded, enhancer: Enhancer) -> Head:
    """A thick-slice scan, enhanced, on isotropic voxels no finer than its plane, as something to learn from.

    Raises:
        DataError: its slices are not thick, or too thick.
    """
    plane, across = _plane_and_slices(scan)
    goal = target_grid(scan.volume.grid, DEFAULTS)
    size = max(*goal.spacing_mm, *(scan.volume.spacing_mm[axis] for axis in plane))
    factor = scan.volume.spacing_mm[across] / size
    if not THINNEST <= factor <= THICKEST:
        raise DataError(
            f"slices are {factor:.2g} times as thick as the voxels of their plane, expected {THINNEST:g} to "
            f"{THICKEST:g}: weights adapt to scans of thick slices only, enhance this one without"
        )
    enhanced = enhancer(scan, DEFAULTS).volume
    noise = _noise(scan, enhancer.bundle)
    reference = reference_intensity(enhanced.data_XYZ)
    canonical, _ = canonicalise(shrink(enhanced, size) if size > 1.01 * min(enhanced.spacing_mm) else enhanced)
    inside = foreground(canonical.data_XYZ, canonical.spacing_mm)
    scaled = brain_scaling(canonical.data_XYZ, inside, canonical.spacing_mm).apply(canonical.data_XYZ)
    axis = _axis_of(scan)
    stack = Stack(axis, thick_slices(factor, min(noise / reference, MOST_NOISE), "slices"))
    return replace(head_of(scaled, inside, None, 1.0), stack=stack)


def _named_head(scan: Loaded, bundle: Bundle, options: AdaptOptions) -> Head:
    enhancer = Enhancer(bundle, device=options.device)
    if scan.path is None:
        return head_from(scan, enhancer)
    with naming(scan.path):
        return head_from(scan, enhancer)


def _plane_and_slices(scan: Loaded) -> tuple[list[int], int]:
    """The scan's own axes: the two of its slices' plane, and the one that they are stacked along."""
    order = sorted(range(3), key=lambda axis: scan.volume.spacing_mm[axis])
    return order[:2], order[2]


def _axis_of(scan: Loaded) -> int:
    """The canonical axis that slices are stacked along."""
    spacing = canonicalise(scan.volume)[0].spacing_mm
    return max(range(3), key=lambda axis: spacing[axis])


def _noise(scan: Loaded, bundle: Bundle) -> float:
    """Standard deviation of the scan's noise, in its intensities."""
    prepared = prepare(scan.volume, target_grid(scan.volume.grid, DEFAULTS), bundle.config.prepare)
    return prepared.noise * prepared.scaling.scale


def _config(work: Path, bundle: Bundle, options: AdaptOptions) -> TrainConfig:
    return TrainConfig(
        out=str(work / "run"), data=str(work), scans=(ScanSource(path="heads.safetensors", prepared=True),),
        start=str(work / "start"), only=PARTS, model=bundle.config, augment=AS_IT_IS, loss=LOSS,
        steps=options.steps, batch=options.batch, patch=options.patch, rate=options.rate, seed=options.seed,
        warmup=10, weight_decay=0.0, ema=0.95, save_every=options.steps, precision="fast", device=options.device,
    )  # fmt: skip


def _provenance(bundle: Bundle, heads: Sequence[Head], options: AdaptOptions) -> dict[str, Any]:
    """What the bundle says of itself: where it comes from, and nothing that names a scan."""
    factors = [head.stack.recipe.axes[2].factor for head in heads if head.stack is not None]
    told = {
        "scans": len(heads),
        "slice_factors": [round(factor, 2) for factor in factors],
        "steps": options.steps,
        "batch": options.batch,
        "patch": options.patch,
        "rate": options.rate,
        "seed": options.seed,
        "from_sha256": bundle.sha256,
        "software": f"moediff-sr {__version__}",
    }
    name = str(bundle.provenance.get("name", "unnamed"))
    return {**bundle.provenance, "name": f"{name}, adapted", "adapted": told}
