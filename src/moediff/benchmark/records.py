"""Records of a benchmark: rows and what is computed from them, as frozen dataclasses with a JSON schema.

`python -m moediff.benchmark.records` prints the schema of results.json, which is stored in `schema/results.json`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from moediff._version import RESEARCH_ONLY, __version__
from moediff.acquisition.data_consistency import ConsistencySummary
from moediff.core.errors import DataError, InputMissing, prefix_errors, printable
from moediff.core.schema import json_schema_text, record_from
from moediff.evaluation.lesions import LesionScores
from moediff.evaluation.per_region import RegionScores
from moediff.evaluation.records import IntensityFit, JudgedMask, json_text, migrated

SCHEMA = 2  # rises when a key moves or changes its meaning; rows and results of schema 1 are read too


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a method's results depend on."""

    name: str
    kind: str
    mode: str = ""
    bundle_sha256: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One method on one case.

    Args:
        key: digest of everything the numbers depend on; "" where it is not published.
        method, kind: name as given; "interpolation", "tv", "bundle" or "command".
        scan, recipe, seed: the case.
        in_means: whether means include the scan.
        metrics: values by name, see `evaluation.metrics.registry`.
        data_consistency, regions, lesions, fit, mask, data_range: as `moediff evaluate` computes them.
        not_computed: why regions, lesions or metrics are missing.
        seconds, cpu_s, peak_mib: of the whole process.
        compute_s, gflop: of the method itself, without starting and files.
        error: why there is no result, or "".
        gain_psnr, gain_ssim: over the better of cubic and zero-filled interpolation in the same case (dB, SSIM).
    """

    schema: int = SCHEMA
    key: str = ""
    method: str
    kind: str
    identity: Identity | None = None
    scan: str
    scan_sha256: str = ""
    recipe: str
    seed: int
    in_means: bool = True
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    data_consistency: ConsistencySummary | None = None
    regions: dict[str, RegionScores] | None = None
    lesions: LesionScores | None = None
    not_computed: dict[str, str] = field(default_factory=dict)
    fit: IntensityFit | None = None
    mask: JudgedMask | None = None
    data_range: float | None = None
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    cpu_s: float | None = None
    compute_s: float | None = None
    gflop: float | None = None
    peak_mib: float | None = None
    error: str = ""
    gain_psnr: float | None = None
    gain_ssim: float | None = None

    @property
    def case(self) -> tuple[str, str, int]:
        """Scan, recipe and seed."""
        return self.scan, self.recipe, self.seed

    @property
    def counted(self) -> bool:
        """Whether means include this row."""
        return self.in_means and not self.error


@dataclass(frozen=True, kw_only=True)
class About:
    """What numbers depend on besides the data; no name of a machine or a person. Empty where it is not published."""

    moediff: str = ""
    torch: str = ""
    python: str = ""
    system: str = ""
    machine: str = ""
    cpus: int | None = None
    threads: int = 1
    device: str = "cpu"
    seeds: tuple[int, ...] = (0,)
    note: str = RESEARCH_ONLY


def about_this_machine(threads: int, device: str, seeds: Sequence[int]) -> About:
    """Versions and machine of this process."""
    return About(
        moediff=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        system=platform.system(),
        machine=platform.machine(),
        cpus=os.cpu_count(),
        threads=threads,
        device=device,
        seeds=tuple(seeds),
    )


@dataclass(frozen=True, kw_only=True)
class Mean:
    """One method and recipe, mean over persons; the greatest of `peak_mib`. None where nothing was computed."""

    recipe: str
    method: str
    persons: int
    failed: int
    metrics: dict[str, float | None]
    gain_psnr: float | None
    gain_ssim: float | None
    data_consistency: float | None
    seconds: float | None
    cpu_s: float | None
    compute_s: float | None
    gflop: float | None
    peak_mib: float | None

    def value(self, name: str) -> float | None:
        """A metric, or one of the other numbers."""
        return self.metrics[name] if name in self.metrics else vars(self).get(name)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Focus minus another method: mean over persons with its bootstrap interval."""

    recipe: str
    focus: str
    against: str
    metric: str
    mean: float
    low: float
    high: float
    persons: int
    by_scan: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RegionMean:
    """One method in one region of the brain: means over the scans that have it."""

    recipe: str
    region: str
    method: str
    scans: tuple[str, ...]
    psnr: float
    ssim: float
    gain_psnr: float | None


@dataclass(frozen=True, kw_only=True)
class LesionSum:
    """Outlined lesions of all scans: sums of counts and volumes, means of the rest."""

    recipe: str
    method: str
    scans: tuple[str, ...]
    count: float
    false_negatives: float
    false_positives: float
    volume_ref_ml: float
    volume_pred_ml: float
    contrast_recovery: float
    dice: float
    cnr_ref: float
    cnr_pred: float


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A metric in which another method's mean is better than the focus method's, over the same cases."""

    recipe: str
    metric: str
    method: str
    cases: int
    ours: float
    other: float
    worse_in: int


@dataclass(frozen=True, kw_only=True)
class Results:
    """What results.json holds: rows, and what they say together."""

    schema: int = SCHEMA
    about: About
    focus: str
    rows: tuple[BenchmarkRow, ...]
    means: tuple[Mean, ...] = ()
    differences: tuple[Difference, ...] = ()
    regions: tuple[RegionMean, ...] = ()
    lesions: tuple[LesionSum, ...] = ()
    losses: tuple[Loss, ...] = ()

    def to_json(self) -> str:
        """The text of the file."""
        return json_text(asdict(self))


def row_from(values: Mapping[str, Any]) -> BenchmarkRow:
    """A row from the plain values of a file, also of schema 1.

    Raises:
        DataError: it is no row.
    """
    return record_from(BenchmarkRow, migrated(values) | {"schema": SCHEMA})


def read_results(path: Path) -> Results:
    """Rows, focus and machine of a results.json, also of schema 1; what is computed from rows is left out.

    Raises:
        InputMissing: it cannot be read.
        DataError: it is not the record of a benchmark.
    """
    with prefix_errors(printable(path)):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputMissing(f"cannot be read ({error.strerror}): name a benchmark's results.json") from error
        except ValueError as error:
            raise DataError(f"not JSON ({error}): name a benchmark's results.json") from error
        if not isinstance(record, dict) or not isinstance(record.get("rows"), list):
            raise DataError("no rows in it: name a benchmark's results.json")
        rows = tuple(row_from(row) for row in record["rows"])
        return Results(about=record_from(About, record.get("about", {})), focus=str(record.get("focus", "")), rows=rows)


def shipped_schema() -> str:
    """The JSON schema of `Results` that the package carries."""
    return files("moediff.benchmark").joinpath("schema", "results.json").read_text(encoding="utf-8")


if __name__ == "__main__":
    print(json_schema_text(Results), end="")
