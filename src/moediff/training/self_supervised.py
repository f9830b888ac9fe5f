"""Self-supervised training scans: thick-slice scans, enhanced so far, and sharp in the plane of their slices.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moediff.acquisition.degrade import reference_intensity
from moediff.acquisition.noise import noise_sigma
from moediff.acquisition.normalisation import foreground
from moediff.acquisition.point_spread import Sampling, Samplings
from moediff.acquisition.recipe import AxisRecipe
from moediff.core.errors import ConfigError, DataError
from moediff.core.geometry import coarsest_axis
from moediff.core.volume import Grid
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import GridPlan
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import LoadedScan
from moediff.io.voxels import without_outliers
from moediff.training.cache import TrainingScan, stack_of, training_scan
from moediff.training.sources import brain_scaled

THINNEST, THICKEST = 1.8, 8.0  # slice distance in voxels of what is learned from: no gap to learn of; too few slices
UNEQUAL = 1.25  # voxels' longest over shortest side, up to which detail counts as alike along all axes
MOST_NOISE = 0.2  # of the scan's intensity


@dataclass(frozen=True)
class Slices:
    """How a scan was cut, and on which voxels it is learned from.

    Args:
        axis: the canonical axis that slices are stacked along.
        voxel_mm: voxel size along the canonical axes, nearly isotropic.
        factor: slice distance over the voxel size along `axis`.
        sampling: how every axis was sampled, where it was stated; None takes what the voxel sizes suggest.
    """

    axis: int
    voxel_mm: tuple[float, ...]
    factor: float
    sampling: Samplings | None = None

    @property
    def recipe(self) -> AxisRecipe:
        """How such slices are acquired of the voxels learned from."""
        across = Sampling("gaussian") if self.sampling is None else self.sampling[self.axis]
        return AxisRecipe(method=across.method, factor=self.factor, thickness=across.width)


def slices_of(plan: GridPlan) -> Slices:
    """Whether and how a scan can be learned from: on voxels as planned, but no finer than its plane was measured.

    Raises:
        DataError: its slices are not thick, or too thick.
        ConfigError: it was stated that they average nothing.
    """
    axis = coarsest_axis(plan.source.spacing_mm)
    voxel_mm = _voxel_mm(plan.source, plan.working, axis)
    factor = plan.source.spacing_mm[axis] / voxel_mm[axis]
    if not THINNEST <= factor <= THICKEST:
        raise DataError(
            f"slices are {factor:.2g} times as thick as the voxels of their plane, expected {THINNEST:g} to "
            f"{THICKEST:g}: weights adapt to scans of thick slices only, enhance this one without"
        )
    if plan.sampling is not None and plan.sampling[axis].method == "none":
        raise ConfigError(
            "--profile says that slices average nothing of what lies between them, so there is nothing to learn: state "
            "their profile (gaussian or box), or leave it out"
        )
    return Slices(axis, voxel_mm, factor, plan.sampling)


def scan_from_slices(scan: LoadedScan, cut: Slices, enhancer: Enhancer) -> TrainingScan:
    """A thick-slice scan, enhanced with the weights at hand, with its slices' thickness and noise.

    Args:
        scan: as `load` returns it.
        cut: from `slices_of` for its grid plan.
        enhancer: with the weights at hand.
    """
    volume = scan.volume.with_data(without_outliers(scan.volume.data_XYZ))
    # Bands are no anatomy; the plan has refused what holds no intensities.
    options = EnhanceOptions(
        voxel_size=cut.voxel_mm, correct_slice_intensity=True, trust_intensities=True, profile=cut.sampling
    )
    sharp = enhancer(volume, options).volume
    noise = noise_sigma(volume.data_XYZ, foreground(volume.data_XYZ, volume.spacing_mm))
    noise /= reference_intensity(sharp.data_XYZ)
    scaled, inside = brain_scaled(sharp)
    stack = stack_of(cut.axis, cut.recipe, min(noise, MOST_NOISE))
    return replace(training_scan(scaled.data_XYZ, inside, None, 1.0), stack=stack)


def _voxel_mm(source: Grid, working: Grid, axis: int) -> tuple[float, ...]:
    """The working grid's, but no finer than the plane; one size for all axes where they would differ much."""
    floor = list(source.spacing_mm)
    floor[axis] = max(size for each, size in enumerate(floor) if each != axis)
    size = tuple(max(pair) for pair in zip(working.spacing_mm, floor, strict=True))
    return size if max(size) <= UNEQUAL * min(size) else (max(size),) * 3
