"""Dry run of a cohort: what each task would do, from the header of its scan alone."""

from __future__ import annotations

from moediff.cohort.tasks import Task
from moediff.cohort.work import ScanSpec, finished
from moediff.core.errors import MoeDiffError, printable
from moediff.inference.grid_plan import target_grid
from moediff.io.missing import is_annex_pointer, is_dangling
from moediff.io.scans import grid_from_file


def planned_line(task: Task) -> str:
    """One line: `done`, `to do`, `not fetched` or `cannot be read`, the scan, and its result or the reason."""
    spec = task.spec
    assert isinstance(spec, ScanSpec)
    if is_dangling(spec.source) or is_annex_pointer(spec.source):
        return f"not fetched     {printable(spec.source)}"
    try:
        done = None if spec.redo else finished(spec)
        if done is not None:
            return f"done            {printable(spec.source)} -> {printable(done.with_suffix('.nii.gz'))}"
        grid = target_grid(grid_from_file(spec.source, option=""), spec.options)
        scan = spec.placement.outputs(grid.spacing_mm).scan
    except MoeDiffError as error:
        return f"cannot be read  {printable(str(error))}"
    return f"to do           {printable(spec.source)} -> {printable(scan)}"
