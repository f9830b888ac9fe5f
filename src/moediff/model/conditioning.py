"""Conditioning: all that the denoiser knows of a scan besides x and sigma, worked out once and fixed over all steps.

Axes: B batch, X Y Z voxels, xyz cells or tokens, n sites of one axis, D token width, E experts, F features,
G embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PHASE_FEATURES = 6  # per voxel of a site: cosine and sine of its place between samples; log ratio; ratio is above one
ACQUISITION_FEATURES = 5  # log noise, noise over sigma_data, three log ratios


@dataclass(frozen=True)
class PerAxis:
    """One tensor for every axis."""

    x: Tensor
    y: Tensor
    z: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        yield from (self.x, self.y, self.z)

    def map(self, change: Callable[[Tensor], Tensor]) -> PerAxis:
        """The same change of every axis."""
        return PerAxis(change(self.x), change(self.y), change(self.z))


@dataclass(frozen=True)
class NetworkInput:
    """Prepared scans as the network reads them, side by side.

    Args:
        interpolated_BXYZ: interpolated scans, scaled; sides are multiples of 16, the coarsest axis comes last.
        neighbours_BNXYZ: neighbouring slices: the measured samples before and after each voxel along the last axis,
            scaled; N = 2.
        positions: per axis [B, n], where voxels lie in source voxels.
        noise_B: estimated noise sigma, scaled.
        attenuation_BAF: how every axis was sampled, `point_spread.attenuation` in the network's order of axes; None
            for networks that do not read it.
    """

    interpolated_BXYZ: Tensor
    neighbours_BNXYZ: Tensor
    positions: PerAxis
    noise_B: Tensor
    attenuation_BAF: Tensor | None = None

    @property
    def ratios(self) -> list[Tensor]:
        """Per axis [B], how many voxels a measured sample spans."""
        return [1 / (p[:, 1] - p[:, 0]).clamp_min(1e-3) for p in self.positions]


@dataclass(frozen=True)
class Routing:
    """What the encoder and the gate read from the scans.

    Args:
        token_BxyzD: fine tokens.
        weight_BxyzE: gate weights on cells.
    """

    token_BxyzD: Tensor
    weight_BxyzE: Tensor


@dataclass(frozen=True)
class Modulators:
    """What scales and shifts a layer's channels.

    Args:
        embedding_BG: conditioning embedding of the scan (noise, spacing ratios, diffusion sigma).
        phase: sampling-phase features of the sites along every axis [B, n, F].
    """

    embedding_BG: Tensor
    phase: PerAxis


@dataclass(frozen=True)
class Condition:
    """What the denoiser knows besides x and sigma.

    Args:
        interpolated_BXYZ, neighbours_BNXYZ: as in `NetworkInput`.
        phase: sampling-phase features per axis [B, n, 6] on cells: where the voxels of a cell fall between the
            measured samples.
        acquisition_BG: log noise, noise over sigma_data, three log ratios.
        token_BxyzD, weight_BxyzE: as in `Routing`.
        attenuation_BAF: as in `NetworkInput`.
    """

    interpolated_BXYZ: Tensor
    neighbours_BNXYZ: Tensor
    phase: PerAxis
    acquisition_BG: Tensor
    token_BxyzD: Tensor
    weight_BxyzE: Tensor
    attenuation_BAF: Tensor | None = None

    @property
    def sampled_BF(self) -> Tensor:
        """How all axes were sampled, side by side.

        Raises:
            ValueError: the condition does not say it; a network that reads it would take that for "not sampled".
        """
        if self.attenuation_BAF is None:
            raise ValueError("this network reads how its input was sampled, and the condition does not say it")
        return self.attenuation_BAF.flatten(1)


def condition_of(scans: NetworkInput, routing: Routing, sigma_data: float) -> Condition:
    """The condition for gate weights that were worked out before."""
    phases = [sampling_phase(p, r) for p, r in zip(scans.positions, scans.ratios, strict=True)]
    log_noise, relative_noise = (scans.noise_B + 1e-4).log() / 4 + 1, scans.noise_B / sigma_data
    acquisition_BG = torch.stack([log_noise, relative_noise, *(r.log() for r in scans.ratios)], -1)
    scan = scans.interpolated_BXYZ, scans.neighbours_BNXYZ
    gate = routing.token_BxyzD, routing.weight_BxyzE
    return Condition(*scan, PerAxis(*phases), acquisition_BG, *gate, scans.attenuation_BAF)


def sampling_phase(positions_Bn: Tensor, ratio_B: Tensor) -> Tensor:
    """[B, n] source positions of an axis's voxels -> phase features of its cells [B, n/2, 6]."""
    angle = 2 * torch.pi * positions_Bn.unflatten(1, (-1, 2))
    on = (ratio_B > 1.001).to(angle.dtype)[:, None]
    log_ratio = ratio_B.log()[:, None].expand(-1, angle.shape[1])
    wave = torch.cat([angle.cos(), angle.sin()], -1) * on[..., None]
    return torch.cat([wave, log_ratio[..., None], on[..., None].expand(-1, angle.shape[1], -1)], -1)


def token_phase(phase_BnF: Tensor) -> Tensor:
    """Phase features of cells -> of tokens [B, n/2, 12]: the two cells of a token side by side."""
    return phase_BnF.unflatten(1, (-1, 2)).flatten(2)
