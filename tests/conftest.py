"""Fixtures for all tests: two threads, a phantom head, nilearn's MNI152 scan, the shared scans where present."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor

from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.model.bundle import BundleConfig, load_bundle, save_bundle
from moediff.model.config import BackboneConfig, DenoiserConfig, EncoderConfig, ExpertsConfig
from moediff.model.denoiser import Denoiser

pytest_plugins = ["several_scans", "reliability", "nifti_fixtures", "evaluation_fixtures"]

MAX_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # workers share the cores
MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile("moediff", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("moediff")
torch.set_num_threads(min(MAX_THREADS, torch.get_num_threads()))

ScriptLoader = Callable[[str], ModuleType]
PhantomMaker = Callable[..., Volume]
DenoiserMaker = Callable[..., Denoiser]


def smooth_noise(shape: Sequence[int], rng: torch.Generator, cells: int = 8) -> Tensor:
    """A smooth random field in about -1..1, from a lattice of `cells` values per axis."""
    coarse = torch.rand((1, 1, cells, cells, cells), generator=rng) * 2 - 1
    return F.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def phantom_head(
    shape: tuple[int, int, int] = (48, 56, 44),
    spacing_mm: Sequence[float] = (4.0, 4.0, 4.0),
    *,
    affine: Tensor | None = None,
    seed: int = 0,
) -> Volume:
    """Scalp, skull, fluid, folded grey and white matter and ventricles as nested ellipsoids; 0..1000, air 0.

    Without an affine the volume is RAS+ with its centre at the origin.
    """
    rng = rng_for(seed, "phantom")
    lines = [torch.linspace(-1, 1, n) for n in shape]
    x, y, z = torch.meshgrid(*lines, indexing="ij")
    radius = torch.sqrt((x / 0.85) ** 2 + (y / 0.95) ** 2 + (z / 0.9) ** 2)
    folds = 0.06 * torch.sin(14 * torch.atan2(y, x)) * torch.cos(9 * z) + 0.03 * smooth_noise(shape, rng)
    data = torch.zeros(shape)
    for outer, level in ((1.0, 700.0), (0.92, 60.0), (0.85, 200.0)):  # scalp, skull, fluid
        data[radius < outer] = level
    data[radius + 0.4 * folds < 0.8] = 450.0  # grey matter
    data[radius + folds < 0.68] = 750.0  # white matter
    ventricles = ((x.abs() - 0.14) / 0.09) ** 2 + (y / 0.3) ** 2 + (z / 0.16) ** 2
    data[ventricles < 1] = 200.0
    data = data * (1 + 0.05 * smooth_noise(shape, rng, cells=6)) * (1 + 0.05 * smooth_noise(shape, rng, cells=14))
    if affine is None:
        spacing = torch.tensor([float(s) for s in spacing_mm], dtype=torch.float64)
        affine = torch.diag(torch.cat([spacing, torch.ones(1, dtype=torch.float64)]))
        affine[:3, 3] = -spacing * (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    return Volume(data, affine)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test draws the same numbers, whichever tests its process has run before."""
    torch.default_generator.manual_seed(0)


@pytest.fixture
def load_script(monkeypatch) -> ScriptLoader:
    """`load_script(name)` imports scripts/NAME.py, which finds its neighbours as it does when it is run."""
    scripts = Path(__file__).resolve().parents[1] / "scripts"

    def run(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(scripts))
        spec = importlib.util.spec_from_file_location(name, scripts / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return run


@pytest.fixture(scope="session")
def make_phantom() -> PhantomMaker:
    """`make_phantom(shape, spacing_mm, affine=None, seed=0)` -> Volume."""
    return phantom_head


@pytest.fixture
def phantom() -> Volume:
    """A small phantom head of 4 mm voxels."""
    return phantom_head()


def stored_as(volume: Volume, order: tuple[int, int, int], flips: tuple[int, ...]) -> Volume:
    """The same scan with its axes in another order and direction."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[3, 3] = 1
    for new, old in enumerate(order):
        matrix[old, new] = -1 if new in flips else 1
        matrix[old, 3] = volume.shape[old] - 1 if new in flips else 0
    return Volume(volume.data_XYZ.permute(order).flip(flips), volume.affine @ matrix)


@pytest.fixture(scope="session")
def stored() -> Callable[..., Volume]:
    """`stored(volume, order, flips)` -> the same scan with its axes in another order and direction."""
    return stored_as


def small_denoiser(seed: int = 3, *, awake: bool = False) -> Denoiser:
    """A small untrained denoiser; `awake` makes every zero-initialised layer matter."""
    torch.manual_seed(seed)
    made = Denoiser(
        DenoiserConfig(
            embedding_width=16,
            backbone=BackboneConfig(width=8, bottleneck_width=8, blocks_bottleneck=1),
            encoder=EncoderConfig(width=16, attention_heads=2),
            experts=ExpertsConfig(width=16),
        )
    ).eval()
    if awake:
        with torch.no_grad():
            for parameter in made.parameters():
                if float(parameter.abs().max()) == 0:
                    parameter.normal_(std=0.1)
    return made


@pytest.fixture(scope="session")
def make_denoiser() -> DenoiserMaker:
    """`make_denoiser(seed=3, awake=False)` -> Denoiser."""
    return small_denoiser


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small untrained bundle; do not change it."""
    small, folder = small_denoiser(), tmp_path_factory.mktemp("model") / "bundle"
    save_bundle(folder, BundleConfig(denoiser=small.config), small.state_dict(), {"name": "small"})
    return folder


@pytest.fixture(scope="session")
def enhancer(bundle: Path) -> Enhancer:
    """A small untrained model; its residual is small but not zero."""
    return Enhancer(load_bundle(bundle))


@pytest.fixture(scope="session")
def mni_path() -> Path:
    """The MNI152 T1w average, 1 mm, brain only, that nilearn carries; no network."""
    path = Path(str(files("nilearn").joinpath(MNI152)))
    if not path.is_file():
        pytest.fail(f"nilearn no longer carries {MNI152}; pin the version in constraints.txt")
    return path


@pytest.fixture(scope="session")
def mni_scan(mni_path: Path) -> Volume:
    """The MNI152 average as a Volume of 197x233x189 voxels; do not change it in place."""
    image = nib.Nifti1Image.from_filename(mni_path)
    return Volume(torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)), torch.from_numpy(image.affine))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real scans are not here: no folder {Path(*SHARED_DATA.parts[-2:])} beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def brain_labels() -> Tensor:
    """A stripped brain of 2 mm voxels, 1.1 litres: white 2, cortex 3, ventricles 4, outer fluid 24; int32."""
    lines = [torch.linspace(-1.04, 1.04, n) for n in (68, 82, 62)]
    x, y, z = torch.meshgrid(*lines, indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    folds = 0.06 * torch.sin(13 * torch.atan2(y, x)) * torch.cos(8 * z)
    labels = torch.zeros(radius.shape, dtype=torch.int32)
    labels[radius < 1] = 24
    labels[radius + 0.4 * folds < 0.94] = 3
    labels[radius + folds < 0.78] = 2
    labels[((x.abs() - 0.16) / 0.12) ** 2 + (y / 0.4) ** 2 + (z / 0.2) ** 2 < 1] = 4
    return labels
