"""A trained model on disk: safetensors weights, a JSON with settings and provenance, checksums. Never a pickle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.acquisition.prepare import PrepareSettings
from moediff.core.config import parse_as
from moediff.core.errors import BundleError, CannotCreate, ConfigError, prefix_errors, printable
from moediff.diffusion.schedule import ProcessConfig
from moediff.io.atomic import require_free, require_writable, whole_folder
from moediff.io.tensors import save_tensors
from moediff.model.denoiser import Denoiser, DenoiserConfig

SCHEMA = 1
WEIGHTS, MANIFEST = "model.safetensors", "bundle.json"
MAX_MANIFEST_BYTES = 2**22
MAX_BYTES = 2**31  # no bundle of ours comes near; larger ones are refused before reading


@dataclass(frozen=True, kw_only=True)
class Familiar:
    """What training scans look like to the encoder; see `moediff.inference.out_of_distribution`.

    Args:
        mean: over scans, of every channel's mean and then of every channel's standard deviation.
        spread: their standard deviations over scans, above 0.
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.spread) or not all(0 < value < math.inf for value in self.spread):
            raise ConfigError("familiar.mean and familiar.spread must be of one length, spreads positive")


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """Everything that the weights depend on.

    Args:
        error_scale: standard deviation over foretold absolute error, so that 90 % of errors lie within 1.645 of it;
            1.4 for Laplace errors (ln 10 / 1.645); how far that holds: benchmarks/uncertainty.py.
        error_slices: power of how much coarser the slices are than the other axes that foretold errors are raised by.
        familiar: what training scans look like; without it no score tells how unlike them a scan is.
        consistency: whether results are corrected towards the measurement. False for weights that learned from pairs
            what the input's scanner would not have measured (another field strength or contrast).

    Raises:
        ConfigError: `familiar` is not of the encoder's width.
    """

    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    error_scale: float = 1.4
    error_slices: float = 0.0
    familiar: Familiar | None = None
    consistency: bool = True

    def __post_init__(self) -> None:
        width = self.denoiser.encoder.width
        if self.familiar is not None and len(self.familiar.mean) != 2 * width:
            raise ConfigError(f"familiar holds {len(self.familiar.mean)} values, expected {2 * width}")


@dataclass(frozen=True)
class Bundle:
    """A loaded model.

    Args:
        config: its settings.
        denoiser: the network with its weights, in evaluation mode.
        provenance: training data with licences, recipe, metrics, as written by the trainer.
        sha256: of the weights file; names the model in every sidecar.
    """

    config: BundleConfig
    denoiser: Denoiser
    provenance: Mapping[str, Any]
    sha256: str


def embedded_path() -> Path:
    """Where the bundle that comes with the package lies."""
    return Path(str(files("moediff"))) / "bundles" / "default"


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


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
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise BundleError(f"expected a bundle of schema {SCHEMA}; this one needs another version of moediff")
    if set(manifest) != {"schema", "config", "provenance", "sha256"}:
        raise BundleError(f"{MANIFEST} has the keys {sorted(manifest)}; expected config, provenance, schema, sha256")
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
            weights = _verified_weights(folder, manifest["sha256"])
        except OSError as error:
            raise BundleError(f"the bundle cannot be read ({error.strerror}): check its permissions") from error
        try:
            config = parse_as(BundleConfig, manifest["config"])
        except ConfigError as error:
            raise BundleError(f"{MANIFEST}: {error}") from error
        _check_fit(config.denoiser, weights)
        denoiser = Denoiser(config.denoiser)
        denoiser.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return Bundle(config, denoiser.to(device).eval(), manifest["provenance"], manifest["sha256"])


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


def _check_fit(config: DenoiserConfig, weights: Mapping[str, Tensor]) -> None:
    """Before the network is built, so that a config cannot ask for more memory than its weights file fills."""
    try:
        with torch.device("meta"):
            own = Denoiser(config).state_dict()
    except (RuntimeError, OverflowError) as error:
        raise BundleError(f"the config asks for impossible sizes ({str(error).splitlines()[0]})") from error
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
    told = asdict(config)
    if config.familiar is None:
        del told["familiar"]  # so that versions which do not know it read the bundle
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder, overwrite=True) as hidden:
        save_tensors({name: weight.float() for name, weight in weights.items()}, hidden / WEIGHTS)
        manifest = {
            "schema": SCHEMA,
            "config": told,
            "provenance": dict(provenance),
            "sha256": sha256_of(hidden / WEIGHTS),
        }
        (hidden / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
