"""Bundle: a trained model on disk, as safetensors weights and a JSON with settings, provenance and checksum.

Never a pickle. Bundles of schema 1 are read by the tables of former names below and in the settings' dataclasses.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from moediff.acquisition.prepare import PrepareSettings
from moediff.core.config import parse_as
from moediff.core.errors import BundleError, CannotCreate, ConfigError, prefix_errors, printable
from moediff.diffusion.schedule import DiffusionConfig
from moediff.io.atomic import require_free, require_writable, whole_folder
from moediff.io.tensors import save_tensors
from moediff.model.config import DenoiserConfig
from moediff.model.denoiser import Denoiser

SCHEMA, READ_SCHEMAS = 2, (1, 2)
WEIGHTS, MANIFEST = "model.safetensors", "bundle.json"
MAX_MANIFEST_BYTES = 2**22
MAX_BYTES = 2**31  # no bundle of ours comes near; larger ones are refused before reading
T = TypeVar("T")

# Former parts of parameters' names, as in schema 1 -> present ones. Settings' former names: `RENAMED` of their classes.
PARAMETER_PARTS = {
    "across": "across_coarse",
    "deep": "bottleneck",
    "enter": "input_projection",
    "enter_view": "branch_projection",
    "error": "uncertainty_head",
    "from_axis": "from_phase",
    "from_vector": "from_embedding",
    "head": "output_projection",
    "inward": "fine_to_coarse",
    "leave": "output_projection",
    "outward": "coarse_to_fine",
    "place": "position",
    "token": "token_projection",
    "trunk": "backbone",
    "vector": "embedding",
    "view": "branch",
}


def present_names(weights: Mapping[str, T]) -> dict[str, T]:
    """Weights by the present names of their parameters; present names stay as they are."""
    return {".".join(PARAMETER_PARTS.get(part, part) for part in name.split(".")): w for name, w in weights.items()}


@dataclass(frozen=True, kw_only=True)
class OutOfDistributionStatistics:
    """What training scans look like to the encoder; see `moediff.inference.out_of_distribution`.

    Args:
        mean: over scans, of every channel's mean and then of every channel's standard deviation.
        std: their standard deviations over scans, above 0.
    """

    RENAMED: ClassVar[Mapping[str, str | None]] = {"spread": "std"}

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, self.mean)) and all(0 < value < math.inf for value in self.std)
        if len(self.mean) != len(self.std) or not finite:
            raise ConfigError("out_of_distribution.mean and .std must be of one length, standard deviations positive")


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """Everything that the weights depend on.

    Args:
        uncertainty_scale: standard deviation over predicted absolute error, so that 90 % of errors lie within 1.645 of
            it; 1.4 for Laplace errors (ln 10 / 1.645); how far that holds: benchmarks/uncertainty.py.
        anisotropy_exponent: predicted errors are raised by this power of the anisotropy ratio, how much coarser the
            slices are than the other axes.
        out_of_distribution: what training scans look like; without it there is no out-of-distribution score.
        data_consistency: whether results are corrected towards the measurement. False for weights that learned from
            pairs what the input's scanner would not have measured (another field strength or contrast).

    Raises:
        ConfigError: `out_of_distribution` is not of the encoder's width, or a number is none.
    """

    RENAMED: ClassVar[Mapping[str, str | None]] = {
        "process": "diffusion",
        "error_scale": "uncertainty_scale",
        "error_slices": "anisotropy_exponent",
        "familiar": "out_of_distribution",
        "consistency": "data_consistency",
    }

    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    uncertainty_scale: float = 1.4
    anisotropy_exponent: float = 0.0
    out_of_distribution: OutOfDistributionStatistics | None = None
    data_consistency: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.uncertainty_scale < math.inf or not math.isfinite(self.anisotropy_exponent):
            raise ConfigError(
                f"uncertainty_scale={self.uncertainty_scale} must be a positive number, and "
                f"anisotropy_exponent={self.anisotropy_exponent} a number"
            )
        statistics, width = self.out_of_distribution, self.denoiser.encoder.width
        if statistics is not None and len(statistics.mean) != 2 * width:
            raise ConfigError(f"out_of_distribution holds {len(statistics.mean)} values, expected {2 * width}")


@dataclass(frozen=True)
class Bundle:
    """A loaded model.

    Args:
        config: its settings.
        denoiser: the network with its weights, in evaluation mode.
        provenance: training data with licences, recipe, metrics, as written by the trainer.
        sha256: of the weights file; names the model in every sidecar.
        settings_sha256: of its settings, see `settings_checksum`; results depend on both.
    """

    config: BundleConfig
    denoiser: Denoiser
    provenance: Mapping[str, Any]
    sha256: str
    settings_sha256: str = ""


def embedded_path() -> Path:
    """Where the bundle that comes with the package lies."""
    return Path(str(files("moediff"))) / "bundles" / "default"


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def settings_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a bundle's settings as they are stored, so that a later version with further ones finds the same."""
    return hashlib.sha256(json.dumps(manifest["config"], sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The JSON part of a bundle, checked for shape.

    Raises:
        BundleError: missing, not JSON, or of a schema we do not know.
    """
    if not (path / MANIFEST).is_file():
        raise BundleError(f"no model bundle here: expected a folder with {MANIFEST} and {WEIGHTS}")
    size = (path / MANIFEST).stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} has {size} bytes; at most {MAX_MANIFEST_BYTES} are read")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not JSON ({error}); copy the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") not in READ_SCHEMAS:
        raise BundleError(f"expected a bundle of schema 1 to {SCHEMA}; this one needs another version of moediff")
    if set(manifest) != {"schema", "config", "provenance", "sha256"}:
        raise BundleError(f"{MANIFEST} has the keys {sorted(manifest)}; expected config, provenance, schema, sha256")
    provenance = manifest["provenance"]
    if not isinstance(provenance, dict) or not isinstance(provenance.get("adapted") or {}, dict):
        raise BundleError(f"provenance in {MANIFEST} is no table, or its `adapted` is none; use another bundle")
    return manifest


def load_bundle(path: Path | str | None = None, device: str | torch.device = "cpu") -> Bundle:
    """Read and verify a bundle; None loads the embedded one.

    Raises:
        BundleError: incomplete, altered, of another shape, or with weights that are not finite.
    """
    folder = embedded_path() if path is None else Path(path)
    with prefix_errors(folder):
        try:
            manifest = read_manifest(folder)
            weights = present_names(_verified_weights(folder, manifest["sha256"]))
        except OSError as error:
            raise BundleError(f"the bundle cannot be read ({error.strerror}): check its permissions") from error
        try:
            config = parse_as(BundleConfig, manifest["config"], warn=False)
        except ConfigError as error:
            raise BundleError(f"{MANIFEST}: {error}") from error
        denoiser = _unfilled(config.denoiser)
        _check_fit(denoiser, weights)
        # Copies: safetensors maps the file into memory, and whoever cut it later would take the weights with it.
        weights = {name: tensor.to(device, torch.float32, copy=True) for name, tensor in weights.items()}
        denoiser.load_state_dict(weights, assign=True)
        checksums = (manifest["sha256"], settings_checksum(manifest))
        return Bundle(config, denoiser.eval(), manifest["provenance"], *checksums)


def _verified_weights(folder: Path, expected: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.is_file():
        raise BundleError(f"{WEIGHTS} is missing; copy the bundle again")
    if file.stat().st_size > MAX_BYTES:
        raise BundleError(f"{WEIGHTS} has {file.stat().st_size} bytes; at most {MAX_BYTES} are read")
    if sha256_of(file) != expected:
        raise BundleError(f"{WEIGHTS} does not have the checksum in {MANIFEST}; it was altered or cut, copy it again")
    try:
        return load_file(file)
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{WEIGHTS} is not a safetensors file ({error}); pickled weights are never loaded") from error


class _WithoutInitialisation(TorchFunctionMode):
    """Layers made inside keep their parameters as they were reserved, without drawing initial values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _unfilled(config: DenoiserConfig) -> Denoiser:
    """The network without memory for its weights, so that a config cannot ask for more than its weights file fills."""
    try:
        with torch.device("meta"), _WithoutInitialisation():
            return Denoiser(config)
    except (RuntimeError, OverflowError) as error:
        raise BundleError(f"the config asks for impossible sizes ({str(error).splitlines()[0]})") from error


def _check_fit(denoiser: Denoiser, weights: Mapping[str, Tensor]) -> None:
    own = denoiser.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or extra:
        raise BundleError(f"weights do not fit the config: missing {missing[:2]}, unexpected {extra[:2]}")
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise BundleError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(own[name].shape)}")
        if not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{name} holds NaN or infinite weights; use another bundle")


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Can a bundle be written there? Ask before any long work.

    Raises:
        CannotCreate: something is there (another bundle may be replaced with `overwrite`, an empty folder is filled),
            or the folder around it is missing or closed to us.
        OutputFailed: the disk is full already.
    """
    with prefix_errors(printable(folder)):
        try:
            bundle, there = (folder / MANIFEST).is_file(), folder.is_dir()
            full, fixed = there and any(folder.iterdir()), there and (folder.name in ("", "..") or folder.is_mount())
        except OSError as error:
            raise CannotCreate(f"the folder cannot be looked into ({error.strerror}): choose another one") from error
        if full and not bundle:
            raise CannotCreate("a folder with other things in it has this name: choose another name")
        if bundle and not overwrite:
            raise CannotCreate(
                "a model bundle is there already: choose another name or allow overwriting (--overwrite)"
            )
        if fixed:
            raise CannotCreate("this folder cannot be replaced as a whole: name a new one inside it")
        if there:
            require_writable(folder)
        else:
            require_free(folder, overwrite=False)


def save_bundle(
    folder: Path, config: BundleConfig, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> None:
    """Write a bundle as a whole folder, so that a half-written one is never found; an older one is replaced.

    Raises:
        BundleError: weights are not finite.
    """
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        raise BundleError("refusing to save NaN or infinite weights")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder, overwrite=True) as hidden:
        save_tensors({name: weight.float() for name, weight in weights.items()}, hidden / WEIGHTS)
        manifest = {
            "schema": SCHEMA,
            "config": asdict(config),
            "provenance": dict(provenance),
            "sha256": sha256_of(hidden / WEIGHTS),
        }
        (hidden / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
