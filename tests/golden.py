"""Golden check: what the commands make of three scans must stay the same, number by number, while the code moves.

    python tests/golden.py save FOLDER [--crop N]     keep what the present code makes
    python tests/golden.py check FOLDER [--crop N]    compare the present code with it; exit 1 where they differ

nilearn's MNI152 scan as 1x1x5 mm and as 2 mm slices, and a phantom, go through `degrade`, `enhance` with every map, and
`evaluate`; a small network trains two steps on the phantom and enhances it. Only commands are called, by the names that
they have always had, so the check survives any move inside the package. --crop N uses the middle N voxels of every axis
and leaves the 2 mm slices out (a minute instead of ten).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
TOLERANCE = 1e-6  # of the largest magnitude in an array
# What differs from run to run, or says how the program is called now.
VOLATILE = {
    "timings",
    "moediff",
    "output",
    "input",
    "input_sha256",
    "path",
    "created",
    "seconds",
    "schema",
    "generated_by",
}
TRAINING = """
out = "run"
steps = 2
batch = 2
patch = 32
rate = 5e-3
warmup = 2
save_every = 2
precision = "float32"
[model.denoiser]
vector = 16
[model.denoiser.trunk]
width = 8
deep_width = 16
[model.denoiser.encoder]
width = 16
heads = 2
[model.denoiser.experts]
width = 16
[[scans]]
path = "phantom_T1w.nii.gz"
"""


def phantom() -> nib.Nifti1Image:
    """A head of nested ellipsoids, 2 mm voxels, with a little texture; 0..1000."""
    rng = np.random.default_rng(0)
    shape = (80, 96, 72)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt((x / 0.85) ** 2 + (y / 0.95) ** 2 + (z / 0.9) ** 2)
    folds = 0.06 * np.sin(14 * np.arctan2(y, x)) * np.cos(9 * z)
    data = np.zeros(shape, np.float32)
    for outer, level in ((1.0, 700.0), (0.92, 60.0), (0.85, 200.0)):
        data[radius < outer] = level
    data[radius + 0.4 * folds < 0.8] = 450
    data[radius + folds < 0.68] = 750
    data[(np.abs(x) - 0.14) ** 2 / 0.0081 + (y / 0.3) ** 2 + (z / 0.16) ** 2 < 1] = 200
    data = data * (1 + 0.02 * rng.standard_normal(shape).astype(np.float32))
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [79, -95, -71]
    image = nib.Nifti1Image(np.ascontiguousarray(data.transpose(0, 2, 1)), affine[:, [0, 2, 1, 3]])
    image.header.set_xyzt_units("mm")
    return image


def cropped(image: nib.Nifti1Image, side: int | None) -> nib.Nifti1Image:
    """The middle of a scan."""
    if side is None:
        return image
    ends = [(max((n - side) // 2, 0), min((n - side) // 2 + side, n)) for n in image.shape]
    return image.slicer[tuple(slice(max(low, 0), high) for low, high in ends)]


def moediff(folder: Path, *words: str) -> None:
    """Run one command in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "moediff", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"moediff {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")


def flat(values: Any, path: str = "") -> dict[str, float]:
    """Every number of a JSON value by its path, less what is volatile."""
    if isinstance(values, dict):
        return {
            k: v for key, one in values.items() if key not in VOLATILE for k, v in flat(one, f"{path}/{key}").items()
        }
    if isinstance(values, list):
        return {k: v for index, one in enumerate(values) for k, v in flat(one, f"{path}/{index}").items()}
    if isinstance(values, bool) or not isinstance(values, int | float):
        return {}
    return {path: float(values)}


def one_scan(folder: Path, name: str, recipe: str, results: dict[str, Any]) -> None:
    """Degrade, enhance with every map in both modes, evaluate."""
    moediff(folder, "degrade", f"{name}.nii.gz", "--recipe", recipe, "-o", "low.nii.gz", "--overwrite", "-q")
    maps = [
        w
        for kind in ("uncertainty", "experts", "each-expert", "differences", "mask")
        for w in (f"--{kind}", f"{kind}.nii.gz")
    ]
    common = ("--like", f"{name}.nii.gz", "--threads", "1", "--overwrite", "-q")
    moediff(folder, "enhance", "low.nii.gz", "-o", "sr.nii.gz", *maps, "--even-slices", *common)
    moediff(
        folder,
        "enhance",
        "low.nii.gz",
        "-o",
        "detail.nii.gz",
        "--mode",
        "detail",
        "--samples",
        "2",
        "--steps",
        "2",
        *common,
    )
    moediff(
        folder, "enhance", "low.nii.gz", "-o", "default.nii.gz", "--mirrors", "2", "--threads", "1", "--overwrite", "-q"
    )
    moediff(
        folder,
        "evaluate",
        "--pred",
        "sr.nii.gz",
        "--ref",
        f"{name}.nii.gz",
        "--input",
        "low.nii.gz",
        "--metrics",
        "all",
        "--json",
        "scores.json",
        "--overwrite",
        "-q",
    )
    stems = ("low", "sr", "detail", "default", "uncertainty", "experts", "each-expert", "differences", "mask")
    key = f"{name}/{recipe}"
    results |= {f"{key}/{stem}": nib.load(folder / f"{stem}.nii.gz").get_fdata(dtype=np.float32) for stem in stems}
    results |= {f"{key}/{stem}/affine": nib.load(folder / f"{stem}.nii.gz").affine for stem in ("low", "sr", "default")}
    results[f"{key}/scores"] = flat(json.loads((folder / "scores.json").read_text()))


def training(folder: Path, results: dict[str, Any]) -> None:
    """Two steps of a small network; its losses, weights' digest and what it makes of the phantom."""
    (folder / "tiny.toml").write_text(TRAINING)
    moediff(folder, "train", "tiny.toml", "--processes", "1", "-q")
    rows = [row.split(",") for row in (folder / "run" / "losses.csv").read_text().split()]
    results["training/losses"] = {f"{i}/{j}": float(v) for i, row in enumerate(rows[1:]) for j, v in enumerate(row[:4])}
    moediff(
        folder,
        "enhance",
        "low.nii.gz",
        "-o",
        "trained.nii.gz",
        "--bundle",
        "run/bundle",
        "--threads",
        "2",
        "--overwrite",
        "-q",
    )
    results["training/enhanced"] = nib.load(folder / "trained.nii.gz").get_fdata(dtype=np.float32)


def everything(crop: int | None) -> dict[str, Any]:
    """All results by name: arrays, and tables of numbers."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as where, open(Path(tempfile.gettempdir()) / "golden.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one check at a time on a machine: side by side they take longer in all
        folder = Path(where)
        nib.save(cropped(nib.load(str(files("nilearn").joinpath(MNI152))), crop), folder / "mni_T1w.nii.gz")
        nib.save(phantom(), folder / "phantom_T1w.nii.gz")
        scans = [("mni_T1w", "thick5"), ("phantom_T1w", "thick3"), *([] if crop else [("mni_T1w", "iso2")])]
        for name, recipe in scans:
            one_scan(folder, name, recipe, results)
            print(f"{name} {recipe}: done", flush=True)
        training(folder, results)
    return results


def difference(old: Any, new: Any) -> float:
    """Largest difference, relative to the largest magnitude; infinite where shapes or names differ."""
    if isinstance(old, dict):
        old = {key.replace("/consistency/", "/data_consistency/"): value for key, value in old.items()}  # schema 1
        if missing := set(old) - set(new):
            print(f"   missing: {sorted(missing)[:8]}")
        return max((abs(old[k] - new[k]) / max(abs(old[k]), 1e-3) for k in set(old) & set(new)), default=0.0)
    if old.shape != new.shape:
        return float("inf")
    return float(np.abs(old.astype(np.float64) - new).max() / max(float(np.abs(old).max()), 1e-12))


def main() -> int:
    """Save or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("save", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crop", type=int)
    args = parser.parse_args()
    results = everything(args.crop)
    tables = {name: value for name, value in results.items() if isinstance(value, dict)}
    arrays = {name: value for name, value in results.items() if not isinstance(value, dict)}
    if args.what == "save":
        args.folder.mkdir(parents=True, exist_ok=True)
        np.savez(args.folder / "arrays.npz", **arrays)
        (args.folder / "tables.json").write_text(json.dumps(tables, indent=1) + "\n")
        return 0
    old = {**np.load(args.folder / "arrays.npz"), **json.loads((args.folder / "tables.json").read_text())}
    worst = {name: difference(old[name], results[name]) for name in old}
    for name, value in worst.items():
        print(f"{'ok ' if value <= TOLERANCE else 'BAD'} {value:.2e} {name}")
    return int(max(worst.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
