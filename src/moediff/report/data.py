"""Data of a report: scans, maps and the sidecar's record, from a result in memory or from files.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from moediff.acquisition.point_spread import Samplings
from moediff.core.errors import DataError, GeometryError, MoeDiffError, prefix_errors, printable
from moediff.core.geometry import StorageOrder
from moediff.core.schema import record_from
from moediff.core.volume import Grid, Volume
from moediff.evaluation.data_consistency import residual_map
from moediff.evaluation.intensity_fit import Fit
from moediff.evaluation.pairs import load_annotation
from moediff.inference.grid_plan import GridPlan
from moediff.inference.result import Enhanced, GuideShare, ScanShare
from moediff.inference.sidecar import InputFile, read_sidecar, stated_sampling
from moediff.io.label_check import load_intensities
from moediff.io.loaded import LoadedScan
from moediff.io.naming import default_output, sidecar_of
from moediff.io.nifti.writer import gzip_wanted
from moediff.io.scans import load
from moediff.report.truth import fit_to_truth, in_units_of_result, measured_on, truth_on

REMEDY = (
    "name the true scan, and outlines of lesions by --lesions, or give `--trust-intensities` if these are intensities"
)


NO_SOURCE = (
    "The scan that was enhanced was not found, so this page shows the result without it: there is nothing to "
    "compare it with, no map of what was changed and none of disagreement. Name the input (--input) to see them."
)


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Files that belong to one enhanced scan; None leaves a view out.

    Args:
        scan: the enhanced scan; its sidecar lies beside it.
        source: the scan that was enhanced.
        trust, index, series: how it is read, as `load` takes them.
        truth: the true scan, on any grid.
        uncertainty: standard deviation on the enhanced grid.
        experts: 4-D gate weights on the enhanced grid.
        differences: what `enhance --differences` wrote.
        lesions: mask of lesions, on any grid.
        trust_intensities: the truth holds intensities, whatever it looks like.
    """

    scan: Path
    source: Path | None = None
    trust: str | None = None
    index: int | None = None
    series: str | None = None
    truth: Path | None = None
    uncertainty: Path | None = None
    experts: Path | None = None
    differences: Path | None = None
    lesions: Path | None = None
    trust_intensities: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportScans:
    """Everything that a page draws, in original units.

    Args:
        enhanced: the result; all maps lie on its grid.
        name: file name of the input (or of the result); no folder.
        record: the sidecar as plain values, which may be foreign: what has another type than expected is left out.
        source: the input on its own grid.
        interpolated: the input on the enhanced grid.
        truth: the true scan on the enhanced grid, in its own intensities.
        truth_seen_XYZ: where it was measured; None means everywhere.
        uncertainty_XYZ: standard deviation.
        gate_XYZE: weight of each expert, zero where none worked.
        changed_XYZE: each expert's own result minus the interpolated input.
        expert_names: in the order of E.
        residual: the enhanced scan acquired again minus the input, on any grid.
        lesions: 1 inside outlined lesions, on any grid.
        source_note: why the input is missing and what that leaves; empty where it is there.
        shares: what each of several scans gave to the result; `source` is the first of them.
        guide: a sharp scan of another contrast and what the result was corrected by for it.

    Raises:
        GeometryError: a map does not lie on the enhanced grid.
    """

    enhanced: Volume
    name: str
    record: dict[str, Any] = field(default_factory=dict)
    source: Volume | None = None
    interpolated: Volume | None = None
    truth: Volume | None = None
    truth_seen_XYZ: Tensor | None = None
    uncertainty_XYZ: Tensor | None = None
    gate_XYZE: Tensor | None = None
    changed_XYZE: Tensor | None = None
    expert_names: tuple[str, ...] = ()
    residual: Volume | None = None
    lesions: Volume | None = None
    source_note: str = ""
    shares: tuple[ScanShare, ...] = ()
    guide: GuideShare | None = None

    @cached_property
    def truth_fit(self) -> tuple[Fit, tuple[str, ...]]:
        """Gain and offset that bring the result to the truth's intensities, and doubts; see `fit_to_truth`."""
        return (Fit(), ()) if self.truth is None else fit_to_truth(self.enhanced, self.truth, self.truth_seen_XYZ)

    @cached_property
    def shown_truth(self) -> Volume | None:
        """The truth in the result's intensities."""
        return None if self.truth is None else in_units_of_result(self.truth, self.truth_fit[0])

    def __post_init__(self) -> None:
        maps = {
            "uncertainty": self.uncertainty_XYZ,
            "expert map": self.gate_XYZE,
            "experts' difference map": self.changed_XYZE,
        }
        maps |= {"truth": self.truth.data_XYZ if self.truth else None}
        for what, data in maps.items():
            if data is not None and tuple(data.shape[:3]) != self.enhanced.shape:
                raise GeometryError(
                    f"the {what} has shape {tuple(data.shape[:3])}, expected {self.enhanced.shape}; "
                    "give the file that was written with this result"
                )


def from_result(result: Enhanced, name: str, truth: Volume | None = None) -> ReportScans:
    """A result that has just been computed.

    Args:
        name: file name to show; for DICOM give the neutral stem, never a patient's name.
        truth: the true scan, on any grid.

    Returns:
        What `write_page` shows.
    """
    worked = bool(result.mask_XYZ.any())
    changed_XYZE = None
    if worked and result.single_experts_XYZE is not None:
        changed_XYZE = result.single_experts_XYZE - result.interpolated.data_XYZ[..., None]
    truth, seen_XYZ = (None, None) if truth is None else truth_on(truth, result.volume.grid)
    return ReportScans(
        enhanced=result.volume,
        name=name,
        record=result.sidecar.to_dict(),
        source=result.source.volume,
        interpolated=result.interpolated,
        truth=truth,
        truth_seen_XYZ=seen_XYZ,
        uncertainty_XYZ=None if result.uncertainty is None else result.uncertainty.data_XYZ,
        gate_XYZE=result.gate_XYZE if worked else None,
        changed_XYZE=changed_XYZE,
        expert_names=result.expert_names,
        residual=None if result.scans else result.residual,  # of several scans, each has one of its own
        shares=result.scans,
        guide=result.guide,
    )


def from_files(files: ReportFiles) -> ReportScans:
    """A result that was written earlier.

    Raises:
        InputMissing: a file or the sidecar is not there.
        DataError: the sidecar is damaged, or a file is no usable scan.
        GeometryError: a map does not lie on the enhanced grid, or input or truth lie elsewhere.
    """
    scan = load(files.scan)  # first: of a name that is no scan's, its sidecar would be missed
    enhanced = scan.volume
    record = read_sidecar(sidecar_of(files.scan))
    _check_same_scan(record, scan)
    source = None
    if files.source:
        source = load(files.source, trust=files.trust, index=files.index, series=files.series)
    truth, seen_XYZ = None, None
    if files.truth:
        true_scan = load_intensities(files.truth, REMEDY, trust=files.trust_intensities)
        truth, seen_XYZ = truth_on(true_scan.volume, enhanced.grid)
    gate_XYZE = _read_maps(files.experts, scan.storage, record, 1).clamp(0, 1) if files.experts else None
    changed_XYZE = _changed(_read_maps(files.differences, scan.storage, record, 2)) if files.differences else None
    return ReportScans(
        enhanced=enhanced,
        name=files.scan.name if source is None else _name_of(files.source, source.stem),
        record=record,
        source=None if source is None else source.volume,
        interpolated=None if source is None else _interpolated(source.volume, enhanced.grid),
        truth=truth,
        truth_seen_XYZ=seen_XYZ,
        uncertainty_XYZ=load(files.uncertainty).volume.data_XYZ if files.uncertainty else None,
        gate_XYZE=gate_XYZE,
        changed_XYZE=changed_XYZE,
        expert_names=_expert_names(record, gate_XYZE if gate_XYZE is not None else changed_XYZE),
        residual=None if source is None else _residual(enhanced, source.volume, stated_sampling(record)),
        lesions=_lesions(files.lesions, enhanced.grid) if files.lesions else None,
        source_note="" if files.source else NO_SOURCE,
    )


def _check_same_scan(record: dict[str, Any], scan: LoadedScan) -> None:
    """Refuse a scan that took the place of a result, beside the result's sidecar."""
    grid = record.get("output")
    expected = grid.get("shape") if isinstance(grid, dict) else None
    stored = list(scan.stored_grid.shape)
    if isinstance(expected, list) and len(expected) == 3 and expected != stored:
        with prefix_errors(printable(scan.path or "the scan")):
            raise DataError(
                f"the scan has shape {stored}, its sidecar describes one of {expected}: another scan took the result's "
                "name; enhance again"
            )


def _lesions(path: Path, grid: Grid) -> Volume:
    drawn = load_annotation(path)
    measured_on("lesion mask", drawn, grid)
    return drawn


def _interpolated(source: Volume, grid: Grid) -> Volume:
    """The input on the enhanced grid, as `Enhanced.interpolated` has it."""
    measured_on("input", source, grid)
    return GridPlan.between(source, grid).interpolated(source)


def _changed(differences_XYZN: Tensor) -> Tensor:
    """Each expert minus input, the second half of what `enhance --differences` writes."""
    count = differences_XYZN.shape[3]
    if count % 2:
        raise DataError(f"expected two volumes an expert in the differences, got {count}; see --differences")
    return differences_XYZN[..., count // 2 :]


def _residual(enhanced: Volume, source: Volume, sampling: Samplings | None) -> Volume | None:
    """None where the two grids are oblique to each other or no head is found: there it cannot be computed."""
    with suppress(GeometryError, DataError):
        return residual_map(enhanced, source, sampling=sampling)
    return None


def source_beside(scan: Path, *, trust: str | None = None, index: int | None = None) -> Path | None:
    """The input of a result: the unchanged file that the sidecar names; else, where the result kept its default name,
    the scan beside it that fits the name and the shape recorded.

    Args:
        trust, index: as `load` takes them.
    """
    with suppress(MoeDiffError):
        record = read_sidecar(sidecar_of(scan))
        if (named := _input_named(record, sidecar_of(scan))) is not None:
            return named
        if "_desc-sr" not in scan.name:
            return None
        grid = record.get("input")
        expected = grid.get("shape") if isinstance(grid, dict) else None
        fitting = [path for path in _inputs_named_for(scan) if _has_shape(path, expected, trust, index)]
        return fitting[0] if len(fitting) == 1 else None
    return None


def _input_named(record: dict[str, Any], sidecar: Path) -> Path | None:
    with suppress(DataError):
        named = record.get("input_file")
        return record_from(InputFile, named).find(sidecar) if isinstance(named, dict) else None
    return None


def maps_beside(scan: Path) -> dict[str, Path]:
    """Maps that the sidecar names and that are still there, by the option of `enhance` that wrote them."""
    with suppress(MoeDiffError):
        record = read_sidecar(sidecar_of(scan))
        named = record.get("maps")
        if isinstance(named, dict) and not record.get("pass_through"):  # there the maps are empty
            paths = {str(key): scan.parent / Path(str(name)).name for key, name in named.items()}
            return {key: path for key, path in paths.items() if path.is_file()}
    return {}


def _inputs_named_for(scan: Path) -> list[Path]:
    """Scans whose default output has this name: they differ in their description only."""
    beside = [path for path in scan.parent.iterdir() if gzip_wanted(path) is not None and path.is_file()]
    return sorted(path for path in beside if path != scan and default_output(path).name == scan.name)


def _has_shape(path: Path, expected: object, trust: str | None, index: int | None) -> bool:
    with suppress(MoeDiffError):
        return list(load(path, trust=trust, index=index).stored_grid.shape) == expected
    return False


def _expert_names(record: dict[str, Any], gate_XYZE: Tensor | None) -> tuple[str, ...]:
    """Names as the sidecar gives them, numbers where it does not."""
    count = 0 if gate_XYZE is None else gate_XYZE.shape[3]
    named = record.get("experts")
    names = [str(name) for name in named] if isinstance(named, list) else []
    return (*names[:count], *(f"expert {i + 1}" for i in range(len(names), count)))


def _name_of(path: Path | None, stem: str | None) -> str:
    return stem or (path.name if path else "scan")


def _read_maps(path: Path, storage: StorageOrder, record: dict[str, Any], each: int) -> Tensor:
    """A 4-D map of so many volumes an expert; the first passes the checks of every scan before the rest is read."""
    load(path, index=0)
    with prefix_errors(printable(path)):
        image: Any = nib.load(path)
        data_XYZE = np.asarray(image.dataobj, dtype=np.float32)
        if data_XYZE.ndim != 4:
            raise DataError(f"expected a 4-D map, one volume an expert, got shape {data_XYZE.shape}")
        named = record.get("experts")
        if isinstance(named, list) and named and data_XYZE.shape[3] != each * len(named):
            raise DataError(
                f"found {data_XYZE.shape[3]} volumes, expected {each} for each of {len(named)} experts: name what was "
                "written with this result, --experts and --differences each its own"
            )
    return storage.apply_data(torch.from_numpy(data_XYZE)).nan_to_num(0.0)
