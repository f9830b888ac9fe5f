"""Work of one task: one scan, from the input's file to its result and its pictures, unless that is there already.

Done means: a sidecar of this scan names the checksums of the input, of what JSON files say of it, of the weights and of
the options as they are now, and all its files are there. Anything else is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from moediff.cohort.placement import Placement
from moediff.cohort.tasks import LONGEST_NAME, Outcome, Task
from moediff.core.errors import CannotCreate, ConfigError, InputMissing, MoeDiffError, printable
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.outputs import OutputPaths, written_by_us
from moediff.inference.result import Enhanced
from moediff.inference.run import EnhanceRequest, enhance_to
from moediff.inference.sidecar import InputFile, read_sidecar
from moediff.io.checksum import checksum_of
from moediff.io.lock import lock_of
from moediff.io.missing import FETCH, is_annex_pointer
from moediff.io.scans import load, write_text
from moediff.model.bundle import embedded_path, read_manifest, settings_checksum

OPTIONS_KEY, METADATA_KEY, VIEWER_KEY = "options_sha256", "metadata_sha256", "viewer_size"  # in the sidecar
MAPS = ("uncertainty", "experts", "mask")


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which weights, and where they run.

    Args:
        bundle: folder; None takes the embedded weights.
        sha256, settings_sha256: of the weights and of their bundle's settings, as the run began.
        device, dtype: as `Enhancer` takes them.
    """

    bundle: Path | None
    sha256: str
    settings_sha256: str = ""
    device: str = "auto"
    dtype: str = "float32"

    @classmethod
    def of(cls, bundle: Path | None, *, device: str, dtype: str) -> ModelChoice:
        """Read which weights a folder holds.

        Raises:
            BundleError: there is no bundle.
        """
        manifest = read_manifest(embedded_path() if bundle is None else bundle)
        return cls(
            bundle=bundle,
            sha256=str(manifest["sha256"]),
            settings_sha256=settings_checksum(manifest),
            device=device,
            dtype=dtype,
        )


@dataclass(frozen=True)
class Reading:
    """How a scan is read, as `load` takes it."""

    trust: str | None = None
    index: int | None = None
    series: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScanSpec:
    """What a task of a cohort does.

    Args:
        source: the scan.
        others: further scans of the same head, which become one result with it.
        placement: where its results go.
        model: weights.
        options: of the enhancement.
        reading: how the scan is read.
        viewer_size: of the interactive page, full or small.
        redo: whether results that are there count for nothing.

    Raises:
        ConfigError: there is no uncertainty with these options.
    """

    source: Path
    others: tuple[Path, ...] = ()
    placement: Placement
    model: ModelChoice
    options: EnhanceOptions = field(default_factory=EnhanceOptions)
    reading: Reading = field(default_factory=Reading)
    viewer_size: str = "small"
    redo: bool = False

    def __post_init__(self) -> None:
        one_sample = self.options.mode == "detail" and self.options.samples < 2 and not self.others
        if one_sample and "uncertainty" in self.placement.maps:
            raise ConfigError("--uncertainty in mode detail needs --samples 2 or more; mode faithful predicts it")

    def options_sha256(self) -> str:
        """Checksum of everything that was chosen and changes the result or what is written of it.

        What is left at its default does not count, so that a version with further options finds older results done.
        """
        grid, defaults = self.options.like, _default_options()
        options = {name: value for name, value in asdict(self.options).items() if name in defaults}
        chosen: dict[str, Any] = {name: value for name, value in options.items() if value != defaults[name]}
        chosen |= {name: value for name, value in asdict(self.reading).items() if value is not None}
        if grid is not None:
            chosen["like"] = [grid.shape, grid.affine.tolist()]
        if self.others:
            chosen["others"] = [checksum_of(path) for path in self.others]
        if self.placement.maps:
            chosen["maps"] = sorted(self.placement.maps)
        if self.model.dtype != "float32":
            chosen["dtype"] = self.model.dtype
        return hashlib.sha256(json.dumps(chosen, sort_keys=True, default=str).encode()).hexdigest()


@lru_cache(maxsize=1)
def _default_options() -> dict[str, Any]:
    """Those that make a difference as they are: a grid is written in another way, memory changes no result."""
    return {name: value for name, value in asdict(EnhanceOptions()).items() if name not in ("like", "memory_mb")}


def enhance_task(task: Task) -> Outcome:
    """Enhance the scan of a task, or find that it is done.

    Raises:
        MoeDiffError: as `enhance_to`; also where a file of another program has the name of a result. Messages name
            files without their folders, for pages show them.
    """
    spec = _spec(task)
    try:
        return _work(spec)
    except MoeDiffError as error:
        message = str(error)
        for folder in {spec.source.parent, spec.placement.folder}:
            message = message.replace(f"{printable(folder)}{os.sep}", "")
        raise type(error)(message) from error


def _work(spec: ScanSpec) -> Outcome:
    begun = time.monotonic()
    for path in (spec.source, *spec.others):
        _require_content(path)
    done = None if spec.redo else finished(spec)
    if done is not None:
        return Outcome("skipped", reason="done before", outputs=(str(done),))
    result, outputs = _enhance(spec)
    _describe_maps(result, spec, outputs)
    if not spec.placement.viewer:
        _remove(spec.placement.page_of(outputs.sidecar))
    _draw(result, spec, outputs)
    for warning in result.sidecar.warnings:
        print(f"warning: {warning}")
    print(f"wrote {printable(outputs.scan.name)}")
    names = tuple(str(path) for path in outputs.every() if path.exists())
    return Outcome("done", seconds=time.monotonic() - begun, outputs=names)


def _spec(task: Task) -> ScanSpec:
    if not isinstance(task.spec, ScanSpec):
        raise ConfigError(f"task {task.name} holds a {type(task.spec).__name__}, expected a ScanSpec")
    return task.spec


def _require_content(source: Path) -> None:
    """An unlocked file of git-annex without its content is a text that names it."""
    if is_annex_pointer(source):
        raise InputMissing(f"{printable(source)}: the file holds only git-annex's pointer to its content: {FETCH}")


def finished(spec: ScanSpec) -> Path | None:
    """The sidecar of a complete result of this input with these weights and options; None where there is none."""
    candidates = [pair for path in spec.placement.sidecars() if (pair := _record(path)) is not None]
    wanted = (spec.options_sha256(), spec.placement.metadata_sha256())
    candidates = [
        (path, record) for path, record in candidates if _choices(record) == wanted and _is_of(record, spec.model)
    ]
    fitting = [(path, record) for path, record in candidates if _whole(path, record, spec)]
    if not fitting:
        return None
    checksum = checksum_of(spec.source)  # last, for it reads the whole file
    for path, record in fitting:
        named = record.get("input_file")
        if isinstance(named, dict) and named.get("sha256") == checksum:
            return path
    return None


def _record(sidecar: Path) -> tuple[Path, dict[str, Any]] | None:
    try:
        return sidecar, read_sidecar(sidecar)
    except MoeDiffError:
        return None


def _choices(record: dict[str, Any]) -> tuple[Any, Any]:
    return record.get(OPTIONS_KEY), record.get(METADATA_KEY)


def _is_of(record: dict[str, Any], model: ModelChoice) -> bool:
    """Whether a result is of these weights and settings; version 0.2.0 and older recorded no settings."""
    weights = record.get("weights")
    if not isinstance(weights, dict):
        return False
    settings = weights.get("settings_sha256") or model.settings_sha256
    return (weights.get("sha256"), settings) == (model.sha256, model.settings_sha256)


def _whole(sidecar: Path, record: dict[str, Any], spec: ScanSpec) -> bool:
    """Whether the scan and the maps that a sidecar names are there, with the files beside these, and the page."""
    maps = {key: sidecar.parent / name for key, name in _maps_of(record).items()}
    described = [path for name, of in maps.items() for path in spec.placement.companions(str(name), of)]
    page = (spec.placement.page_of(sidecar),) if spec.placement.viewer else ()
    if page and record.get(VIEWER_KEY, ScanSpec.viewer_size) != spec.viewer_size:
        return False
    every = (sidecar.with_suffix(".nii.gz"), *maps.values(), *described, *page)
    return all(path.is_file() and path.stat().st_size for path in every)


def _maps_of(record: dict[str, Any]) -> dict[str, str]:
    """Maps that a sidecar names, by their option."""
    named = record.get("maps")
    return {str(key): str(name) for key, name in named.items()} if isinstance(named, dict) else {}


def _enhance(spec: ScanSpec) -> tuple[Enhanced, OutputPaths]:
    how = spec.reading
    scans = [load(path, trust=how.trust, index=how.index, series=how.series) for path in (spec.source, *spec.others)]
    planned = EnhanceRequest(source=scans, options=spec.options, outputs=OutputPaths(scan=spec.source)).planned
    spacing_mm = planned.plan.stored_target.spacing_mm
    outputs = spec.placement.outputs(spacing_mm)
    for path in outputs.every():
        make_folder(path.parent)
    _refuse_foreign(outputs)
    if spec.placement.named_by_run:
        _refuse_other_scan(spec.source, outputs)
    older = _maps_before(spec.placement, outputs.sidecar, spacing_mm)
    keys = {OPTIONS_KEY: spec.options_sha256(), METADATA_KEY: spec.placement.metadata_sha256()}
    keys |= {VIEWER_KEY: spec.viewer_size} if spec.placement.viewer else {}
    request = EnhanceRequest(
        source=scans,
        options=spec.options,
        outputs=outputs,
        overwrite=True,
        report_size=spec.viewer_size,
        annotate=lambda result: {**keys, **spec.placement.annotate(result)},
    )
    result = enhance_to(request, lambda _: _enhancer(spec.model), planned=planned)
    for name, path in older.items():
        if path not in outputs.every() or not path.exists():
            _remove(path, *spec.placement.companions(name, path))
    return result, outputs


def _maps_before(placement: Placement, sidecar: Path, spacing_mm: Sequence[float]) -> dict[str, Path]:
    """Maps of the result that is replaced, under the names that this program gives them."""
    pair = _record(sidecar)
    named = _maps_of(pair[1]) if pair else {}
    possible = replace(placement, maps=MAPS).volumes(spacing_mm).maps()
    return {name: path for name, path in possible.items() if named.get(name) == path.name}


def _remove(*paths: Path) -> None:
    """Remove what is of a result that was replaced, where it can be: nobody may take it for the new one's."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        CannotCreate: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreate(
            f"{printable(folder)}: the folder cannot be made ({error.strerror}): choose another output"
        ) from error


def task_name(text: str) -> str:
    """A task's name from a scan's: what does not fit is replaced, and a checksum keeps names apart then.

    `__` stands for `/`, so a name that holds it of its own has the checksum too.
    """
    plain = re.sub(r"[^\w.+=@-]", "_", text.replace("/", "__"), flags=re.ASCII).lstrip("_.+=@-")[: LONGEST_NAME - 9]
    if plain.replace("__", "/") == text:
        return plain
    return f"{plain or 'scan'}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}"


def _refuse_foreign(outputs: OutputPaths) -> None:
    """Results of this program are replaced where they no longer fit; a file of another one never is."""
    if not outputs.scan.exists() or written_by_us(outputs.sidecar) or _left_unfinished(outputs):
        return
    raise CannotCreate(
        f"{printable(outputs.scan)}: a file that is no result of this program has this name: move it, or choose "
        "another output folder"
    )


def _refuse_other_scan(source: Path, outputs: OutputPaths) -> None:
    """Replace the result of this scan, also of how it was before it changed, but never that of another one.

    The path of a DICOM folder is not recorded, so the result of one that changed looks like that of another.
    """
    pair = _record(outputs.sidecar)
    before = pair and pair[1].get("input_file")
    if not isinstance(before, dict):
        return
    now = InputFile.of(source, outputs.sidecar)
    if before.get("sha256") == now.sha256 or (now.path is not None and before.get("path") == now.path):
        return
    raise CannotCreate(
        f"{printable(outputs.scan)}: the result of another scan, or of this one before it changed, has this name: "
        "name both scans in one run, choose another output folder, or delete that result"
    )


def _left_unfinished(outputs: OutputPaths) -> bool:
    """Whether a killed run left the scan without its sidecar; the lock's next holder removes it."""
    return lock_of(outputs.scan).exists()


@lru_cache(maxsize=1)
def _enhancer(choice: ModelChoice) -> Enhancer:
    """The model, loaded once a process.

    Raises:
        ConfigError: the weights are no longer those that the run began with.
    """
    enhancer = Enhancer(choice.bundle, device=choice.device, dtype=choice.dtype)
    if (enhancer.bundle.sha256, enhancer.bundle.settings_sha256) != (choice.sha256, choice.settings_sha256):
        raise ConfigError("the weights were replaced while the run was going on: start it again")
    return enhancer


def _describe_maps(result: Enhanced, spec: ScanSpec, outputs: OutputPaths) -> None:
    """Write what describes the maps that exist; `finished` asks for it."""
    maps = {name: path for name, path in outputs.maps().items() if path.exists()}
    for path, text in spec.placement.describe_maps(result, maps).items():
        write_text(text, path, overwrite=True)


def _draw(result: Enhanced, spec: ScanSpec, outputs: OutputPaths) -> None:
    """Pictures for the pages; a result without them is whole all the same, and pages draw what is missing."""
    from moediff.cohort.pictures import draw_pictures

    try:
        draw_pictures(result, spec.placement.pictures, outputs.scan)
    except (MoeDiffError, OSError) as error:
        print(f"no pictures: {error}", file=sys.stderr)
