"""Preparation of a scan: what the network reads, and what is needed to undo it.

RAS+ scan -> outliers replaced -> foreground -> brain-based scaling -> target grid. Training, enhancement and evaluation
call `prepare`; its settings live in the model bundle.

Axes: X Y Z voxels of the target grid, RAS+.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from moediff.acquisition.noise import ESTIMATORS, Estimator, estimated_noise, has_noisy_air, middle_of
from moediff.acquisition.normalisation import Scaling, brain_scaling, foreground
from moediff.acquisition.operators import Acquisition, assumed_acquisition, assumed_sampling, voxel_ratio
from moediff.acquisition.point_spread import Samplings, attenuation
from moediff.acquisition.sampling_estimate import estimated_sampling
from moediff.acquisition.slice_intensity import SliceIntensity, measure_slice_intensity
from moediff.acquisition.wiener import wiener
from moediff.core.errors import ConfigError, GeometryError
from moediff.core.geometry import FACE_VOX, axis_positions, is_canonical
from moediff.core.resample import Positions, antialiased_matrix, apply_axes
from moediff.core.volume import Grid, Volume
from moediff.io.voxels import without_outliers

Bounds: TypeAlias = "tuple[tuple[int, int], tuple[int, int], tuple[int, int]]"


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How scans are prepared; stored in the bundle because the weights depend on it.

    Args:
        kernel: the starting point that the network corrects: "wiener", or an interpolation kernel.
        noise_estimator: how a scan's noise is estimated: "quiet" reads the quietest blocks of tissue, of the whole scan
            also for a training patch; "median", which older weights were trained with, is the median of Haar details
            in the head, or in the patch.

    Raises:
        ConfigError: no such estimator.
    """

    RENAMED: ClassVar[Mapping[str, str | None]] = {"noise": "noise_estimator", "clip": None}

    kernel: str = "wiener"
    noise_estimator: Estimator = "median"

    def __post_init__(self) -> None:
        if self.noise_estimator not in ESTIMATORS:
            known = ", ".join(ESTIMATORS)
            raise ConfigError(f"prepare.noise_estimator={self.noise_estimator!r} is unknown; choose from {known}")


@dataclass(frozen=True)
class Prepared:
    """A scan on the target grid, ready for the network.

    Args:
        source: the scan on its own grid, canonical, scaled.
        grid: the target grid, canonical; its axes are parallel to the source's.
        interpolated_XYZ: the source interpolated to the target grid, scaled.
        mask_XYZ: True where the head is; the network works only there.
        positions: per axis, where target voxels lie in source voxels.
        scaling: how intensities were mapped; `scaling.undo` goes back.
        noise_sigma: estimated noise sigma of the source, scaled; a scalar tensor on the scan's device.
        slice_intensity: how the brightness of thick slices alternated; None where that was not measured.
        slices_corrected: whether that was corrected.
        foreground_bounds: per axis, the source's first and last voxel with foreground, also beyond the target grid.
        sampling: how every axis was acquired; None is what the voxel sizes suggest.
        from_spectrum: whether the scan's spectrum showed that.
    """

    source: Volume
    grid: Grid
    interpolated_XYZ: Tensor
    mask_XYZ: Tensor
    positions: tuple[Positions, Positions, Positions]
    scaling: Scaling
    noise_sigma: Tensor
    slice_intensity: SliceIntensity | None = None
    slices_corrected: bool = False
    foreground_bounds: Bounds | None = None
    sampling: Samplings | None = None
    from_spectrum: bool = False

    @property
    def reached(self) -> tuple[slice, slice, slice]:
        """The measured samples that the target grid's field of view touches; all, unless it is smaller than theirs."""
        x, y, z = (_reached(n, p) for n, p in zip(self.source.shape, self.positions, strict=True))
        return x, y, z

    @property
    def noise(self) -> float:
        """`noise_sigma` as a number."""
        return float(self.noise_sigma)

    @property
    def known_sampling(self) -> Samplings:
        """`sampling`, or what the voxel sizes suggest."""
        return self.sampling or assumed_sampling(self.positions, self.source.spacing_mm)

    @cached_property
    def acquisition(self) -> Acquisition:
        """The forward model from the target grid to the source's; once a scan."""
        return assumed_acquisition(self.grid, self.source.grid, self.known_sampling)

    def attenuation(self, order: Sequence[int]) -> list[tuple[float, ...]]:
        """How every axis was sampled, as the network reads it, in this order of the axes; see `point_spread`."""
        sampling = self.known_sampling
        return [attenuation(sampling[axis]) for axis in order]

    def neighbours(self) -> Tensor:
        """The measured samples before and after each voxel along the coarsest axis, scaled [2, X, Y, Z].

        Not kept: only the encoder and the denoiser read them, and they are as large as two results.
        """
        return _neighbours(self.source.data_XYZ, self.positions)

    def undo(self, data_XYZ: Tensor) -> Volume:
        """Scaled voxels on the target grid -> a volume in the source's intensities."""
        return Volume(self.scaling.undo(data_XYZ), self.grid.affine)


def _reached(n: int, positions: Positions) -> slice:
    half = 0.5 / voxel_ratio(positions)
    first = math.floor(positions[0] - half - 0.5 + FACE_VOX) + 1
    stop = math.ceil(positions[-1] + half + 0.5 - FACE_VOX)
    first = min(max(first, 0), n)
    return slice(first, max(min(stop, n), first))


def network_order(positions: tuple[Positions, Positions, Positions]) -> list[int]:
    """Axes from fine to coarse input, so that the network reads every slice direction alike."""
    return sorted(range(3), key=lambda axis: round(voxel_ratio(positions[axis]), 3))


def anisotropy_ratio(prepared: Prepared) -> float:
    """How many times coarser the coarsest axis was measured than the mean (geometric) of the others; at least 1."""
    first, second, coarsest = sorted(voxel_ratio(positions) for positions in prepared.positions)
    return max(coarsest / (first * second) ** 0.5, 1.0)


def prepare(  # noqa: PLR0913
    volume: Volume,
    target: Grid,
    settings: PrepareSettings,
    *,
    scaling: Scaling | None = None,
    noise: Tensor | None = None,
    mask: bool = True,
    correct_slices: bool = False,
    sampling: Samplings | Literal["spectrum"] | None = None,
) -> Prepared:
    """Bring a scan to the target grid, on the device that holds it.

    Args:
        volume: the scan, RAS+, raw intensities.
        target: its grid afterwards, RAS+; its axes must be parallel to the scan's.
        settings: from the bundle.
        scaling: a known map of intensities (a training patch brings its whole scan's); measured when absent.
        noise: known noise sigma, scaled (a training patch brings its whole scan's); estimated when absent.
        mask: False takes the whole volume as foreground; with a known scaling nothing then waits for the device.
        correct_slices: correct slices whose brightness alternates (interleaved acquisition), if more than by chance.
        sampling: how every axis was acquired; None takes what the voxel sizes suggest, "spectrum" also what the scan's
            spectrum shows.

    Raises:
        GeometryError: the scan is not RAS+, or the target's axes are not parallel to its axes.
        DataError: no head, or no intensities to scale by.
    """
    if not is_canonical(volume.affine):
        raise GeometryError("the scan's axes do not run nearest to R, A, S, expected RAS+: read it with moediff.load")
    positions = axis_positions(volume.grid, target)
    if positions is None:
        raise GeometryError("the target grid is oblique to the scan; resample the result instead")
    data_XYZ = volume.data_XYZ.float()
    source = volume.with_data(without_outliers(data_XYZ) if mask else data_XYZ)
    everywhere = torch.ones((), dtype=torch.bool, device=source.data_XYZ.device)
    inside = foreground(source.data_XYZ, source.spacing_mm) if mask else everywhere.expand(source.shape)
    scaling = scaling or brain_scaling(source.data_XYZ, inside, source.spacing_mm)
    source = source.with_data(scaling.apply(source.data_XYZ))
    slice_intensity = measure_slice_intensity(source.data_XYZ, source.spacing_mm) if mask else None
    corrected = correct_slices and slice_intensity is not None and slice_intensity.noticeable
    if slice_intensity is not None and corrected:
        source = source.with_data(slice_intensity.corrected(source.data_XYZ))
    if noise is None:
        within = None
        if mask:
            within = middle_of(inside) if has_noisy_air(source.data_XYZ) else inside
        noise = estimated_noise(source.data_XYZ, within, settings.noise_estimator)
    from_spectrum = sampling == "spectrum"
    if sampling == "spectrum":
        sampling = estimated_sampling(source.data_XYZ, positions, float(noise), source.spacing_mm)
    known = sampling or assumed_sampling(positions, source.spacing_mm)
    return Prepared(
        source=source,
        grid=target,
        interpolated_XYZ=_upsample(source.data_XYZ, positions, noise, settings.kernel, known),
        mask_XYZ=_nearest(inside, positions) if mask else everywhere.expand(target.shape),
        positions=positions,
        scaling=scaling,
        noise_sigma=noise,
        slice_intensity=slice_intensity,
        slices_corrected=corrected,
        foreground_bounds=_foreground_bounds(inside) if mask else None,
        sampling=sampling,
        from_spectrum=from_spectrum and sampling is not None,
    )


def flipped(prepared: Prepared, axes: tuple[int, ...]) -> Prepared:
    """The same scan as if source and target had been flipped along these axes before anything was done.

    Grids stay the unflipped scan's: flip a result back before it is used.
    """
    source = prepared.source.with_data(prepared.source.data_XYZ.flip(axes))
    x, y, z = (
        tuple(n - 1 - at for at in reversed(positions)) if axis in axes else positions
        for axis, (n, positions) in enumerate(zip(source.shape, prepared.positions, strict=True))
    )
    bounds = prepared.foreground_bounds and _flipped_bounds(prepared.foreground_bounds, source.shape, axes)
    return replace(
        prepared,
        source=source,
        foreground_bounds=bounds,
        interpolated_XYZ=prepared.interpolated_XYZ.flip(axes),
        mask_XYZ=prepared.mask_XYZ.flip(axes),
        positions=(x, y, z),
    )


def bounds(mask_XYZ: Tensor) -> tuple[list[int], list[int]]:
    """First and one past the last index of the foreground, per axis."""
    inside = [mask_XYZ.any(first).any(second).nonzero()[:, 0] for first, second in ((2, 1), (2, 0), (1, 0))]
    return [int(where[0]) for where in inside], [int(where[-1]) + 1 for where in inside]


def _foreground_bounds(mask_XYZ: Tensor) -> Bounds:
    x, y, z = ((first, stop - 1) for first, stop in zip(*bounds(mask_XYZ), strict=True))
    return x, y, z


def _flipped_bounds(bounds: Bounds, shape: tuple[int, int, int], axes: tuple[int, ...]) -> Bounds:
    x, y, z = (
        (n - 1 - last, n - 1 - first) if axis in axes else (first, last)
        for axis, ((first, last), n) in enumerate(zip(bounds, shape, strict=True))
    )
    return x, y, z


def _upsample(
    data_XYZ: Tensor,
    positions: tuple[Positions, Positions, Positions],
    noise_sigma: Tensor,
    kernel: str,
    sampling: Samplings,
) -> Tensor:
    if kernel == "wiener":
        return wiener(data_XYZ, positions, noise_sigma, sampling)
    return apply_axes(
        data_XYZ, [antialiased_matrix(n, p, kernel) for n, p in zip(data_XYZ.shape, positions, strict=True)]
    )


def _neighbours(data_XYZ: Tensor, positions: tuple[Positions, Positions, Positions]) -> Tensor:
    """The measured samples on either side of every target voxel along the coarsest axis; other axes interpolated.

    They hand the network both slices that a voxel lies between, however far apart these are.
    """
    coarsest = network_order(positions)[-1]

    def across(axis: int) -> Tensor | None:
        n, p = data_XYZ.shape[axis], positions[axis]
        return None if axis == coarsest or _same(n, p) else antialiased_matrix(n, p, "cubic")

    plane = apply_axes(data_XYZ, [across(axis) for axis in range(3)])
    before = torch.tensor(positions[coarsest]).add(1e-4).floor().long().to(data_XYZ.device)
    top = data_XYZ.shape[coarsest] - 1
    return torch.stack([plane.index_select(coarsest, (before + side).clamp(0, top)) for side in (0, 1)])


def _same(n: int, positions: Positions) -> bool:
    return len(positions) == n and abs(positions[0]) < 1e-6 and abs(positions[-1] - (n - 1)) < 1e-6


def _nearest(mask_XYZ: Tensor, positions: tuple[Positions, Positions, Positions]) -> Tensor:
    """The mask on the target grid; False outside the field of view, where nothing was measured."""
    for axis, at in enumerate(positions):
        n, at_voxel = mask_XYZ.shape[axis], torch.tensor(at).to(mask_XYZ.device)
        mask_XYZ = mask_XYZ.index_select(axis, at_voxel.round().long().clamp(0, n - 1))
        outside = (at_voxel < -0.5 - FACE_VOX) | (at_voxel > n - 0.5 + FACE_VOX)
        mask_XYZ.index_fill_(axis, outside.nonzero()[:, 0], False)
    return mask_XYZ
