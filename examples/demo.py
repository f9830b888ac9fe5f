"""What `make demo` runs: degrade a known scan, enhance it with the embedded weights, compare with the truth.

    python examples/demo.py            nilearn's bundled 1 mm MNI152 scan, as 2 mm and as 1x1x5 mm
    python examples/demo.py SCAN       your own scan, enhanced on the default grid

Writes NIfTIs and PNGs into ./demo/.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moediff._version import RESEARCH_ONLY
from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import AxisRecipe, Recipe, thick_slices
from moediff.core.config import rng_for
from moediff.core.errors import MoeDiffError
from moediff.core.geometry import resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import Scores, head_mask, score
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.result import Enhanced
from moediff.io.naming import stem_of
from moediff.io.scans import load, save
from moediff.report.figure import comparison_figure

OUT = Path("demo")
MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
HALF = AxisRecipe(method="truncate", factor=2)
RECIPES = {"2mm": Recipe(axes=(HALF, HALF, HALF), noise=0.01, name="2mm"), "1x1x5mm": thick_slices(5, 0.01, "1x1x5mm")}


def known_scan(enhancer: Enhancer) -> None:
    """Degrade, enhance and score the MNI152 scan; print the table."""
    truth = load(str(files("nilearn").joinpath(MNI152))).volume
    mask = head_mask(truth.data_XYZ)
    table = Table("input", "method", "PSNR (dB)", "SSIM", title="MNI152 against the truth, inside the head")
    for name, recipe in RECIPES.items():
        low = degrade(truth, recipe, rng_for(0, "demo", name))
        result = enhancer(low, EnhanceOptions(like=truth.grid))
        cubic = resample(low, truth.grid, "cubic")
        for method, volume in (("cubic", cubic), ("MoEDiff-SR", result.volume)):
            scores: Scores = score(volume.data_XYZ, truth.data_XYZ, mask)
            table.add_row(name, method, f"{scores.psnr:.2f}", f"{scores.ssim:.4f}")
        save(low, OUT / f"mni152_{name}.nii.gz", overwrite=True)
        save(result.volume, OUT / f"mni152_{name}_desc-sr.nii.gz", overwrite=True)
        panels = {"input": low, "cubic": cubic, "enhanced": result.volume, "truth": truth}
        _draw(panels, result, OUT / f"mni152_{name}.png", ("enhanced", "truth"))
    Console().print(table)


def own_scan(enhancer: Enhancer, path: Path) -> None:
    """Enhance a user's scan on the default grid."""
    result = enhancer(path)
    target = OUT / f"{stem_of(path)}_desc-sr.nii.gz"
    save(result.volume, target, storage=result.storage, codes=result.source.codes, overwrite=True)
    print(result.sidecar.to_json())
    scan = result.source.volume
    panels = {"input": scan, "cubic": resample(scan, result.volume.grid, "cubic"), "enhanced": result.volume}
    _draw(panels, result, target.with_suffix("").with_suffix(".png"), None)


def _draw(panels: dict[str, Volume], result: Enhanced, path: Path, error_of: tuple[str, str] | None) -> None:
    comparison_figure(
        panels, path, error_of=error_of, expert_map_XYZE=result.gate_XYZE, expert_names=result.expert_names
    )
    print(path)


def main() -> int:
    """Run the demo; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    tune_allocator()
    try:
        enhancer = Enhancer()
        if args.scan:
            own_scan(enhancer, args.scan)
        else:
            known_scan(enhancer)
    except MoeDiffError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    print(f"files are in {OUT}/. {RESEARCH_ONLY}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
