"""Pairs of files: reading their list, and judging one after the other."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from moediff.acquisition.point_spread import Samplings
from moediff.core.errors import DataError, InputMissing, MoeDiffError, prefix_errors, printable
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import Annotations, EvaluateOptions, evaluate
from moediff.evaluation.recorded_scans import matched, recorded_scans
from moediff.evaluation.records import FILES, Evaluation, Unjudged
from moediff.evaluation.several_scans import InputScan
from moediff.inference.sidecar import read_sidecar, stated_sampling
from moediff.io.dicom.files import is_dicom_export
from moediff.io.label_check import load_intensities
from moediff.io.loaded import LoadedScan
from moediff.io.naming import sidecar_of
from moediff.io.scans import load

REQUIRED, OPTIONAL = FILES[:2], FILES[2:]
EXPORT = "DICOM export"
REMEDY = (
    "name scans to compare, and label maps and masks by --labels, --mask or --lesions, or give `--trust-intensities` "
    "if these are intensities"
)
INPUT = "input"
ANNOTATIONS = ("mask", "labels", "lesions", "uncertainty")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Files of one comparison; `input` are the low-resolution scans, mostly one; what is None is absent."""

    pred: Path
    ref: Path
    input: tuple[Path, ...] = ()
    mask: Path | None = None
    labels: Path | None = None
    lesions: Path | None = None
    uncertainty: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Every file by what it is; several inputs are numbered from 1."""
        several = len(self.input) > 1
        inputs = {f"{INPUT} {n}" if several else INPUT: path for n, path in enumerate(self.input, start=1)}
        ours = {"pred": self.pred, "ref": self.ref, **inputs}
        others = {key: path for key in ANNOTATIONS if (path := getattr(self, key)) is not None}
        return ours | others


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from a CSV file with columns pred, ref, perhaps those of `OPTIONAL`; paths count from its folder.

    Several inputs stand in one cell, with semicolons between them.

    Raises:
        InputMissing, DataError: see `read_files`.
    """
    rows = read_files(path, REQUIRED, OPTIONAL)
    return [Pair(input=_inputs(files.pop(INPUT, None), path.parent), **files) for files in rows]


def _inputs(cell: Path | None, folder: Path) -> tuple[Path, ...]:
    """The files of a cell that was joined to the list's folder."""
    if cell is None:
        return ()
    text = str(cell.relative_to(folder) if cell.is_relative_to(folder) else cell)
    return tuple(folder / part.strip() for part in text.split(";") if part.strip())


def read_files(path: Path, required: Sequence[str], optional: Sequence[str]) -> list[dict[str, Path]]:
    """Files by column of a CSV list, a dict per line; paths count from its folder, empty optional cells are left out.

    Raises:
        InputMissing: there is no such file.
        DataError: a column is missing or unknown, a cell is empty, or there are no rows.
    """
    columns = f"{','.join(required)}[,{','.join(optional)}]"
    with prefix_errors(printable(path)):
        try:
            reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
            rows = [(reader.line_num, row) for row in reader]  # the line an editor shows: blank ones count
        except OSError as error:
            raise InputMissing(f"the list of pairs cannot be read ({error.strerror}): check the name") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"not a CSV file ({error}); expected columns {columns}") from error
        if not rows:
            raise DataError(f"no pairs; expected a line {columns} and one line per pair")
        listed = []
        for line, row in rows:
            unknown = [str(key) for key in row if key not in (*required, *optional)]
            empty = [key for key in required if not row.get(key)]
            if unknown or empty:
                fault = f"unknown column {unknown[0]!r}" if unknown else f"no value for {empty[0]!r}"
                raise DataError(f"line {line}: {fault}; expected columns {columns}")
            if any("\0" in str(value) for value in row.values()):
                raise DataError(f"line {line}: a null character in a file name; write the list again as plain text")
            listed.append({key: path.parent / value for key, value in row.items() if value})
        return listed


def judge(pair: Pair, options: EvaluateOptions) -> Evaluation:
    """Load one pair and evaluate it; the record gets the files' names and their warnings.

    Raises:
        MoeDiffError: see `load` and `evaluate`.
    """
    files = pair.files
    _require_different(pair.input)
    scans = {key: path for key, path in files.items() if key not in ANNOTATIONS}
    loaded = _load_scans(scans, trust=options.trust_intensities)
    annotations = Annotations(**{key: load_annotation(path) for key, path in files.items() if key in ANNOTATIONS})
    inputs = [
        (_name_of(path, scan), scan)
        for path, scan in ((files[key], scan) for key, scan in loaded.items() if key.startswith(INPUT))
    ]
    with prefix_errors(pair.pred):
        measured, sampling = _measured(pair.pred, inputs)
        record = evaluate(
            loaded["pred"].volume,
            loaded["ref"].volume,
            options,
            measured=measured,
            sampling=sampling,
            annotations=annotations,
        )
    notes = [f"{key}: {note}" for key, scan in loaded.items() for note in scan.warnings]
    stored = loaded["ref"].stored_grid  # the axis order that its file has
    x, y, z = (round(s, 5) for s in stored.spacing_mm)
    warnings = (*notes, *record.warnings)
    return replace(record, files=_names(files, loaded), shape=stored.shape, spacing_mm=(x, y, z), warnings=warnings)


def _require_different(inputs: Sequence[Path]) -> None:
    for number, path in enumerate(inputs):
        if path.resolve() in [other.resolve() for other in inputs[:number]]:
            raise DataError(f"{printable(path)} is named twice as an input and would count twice: name it once")


def _measured(
    pred: Path, inputs: Sequence[tuple[str, LoadedScan]]
) -> tuple[Volume | list[InputScan] | None, Samplings | None]:
    """The input and how it was sampled, or several; the sidecar of a result of ours says more of them.

    Raises:
        DataError: the sidecar lists scans, and an input is none of them.
    """
    record: dict[str, Any] = {}
    if inputs:
        with suppress(MoeDiffError):
            record = read_sidecar(sidecar_of(pred))
    recorded = recorded_scans(record)
    if len(inputs) > 1 or (inputs and recorded):
        return matched(inputs, recorded), None
    return (inputs[0][1].volume, stated_sampling(record)) if inputs else (None, None)


def _names(files: Mapping[str, Path], loaded: Mapping[str, LoadedScan]) -> dict[str, str]:
    """Names for the record; those of several inputs stand side by side."""
    names: dict[str, str] = {}
    for key, path in files.items():
        what, name = key.split(" ")[0], _name_of(path, loaded.get(key))
        names[what] = f"{names[what]}; {name}" if what in names else name
    return names


def _name_of(path: Path, loaded: LoadedScan | None = None) -> str:
    """A file's name; that of a folder or zip of DICOM files may be its patient's, and is not repeated."""
    stem = None if loaded is None else loaded.stem
    return stem or (EXPORT if is_dicom_export(path) else path.name)


def _fault_of(error: MoeDiffError, files: Mapping[str, Path]) -> str:
    """What went wrong, with names as `_name_of` gives them."""
    text = str(error)
    for path in files.values():
        text = text.replace(printable(path), EXPORT) if is_dicom_export(path) else text
    return text


def _load_scans(files: Mapping[str, Path], *, trust: bool) -> dict[str, LoadedScan]:
    """Scans side by side: unpacking occupies one core for each."""
    read = partial(load_intensities, remedy=REMEDY, trust=trust)
    with ThreadPoolExecutor(len(files)) as pool:
        return dict(zip(files, pool.map(read, files.values()), strict=True))


def load_annotation(path: Path) -> Volume:
    """A mask or a label map.

    Raises:
        MoeDiffError: see `load`; for an empty or full volume it says so.
    """
    try:
        return load(path).volume
    except DataError as error:
        fault, cut, _ = str(error).partition(": expected a scan with contrast")
        if not cut:
            raise
        raise DataError(f"{fault}: expected voxels inside (1, or a label) and outside (0)") from error


def judge_all(
    pairs: Sequence[Pair], options: EvaluateOptions, progress: Callable[[str], None] = lambda line: None
) -> list[Evaluation | Unjudged]:
    """Records of all pairs in order."""
    records: list[Evaluation | Unjudged] = []
    for number, pair in enumerate(pairs, start=1):
        try:
            records.append(judge(pair, options))
        except MoeDiffError as error:
            names, fault = _names(pair.files, {}), _fault_of(error, pair.files)
            records.append(Unjudged(files=names, error=fault, exit_code=error.exit_code))
        last = records[-1]
        outcome = last.error if isinstance(last, Unjudged) else "judged"
        progress(f"{number}/{len(pairs)} {printable(_name_of(pair.pred))}: {outcome}")
    return records
