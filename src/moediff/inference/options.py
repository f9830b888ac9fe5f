"""Options of an enhancement, checked once; former names of options are read for one release."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from numbers import Real
from typing import Any, ClassVar, TypeVar

from moediff.acquisition.point_spread import Sampling
from moediff.core.config import with_present_keys
from moediff.core.errors import ConfigError, MoeDiffWarning
from moediff.core.volume import Grid
from moediff.diffusion.samplers import DEFAULT_SAMPLER, SAMPLERS, evaluations

BOUNDS = {  # of numbers: what a message calls them, least, most
    "steps": ("steps", 2, 64),
    "samples": ("samples", 1, 64),
    "memory_mb": ("memory_mb (--mem-mb)", 64, 2**24),
}
HEADER = "header"
MODES = ("faithful", "detail")
FLIPS = ((), (0, 1, 2), (0,), (1, 2), (1,), (0, 2), (2,), (0, 1))  # axes of test-time augmentation, best first
T = TypeVar("T")


def accept_former_names(options: type[T]) -> type[T]:
    """Let a keyword-only dataclass be built by the former names in its `RENAMED` too, with a warning."""
    build = options.__init__

    @wraps(build)
    def init(self: T, **values: Any) -> None:
        present, notes = with_present_keys(options, values)
        if notes:
            warnings.warn(f"old options, read for one more release: {'; '.join(notes)}", MoeDiffWarning, stacklevel=2)
        build(self, **present)

    setattr(options, "__init__", init)  # noqa: B010  (mypy forbids the plain assignment)
    return options


@accept_former_names
@dataclass(frozen=True, kw_only=True)
class EnhanceOptions:
    """Options of an enhancement.

    Args:
        voxel_size: target voxel size in mm, one or three numbers in the input's axis order. None: where any axis is
            coarser than 1.2 mm, all axes coarser than 1 mm become 1 mm and finer ones stay; else all are halved.
        like: a grid to land on exactly, in any axis order; excludes voxel_size.
        mode: "faithful" (posterior mean, one evaluation) or "detail" (a few-step sample).
        tta: test-time augmentation, 1, 2, 4 or 8: the posterior mean is averaged over so many flips of the scan.
        sampler: how a sample is drawn, a name in `moediff.diffusion.samplers.SAMPLERS`.
        steps: steps of a sample, 2..64; one network evaluation each (heun: two, but for the last).
        samples: how many samples the uncertainty is taken from; with 1 the network predicts it in mode "faithful".
            In mode "detail" the first of them is the result: their mean would be smoother than any scan.
        seed: of the samples.
        correct_slice_intensity: correct brightness that alternates from one thick slice to the next (interleaved
            acquisition).
        profile: how the scan was sampled, where that is known: one `Sampling` for all axes that are coarser than the
            result's, of all scans, or three in the axis order of the only one. None: as voxel sizes suggest.
        estimate_sampling: where nothing is stated, look for a scanner's filter and for zero-filling in the spectrum.
        data_consistency: correct what the measurement contradicts beyond its noise, unless the weights forbid it.
        sparse: run only the experts that the gate asks for.
        single_experts: also run every expert by itself over the whole head (posterior mean; one evaluation each).
        memory_mb: bound on the activations of a tile.
        align: several scans: register them; False trusts their headers.
        trust_intensities: enhance also what looks like labels, a mask or a map.
        slice_thickness: of thick slices, in mm, for the acquisition model; "header" takes what the file says. None:
            as thick as they are apart. Of several scans, those without thick slices ignore it.

    Raises:
        ConfigError: a value is out of range or two exclude each other.
    """

    RENAMED: ClassVar[Mapping[str, str | None]] = {
        "mirrors": "tta",
        "even_slices": "correct_slice_intensity",
        "consistency": "data_consistency",
        "each_expert": "single_experts",
    }
    voxel_size: tuple[float, ...] | None = None
    like: Grid | None = None
    mode: str = "faithful"
    tta: int = 1
    sampler: str = DEFAULT_SAMPLER
    steps: int = 3
    samples: int = 1
    seed: int = 0
    correct_slice_intensity: bool = False
    profile: tuple[Sampling, ...] | None = None
    estimate_sampling: bool = True
    data_consistency: bool = True
    sparse: bool = True
    single_experts: bool = False
    memory_mb: int = 1600
    trust_intensities: bool = False
    align: bool = True
    slice_thickness: float | str | None = None

    def __post_init__(self) -> None:
        for name in ("tta", "seed", *BOUNDS):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        _check_choice("mode", self.mode, MODES)
        _check_choice("sampler", self.sampler, SAMPLERS)
        if self.voxel_size is not None and self.like is not None:
            raise ConfigError("voxel size and a reference grid exclude each other; give one of them")
        if self.like is not None:
            _check_grid(self.like)
        self._check_profile()
        if self.voxel_size is not None:
            _check_sizes(self.voxel_size)
        _check_thickness(self.slice_thickness)
        if self.tta not in (1, 2, 4, 8):
            raise ConfigError(f"tta is {self.tta}, expected 1, 2, 4 or 8: choose one of these")
        if self.tta > 1 and self.mode != "faithful":
            raise ConfigError(f"tta averages the posterior mean, mode {self.mode!r} draws samples; leave one out")
        for name, (label, low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{label} is {getattr(self, name)}, expected {low} to {high}: choose one of these")

    @property
    def drawn(self) -> int:
        """How many samples are drawn; none where the network predicts the uncertainty."""
        return self.samples if self.samples > 1 or self.mode == "detail" else 0

    @property
    def evaluations(self) -> int:
        """How often the network runs for a scan, without experts by themselves."""
        steps = [float(step) for step in range(self.steps, -1, -1)]  # noise levels that fall to 0, whatever they are
        a_sample = evaluations(SAMPLERS[self.sampler], steps) if self.drawn else 0
        return self.tta * (self.mode == "faithful") + self.drawn * a_sample

    def _check_profile(self) -> None:
        if self.profile is None:
            return
        if len(self.profile) not in (1, 3):
            raise ConfigError(f"profile has {len(self.profile)} values: give one or three, in the input's axis order")
        if self.slice_thickness is not None:
            raise ConfigError(
                "--profile and --slice-thickness exclude each other: a width can be given as gaussian:0.8"
            )


def _whole(name: str, value: Any) -> int:
    """An int, whatever library's it was: the sidecar has to hold it."""
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} is {value!r}, expected a whole number: give one") from None


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is unknown; choose from {', '.join(choices)}")


def _check_grid(like: Any) -> None:
    """Refuse a file's name, which the command line takes."""
    if not isinstance(like, Grid):
        kind = type(like).__name__
        raise ConfigError(f"like is a {kind}, expected a grid: give moediff.load(FILE).stored_grid")


def _check_thickness(thickness: Any) -> None:
    """Refuse what is neither a thickness in mm nor the word for the header's."""
    number = isinstance(thickness, Real) and 0 < float(thickness) < math.inf
    if thickness not in (None, HEADER) and not number:
        raise ConfigError(f"slice thickness is {thickness!r}, expected mm above 0, or {HEADER!r}: give one of these")


def _check_sizes(sizes: Any) -> None:
    """Refuse what is not one or three numbers that a voxel can measure, in mm."""
    if not isinstance(sizes, tuple | list):
        raise ConfigError(f"voxel size is {sizes!r}, expected a tuple: give one or three numbers, as in (1.0,)")
    numbers = all(isinstance(size, Real) for size in sizes)
    if len(sizes) not in (1, 3) or not numbers or not all(0.2 <= size < math.inf for size in sizes):
        raise ConfigError(f"voxel size {sizes}: give one or three numbers of at least 0.2 mm")
