"""Validation: degrade a scan, enhance it with the saved bundle, compare with the truth. The same path users take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.labels import as_brain_label_map
from moediff.anatomy.synthesis import synthesise
from moediff.benchmark.cases import MEASURED, Case, Scan, both_cover
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, InputMissing, prefix_errors, printable
from moediff.core.geometry import centre_crop
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import Annotations, EvaluateOptions, evaluate
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.label_check import load_intensities, load_truth
from moediff.io.scans import load
from moediff.training.pairs import pair_of
from moediff.training.sources import brain_scaled

PAIR = "pair"
REMEDY = "name a label map under validation.label_maps, or a scan"
LEAST_SIDE = 16  # voxels; smaller cubes hold no head to find


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A head measured twice: the sharp scan, and the same as it is usually acquired, registered to it."""

    path: str
    input: str


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What to judge by; paths lie under the data folder.

    Args:
        scans: sharp scans.
        label_maps: one synthetic scan is made of each.
        pairs: heads that were measured twice; nothing is simulated of them.
        recipes: names of frozen recipes.
        side: voxels of the middle cube that is judged; none judges the whole.

    Raises:
        ConfigError: an unknown recipe, or a cube too small to judge.
    """

    scans: tuple[str, ...] = ()
    label_maps: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    recipes: tuple[str, ...] = ("thick5", "low1.5", "iso2")
    side: int | None = None

    def __post_init__(self) -> None:
        if unknown := [recipe for recipe in self.recipes if recipe not in NAMED]:
            raise ConfigError(f"validation.recipes: {unknown} are unknown; choose from {', '.join(NAMED)}")
        if self.side is not None and self.side < LEAST_SIDE:
            raise ConfigError(f"validation.side={self.side} must be at least {LEAST_SIDE} voxels")

    def files(self) -> tuple[str, ...]:
        """Everything that is read to judge by."""
        return (*self.scans, *self.label_maps, *(path for pair in self.pairs for path in (pair.path, pair.input)))

    def check(self, data: Path) -> None:
        """Before hours of training: is everything there, and a scan or a label map?

        Raises:
            InputMissing: a file is not.
            DataError, GeometryError: it cannot be read, or a pair does not show one head in one place.
        """
        for path in self.files():
            if not (data / path).exists():
                raise InputMissing(
                    f"{printable(data / path)}: no such scan to validate on; check [validation] and --data"
                )
        for path in (*self.scans, *self.label_maps):
            if path in self.label_maps:
                with prefix_errors(data / path):
                    as_brain_label_map(load(data / path).volume.data_XYZ)
            else:
                load_intensities(data / path, REMEDY)
        for pair in self.pairs:
            sharp, low = (brain_scaled(load_intensities(data / p, REMEDY).volume)[0] for p in (pair.path, pair.input))
            with prefix_errors(data / pair.input):
                pair_of(sharp, low, 1.0)

    def truths(self, data: Path) -> Iterator[tuple[str, Volume]]:
        """Path and sharp scan of every case."""
        for path in (*self.scans, *self.label_maps):
            if path in self.label_maps:
                volume = load(data / path).volume
                with prefix_errors(data / path):
                    labels = as_brain_label_map(volume.data_XYZ)
                volume = volume.with_data(synthesise(labels, rng_for(0, "validation", path)))
            else:
                volume = load_truth(data / path, REMEDY)
            if self.side is not None:
                volume = centre_crop(volume, self.side)
            yield path, volume


def validate(bundle: Path | None, validation: Validation, data: Path) -> dict[str, float]:
    """PSNR gain over the interpolated input inside the head, in dB, by "scan/recipe" and as "mean/recipe".

    Pairs have the recipe "pair". Without a bundle the embedded one is judged.
    """
    gains: dict[str, float] = {}
    if not (validation.scans or validation.label_maps or validation.pairs):
        return gains
    enhancer = Enhancer(bundle)
    for path, truth in validation.truths(data):
        mask = head_mask(truth.data_XYZ)
        span = data_range(truth.data_XYZ, mask)
        for recipe in validation.recipes:
            low = degrade(truth, NAMED[recipe], rng_for(0, Path(path).name, recipe))
            result = enhancer(low, EnhanceOptions(like=truth.grid))
            ours = psnr(result.volume.data_XYZ, truth.data_XYZ, mask, span)
            plain = psnr(result.interpolated.data_XYZ, truth.data_XYZ, mask, span)
            gains[f"{path}/{recipe}"] = ours - plain
    for pair in validation.pairs:
        gains[f"{pair.path}/{PAIR}"] = _gain_of_pair(enhancer, data / pair.path, data / pair.input)
    for recipe in dict.fromkeys(case.rpartition("/")[2] for case in gains):
        values = [gain for case, gain in gains.items() if case.endswith(f"/{recipe}")]
        gains[f"mean/{recipe}"] = sum(values) / len(values)
    return gains


def _gain_of_pair(enhancer: Enhancer, path: Path, low: Path) -> float:
    """Where both scans were measured, after each result is fitted to the sharp scan's intensities."""
    truth, scan = Case(Scan(path.name, path, input=low), MEASURED, seed=0).acquire()
    result = enhancer(scan, EnhanceOptions(like=truth.grid))
    annotations = Annotations(mask=both_cover(truth, scan.grid))
    ours, plain = (
        evaluate(volume, truth, EvaluateOptions(metrics=("psnr",)), annotations=annotations).metrics["psnr"]
        for volume in (result.volume, result.interpolated)
    )
    return float(ours - plain)
