"""Make the pictures of README and docs: nilearn's MNI152 average, degraded, enhanced with the embedded weights.

    python scripts/gallery.py            into docs/images/

Shown is only what shows no person: this template is an average of 152 heads without faces.
"""

from __future__ import annotations

import argparse
import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from moediff.config import rng_for
from moediff.inference.engine import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.memory import keep_memory
from moediff.simulate.degrade import degrade
from moediff.simulate.recipe import AxisRecipe, Recipe, thick_slices
from moediff.volume.geometry import canonicalise
from moediff.volume.io import load

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
HALF = AxisRecipe(method="truncate", factor=2)
RECIPES = {"2mm": Recipe(axes=(HALF, HALF, HALF), noise=0.01, name="2mm"), "1x1x5mm": thick_slices(5, 0.01, "1x1x5mm")}
WIDTH, COLOURS = 1200, 256  # pixels; palette entries: a repository is no place for megabytes of pictures


def save_small(figure: Any, path: Path) -> None:
    """A matplotlib figure as a small palette PNG."""
    whole = io.BytesIO()
    figure.savefig(whole, format="png", facecolor=figure.get_facecolor())
    picture = Image.open(whole).convert("RGB")
    height = round(picture.height * WIDTH / picture.width)
    small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    # the octree keeps rare colours; median cut spends nearly all on the greys and makes two experts look alike
    small.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw every recipe."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keep_memory()
    truth, _ = canonicalise(load(str(files("nilearn").joinpath(MNI152))).volume)
    enhancer = Enhancer()
    for name, recipe in RECIPES.items():
        low = degrade(truth, recipe, rng_for(0, "demo", name))
        result = enhancer(low, EnhanceOptions(like=truth.grid))
        path = IMAGES / f"mni152_{name}.png"
        save_small(result.plot(truth=truth), path)
        print(path.relative_to(IMAGES.parents[1]))


if __name__ == "__main__":
    main()
