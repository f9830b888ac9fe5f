"""Manifest of training data: a table of files with source, licence, checksum and role; what a recipe learns from it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff.core.config import parse_as
from moediff.core.errors import ConfigError, DataError, InputMissing, prefix_errors, printable
from moediff.io.atomic import write_text
from moediff.model.bundle import sha256_of

if TYPE_CHECKING:
    from moediff.training.config import TrainConfig

ROLES = ("train", "labels", "validation")
COLUMNS = ("path", "role", "person", "licence", "source", "url", "sha256")
OPTIONAL = ("spacing_mm", "weight", "copies")
CACHE = "checksums.json"  # of files that were checked, by size and time of change


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One file.

    Args:
        path: under the data folder.
        role: "train" (a sharp scan), "labels" (a label map to synthesise scans from) or "validation".
        person: whom it shows; nobody may be learned from and judged by (`check_apart`). Empty where that is not known.
        licence, source: terms and origin, copied into the bundle.
        url: where it can be fetched as it is; empty where `source` says how to get it.
        sha256: of its bytes.
        spacing_mm, weight, copies: as in `ScanSource`.
    """

    path: str
    role: str
    person: str
    licence: str
    source: str
    url: str
    sha256: str
    spacing_mm: tuple[float, ...] = ()
    weight: float = 1.0
    copies: int = 1

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigError(f"{self.path}: role {self.role!r} is unknown; expected one of {', '.join(ROLES)}")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ConfigError(f"{self.path}: {self.sha256!r} is no SHA-256 checksum; expected 64 hexadecimal digits")
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise ConfigError(f"{self.path}: a manifest names files below the data folder; give such a path")

    def scan(self) -> dict[str, Any]:
        """The settings of a training scan."""
        scan = {"path": self.path, "weight": self.weight, "licence": self.licence, "source": self.source}
        return scan | (
            {"labels": True, "copies": self.copies} if self.role == "labels" else {"spacing_mm": list(self.spacing_mm)}
        )


@dataclass(frozen=True, kw_only=True)
class SourceRule:
    """How files of a manifest are learned from, where a recipe wants it otherwise than the manifest says.

    Args:
        match: a pattern of paths, such as "labels/*"; later rules go over earlier ones, a stage's over all.
        weight: 0 leaves the files out.
        spacing_mm, copies: as in `ScanSource`.
    """

    match: str
    weight: float | None = None
    spacing_mm: tuple[float, ...] | None = None
    copies: int | None = None


def read_manifest_table(path: Path) -> tuple[ManifestRow, ...]:
    """The rows of a manifest.

    Raises:
        InputMissing: no such file.
        ConfigError: columns are missing, or a row is not what it should be.
    """
    if not path.is_file():
        raise InputMissing(f"{printable(path)}: no such manifest: check the name")
    with prefix_errors(path), path.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ConfigError(f"the column {missing[0]!r} is missing; expected {', '.join(COLUMNS)}")
        rows = tuple(_row(values) for values in reader)
        paths = [row.path for row in rows]
        if twice := sorted({name for name in paths if paths.count(name) > 1}):
            raise ConfigError(f"{twice[0]} is listed twice; remove one row")
    return rows


def _row(values: Mapping[str, str | None]) -> ManifestRow:
    known: dict[str, Any] = {name: (values.get(name) or "").strip() for name in COLUMNS}
    given = {name: text for name in OPTIONAL if (text := (values.get(name) or "").strip())}
    try:
        if "spacing_mm" in given:
            known["spacing_mm"] = tuple(float(size) for size in given["spacing_mm"].split())
        known |= {name: kind(given[name]) for name, kind in (("weight", float), ("copies", int)) if name in given}
    except ValueError as error:
        raise ConfigError(f"{known['path']}: {error}; expected numbers for {', '.join(OPTIONAL)}") from error
    return ManifestRow(**known)


def training_scans(rows: Iterable[ManifestRow], rules: Sequence[SourceRule] = ()) -> list[dict[str, Any]]:
    """Settings of the scans to learn from: sharp ones and label maps.

    Raises:
        ConfigError: a rule matches no file, or nothing is left.
    """
    rows = [row for row in rows if row.role != "validation"]
    if idle := [rule.match for rule in rules if not any(fnmatch(row.path, rule.match) for row in rows)]:
        raise ConfigError(f"sources: {idle[0]!r} matches no file of the manifest; check the pattern")
    scans = []
    for row in rows:
        scan = row.scan()
        for rule in (rule for rule in rules if fnmatch(row.path, rule.match)):
            changes = {"weight": rule.weight, "spacing_mm": rule.spacing_mm, "copies": rule.copies}
            scan |= {name: value for name, value in changes.items() if value is not None}
        if scan["weight"] > 0:
            scans.append(scan)
    if not scans:
        raise ConfigError("sources: no file of the manifest is left to learn from; give one a weight above 0")
    return scans


def resolve_manifest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the manifest that they name read: its scans, and checksums of all files that are used.

    Raises:
        InputMissing: no such manifest.
        ConfigError: scans are listed beside it, or it is not what it should be.
    """
    settings = {key: value for key, value in values.items() if key not in ("manifest", "sources")}
    path, rules = values.get("manifest"), values.get("sources", [])
    if path is None:
        if rules:
            raise ConfigError("sources: these are rules for the files of a manifest; name it with `manifest`")
        return settings
    if not isinstance(path, str) or not isinstance(rules, list):
        raise ConfigError("manifest: expected the path of a table, and [[sources]] with rules for its files")
    if values.get("scans"):
        raise ConfigError("scans: the manifest lists them; leave out [[scans]] or `manifest`")
    rows = read_manifest_table(Path(path))
    scans = training_scans(rows, [parse_as(SourceRule, rule) for rule in rules])
    judged = values.get("validation", {})
    used = {scan["path"] for scan in scans} | {
        name for key in ("scans", "label_maps") for name in judged.get(key, ()) if isinstance(name, str)
    }
    checksums = {row.path: row.sha256 for row in rows if row.path in used}
    return {**settings, "scans": scans, "checksums": checksums | dict(values.get("checksums", {}))}


def check_apart(configs: Sequence[TrainConfig], rows: Sequence[ManifestRow] = ()) -> None:
    """Is nothing and nobody both learned from and judged by?

    Args:
        configs: of all stages.
        rows: of their manifests, which name the persons; a file whose role is "validation" is judged by, if not here.

    Raises:
        ConfigError: a file under [validation] is learned from in some stage, or a person is on both sides.
    """
    learned = {normpath(name) for config in configs for scan in config.scans for name in (scan.path, scan.input or "")}
    judged = {normpath(name) for config in configs for name in config.validation.files()}
    learned.discard(normpath(""))
    if both := sorted(learned & judged):
        raise ConfigError(
            f"{printable(both[0])} is learned from and judged by: leave it out of the scans (weight = 0 under "
            "[[sources]] of a manifest) or out of [validation]"
        )
    teachers = {row.person: row for row in rows if row.person and normpath(row.path) in learned}
    for row in rows:
        judges = row.role == "validation" or normpath(row.path) in judged
        if judges and (teacher := teachers.get(row.person)) is not None:
            raise ConfigError(
                f"{printable(teacher.path)} is learned from and {printable(row.path)} judged by, both of person "
                f"{printable(row.person)}: leave one of them out, or correct `person` in the manifest"
            )


def check_checksums(config: TrainConfig) -> None:
    """Are the files that a manifest lists there, byte for byte? Each is read once, and again when it changed.

    Raises:
        InputMissing: some are not there.
        DataError: some are others than the manifest says.
    """
    data = Path(config.data)
    missing = [name for name in config.checksums if not (data / name).is_file()]
    if missing:
        raise InputMissing(
            f"{len(missing)} of {len(config.checksums)} files of the manifest are not in {printable(data)}: "
            f"{', '.join(missing)}; scripts/fetch_data.py fetches them or says where they are"
        )
    store = Path(config.cache or config.out) / CACHE
    known = _stored(store)
    fresh = {name: _checksum(data / name, known) for name in config.checksums}
    if fresh and {str((data / name).resolve()): entry for name, entry in fresh.items()}.items() - known.items():
        store.parent.mkdir(parents=True, exist_ok=True)
        entries = known | {str((data / name).resolve()): entry for name, entry in fresh.items()}
        write_text(json.dumps(entries, indent=1), store, overwrite=True)
    if wrong := [name for name, expected in config.checksums.items() if fresh[name].rsplit(" ", 1)[-1] != expected]:
        raise DataError(
            f"{', '.join(wrong)}: not the {'file' if len(wrong) == 1 else 'files'} of the manifest (other checksums); "
            "fetch them again, or write a manifest of your own"
        )


def _checksum(path: Path, known: Mapping[str, str]) -> str:
    """Size, time of change and checksum of a file, in one text; read only where size or time are new."""
    status = path.stat()
    stamp = f"{status.st_size} {status.st_mtime_ns}"
    stored = known.get(str(path.resolve()), "")
    return stored if stored.startswith(f"{stamp} ") else f"{stamp} {sha256_of(path)}"


def _stored(path: Path) -> dict[str, str]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in entries.items()} if isinstance(entries, dict) else {}
