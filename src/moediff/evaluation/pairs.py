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

from moediff.acquisition.point_spread import Samplings
from moediff.core.errors import DataError, InputMissing, MoeDiffError, prefix_errors, printable
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import Annotations, EvaluateOptions, evaluate
from moediff.evaluation.records import FILES, Evaluation, Unjudged
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
ANNOTATIONS = ("mask", "labels", "lesions", "uncertainty")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Files of one comparison; `input` is the low-resolution scan; what is None is absent."""

    pred: Path
    ref: Path
    input: Path | None = None
    mask: Path | None = None
    labels: Path | None = None
    lesions: Path | None = None
    uncertainty: Path | None = None


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from a CSV file with columns pred, ref, perhaps those of `OPTIONAL`; paths count from its folder.

    Raises:
        InputMissing, DataError: see `read_files`.
    """
    return [Pair(**files) for files in read_files(path, REQUIRED, OPTIONAL)]


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
    files = {key: path for key, path in vars(pair).items() if path is not None}
    scans = {key: path for key, path in files.items() if key not in ANNOTATIONS}
    loaded = _load_scans(scans, trust=options.trust_intensities)
    annotations = Annotations(**{key: load_annotation(path) for key, path in files.items() if key in ANNOTATIONS})
    measured = loaded["input"].volume if "input" in loaded else None
    with prefix_errors(pair.pred):
        record = evaluate(
            loaded["pred"].volume,
            loaded["ref"].volume,
            options,
            measured=measured,
            sampling=None if measured is None else _stated_sampling(pair.pred),
            annotations=annotations,
        )
    notes = [f"{key}: {note}" for key, scan in loaded.items() for note in scan.warnings]
    names = {key: _name_of(path, loaded.get(key)) for key, path in files.items()}
    stored = loaded["ref"].stored_grid  # the axis order that its file has
    x, y, z = (round(s, 5) for s in stored.spacing_mm)
    warnings = (*notes, *record.warnings)
    return replace(record, files=names, shape=stored.shape, spacing_mm=(x, y, z), warnings=warnings)


def _stated_sampling(pred: Path) -> Samplings | None:
    """Of the scan that a result of ours was made of, where its sidecar says one."""
    with suppress(MoeDiffError):
        return stated_sampling(read_sidecar(sidecar_of(pred)))
    return None


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
        files = {key: path for key, path in vars(pair).items() if path is not None}
        try:
            records.append(judge(pair, options))
        except MoeDiffError as error:
            names = {key: _name_of(path) for key, path in files.items()}
            records.append(Unjudged(files=names, error=_fault_of(error, files), exit_code=error.exit_code))
        last = records[-1]
        outcome = last.error if isinstance(last, Unjudged) else "judged"
        progress(f"{number}/{len(pairs)} {printable(_name_of(pair.pred))}: {outcome}")
    return records
