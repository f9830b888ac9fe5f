"""Degrading: simulate a poorer acquisition of a sharp scan, with noise, bias field, slice gains and gradient warp.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.operators import recipe_acquisition
from moediff.acquisition.point_spread import PROFILES
from moediff.acquisition.recipe import Recipe
from moediff.core.errors import DataError
from moediff.core.statistics import MAX_SAMPLES, even_step, quantile
from moediff.core.volume import Volume


def reference_intensity(data_XYZ: Tensor) -> float:
    """99th percentile of tissue (voxels above 5 % of the robust maximum), the unit of a recipe's noise."""
    sample = data_XYZ.flatten()[:: even_step(data_XYZ.numel(), MAX_SAMPLES)].float()
    top = quantile(sample, 0.999)
    tissue = sample[sample > 0.05 * top]
    if top <= 0 or tissue.numel() == 0:
        raise DataError("the scan has no positive intensities; expected a magnitude image")
    return quantile(tissue, 0.99)


def rician(data: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    """Magnitude of a complex signal with Gaussian noise of this sigma, also 0, in both channels (Gudbjartsson 1995)."""
    if sigma == 0:
        return data.abs()
    real, other = (sigma * torch.randn(data.shape, generator=rng).to(data.device) for _ in range(2))
    return torch.hypot(data + real, other)


def bias_field(
    shape: tuple[int, int, int], peak: float, rng: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """A smooth positive gain with |log gain| <= peak, from a 4x4x4 lattice of random values."""
    coarse = (torch.rand((1, 1, 4, 4, 4), generator=rng) * 2 - 1).to(device)
    field = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return torch.exp(field * (peak / field.abs().max().double().clamp_min(1e-6)))  # without waiting for the device


def slice_gains(data: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """Every slice times a gain of its own, |log gain| <= recipe.slice_gain, as steady state and cross-talk give."""
    for axis, sampling in enumerate(recipe.axes):
        if sampling.method in PROFILES:
            gain = torch.exp(recipe.slice_gain * (torch.rand(data.shape[axis], generator=rng) * 2 - 1))
            data = data * gain.reshape([-1 if a == axis else 1 for a in range(3)]).to(data.device)
    return data


def gradient_warp(volume: Volume, peak_mm: float) -> Volume:
    """Radial cubic displacement, the leading term of gradient non-linearity; peak_mm at the farthest face centre."""
    device = volume.data_XYZ.device
    axes = [torch.linspace(-1, 1, n, device=device) for n in volume.shape]
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    half_mm = torch.tensor([n * s / 2 for n, s in zip(volume.shape, volume.spacing_mm, strict=True)])
    radius2 = ((unit * half_mm.to(device)) ** 2).sum(-1, keepdim=True) / float(half_mm.max()) ** 2
    moved = unit * (1 + radius2 * peak_mm / float(half_mm.max()))
    warped = F.grid_sample(volume.data_XYZ[None, None], moved.flip(-1)[None], align_corners=True)
    return volume.with_data(warped[0, 0])


def degrade(volume: Volume, recipe: Recipe, rng: torch.Generator, *, reference: float | None = None) -> Volume:
    """Acquire `volume` as the recipe says; returns the low-resolution scan with its own coarse affine, on its device.

    Random numbers come from a CPU generator, so every device gets the same ones. With a reference nothing waits for the
    device.

    Args:
        volume: the sharp scan, non-negative magnitude.
        recipe: what to do; the same recipe and generator state give the same voxels.
        rng: draws noise, bias field and gains of slices only.
        reference: intensity that the noise fraction refers to; measured on `volume` when absent. A patch passes
            its whole scan's value.

    Raises:
        DataError: the scan has no positive intensities.
    """
    reference = reference_intensity(volume.data_XYZ) if reference is None else reference
    data = volume.data_XYZ.float()
    if recipe.warp_mm:
        data = gradient_warp(volume.with_data(data), recipe.warp_mm).data_XYZ
    if recipe.gamma != 1:
        data = (data.clamp_min(0) / reference) ** recipe.gamma * reference
    if recipe.bias:
        data = data * bias_field(volume.shape, recipe.bias, rng, data.device)
    acquisition, ratios = recipe_acquisition(volume.shape, recipe.axes)
    data = acquisition.apply(data)
    if recipe.slice_gain:
        data = slice_gains(data, recipe, rng)
    data = rician(data, recipe.noise * reference, rng)
    ratio = torch.tensor(ratios, dtype=torch.float64)
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ ((ratio - 1) / 2)
    affine[:3, :3] *= ratio
    return Volume(data, affine)
