"""Make the pictures of README and docs: nilearn's MNI152 average, degraded, enhanced with the embedded weights.

    python scripts/gallery.py            into docs/images/
    python scripts/gallery.py 2mm        only this one

The pictures show no person: this template is an average of 152 heads without faces.
"""

from __future__ import annotations

import argparse
import io
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import AxisRecipe, Recipe, thick_slices
from moediff.core.config import rng_for
from moediff.core.memory import tune_allocator
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
HALF = AxisRecipe(method="truncate", factor=2)
LESS = AxisRecipe(method="truncate", factor=1.5)
RECIPES = {
    "1x1x5mm": thick_slices(5, 0.01, "1x1x5mm"),
    "3x1x1mm": thick_slices(3, 0.02, "3x1x1mm", axis=0),
    "2mm": Recipe(axes=(HALF, HALF, HALF), noise=0.01, name="2mm"),
    "noisy1.5mm": Recipe(axes=(LESS, LESS, LESS), noise=0.04, name="noisy1.5mm"),
}
WIDTH = 1200  # pixels: a repository is no place for megabytes of pictures
GREYS, COLOURS = 64, 192  # of the palette
GREY_SPREAD = 12  # between the channels of a pixel that still counts as grey


def save_small(figure: Any, path: Path) -> None:
    """A matplotlib figure as a small palette PNG."""
    whole = io.BytesIO()
    figure.savefig(whole, format="png", facecolor=figure.get_facecolor())
    picture = Image.open(whole).convert("RGB")
    height = round(picture.height * WIDTH / picture.width)
    small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(palette=palette(small), dither=Image.Dither.NONE).save(path, optimize=True)


def palette(picture: Image.Image) -> Image.Image:
    """An image whose palette holds greys and the picture's colours, each with a share of its own.

    Most of the picture is grey; without shares the experts' colours would be merged.
    """
    pixels = np.asarray(picture).reshape(-1, 3)
    coloured = pixels[np.ptp(pixels.astype(int), axis=1) > GREY_SPREAD]
    colours = Image.fromarray(coloured[None]).quantize(COLOURS, Image.Quantize.MEDIANCUT).getpalette() or []
    greys = [value for grey in np.linspace(0, 255, GREYS).round().astype(int) for value in (grey,) * 3]
    result = Image.new("P", (1, 1))
    result.putpalette([*greys, *colours[: 3 * COLOURS]])
    return result


def main() -> None:
    """Draw the recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), metavar="RECIPE", help=f"of {', '.join(RECIPES)}")
    wanted = parser.parse_args().recipes
    if unknown := [name for name in wanted if name not in RECIPES]:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(RECIPES)}")
    tune_allocator()
    truth = load(str(files("nilearn").joinpath(MNI152))).volume
    enhancer = Enhancer()
    for name in wanted:
        low = degrade(truth, RECIPES[name], rng_for(0, "demo", name))
        result = enhancer(low, EnhanceOptions(like=truth.grid))
        path = IMAGES / f"mni152_{name}.png"
        save_small(result.plot(truth=truth), path)
        print(path.relative_to(IMAGES.parents[1]))


if __name__ == "__main__":
    main()
