"""Cache of training scans, in memory and on disk, so that a resumed run does not prepare its scans again.

Axes: X Y Z voxels, N voxels of the foreground.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from moediff.acquisition.degrade import reference_intensity
from moediff.acquisition.point_spread import METHODS, Sampling, Samplings
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.core.errors import ConfigError, DataError, InputMissing, printable
from moediff.io.atomic import HIDDEN, remove
from moediff.io.tensors import save_tensors

LONGEST_SAVE_S = 24 * 3600
FORMAT = 2  # raise it when training scans are prepared differently


@dataclass(frozen=True, kw_only=True)
class ScanSource:
    """One training scan.

    Args:
        path: the file.
        input: the same head as it is usually acquired, registered to `path`: patches then are pairs as they were
            measured, and nothing is simulated.
        spacing_mm: isotropic voxel sizes to resample it to (none: as it is); never finer than the scan, never coarser
            than a label map, whose borders are drawn anew.
        weight: how often it is drawn, relative to the others.
        labels: the file is a label map; scans are synthesised from it.
        prepared: the file holds training scans as `write_training_scans` writes them; nothing else here applies to it.
        copies: synthetic scans made of one label map.
        licence, source: terms and origin of the data, copied into the bundle.
    """

    path: str
    input: str | None = None
    spacing_mm: tuple[float, ...] = ()
    weight: float = 1.0
    labels: bool = False
    prepared: bool = False
    copies: int = 1
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.input is not None and (self.labels or self.prepared):
            raise ConfigError(f"{self.path}: `input` goes with sharp scans, not with labels or prepared; leave one out")
        if self.copies < 1 or not 0 < self.weight < math.inf:
            raise ConfigError(
                f"{self.path}: copies={self.copies} must be at least 1 and weight={self.weight} a positive number"
            )


@dataclass(frozen=True)
class Stack:
    """How the slices of a scan lie that stands in for a sharp one, and how such slices are acquired.

    Args:
        axis: along which they are stacked; detail along it was not measured, so nothing is learned of it.
        recipe: what the scan's own acquisition does to other axes, slices along the last.
    """

    axis: int
    recipe: Recipe


@dataclass(frozen=True)
class Measured:
    """The head as it is usually acquired, beside the sharp one.

    Args:
        data_XYZ: scaled, half precision, canonical axes.
        affine: 4x4, its voxels -> voxels of the sharp head; axes parallel.
        known_XYZ: voxels of the sharp head that both scans cover, a convex set.
        sampling: how every axis was sampled, as the scan's spectrum shows; None takes what the voxel sizes suggest.
    """

    data_XYZ: Tensor
    affine: Tensor
    known_XYZ: Tensor
    sampling: Samplings | None = None


@dataclass(frozen=True)
class TrainingScan:
    """A sharp scan in memory, prepared once: half precision voxels, where tissue is, and regions where known.

    With a `stack` it is a scan of thick slices as far as it could be enhanced: sharp in the plane of its slices. With
    `measured` it was acquired twice.
    """

    data_XYZ: Tensor
    inside_N3: Tensor
    reference: float
    region_XYZ: Tensor | None
    weight: float
    stack: Stack | None = None
    measured: Measured | None = None

    def to(self, device: torch.device) -> TrainingScan:
        """The same scan with its voxels on a device; the list of patch centres stays here."""
        region = None if self.region_XYZ is None else self.region_XYZ.to(device)
        low = self.measured
        low = None if low is None else replace(low, data_XYZ=low.data_XYZ.to(device))
        return replace(self, data_XYZ=self.data_XYZ.to(device), region_XYZ=region, measured=low)


def training_scan(data_XYZ: Tensor, inside_XYZ: Tensor, region_XYZ: Tensor | None, weight: float) -> TrainingScan:
    """A scaled scan as training holds it in memory.

    Raises:
        DataError: values too large for half precision.
    """
    if not bool(torch.isfinite(data_XYZ.half()).all()):
        raise DataError("a training scan is not finite in half precision; check the scans named in the configuration")
    where = inside_XYZ.nonzero()
    return TrainingScan(
        data_XYZ.half(), where[:: max(1, len(where) // 50_000)], reference_intensity(data_XYZ), region_XYZ, weight
    )


Make = Callable[[ScanSource, Path, int], list[TrainingScan]]


def cached(source: ScanSource, root: Path, seed: int, folder: Path, make: Make) -> list[TrainingScan]:
    """The training scans of one source, from `folder` if they are there, else prepared and written to it.

    Raises:
        InputMissing: the scan cannot be read.
    """
    path = folder / f"{_key(source, root, seed)}.safetensors"
    if not path.exists():
        _remove_old_leftovers(folder)
        write_training_scans(path, make(source, root, seed))
    return read_training_scans(path)


def _remove_old_leftovers(folder: Path) -> None:
    """Remove what killed saves left here. Others write here too, so only what no save can still be."""
    for hidden in folder.glob(f"{HIDDEN}*.tmp"):
        with suppress(OSError):  # another process removed it
            if time.time() - hidden.stat().st_mtime > LONGEST_SAVE_S:
                remove(hidden)


def _key(source: ScanSource, root: Path, seed: int) -> str:
    """Key of all that a training scan depends on: the files' bytes, the settings, the seed."""
    content = hashlib.sha256()
    for path in [root / name for name in (source.path, source.input) if name is not None]:
        try:
            content.update(path.read_bytes())
        except OSError as error:
            raise InputMissing(f"{printable(path)}: cannot be read ({error.strerror}); check the name") from error
    identity = repr((FORMAT, source, seed, content.hexdigest()))
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def write_training_scans(path: Path, scans: list[TrainingScan]) -> None:
    """Write training scans to one safetensors file, which appears whole."""
    tensors: dict[str, Tensor] = {}
    for index, scan in enumerate(scans):
        numbers = torch.tensor([scan.reference, scan.weight], dtype=torch.float64)
        own = {"data": scan.data_XYZ, "inside": scan.inside_N3, "numbers": numbers, "region": scan.region_XYZ}
        if scan.stack is not None:
            across = scan.stack.recipe.axes[2]
            profile = (METHODS.index(across.method), across.thickness)
            values = [scan.stack.axis, across.factor, scan.stack.recipe.noise, *profile]
            own["stack"] = torch.tensor(values, dtype=torch.float64)
        if (low := scan.measured) is not None:
            own |= {"low": low.data_XYZ, "affine": low.affine, "known": low.known_XYZ}
            if low.sampling is not None:
                profiles = [(METHODS.index(axis.method), axis.width) for axis in low.sampling]
                own["sampling"] = torch.tensor(profiles, dtype=torch.float64)
        # clones: copies of one label map share their regions, and safetensors refuses shared memory
        tensors |= {f"{index}.{name}": value.clone().contiguous() for name, value in own.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, path)


def read_training_scans(path: Path) -> list[TrainingScan]:
    """What `write_training_scans` wrote."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    scans: list[TrainingScan] = []
    while f"{len(scans)}.data" in tensors:
        prefix = f"{len(scans)}."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        reference, weight = own["numbers"].tolist()
        stack = _stack(*own["stack"].tolist()) if "stack" in own else None
        sampling = _samplings(own["sampling"]) if "sampling" in own else None
        measured = Measured(own["low"], own["affine"], own["known"], sampling) if "low" in own else None
        scans.append(TrainingScan(own["data"], own["inside"], reference, own.get("region"), weight, stack, measured))
    return scans


def _samplings(profiles_32: Tensor) -> Samplings:
    x, y, z = (Sampling(METHODS[int(method)], width) for method, width in profiles_32.tolist())
    return x, y, z


def stack_of(axis: int, slices: AxisRecipe, noise: float) -> Stack:
    """Slices along an axis, with sharp planes.

    Args:
        axis: along which they are stacked.
        slices: their distance over the voxel size along the axis, and their profile.
        noise: as in `Recipe`.
    """
    return Stack(axis, Recipe(axes=(AxisRecipe(), AxisRecipe(), slices), noise=noise, name="slices"))


def _stack(axis: float, factor: float, noise: float, method: float, thickness: float) -> Stack:
    slices = AxisRecipe(method=METHODS[int(method)], factor=factor, thickness=thickness)
    return stack_of(int(axis), slices, noise)
