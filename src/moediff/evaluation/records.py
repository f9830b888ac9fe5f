"""Records of evaluations: frozen dataclasses, their JSON and CSV text, and the keys of earlier versions.

`python -m moediff.evaluation.records` prints the JSON schema, which is stored in `schema/evaluation.json`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from typing import Any, Literal

from moediff._version import RESEARCH_ONLY, __version__
from moediff.acquisition.data_consistency import ConsistencySummary
from moediff.core.errors import printable
from moediff.core.schema import json_schema_text
from moediff.evaluation.calibration import Calibration
from moediff.evaluation.intensity_fit import RULE
from moediff.evaluation.lesions import LesionScores
from moediff.evaluation.metrics.tissue_volumes import TissueOverlap
from moediff.evaluation.per_region import RegionScores

SCHEMA = 2  # rises when a key moves or changes its meaning; 1 had no number
FILES = ("pred", "ref", "input", "mask", "labels", "lesions", "uncertainty")  # what a pair may name
# Keys of schema 1 and what they are called in schema 2, wherever they stand.
RENAMED = {
    "consistency": "data_consistency",
    "parts": "regions",
    "counts": "in_means",
    "invented": "false_positives",
    "invented_ml": "false_positive_ml",
    "contrast_kept": "contrast_recovery",
}
LOST = "lost"  # of one lesion whether it is a false negative, of several their number
NOT_RENAMED = ("metrics", "identity", "not_computed")  # tables whose keys are names that a user chose


@dataclass(frozen=True, kw_only=True)
class IntensityFit:
    """Fitted = gain * raw + offset."""

    rule: str = RULE
    gain: float
    offset: float


@dataclass(frozen=True, kw_only=True)
class JudgedMask:
    """Where a prediction was judged."""

    source: str
    voxels: int


@dataclass(frozen=True, kw_only=True)
class ScanConsistency:
    """Data consistency with one of several inputs.

    Args:
        name: of its file, or the neutral stem of a DICOM series.
        rms_over_range, noise_over_range, assumed: as in `ConsistencySummary`; None where it was left out.
        placed_by: where the head lies in it was read from the result's sidecar, or found by registration.
        displacement_mm: how far that moves the head (RMS over a ball of 80 mm).
        left_out: why the result was made without it; None where it took part.
    """

    name: str
    rms_over_range: float | None = None
    noise_over_range: float | None = None
    assumed: tuple[str, str, str] | None = None
    placed_by: Literal["sidecar", "registration"]
    displacement_mm: float
    left_out: str | None = None

    def with_summary(self, summary: ConsistencySummary) -> ScanConsistency:
        """The same with numbers."""
        return replace(
            self,
            rms_over_range=summary.rms_over_range,
            noise_over_range=summary.noise_over_range,
            assumed=summary.assumed,
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One prediction judged against its reference.

    Args:
        files: names by what they are, where files were judged.
        metrics: values by name, see `metrics.registry`.
        data_consistency: against the low-resolution input, where one was given; of several, over all of them.
        inputs: data consistency with each of several inputs; empty for a single one.
        regions: scores by region or label, where they were requested.
        tissues: volumes and Dice by tissue, where they were requested.
        lesions: where outlines were given.
        uncertainty: calibration of standard deviations by region, where they were given.
        not_computed: why a metric, or tissues, have no value.
        correlation: of prediction and reference inside the mask.
        fit: None where intensities were left as they are.
        resampled: kernel that brought the prediction to the reference's grid, None where it was there.
        mask: where it was judged.
        data_range: L, the 99.9th percentile of the reference inside the mask.
        shape, spacing_mm: of the reference.
    """

    schema: int = SCHEMA
    files: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float]
    data_consistency: ConsistencySummary | None = None
    inputs: tuple[ScanConsistency, ...] = ()
    regions: dict[str, RegionScores] | None = None
    tissues: dict[str, TissueOverlap] | None = None
    lesions: LesionScores | None = None
    uncertainty: dict[str, Calibration] | None = None
    not_computed: dict[str, str] = field(default_factory=dict)
    correlation: float
    fit: IntensityFit | None = None
    resampled: str | None = None
    mask: JudgedMask
    data_range: float
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    warnings: tuple[str, ...] = ()
    moediff: str = __version__
    note: str = RESEARCH_ONLY


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """A pair, or a file without a partner, that could not be judged."""

    files: dict[str, str]
    error: str
    exit_code: int


def plain(value: Any) -> Any:
    """JSON knows no infinity and no NaN: such numbers become words, others keep six significant digits."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


def json_text(values: Any) -> str:
    """Plain values as JSON text."""
    return json.dumps(plain(values), indent=2, allow_nan=False) + "\n"


def as_json(record: Evaluation | Sequence[Evaluation | Unjudged]) -> str:
    """One record, or a list of them, as JSON text."""
    return json_text(asdict(record) if isinstance(record, Evaluation) else [asdict(one) for one in record])


def flat_row(record: Evaluation | Unjudged) -> dict[str, Any]:
    """One flat row: file names, metrics, what was fitted, warnings, error."""
    names = {key: printable(record.files.get(key, "")) for key in FILES}
    if isinstance(record, Unjudged):
        return names | {"warnings": "", "error": record.error}
    row: dict[str, Any] = names | record.metrics
    for name, region in (record.regions or {}).items():
        row |= {f"{key}_{name}": value for key, value in vars(region).items()}
    for name, tissue in (record.tissues or {}).items():
        row |= {f"{name}_{key}": value for key, value in vars(tissue).items()}
    for name, one in (record.uncertainty or {}).items():
        row |= {f"uncertainty_{key}_{name}": value for key, value in vars(one).items()}
    if record.lesions is not None:
        row |= {f"lesions_{key}": value for key, value in vars(record.lesions).items() if key != "each"}
    if record.data_consistency is not None:
        row["data_consistency_rms_over_range"] = record.data_consistency.rms_over_range
        row["data_consistency_noise_over_range"] = record.data_consistency.noise_over_range
    for number, scan in enumerate(record.inputs, start=1):
        row[f"data_consistency_rms_over_range_{number}"] = scan.rms_over_range
        row[f"data_consistency_noise_over_range_{number}"] = scan.noise_over_range
    if record.fit is not None:
        row |= {"gain": record.fit.gain, "offset": record.fit.offset}
    row |= {"correlation": record.correlation, "data_range": record.data_range}
    row |= {} if record.resampled is None else {"resampled": record.resampled}
    return dict(plain(row)) | {"warnings": "; ".join(record.warnings), "error": ""}


def as_csv(records: Iterable[Evaluation | Unjudged]) -> str:
    """Records as CSV text; cells that a record lacks stay empty."""
    return csv_text([flat_row(record) for record in records])


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Flat rows as CSV text, warnings and error last; cells that a row lacks stay empty."""
    last = ("warnings", "error")
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in last]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *last], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def migrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of schema 1 under the keys of schema 2; present keys stay."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = RENAMED.get(key, key)
        if key == LOST:
            name = "false_negative" if isinstance(value, bool) else "false_negatives"
        result[name] = value if key in NOT_RENAMED else _migrated_value(value)
    return result


def _migrated_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return migrated(value)
    return [_migrated_value(item) for item in value] if isinstance(value, list) else value


def shipped_schema() -> str:
    """The JSON schema of `Evaluation` that the package carries."""
    return files("moediff.evaluation").joinpath("schema", "evaluation.json").read_text(encoding="utf-8")


if __name__ == "__main__":
    print(json_schema_text(Evaluation), end="")
