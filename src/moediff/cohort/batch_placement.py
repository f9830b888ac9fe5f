"""Where the results of a batch run go: folders as they are, names as `moediff enhance` gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moediff.cohort.batch_inputs import BatchScan
from moediff.cohort.placement import Placement
from moediff.inference.outputs import OutputPaths
from moediff.io.naming import default_output, sidecar_of

PAGES = "pages"
MAP_NAMES = {"uncertainty": "desc-srstd", "experts": "desc-experts", "mask": "desc-srmask"}


@dataclass(frozen=True)
class BatchPlacement(Placement):
    """Results of one scan of a batch run; its sidecar names the maps, which have no files beside them.

    Args:
        scan: the input.
    """

    scan: BatchScan

    @property
    def folder(self) -> Path:
        """Below the output folder as the scan's below what was named."""
        return self.out / self.scan.relative.parent

    @property
    def named_by_run(self) -> bool:
        """`s1/T1.nii.gz` and `s2/T1.nii.gz`, each named alone, are both `T1`."""
        return True

    @property
    def pictures(self) -> Path:
        """Below `pages`, so that the folders of the results hold scans only."""
        return self.out / PAGES / self.scan.relative.parent / "figures"

    def volumes(self, spacing_mm: Sequence[float] = ()) -> OutputPaths:
        """Scan and maps; names do not depend on the voxel size."""
        scan = default_output(self.folder / self.scan.relative.name, self.scan.relative.name)
        maps = {name: scan.with_name(scan.name.replace("desc-sr", MAP_NAMES[name], 1)) for name in self.maps}
        return OutputPaths(scan=scan, **maps)

    def metadata_sha256(self) -> str:
        """Of the JSON file beside the scan."""
        path = sidecar_of(self.scan.source)
        try:
            return "" if self.scan.source.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return ""  # there is none

    def sidecars(self) -> list[Path]:
        """The sidecar of this scan's result."""
        return [sidecar_of(self.volumes().scan)]
