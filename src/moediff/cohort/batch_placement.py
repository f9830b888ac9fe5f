"""Where the results of a batch run go: folders as they are, names as `moediff enhance` gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moediff.cohort.batch_inputs import BatchScan
from moediff.inference.outputs import OutputPaths
from moediff.inference.result import Enhanced
from moediff.io.naming import default_output, sidecar_of

PAGES = "pages"
MAP_NAMES = {"uncertainty": "desc-srstd", "experts": "desc-experts", "mask": "desc-srmask"}


@dataclass(frozen=True)
class BatchPlacement:
    """Results of one scan of a batch run.

    Args:
        scan: the input.
        out: the output folder.
        maps: which maps are written: uncertainty, experts, mask.
        viewer: whether an interactive page is written.
    """

    scan: BatchScan
    out: Path
    maps: tuple[str, ...] = ()
    viewer: bool = False
    maps_described = False

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.out / self.scan.relative.parent

    def outputs(self, spacing_mm: Sequence[float] = ()) -> OutputPaths:
        """Every output; names do not depend on the voxel size."""
        scan = default_output(self.folder / self.scan.relative.name, self.scan.relative.name)
        maps = {name: scan.with_name(scan.name.replace("desc-sr", MAP_NAMES[name], 1)) for name in self.maps}
        page = self.picture_folder(OutputPaths(scan=scan)) / f"{sidecar_of(scan).stem}.html"
        return OutputPaths(scan=scan, **maps, report=page if self.viewer else None)

    def sidecars(self) -> list[Path]:
        """The sidecar of this scan's result."""
        return [sidecar_of(self.outputs().scan)]

    def picture_folder(self, outputs: OutputPaths) -> Path:
        """Below `pages`, so that the folders of the results hold scans only."""
        return self.out / PAGES / self.scan.relative.parent / "figures"

    def annotate(self, result: Enhanced) -> Mapping[str, Any]:
        """Nothing further."""
        return {}

    def describe_maps(self, result: Enhanced) -> dict[str, dict[str, Any]]:
        """No files beside the maps: the scan's sidecar names them."""
        return {}
