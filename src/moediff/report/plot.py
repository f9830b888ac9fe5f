"""A result as one matplotlib figure: `result.plot()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moediff.core.volume import Volume
from moediff.inference.options import Enhanced
from moediff.report.canvas import save_figure
from moediff.report.data import truth_on
from moediff.report.figure import compare


def plot(result: Enhanced, path: Path | str | None = None, *, truth: Volume | None = None) -> Any:
    """Input, interpolated, enhanced (truth, error), experts and uncertainty in three planes, one intensity window.

    Columns that a result lacks are left out: experts where the scan was passed through, uncertainty in mode `detail`
    with one sample.

    Args:
        path: where a PNG goes; an existing file is replaced, None writes nothing.
        truth: the true scan, on any grid; no error is shown where it was not measured.

    Returns:
        The matplotlib figure.

    Raises:
        ConfigError: matplotlib is not installed.
        DataError: the result is constant.
        GeometryError: the truth lies wholly elsewhere.
        CannotCreate: the PNG cannot be written.
    """
    panels = {"input": result.source.volume, "interpolated": result.interpolated, "enhanced": result.volume}
    seen_XYZ = None
    if truth is not None:
        panels["truth"], seen_XYZ = truth_on(truth, result.volume.grid)
    figure = compare(
        panels,
        error_of=None if truth is None else ("enhanced", "truth"),
        seen_XYZ=seen_XYZ,
        expert_map_XYZE=result.gate_XYZE if bool(result.mask_XYZ.any()) else None,
        expert_names=result.expert_names,
        uncertainty_XYZ=None if result.uncertainty is None else result.uncertainty.data_XYZ,
    )
    if path is not None:
        save_figure(figure, Path(path))
    return figure
