"""The sidecar: the JSON record beside an enhanced scan, as frozen dataclasses with a JSON schema in the package.

`python -m moediff.inference.sidecar` prints the schema, which is kept in `schema/sidecar.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moediff._version import RESEARCH_ONLY, __version__
from moediff.acquisition.data_consistency import ConsistencySummary
from moediff.acquisition.point_spread import Samplings, parse_sampling
from moediff.acquisition.prepare import Prepared
from moediff.core.errors import ConfigError, DataError, InputMissing, MoeDiffError, prefix_errors, printable
from moediff.core.schema import json_schema_text
from moediff.core.volume import Grid
from moediff.inference.sidecar_parts import Closed, GridRecord, GuideRecord
from moediff.io.checksum import checksum_of
from moediff.io.dicom.files import is_dicom_export
from moediff.io.loaded import SliceGeometry
from moediff.model.bundle import Bundle

if TYPE_CHECKING:
    from moediff.inference.grid_plan import GridPlan
    from moediff.inference.options import EnhanceOptions

SOFTWARE = "moediff-sr"
MAX_BYTES = 2**20  # of a sidecar that is read
# Where the keys of schema 1 are found in schema 2. Longer paths come after the shorter ones that they begin with.
MOVED = {
    "bundle_name": "weights.name",
    "bundle_sha256": "weights.sha256",
    "bundle_adapted": "weights.adapted",
    "input_shape": "input.shape",
    "input_spacing_mm": "input.spacing_mm",
    "output_shape": "output.shape",
    "output_spacing_mm": "output.spacing_mm",
    "mode": "settings.mode",
    "sampler": "settings.sampler",
    "steps": "settings.steps",
    "mirrors": "settings.tta",
    "samples": "settings.samples",
    "seed": "settings.seed",
    "consistency": "settings.data_consistency",
    "device": "settings.device",
    "dtype": "settings.dtype",
    "passed_through": "pass_through",
    "uncertainty": "uncertainty.description",
    "uncertainty_over_range.mean": "uncertainty.mean_over_range",
    "uncertainty_over_range.p99": "uncertainty.p99_over_range",
    "slices.alternate_by": "slice_intensity.difference",
    "slices.noticeable": "slice_intensity.noticeable",
    "slices.evened": "slice_intensity.corrected",
    "strangeness": "out_of_distribution_score",
}


@dataclass(frozen=True)
class Weights(Closed):
    """The model.

    Args:
        name: of its bundle.
        sha256: of the file of its weights.
        adapted: what the bundle says about fine-tuning on scans (`moediff adapt`).
        settings_sha256: of the bundle's settings, which hold the calibration of the uncertainty, for one.
    """

    name: str
    sha256: str
    adapted: dict[str, Any] | None = None
    settings_sha256: str | None = None


@dataclass(frozen=True)
class InputFile(Closed):
    """The scan that was enhanced, so that pages find it and a later run knows whether it has changed.

    Args:
        sha256: of its content (`io/checksum.py`).
        path: from the sidecar's folder, with `/`; None for DICOM, whose names may hold personal data, and for a file
            that shares no folder with the result.
    """

    sha256: str
    path: str | None = None

    @classmethod
    def of(cls, source: Path, sidecar: Path) -> InputFile:
        """What is written of a source beside this sidecar.

        Raises:
            InputMissing, DataError: see `checksum_of`.
        """
        return cls(checksum_of(source), None if is_dicom_export(source) else path_between(source, sidecar.parent))

    def find(self, sidecar: Path) -> Path | None:
        """The file, where it is still in its place and unchanged."""
        if self.path is None:
            return None
        path = Path(os.path.normpath(sidecar.parent / self.path))
        with suppress(MoeDiffError):
            return path if checksum_of(path) == self.sha256 else None
        return None


def path_between(source: Path, folder: Path) -> str | None:
    """A relative path; None where it would lead through the root of the file system and so name every folder."""
    source, folder = Path(os.path.abspath(source)), folder.resolve()
    source = source.parent.resolve() / source.name  # its own link stays: in DataLad it points to a name of digits
    shared = os.path.commonpath([source, folder])
    return None if len(Path(shared).parts) < 2 else Path(os.path.relpath(source, folder)).as_posix()


@dataclass(frozen=True, kw_only=True)
class Settings(Closed):
    """What was chosen, less what had no effect.

    Args:
        mode, sampler, seed: as in `EnhanceOptions`.
        steps: network evaluations of a sample; 1 for the posterior mean, 0 where the network did not run.
        tta: test-time augmentation by flips, number of flips averaged.
        samples: drawn for the result or its uncertainty.
        data_consistency: whether the result was corrected towards the measurement.
        device, dtype: where and in what precision the network ran.
    """

    mode: str
    sampler: str
    steps: int
    tta: int
    samples: int
    seed: int
    data_consistency: bool
    device: str
    dtype: str


@dataclass(frozen=True)
class Uncertainty(Closed):
    """What an uncertainty map of this result holds; not that one was written.

    Args:
        kind: from the network's uncertainty head, from several samples, or none.
        description: the same in words.
        mean_over_range, p99_over_range: mean and 99th percentile in the mask, over the scan's intensity range.
    """

    kind: Literal["predicted", "samples", "none"]
    description: str
    mean_over_range: float | None = None
    p99_over_range: float | None = None

    @classmethod
    def of(cls, options: EnhanceOptions) -> Uncertainty:
        """Before it is measured."""
        if options.samples > 1:
            return cls("samples", f"standard deviation of {options.samples} samples, not calibrated")
        if options.mode == "faithful":
            return cls("predicted", "standard deviation predicted by the network, calibrated")
        return NO_UNCERTAINTY


NO_UNCERTAINTY = Uncertainty("none", "none")


@dataclass(frozen=True)
class SliceIntensity(Closed):
    """Brightness that alternates from slice to slice (interleaved acquisition).

    Args:
        corrected: whether it was removed.
        difference: how much brighter every other slice is, as a share; None where it cannot be measured.
        noticeable: whether that is more than chance.
    """

    corrected: bool
    difference: float | None = None
    noticeable: bool | None = None

    @classmethod
    def of(cls, prepared: Prepared, *, requested: bool) -> SliceIntensity | None:
        """None where it cannot be measured and was not requested."""
        measured = prepared.slice_intensity
        if measured is None:
            return cls(corrected=False) if requested else None
        return cls(prepared.slices_corrected, round(measured.difference, 4), measured.noticeable)


@dataclass(frozen=True)
class SliceRecord(Closed):
    """Slices of the scan: as its file describes them, and as the acquisition model assumes them.

    Args:
        thickness_mm, distance_mm: as the file says; None where it does not.
        gap_mm: between slices; negative where they overlap.
        assumed_thickness_mm: of thick slices in the acquisition model, where it was requested; else they are taken to
            be as thick as they are apart.
    """

    thickness_mm: float | None
    distance_mm: float | None
    gap_mm: float | None
    assumed_thickness_mm: float | None

    @classmethod
    def of(cls, slices: SliceGeometry | None, plan: GridPlan) -> SliceRecord | None:
        """None where the file says nothing and nothing was requested."""
        assumed = None
        for one, spacing_mm in zip(plan.sampling or (), plan.source.spacing_mm, strict=False):
            if one.method == "gaussian":
                assumed = round(one.width * spacing_mm, 4)
        if slices is None:
            return None if assumed is None else cls(None, None, None, assumed)
        thickness, distance = round(slices.thickness_mm, 4), round(slices.distance_mm, 4)
        return cls(thickness, distance, round(distance - thickness, 4), assumed)


@dataclass(frozen=True, kw_only=True)
class ScanRecord(Closed):
    """One of several scans of a head, as it took part in the result.

    Args:
        name: of its file, or the neutral stem of a DICOM series.
        input: its grid, as stored.
        transform: 4x4, points of the result's frame to the scan's own, RAS+ mm.
        rotation_deg, displacement_mm: how far that moves the head (RMS over a ball of 80 mm).
        uncertain_mm: predicted error of registration, RMS over the head; None where hardly anything is shared.
        mismatch: RMS difference from the scan that all were registered to, both equally blurred, over local contrast;
            None for that scan itself.
        gain: its intensities over the first scan's.
        residual_over_range, noise_over_range: the result acquired again against it, and its noise, over its range.
        weight: its mean share in the head, 0..1.
        doubted_slices: slices that count less, because they contradict the other scans; counted in RAS+ order from 0.
        sampling: how it was sampled, NAME:WIDTH of its R, A and S, where voxel sizes do not suggest it.
        left_out: why it did not take part; None where it did.
    """

    name: str
    input: GridRecord
    transform: tuple[tuple[float, float, float, float], ...]
    rotation_deg: float
    displacement_mm: float
    uncertain_mm: float | None = None
    mismatch: float | None = None
    gain: float | None = None
    residual_over_range: float | None = None
    noise_over_range: float | None = None
    weight: float = 0.0
    doubted_slices: tuple[int, ...] = ()
    sampling: tuple[str, str, str] | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class SampledAxes(Closed):
    """How the scan was taken to be sampled.

    Args:
        axes: the point spread of R, A and S in words; widths in measured voxels.
        known_from: voxel sizes suggest it; or the scan's spectrum shows a filter or zero-filling along an axis; or the
            user stated it (`--profile`, `--slice-thickness`).
        stated: the same as NAME:WIDTH of R, A and S, where voxel sizes do not suggest it.
    """

    axes: tuple[str, str, str]
    known_from: Literal["voxel sizes", "spectrum", "stated"]
    stated: tuple[str, str, str] | None = None

    @classmethod
    def of(cls, prepared: Prepared) -> SampledAxes:
        """Of a prepared scan."""
        names = prepared.acquisition.names
        if prepared.sampling is None:
            return cls(names, "voxel sizes")
        x, y, z = (axis.code for axis in prepared.sampling)
        return cls(names, "spectrum" if prepared.from_spectrum else "stated", (x, y, z))


@dataclass(frozen=True)
class Timings(Closed):
    """Wall-clock seconds of preparation and of the network."""

    prepare_s: float
    network_s: float


@dataclass(frozen=True, kw_only=True)
class Sidecar(Closed):
    """How a result was made, and what was measured on it. Its file may hold further keys: those of BIDS metadata.

    Args:
        software: name and version.
        schema: version of this form; it rises when a key moves or changes its meaning, 1 had no number.
        notice: what the result may be used for.
        weights: the model.
        experts: their names, in the order of 4-D maps.
        input: the grid of the scan, as stored.
        input_file: what it was read from; None for a scan in memory and until the result is written.
        maps: names of the maps that were written with the result, by their option (`uncertainty`, `experts`, ...).
        output: the grid of the result.
        settings: what was chosen.
        pass_through: the scan was as fine as its target already, and the network did not run.
        uncertainty: what an uncertainty map holds.
        slices: where the file says how thick they are, or it was requested.
        slice_intensity: thick slices only.
        sampling: how the scan's axes were acquired; None where the network did not run.
        data_consistency: the result, acquired again, against the input; None where the network did not run.
        out_of_distribution_score: about 1 for training scans; None where the weights have no statistics to compare.
        timings: None where the network did not run.
        scans: every scan of several; empty for a single one.
        guide: a sharp scan of another contrast; None without one.
        warnings: the sentences on the terminal.
    """

    software: str  # first: `outputs.written_by_us` looks for it
    schema: Literal[2] = 2
    notice: str = RESEARCH_ONLY
    weights: Weights
    experts: tuple[str, ...]
    input: GridRecord
    input_file: InputFile | None = None
    maps: dict[str, str] = field(default_factory=dict)
    output: GridRecord
    settings: Settings
    pass_through: bool = False
    uncertainty: Uncertainty
    slices: SliceRecord | None = None
    slice_intensity: SliceIntensity | None = None
    sampling: SampledAxes | None = None
    data_consistency: ConsistencySummary | None = None
    out_of_distribution_score: float | None = None
    timings: Timings | None = None
    scans: tuple[ScanRecord, ...] = ()
    guide: GuideRecord | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the file."""
        return dict(json.loads(self.to_json()))

    def to_json(self, further: Mapping[str, Any] | None = None) -> str:
        """The text of the file; further keys, such as BIDS metadata, come after ours."""
        return json.dumps({**asdict(self), **(further or {})}, indent=2) + "\n"


def sidecar_for(bundle: Bundle, where: tuple[str, str], grids: tuple[Grid, Grid], options: EnhanceOptions) -> Sidecar:
    """Software, weights, settings and grids, before anything is measured.

    Args:
        bundle: the model.
        where: device and precision of the network.
        grids: the scan's and the result's, in the axis order of their files.
        options: after the weights' own restrictions.
    """
    sampled = options.mode == "detail" or options.samples > 1
    return Sidecar(
        software=f"{SOFTWARE} {__version__}",
        weights=Weights(
            str(bundle.provenance.get("name", "unnamed")),
            bundle.sha256,
            bundle.provenance.get("adapted") or None,
            bundle.settings_sha256 or None,
        ),
        experts=tuple(bundle.config.denoiser.experts.regions),
        input=GridRecord.of(grids[0]),
        output=GridRecord.of(grids[1]),
        settings=Settings(
            mode=options.mode,
            sampler=options.sampler,
            steps=options.steps if sampled else 1,
            tta=options.tta,
            samples=options.samples,
            seed=options.seed,
            data_consistency=options.data_consistency,
            device=where[0],
            dtype=where[1],
        ),
        uncertainty=Uncertainty.of(options),
    )


def read_sidecar(path: Path) -> dict[str, Any]:
    """A record as plain values under the present keys, also of the version before; its values are not checked.

    Raises:
        InputMissing: it cannot be read.
        DataError: it is no JSON object, or not of a result of this program.
    """
    with prefix_errors(printable(path)):
        try:
            text = path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_BYTES else ""
            record = json.loads(text)
        except OSError as error:
            raise InputMissing(
                "the sidecar cannot be read; a report needs the JSON that was written beside the result"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError("the sidecar is not JSON; enhance the scan again") from error
        if not isinstance(record, dict):
            raise DataError(f"expected an object in the sidecar, got {type(record).__name__}; enhance the scan again")
        if not str(record.get("software", "")).startswith(SOFTWARE):
            raise DataError(
                f"the JSON beside the scan names no {SOFTWARE} as its software, so this is no result of it: name the "
                "enhanced scan (*_desc-sr*), not the scan that it was made from"
            )
    return migrated(record)


def stated_sampling(record: Mapping[str, Any]) -> Samplings | None:
    """How the user stated that a result's scan was sampled, as its record says; None where nothing was stated."""
    sampling = record.get("sampling")
    return samplings_of(sampling.get("stated") if isinstance(sampling, Mapping) else None)


def samplings_of(codes: object) -> Samplings | None:
    """Samplings of three axes, from a record's NAME:WIDTH; None for anything else."""
    if not isinstance(codes, list) or len(codes) != 3:
        return None
    try:
        x, y, z = (parse_sampling(str(axis)) for axis in codes)
    except ConfigError:
        return None
    return x, y, z


def migrated(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of schema 1 under the keys of schema 2; one that names its schema is returned as it is."""
    if "schema" in record:
        return dict(record)
    result = {key: value for key, value in record.items() if not any(old.split(".")[0] == key for old in MOVED)}
    _move(record, result, MOVED)
    return result


def former_record(sidecar: Sidecar) -> dict[str, Any]:
    """The keys of schema 1, for programs that still read `Enhanced.record`; None and absent are the same there."""
    record = sidecar.to_dict()
    same = ("software", "notice", "experts", "data_consistency", "timings", "warnings")
    result = {key: record[key] for key in same if record[key] is not None}
    _move(record, result, {new: old for old, new in MOVED.items()})
    return result


def _move(source: Mapping[str, Any], target: dict[str, Any], table: Mapping[str, str]) -> None:
    """Copy values by a table of dotted paths; what is absent, None or lies in something else than a table is left."""
    for old, new in table.items():
        value: Any = source
        for key in old.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            continue
        *parents, last = new.split(".")
        part = target
        for key in parents:
            part = part.setdefault(key, {})
        part[last] = value


def schema_text() -> str:
    """The JSON schema of the file, generated from the dataclasses."""
    schema = json.loads(json_schema_text(Sidecar, finite=True))
    return json.dumps({**schema, "additionalProperties": True}, indent=2) + "\n"


def shipped_schema() -> str:
    """The JSON schema that the package carries."""
    return files("moediff.inference").joinpath("schema", "sidecar.json").read_text(encoding="utf-8")


if __name__ == "__main__":
    print(schema_text(), end="")
