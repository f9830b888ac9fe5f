"""Enhancing to files: the one way from a request to written outputs, for `moediff.enhance` and `moediff enhance` alike.

Outputs are checked and locked before the weights are loaded; a run that ends early leaves nothing of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from moediff.core.errors import ConfigError, DataError, InputMissing, prefix_errors, printable
from moediff.core.extras import require_modules
from moediff.inference.enhancer import Enhancer, Source, read_guide, read_sources
from moediff.inference.grid_plan import GridPlan, plan_grids
from moediff.inference.guided import check_guide
from moediff.inference.options import EnhanceOptions
from moediff.inference.outputs import REPORT_SIZES, Annotate, OutputPaths, check_outputs, locked_outputs, write
from moediff.inference.result import Enhanced
from moediff.inference.session import Progress, no_progress
from moediff.inference.several import several_options
from moediff.inference.several_plan import plan_several
from moediff.inference.sidecar import InputFile
from moediff.io.checksum import file_state
from moediff.io.dicom.writer import require_series_grid
from moediff.io.scans import LoadedScan
from moediff.registration.mutual_information import require_registration


@dataclass(frozen=True)
class PlannedScan:
    """Loaded scans with the grid plan of the first, and the options completed by what the outputs need."""

    scans: tuple[LoadedScan, ...]
    options: EnhanceOptions
    plan: GridPlan
    guide: LoadedScan | None = None

    @property
    def scan(self) -> LoadedScan:
        """The only scan, or the first of several."""
        return self.scans[0]


@dataclass(frozen=True, kw_only=True)
class EnhanceRequest:
    """One scan or several of one head, what to do with them, and where the result goes.

    Args:
        source: path, nibabel image, `Volume`, or what `load` returned; or a list of these.
        options: of the enhancement.
        outputs: files to write.
        overwrite: replace existing ones.
        protected: other files that are read, and so are never replaced.
        annotate: gives further keys of the sidecar, such as BIDS metadata.
        report_size: of the page, full or small.
        guide: a sharp scan of another contrast, in any form of a source.

    Raises:
        ConfigError: the size has another name.
    """

    source: Source | Sequence[Source]
    options: EnhanceOptions
    outputs: OutputPaths
    overwrite: bool = False
    protected: tuple[Path, ...] = ()
    annotate: Annotate | None = None
    report_size: str = "full"
    guide: Source | None = None

    def __post_init__(self) -> None:
        if self.report_size not in REPORT_SIZES:
            raise ConfigError(f"report_size={self.report_size!r}: expected one of {', '.join(REPORT_SIZES)}")

    @property
    def path(self) -> Path | None:
        """The file or folder that is read, the first of several; None for a volume in memory."""
        return path_of(self.sources[0]) if self.sources else None

    @property
    def sources(self) -> list[Source]:
        """The inputs, as a list."""
        return list(self.source) if isinstance(self.source, list | tuple) else [self.source]

    @property
    def read(self) -> tuple[Path, ...]:
        """Everything else that is read and must stay: the scans after the first, the guide, and what is protected."""
        others = [path for path in map(path_of, [*self.sources[1:], self.guide]) if path is not None]
        return (*others, *self.protected)

    @cached_property
    def planned(self) -> PlannedScan:
        """The scan, read and planned once.

        Raises:
            ConfigError: an output cannot be had with these options, this input or this installation.
            DataError, GeometryError, InputMissing: the scan cannot be read.
        """
        options, outputs = self.options, self.outputs
        combined = len(self.sources) > 1  # which has a standard deviation anyway
        if outputs.uncertainty is not None and options.mode == "detail" and options.samples < 2 and not combined:
            raise ConfigError("--uncertainty in mode detail needs --samples 2 or more; mode faithful predicts it")
        if outputs.differences is not None and options.mode == "detail":
            raise ConfigError(
                "--differences compares experts' posterior means with the result, --mode detail draws a "
                "sample: leave one of the two out"
            )
        if outputs.single_experts is not None or outputs.differences is not None:
            options = replace(options, single_experts=True)
        scans = read_sources(self.source)
        scan = scans[0]
        if len(scans) > 1:
            if options.align:
                require_registration()
            options = several_options(scans, options)
            plan = plan_several(scans, options)
        else:
            with prefix_errors(scan.path) if scan.path is not None else nullcontext():
                plan = plan_grids(scan, options)
        guide = None
        if self.guide is not None:
            guide = read_guide(self.guide)
            check_guide(scans, guide, plan, options)
        if outputs.dicom is not None:
            if scan.origin is None:
                raise ConfigError("--dicom-out needs a DICOM series as input; leave it out, the result is NIfTI then")
            require_series_grid(plan.stored_target)
        if outputs.report is not None:
            require_modules("jinja2")
        return PlannedScan(tuple(scans), options, plan, guide)

    def check_outputs(self) -> None:
        """Refuse what could not be written.

        Raises:
            CannotCreate: see `outputs.check_outputs`.
        """
        check_outputs(self.outputs, self.path, overwrite=self.overwrite, read=self.read)


def path_of(source: Source) -> Path | None:
    """The file or folder of an input; None for a volume in memory."""
    name = source.get_filename() if hasattr(source, "get_filename") else getattr(source, "path", source)
    return Path(name) if isinstance(name, Path | str) else None


def enhance_to(
    request: EnhanceRequest,
    enhancer: Callable[[PlannedScan], Enhancer],
    progress: Progress | None = None,
    *,
    planned: PlannedScan | None = None,
) -> Enhanced:
    """Enhance one scan, or several to one, and write what the request names, under the lock of its outputs.

    Args:
        request: what to read, do and write.
        enhancer: makes or brings the model, once the outputs are ours; it may learn from the scan first.
        progress: called with the share done (0..1) and a word.
        planned: of the same scans and options, where they had to be planned before.

    Raises:
        TryAgain: another run writes the same outputs, or memory ran out.
        CannotCreate, OutputFailed: an output exists or could not be written; nothing partial is left.
        ConfigError: see `EnhanceRequest.planned`.
        DataError, GeometryError, InputMissing: the scan cannot be used.
    """
    report, planned = progress or no_progress, planned or request.planned
    path, outputs, overwrite = request.path, request.outputs, request.overwrite
    with locked_outputs(outputs, path, overwrite=overwrite, read=request.read):
        input_file = _input_file(request, planned)
        result = enhancer(planned)(planned.scans, planned.options, report, plan=planned.plan, guide=planned.guide)
        warnings = (*result.sidecar.warnings, *_changed(request, planned))
        result = replace(result, sidecar=replace(result.sidecar, input_file=input_file, warnings=warnings))

        def draw(page: Path) -> None:
            report(0.97, "drawing the report")
            _draw_page(result, planned.scan.stem or ("scan" if path is None else path.name), page, request)

        result = write(result, outputs, overwrite=overwrite, draw=draw, annotate=request.annotate)
    report(1.0, "done")
    return result


def _input_file(request: EnhanceRequest, planned: PlannedScan) -> InputFile | None:
    """The first input as it was read, for the sidecar, before the network; None where its file is another by now."""
    path = request.path
    if path is None:
        return None
    before = planned.scan.file_state or file_state(path)
    try:
        record = InputFile.of(path, request.outputs.sidecar)
    except (InputMissing, DataError):
        return None
    return record if file_state(path) == before else None


def _changed(request: EnhanceRequest, planned: PlannedScan) -> list[str]:
    """A sentence for every scan whose file is no longer the one that was read."""
    scans = [*zip(request.sources, planned.scans, strict=True), (request.guide, planned.guide)]
    notes = []
    for source, scan in scans:
        path = path_of(source)
        if path is None or scan is None or scan.file_state in (None, file_state(path)):
            continue
        notes.append(
            f"{printable(scan.stem or path.name)} was changed, moved or removed after it was read: the result is of "
            "what it held before"
        )
    return notes


def _draw_page(result: Enhanced, name: str, page: Path, request: EnhanceRequest) -> None:
    from moediff.report.data import from_result
    from moediff.report.embed import SIZES
    from moediff.report.page import write_page

    size = SIZES[request.report_size]
    write_page(from_result(result, name), page, overwrite=request.overwrite, size=size)
