"""Small synthetic scans under the names that the documentation uses, to try every command without any data.

    python scripts/example_scans.py FOLDER

A head of nested ellipsoids, 56 x 64 x 52 voxels: large enough for every command, small enough for seconds.
It is no anatomy; expect the warning that it is no whole head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import recipe_for, thick_slices
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.io.scans import save

SHAPE_XYZ = (56, 64, 52)
PLANE_VOXEL_MM = 1.5  # the same voxels cover more: registration needs more of a head than a network does
ELLIPSOIDS = (
    (0.98, 500.0),
    (0.9, 60.0),
    (0.84, 200.0),
    (0.78, 450.0),
    (0.6, 750.0),
    (0.2, 200.0),
)  # radius, brightness
PLANES = ("axial.nii.gz", "sagittal.nii.gz", "coronal.nii.gz")  # of one head
SHARP = ("sharp.nii.gz", "t1w_1mm.nii.gz", "bids/sub-01/anat/sub-01_T1w.nii.gz")
THICK = (
    "scan.nii.gz",
    "sub-01_T2w.nii.gz",
    "flair_1x1x5.nii.gz",
    *(f"bids/sub-0{number}/anat/sub-0{number}_FLAIR.nii.gz" for number in (1, 2)),
)


def phantom_head(seed: int = 0, voxel_mm: float = 1.0) -> Volume:
    """Scalp, skull, fluid, folded grey matter, white matter and a ventricle, on isotropic voxels."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE_XYZ), indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    folds = 0.05 * torch.sin(11 * torch.atan2(y, x) + seed) * torch.cos(7 * z)
    data = torch.zeros(SHAPE_XYZ)
    for outer, brightness in ELLIPSOIDS:
        data[radius + (folds if 0.5 < outer < 0.8 else 0) < outer] = brightness
    affine = torch.diag(torch.tensor([voxel_mm, voxel_mm, voxel_mm, 1], dtype=torch.float64))
    affine[:3, 3] = -voxel_mm * (torch.tensor(SHAPE_XYZ, dtype=torch.float64) - 1) / 2
    return Volume(data + 5 * torch.randn(SHAPE_XYZ, generator=rng_for(seed, "texture")), affine)


def write_scans(folder: Path) -> list[Path]:
    """Write every scan that is not there yet; returns their names."""
    scans: dict[Path, Volume] = {}
    for axis, name in zip((2, 0, 1), PLANES, strict=True):
        scans[folder / name] = degrade(
            phantom_head(voxel_mm=PLANE_VOXEL_MM), thick_slices(4, 0.01, "plane", axis), rng_for(0, name)
        )
    for number, name in enumerate((*SHARP, *THICK)):
        sharp = phantom_head(number)
        thick = name in THICK
        scans[folder / name] = degrade(sharp, recipe_for("thick5"), rng_for(number, "example")) if thick else sharp
    missing = {path: scan for path, scan in scans.items() if not path.exists()}
    for path, scan in missing.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        save(scan, path)
    about = folder / "bids" / "dataset_description.json"
    if not about.exists():
        about.write_text('{"Name": "Example", "BIDSVersion": "1.10.0", "DatasetType": "raw"}\n', encoding="utf-8")
    return list(missing)


def main() -> None:
    """Write the scans and print their names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for path in write_scans(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
