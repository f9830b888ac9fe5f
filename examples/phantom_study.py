"""An eight-subject BIDS dataset of phantoms, to try `moediff bids` on: `python examples/phantom_study.py FOLDER`.

No person was scanned: heads are nested ellipsoids with folds, ventricles and noise. Each participant has a T1w scan of
3 mm and a FLAIR with thick slices; participant 3 came twice, and the FLAIR of participant 5 is damaged on purpose.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np

PARTICIPANTS = 8
DAMAGED = "05"  # its FLAIR ends too early
TWICE = "03"
SIZE_MM = 176.0, 208.0, 176.0
# Tissue: outer radius (1 is the skin), brightness in T1w and in FLAIR.
TISSUES = {
    "skin": (1.0, 700, 500),
    "skull": (0.92, 60, 60),
    "fluid": (0.85, 150, 80),
    "grey": (0.8, 480, 620),
    "white": (0.68, 760, 450),
}


def head(contrast: int, spacing_mm: tuple[float, float, float], seed: int) -> np.ndarray:
    """A phantom on a grid of this voxel size, float32 [X, Y, Z]; `contrast` 1 is T1w, 2 FLAIR."""
    rng = np.random.default_rng(seed)
    shape = [round(size / step) for size, step in zip(SIZE_MM, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    turn, width = rng.uniform(-0.05, 0.05), rng.uniform(0.95, 1.05)
    x, y = (x * np.cos(turn) - y * np.sin(turn)) * width, x * np.sin(turn) + y * np.cos(turn)
    radius = np.sqrt((x / 0.85) ** 2 + (y / 0.95) ** 2 + (z / 0.9) ** 2)
    folds = 0.05 * np.sin(14 * np.arctan2(y, x) + seed) * np.cos(9 * z)
    data = np.zeros(shape, np.float32)
    for name, (outer, *levels) in TISSUES.items():
        inside = radius + (folds if name in ("grey", "white") else 0) * (0.4 if name == "grey" else 1) < outer
        data[inside] = levels[contrast - 1]
    ventricles = ((abs(x) - 0.14) / 0.09) ** 2 + (y / 0.3) ** 2 + (z / 0.16) ** 2 < 1
    data[ventricles] = TISSUES["fluid"][contrast]
    return data + rng.normal(0, 12, shape).astype(np.float32) * (data > 0)


def write_scan(path: Path, contrast: int, spacing_mm: tuple[float, float, float], seed: int) -> None:
    """Write a phantom as NIfTI, centred on the origin."""
    data = head(contrast, spacing_mm, seed)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -np.array(spacing_mm) * (np.array(data.shape) - 1) / 2
    image = nib.Nifti1Image(data.clip(0).astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def make_study(folder: Path, coarseness: float = 1.0, participants: int = PARTICIPANTS) -> None:
    """Write the dataset.

    Args:
        folder: made where it is missing.
        coarseness: multiplies voxel sizes; 2 makes an eighth of the voxels.
        participants: how many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"Name": "Eight phantoms", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "CC0"}
    (folder / "dataset_description.json").write_text(json.dumps(about, indent=2))
    (folder / "README").write_text("Phantoms made by examples/phantom_study.py of MoEDiff-SR; no person was scanned.\n")
    (folder / "T1w.json").write_text(json.dumps({"MagneticFieldStrength": 3, "RepetitionTime": 2.3, "EchoTime": 0.003}))
    flair = {"MagneticFieldStrength": 3, "RepetitionTime": 9, "EchoTime": 0.12, "InversionTime": 2.5}
    (folder / "FLAIR.json").write_text(json.dumps(flair))
    for number in range(1, participants + 1):
        label = f"{number:02d}"
        for visit in ("1", "2") if label == TWICE else ("",):
            place = f"sub-{label}/ses-{visit}" if visit else f"sub-{label}"
            stem = folder / place / "anat" / place.replace("/", "_")
            seed = 10 * number + int(visit or 0)
            for suffix, contrast, size in (("T1w", 1, (3.0, 3.0, 3.0)), ("FLAIR", 2, (1.5, 1.5, 5.0))):
                spacing = (size[0] * coarseness, size[1] * coarseness, size[2] * coarseness)
                write_scan(stem.with_name(f"{stem.name}_{suffix}.nii.gz"), contrast, spacing, seed)
    damaged = folder / f"sub-{DAMAGED}" / "anat" / f"sub-{DAMAGED}_FLAIR.nii.gz"
    if damaged.exists():
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[: len(whole) * 3 // 4])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    make_study(parser.parse_args().folder)
