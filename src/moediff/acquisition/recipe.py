"""Acquisition recipes: how a scan was acquired, as a small record that is drawn once, saved as JSON and simulated."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from moediff.acquisition.point_spread import METHODS, PROFILES
from moediff.core.errors import ConfigError, InputMissing, prefix_errors, printable
from moediff.core.random import log_uniform, uniform


@dataclass(frozen=True, kw_only=True)
class AxisRecipe:
    """How one axis was sampled.

    Args:
        method: "none"; a profile "gaussian", "box" or "bicubic"; k-space truncation "truncate", or with a filter
            "hamming", "tukey" or "fermi".
        factor: new over old voxel size, 1..12.
        thickness: profile width over the new voxel size (FWHM for "gaussian"), 0.3..2; 1 means slices without gap. In
            k-space the voxel acquired over the new one, which zero-filling makes smaller; below 1 counts as 1.

    Raises:
        ConfigError: a value is out of range.
    """

    method: str = "none"
    factor: float = 1.0
    thickness: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"axis method {self.method!r} is unknown; choose from {', '.join(METHODS)}")
        if not 1 <= self.factor <= 12 or not 0.3 <= self.thickness <= 2:
            raise ConfigError(f"factor={self.factor} must lie in 1..12 and thickness={self.thickness} in 0.3..2")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One acquisition: sampling of the three axes, noise, bias field, contrast, warp.

    Args:
        axes: one AxisRecipe per voxel axis.
        noise: Rician sigma over the 99th percentile of tissue, 0..0.5.
        bias: peak log-gain of a smooth multiplicative field, 0..1.
        gamma: contrast change, intensity**gamma on [0, p99], 0.3..3.
        warp_mm: peak displacement by gradient non-linearity at the edge of the field of view, 0..5 mm.
        slice_gain: peak log-gain of single slices along axes with a slice profile, 0..0.5; each has its own.
        name: label for tables.
    """

    axes: tuple[AxisRecipe, AxisRecipe, AxisRecipe] = field(default_factory=lambda: (AxisRecipe(),) * 3)
    noise: float = 0.0
    bias: float = 0.0
    gamma: float = 1.0
    warp_mm: float = 0.0
    slice_gain: float = 0.0
    name: str = "custom"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):  # tables and keys of randomness go by it
            raise ConfigError(f"recipe name={self.name!r} must be text")
        ranges = {"noise": (0, 0.5), "bias": (0, 1), "gamma": (0.3, 3), "warp_mm": (0, 5), "slice_gain": (0, 0.5)}
        for key, (low, high) in ranges.items():
            if not low <= getattr(self, key) <= high:
                raise ConfigError(f"recipe {key}={getattr(self, key)} must lie in {low}..{high}")

    def to_json(self) -> str:
        """The record as JSON text; `from_json` reads it back. Without unequal slices it is what it was before them."""
        values = asdict(self)
        if not self.slice_gain:
            del values["slice_gain"]
        return json.dumps(values, indent=2)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read `to_json` text, or the sidecar of `moediff degrade` that holds it.

        Raises:
            ConfigError: not JSON, or unknown or impossible values.
        """
        try:
            values = json.loads(text)
            values = values.get("recipe", values) if isinstance(values, dict) else {}
            if "axes" not in values:
                raise ConfigError("not a recipe: expected an object with axes; write one with Recipe.to_json()")
            x, y, z = (AxisRecipe(**axis) for axis in values.pop("axes"))
            return Recipe(axes=(x, y, z), **values)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"not a recipe: {error}; write one with Recipe.to_json()") from error

    @staticmethod
    def load(path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            InputMissing: there is no such file, or it cannot be read.
            ConfigError: it holds no recipe.
        """
        with prefix_errors(printable(path)):
            try:
                text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise InputMissing(f"the recipe cannot be read ({error.strerror}): check the name") from error
            except UnicodeDecodeError as error:
                raise ConfigError("not a recipe: expected JSON text") from error
            return Recipe.from_json(text)


def _same(method: str, factor: float) -> tuple[AxisRecipe, AxisRecipe, AxisRecipe]:
    axis = AxisRecipe(method=method, factor=factor)
    return axis, axis, axis


def thick_slices(factor: float, noise: float, name: str, axis: int = 2) -> Recipe:
    """Thick slices along one axis with a Gaussian profile whose FWHM is the slice distance."""
    axes = [AxisRecipe()] * 3
    axes[axis] = AxisRecipe(method="gaussian", factor=factor)
    return Recipe(axes=(axes[0], axes[1], axes[2]), noise=noise, name=name)


# Frozen: published numbers name these recipes. Never change one, add another; axes are voxel axes as stored.
NAMED = {
    "thick3": thick_slices(3, 0.01, "thick3"),
    "thick5": thick_slices(5, 0.01, "thick5"),
    "low1.5": Recipe(axes=_same("truncate", 1.5), noise=0.04, name="low1.5"),
    "iso1.5": Recipe(axes=_same("truncate", 1.5), noise=0.01, name="iso1.5"),
    "iso2": Recipe(axes=_same("truncate", 2), noise=0.01, name="iso2"),
    "mixed": Recipe(
        axes=(
            AxisRecipe(method="truncate", factor=1.25),
            AxisRecipe(method="truncate", factor=1.25),
            AxisRecipe(method="gaussian", factor=4),
        ),
        noise=0.02,
        name="mixed",
    ),
    "low-field": Recipe(axes=_same("truncate", 1.5), noise=0.05, bias=0.3, gamma=0.8, name="low-field"),
    "inplane2": Recipe(
        axes=(AxisRecipe(method="truncate", factor=2), AxisRecipe(method="truncate", factor=2), AxisRecipe()),
        noise=0.01,
        name="inplane2",
    ),
}


def recipe_for(name: str) -> Recipe:
    """A recipe by its name in `NAMED`, or from a .json file.

    Raises:
        ConfigError: no such name, or the file holds no recipe.
        InputMissing: there is no such file.
    """
    if name in NAMED:
        return NAMED[name]
    if not name.endswith(".json"):
        raise ConfigError(f"no recipe called {name!r}; choose from {', '.join(NAMED)}, or name a .json file")
    return Recipe.load(Path(name))


RANGES = {  # that may be drawn from; noise is drawn log-uniformly, so it has no 0
    "slice_factor": (1, 12),
    "truncation": (1, 12),
    "thickness": (0.3, 2),
    "noise": (1e-6, 0.5),
    "slice_noise": (1e-6, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class RecipeRanges:
    """What `draw_recipe` draws from; shares need not sum to one.

    Args:
        thick, truncated, mixed, native: relative shares of four kinds (native: noise only).
        resampled: share of a fifth kind: axes averaged, resampled by a tool, filtered or zero-filled; one profile or
            window on one axis, two or three.
        slice_factor: range of slice distance over in-plane voxel size.
        truncation: range of k-space truncation factors.
        thickness: range of profile width over slice distance.
        noise: range of the Rician noise fraction, drawn log-uniformly.
        slice_noise: the same for thick slices, which gather more signal.
        slice_gain: largest peak log-gain of single slices, drawn uniformly from 0; 0 draws nothing.

    Raises:
        ConfigError: a range that no recipe can have, or no share above 0.
    """

    thick: float = 0.45
    truncated: float = 0.35
    mixed: float = 0.15
    native: float = 0.05
    resampled: float = 0.0
    slice_factor: tuple[float, float] = (2.0, 6.5)
    truncation: tuple[float, float] = (1.2, 2.2)
    thickness: tuple[float, float] = (0.8, 1.1)
    noise: tuple[float, float] = (0.004, 0.06)
    slice_noise: tuple[float, float] = (0.004, 0.02)
    slice_gain: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.slice_gain <= 0.5:
            raise ConfigError(f"recipes.slice_gain={self.slice_gain} must lie in 0..0.5")
        shares = self.thick, self.truncated, self.mixed, self.native, self.resampled
        if min(shares) < 0 or not 0 < sum(shares) < math.inf:
            raise ConfigError(f"recipes: shares {list(shares)} must be 0 or more, one of them above 0")
        for name, (least, most) in RANGES.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ConfigError(f"recipes.{name}={[low, high]}: give a rising range in {least:g}..{most:g}")


KINDS = ("thick", "truncated", "mixed", "native")
DRAWN, RESAMPLED = "drawn", "resampled"  # names of recipes that are drawn
RESAMPLING = ("box", "bicubic", "gaussian", "truncate", "hamming", "tukey", "fermi")
AXES_SHARES = (0.1, 0.4, 0.5)  # how often one, two or three axes are resampled
LEAST_NOISE = 1e-3  # of copies that other tools made


def _draw_resampled(rng: torch.Generator, ranges: RecipeRanges) -> Recipe:
    method = RESAMPLING[int(torch.randint(len(RESAMPLING), (), generator=rng))]
    low, high = ranges.truncation
    factor = min(max(2.0, low), high) if uniform(rng) < 0.5 else uniform(rng, low, high)
    if method == "truncate":  # zero-filled: without that it is of another kind
        thickness = uniform(rng, 1.1, 1.8)
    else:
        own = uniform(rng, 0.8, 1.2) if method in PROFILES else uniform(rng, 1.0, 1.6)
        thickness = own if uniform(rng) < 0.5 else 1.0
    axes = [AxisRecipe()] * 3
    count = 1 + int(torch.multinomial(torch.tensor(AXES_SHARES), 1, generator=rng))
    for axis in torch.randperm(3, generator=rng)[:count].tolist():
        axes[axis] = AxisRecipe(method=method, factor=factor, thickness=thickness)
    noise = log_uniform(rng, min(LEAST_NOISE, ranges.noise[1]), ranges.noise[1])
    return Recipe(axes=(axes[0], axes[1], axes[2]), noise=noise, name=RESAMPLED)


def draw_recipe(rng: torch.Generator, ranges: RecipeRanges | None = None) -> Recipe:
    """Draw one acquisition; the same generator state always gives the same record."""
    ranges = ranges or RecipeRanges()

    def integer(below: int) -> int:
        return int(torch.randint(below, (), generator=rng))

    shares = [ranges.thick, ranges.truncated, ranges.mixed, ranges.native]
    shares += [ranges.resampled] * (ranges.resampled > 0)  # without that kind every draw is what it was before it
    kind = int(torch.multinomial(torch.tensor(shares, dtype=torch.float32), 1, generator=rng))
    if kind == len(KINDS):
        return _draw_resampled(rng, ranges)
    low, high = ranges.slice_noise if kind in (0, 2) else ranges.noise
    noise = log_uniform(rng, low, high)
    truncation = AxisRecipe(method="truncate", factor=uniform(rng, *ranges.truncation))
    thinnest, thickest = ranges.slice_factor
    factor = float(round(uniform(rng, thinnest, thickest))) if uniform(rng) < 0.5 else uniform(rng, thinnest, thickest)
    factor = min(max(factor, thinnest), thickest)  # rounding must not leave the range
    profile = "gaussian" if uniform(rng) < 0.75 else "box"
    thick = AxisRecipe(method=profile, factor=factor, thickness=uniform(rng, *ranges.thickness))
    across = integer(3)
    axes = [truncation if kind in (1, 2) else AxisRecipe() for _ in range(3)]
    if kind in (0, 2):
        axes[across] = thick
    if kind == 2 and uniform(rng) < 0.5:  # only one in-plane axis is often truncated (phase encoding)
        axes[(across + 1) % 3] = AxisRecipe()
    # Last, so that without it every draw is what it was before there was one.
    gain = uniform(rng, 0, ranges.slice_gain) if ranges.slice_gain and kind in (0, 2) else 0.0
    return Recipe(axes=(axes[0], axes[1], axes[2]), noise=noise, slice_gain=gain, name=DRAWN)
