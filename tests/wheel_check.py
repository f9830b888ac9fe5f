"""Run by `.ci/wheel-test` in an empty environment: the installed wheel alone must enhance a phantom."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np

import moediff

MAX_BUNDLE_BYTES = 12 * 2**20


def phantom() -> np.ndarray:
    """A bright ellipsoid in a rim, 64x72x14 voxels of 1x1x5 mm."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (64, 72, 14)), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    inside = 600 + 100 * np.cos(9 * x) * np.sin(7 * y)
    return np.where(radius < 0.7, inside, np.where(radius < 0.85, 300, 0)).astype(np.float32)


def main() -> int:
    """Check where the package lies, what it carries, and that its command works."""
    assert Path(moediff.__file__).is_relative_to(sys.prefix), f"{moediff.__file__} is not the installed wheel"
    bundle = [item for item in files("moediff").joinpath("bundles", "default").iterdir() if item.is_file()]
    names = {item.name for item in bundle}
    assert {"model.safetensors", "bundle.json"} <= names, f"the wheel lacks its bundle: {sorted(names)}"
    assert files("moediff.inference").joinpath("schema", "sidecar.json").is_file(), (
        "the wheel lacks the sidecar's schema"
    )
    size = sum(len(item.read_bytes()) for item in bundle)
    assert size <= MAX_BUNDLE_BYTES, f"the bundle has {size} bytes, more than {MAX_BUNDLE_BYTES}"
    nib.save(nib.Nifti1Image(phantom(), np.diag([1.0, 1.0, 5.0, 1.0])), "phantom_T1w.nii.gz")
    command = Path(sys.prefix) / "bin" / "moediff"
    subprocess.run([command, "enhance", "phantom_T1w.nii.gz", "-o", "out.nii.gz"], check=True)
    out = nib.load("out.nii.gz")
    assert np.allclose(out.header.get_zooms(), 1), f"expected 1 mm voxels, got {out.header.get_zooms()}"
    assert out.shape == (64, 72, 70), f"expected the same field of view, got {out.shape}"
    assert np.isfinite(out.get_fdata()).all()
    assert out.get_fdata().std() > 0
    print(f"the wheel enhances on its own; bundle {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
