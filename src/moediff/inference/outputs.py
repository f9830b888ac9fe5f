"""Outputs of an enhancement: their paths, checks and lock, and writing them with the sidecar last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from moediff.core.errors import CannotCreate, prefix_errors, printable
from moediff.inference.result import Enhanced, largest_XYZ
from moediff.io.atomic import check_new_folder
from moediff.io.dicom.writer import write_series
from moediff.io.loaded import DicomOrigin
from moediff.io.lock import output_lock, register_outputs
from moediff.io.naming import files_of, sidecar_of, suffix_of
from moediff.io.nifti.writer import codes_to_write, gzip_wanted, require_suffix
from moediff.io.scans import check_free, save, save_labels, save_maps, write_text

Annotate: TypeAlias = Callable[[Enhanced], Mapping[str, Any]]
NO_UNCERTAINTY = "no uncertainty map was written: there is none for a scan that was passed through or sampled once"


REPORT_SIZES = ("full", "small")  # of a page; `report/embed.py` says what they mean


@dataclass(frozen=True, kw_only=True)
class OutputPaths:
    """Where things go, as paths or as text; None leaves a file out.

    Args:
        scan: the enhanced scan, NIfTI; the sidecar is a JSON file beside it.
        uncertainty: standard deviation of every voxel.
        experts: gate weights, 4-D.
        expert_labels: the expert of the largest weight, as whole numbers from 1; 0 where none worked.
        mask: where the network worked.
        single_experts: every expert's own result, 4-D.
        differences: every expert minus the result, then minus the interpolated input, 4-D.
        report: one HTML page.
        dicom: folder of a new series; needs a DICOM input.
    """

    scan: Path
    uncertainty: Path | None = None
    experts: Path | None = None
    expert_labels: Path | None = None
    mask: Path | None = None
    single_experts: Path | None = None
    differences: Path | None = None
    report: Path | None = None
    dicom: Path | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, None if value is None else Path(value))

    @property
    def sidecar(self) -> Path:
        """The JSON beside the scan."""
        return sidecar_of(self.scan)

    def every(self) -> list[Path]:
        """All files that will be written, the sidecar last."""
        others = [path for path in (self.report, self.dicom) if path is not None]
        return [*self.volumes(), *others, self.sidecar]

    def maps(self) -> dict[str, Path]:
        """NIfTI files beside the scan, by the name of their field."""
        names = ("uncertainty", "experts", "expert_labels", "mask", "single_experts", "differences")
        return {name: path for name in names if (path := getattr(self, name)) is not None}

    def volumes(self) -> list[Path]:
        """Those that are NIfTI, the scan first."""
        return [self.scan, *self.maps().values()]


def check_outputs(paths: OutputPaths, source: Path | None, *, overwrite: bool, read: Sequence[Path] = ()) -> None:
    """Refuse, before any work, outputs that could not be written after it.

    Args:
        source: the scan that is read; None where it is in memory.
        read: other files that are read and must not be replaced.

    Raises:
        CannotCreate: a file exists, has a name of another kind or a closed folder, two outputs share a name, a file
            that is read, or its own sidecar, would be replaced, or a new series would lie in a folder that is read.
    """
    for path in paths.volumes():
        with prefix_errors(path):
            require_suffix(path)
    every = [path.resolve() for path in paths.every()]
    if len(set(every)) < len(every):
        raise CannotCreate("two outputs have the same name; give each its own")
    inputs = [*([] if source is None else [source]), *read]
    for path in inputs:
        _protect(path, set(every))
    for path in paths.every():
        if path == paths.dicom:
            check_new_folder(path)
            _check_apart(path, inputs)
        else:
            check_free(path, overwrite=overwrite)


def _check_apart(folder: Path, inputs: Sequence[Path]) -> None:
    """Refuse a new series inside a folder that is read: it would be taken for a part of that the next time."""
    around = set(folder.resolve().parents)
    for path in inputs:
        if path.resolve() in around:
            with prefix_errors(folder):
                raise CannotCreate(
                    f"the new series would lie among the input's files in {printable(path)}: choose a folder beside it"
                )


def _protect(path: Path, every: set[Path]) -> None:
    """Refuse outputs, resolved, that would replace a file that is read, or the sidecar that came with a scan."""
    with prefix_errors(path):
        if {part.resolve() for part in files_of(path)} & every:
            raise CannotCreate("the output would replace the input: choose another name for it")
        sidecar = sidecar_of(path)
        if suffix_of(path) is not None and sidecar.resolve() in every and _came_with(path, sidecar):
            raise CannotCreate(
                f"an output would replace the input's sidecar {printable(sidecar.name)}: choose another name"
            )


def _came_with(scan: Path, sidecar: Path) -> bool:
    """Whether a JSON belongs to the scan; one of ours does not where the scan has a format that we do not write."""
    return sidecar.exists() and (gzip_wanted(scan) is not None or not written_by_us(sidecar))


def written_by_us(sidecar: Path) -> bool:
    """Whether a JSON is the record of a result of this program."""
    return sidecar.is_file() and '"moediff-sr' in sidecar.read_text(encoding="utf-8", errors="replace")[:2000]


@contextmanager
def locked_outputs(
    paths: OutputPaths, source: Path | None, *, overwrite: bool, read: Sequence[Path] = ()
) -> Iterator[None]:
    """Lock these outputs against other runs and check them; what a killed run left of them is removed first.

    Args:
        source, read: as in `check_outputs`.

    Raises:
        TryAgain: another run writes them.
        CannotCreate: see `check_outputs`.
    """
    with output_lock(paths.every()):
        check_outputs(paths, source, overwrite=overwrite, read=read)
        yield


def write(
    result: Enhanced,
    paths: OutputPaths,
    *,
    overwrite: bool = False,
    draw: Callable[[Path], None] | None = None,
    annotate: Annotate | None = None,
) -> Enhanced:
    """Write series, page, scan, maps and, last, the sidecar, so its presence means the result is complete.

    The series and the page can fail for more reasons than a full disk, so they come before any file is replaced.

    Args:
        draw: makes the page at `paths.report` (see `moediff.report`).
        annotate: gives further keys of the sidecar.

    Returns:
        The result with the sidecar as written: a map that does not exist adds a warning.

    Raises:
        CannotCreate, OutputFailed: a file exists or could not be written; nothing partial is left.
    """
    codes, affine, storage = codes_to_write(result.source.codes), result.volume.affine, result.storage
    register_outputs(paths.every())
    if paths.dicom is not None and result.source.origin is not None:
        write_series(result.stored, result.source.origin, paths.dicom, _other_series(result, result.source.origin))
    if paths.report is not None and draw is not None:
        draw(paths.report)
    if overwrite:
        paths.sidecar.unlink(missing_ok=True)
    save(result.volume, paths.scan, storage=storage, codes=codes, overwrite=overwrite)
    if paths.uncertainty is not None:
        result = _write_uncertainty(result, paths.uncertainty, overwrite=overwrite)
    _write_experts(result, paths, codes, overwrite=overwrite)
    if paths.mask is not None:
        mask = result.volume.with_data(result.maps.mask_XYZ().float())
        save(mask, paths.mask, storage=storage, codes=codes, overwrite=overwrite)
    if paths.single_experts is not None and result.single_experts_XYZE is not None:
        save_maps(
            result.single_experts_XYZE, affine, paths.single_experts, storage=storage, codes=codes, overwrite=overwrite
        )
    if paths.differences is not None:
        save_maps(
            result.differences_XYZN(), affine, paths.differences, storage=storage, codes=codes, overwrite=overwrite
        )
    result = replace(result, sidecar=replace(result.sidecar, maps=_names(paths)))
    write_text(result.sidecar.to_json(annotate and annotate(result)), paths.sidecar, overwrite=overwrite)
    return result


def _other_series(result: Enhanced, first: DicomOrigin) -> list[DicomOrigin]:
    """Of the first one's study, those that took part in the result of several, and the guide's."""
    took_part = [share.origin for share in result.scans[1:] if share.weight_XYZ is not None]
    took_part += [] if result.guide is None else [result.guide.origin]
    return [origin for origin in took_part if origin is not None and origin.study == first.study]


def _write_experts(result: Enhanced, paths: OutputPaths, codes: tuple[int, int], *, overwrite: bool) -> None:
    """Gate weights and the labels taken from them, computed once for both."""
    if paths.experts is None and paths.expert_labels is None:
        return
    gate_XYZE, affine, storage = result.maps.gate_XYZE(), result.volume.affine, result.storage
    if paths.experts is not None:
        save_maps(gate_XYZE, affine, paths.experts, storage=storage, codes=codes, overwrite=overwrite)
    if paths.expert_labels is not None:
        labels = result.volume.with_data(largest_XYZ(gate_XYZE))
        save_labels(labels, paths.expert_labels, storage=storage, codes=codes, overwrite=overwrite)


def _names(paths: OutputPaths) -> dict[str, str]:
    """Maps as the sidecar names them: those beside it, which exist (an uncertainty may not)."""
    beside = {name: path for name, path in paths.maps().items() if path.parent == paths.scan.parent and path.exists()}
    return {name: path.name for name, path in beside.items()}


def _write_uncertainty(result: Enhanced, path: Path, *, overwrite: bool) -> Enhanced:
    if result.uncertainty is not None:
        codes = codes_to_write(result.source.codes)
        save(result.uncertainty, path, storage=result.storage, codes=codes, overwrite=overwrite)
        return result
    if overwrite:
        path.unlink(missing_ok=True)  # an older one would be taken for this result's
    return replace(result, sidecar=replace(result.sidecar, warnings=(*result.sidecar.warnings, NO_UNCERTAINTY)))
