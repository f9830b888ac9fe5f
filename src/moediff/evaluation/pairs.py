"""Many pairs: reading their list, judging one after the other, and writing what came out."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moediff.core.errors import DataError, InputMissing, MoeDiffError, prefix_errors, printable
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import Drawn, EvaluateOptions, evaluate
from moediff.io.dicom.files import is_dicom_export
from moediff.io.loaded import Loaded
from moediff.io.scans import load

REQUIRED, OPTIONAL = ("pred", "ref"), ("input", "mask", "labels", "lesions", "uncertainty")
EXPORT = "DICOM export"
DRAWN = ("mask", "labels", "lesions", "uncertainty")


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
            rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
        except OSError as error:
            raise InputMissing(f"the list of pairs cannot be read ({error.strerror}): check the name") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"not a CSV file ({error}); expected columns {columns}") from error
        if not rows:
            raise DataError(f"no pairs; expected a line {columns} and one line per pair")
        found = []
        for line, row in enumerate(rows, start=2):
            unknown = [str(key) for key in row if key not in (*required, *optional)]
            empty = [key for key in required if not row.get(key)]
            if unknown or empty:
                fault = f"unknown column {unknown[0]!r}" if unknown else f"no value for {empty[0]!r}"
                raise DataError(f"line {line}: {fault}; expected columns {columns}")
            if any("\0" in str(value) for value in row.values()):
                raise DataError(f"line {line}: a null character in a file name; write the list again as plain text")
            found.append({key: path.parent / value for key, value in row.items() if value})
        return found


def judge(pair: Pair, options: EvaluateOptions) -> dict[str, Any]:
    """Load one pair and evaluate it; the record gets the files' names and their warnings.

    Raises:
        MoeDiffError: see `load` and `evaluate`.
    """
    files = {key: path for key, path in vars(pair).items() if path is not None}
    loaded = _load_scans({key: path for key, path in files.items() if key not in DRAWN})
    drawn = {key: load_drawn(path) for key, path in files.items() if key in DRAWN}
    measured = loaded["input"].volume if "input" in loaded else None
    with prefix_errors(pair.pred):
        record = evaluate(loaded["pred"].volume, loaded["ref"].volume, options, measured=measured, drawn=Drawn(**drawn))
    said = [f"{key}: {note}" for key, scan in loaded.items() for note in scan.warnings]
    names = {key: _name_of(path, loaded.get(key)) for key, path in files.items()}
    return {"files": names} | record | {"warnings": [*said, *record["warnings"]]}


def _name_of(path: Path, loaded: Loaded | None = None) -> str:
    """A file's name; that of a folder or zip of DICOM files may be its patient's, and is not repeated."""
    stem = None if loaded is None else loaded.stem
    return stem or (EXPORT if is_dicom_export(path) else path.name)


def _fault_of(error: MoeDiffError, files: Mapping[str, Path]) -> str:
    """What went wrong, with names as `_name_of` gives them."""
    said = str(error)
    for path in files.values():
        said = said.replace(printable(path), EXPORT) if is_dicom_export(path) else said
    return said


def _load_scans(files: Mapping[str, Path]) -> dict[str, Loaded]:
    """Scans side by side: unpacking keeps one core busy for each."""
    with ThreadPoolExecutor(len(files)) as pool:
        return dict(zip(files, pool.map(load, files.values()), strict=True))


def load_drawn(path: Path) -> Volume:
    """A mask or a label map.

    Raises:
        MoeDiffError: see `load`; where nothing, or all, is drawn it says so.
    """
    try:
        return load(path).volume
    except DataError as error:
        found, cut, _ = str(error).partition(": expected a scan with contrast")
        if not cut:
            raise
        raise DataError(f"{found}: expected voxels inside (1, or a label) and outside (0)") from error


def judge_all(
    pairs: Sequence[Pair], options: EvaluateOptions, tell: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Records of all pairs in order; one that cannot be judged has an "error" instead of metrics."""
    records = []
    for number, pair in enumerate(pairs, start=1):
        files = {key: path for key, path in vars(pair).items() if path is not None}
        try:
            records.append(judge(pair, options))
        except MoeDiffError as error:
            names = {key: _name_of(path) for key, path in files.items()}
            records.append({"files": names, "error": _fault_of(error, files), "exit_code": error.exit_code})
        tell(f"{number}/{len(pairs)} {printable(_name_of(pair.pred))}: {records[-1].get('error', 'judged')}")
    return records


def plain(value: Any) -> Any:
    """JSON knows no infinity and no NaN: such numbers become words, others keep six significant digits."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


def as_json(records: Any) -> str:
    """Records as JSON text."""
    return json.dumps(plain(records), indent=2, allow_nan=False) + "\n"


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """One flat row: file names, metrics, what was fitted, warnings, error."""
    fit, remeasured, parts, lesions = (record.get(key) or {} for key in ("fit", "consistency", "parts", "lesions"))
    tissues, doubt = (record.get(key) or {} for key in ("tissues", "uncertainty"))
    return plain(
        {key: printable(record["files"].get(key, "")) for key in REQUIRED + OPTIONAL}
        | record.get("metrics", {})
        | {f"{key}_{name}": value for name, part in parts.items() for key, value in part.items()}
        | {f"{name}_{key}": value for name, one in tissues.items() for key, value in one.items()}
        | {f"uncertainty_{key}_{name}": value for name, one in doubt.items() for key, value in one.items()}
        | {f"lesions_{key}": value for key, value in lesions.items() if key != "each"}
        | {f"consistency_{key}": remeasured[key] for key in ("rms_over_range", "noise_over_range") if remeasured}
        | {key: fit[key] for key in ("gain", "offset") if fit}
        | {key: record[key] for key in ("correlation", "data_range", "resampled") if record.get(key) is not None}
        | {"warnings": "; ".join(record.get("warnings", [])), "error": record.get("error", "")}
    )


def as_csv(records: Iterable[dict[str, Any]]) -> str:
    """Records as CSV text; cells that a record lacks stay empty."""
    return table_text([row_of(record) for record in records])


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """Flat rows as CSV text, warnings and error last; cells that a row lacks stay empty."""
    last = ("warnings", "error")
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in last]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *last], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
