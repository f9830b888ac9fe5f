"""Where the results of one task go: what BIDS and batch runs have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moediff.inference.outputs import OutputPaths
from moediff.inference.result import Enhanced


@dataclass(frozen=True, kw_only=True)
class Placement(ABC):
    """Results of one scan, or of several that become one.

    Args:
        out: the output folder of the run.
        maps: which maps are written: uncertainty, experts, mask.
        viewer: whether an interactive page is written.
    """

    out: Path
    maps: tuple[str, ...] = ()
    viewer: bool = False

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder of the results."""

    @property
    def named_by_run(self) -> bool:
        """Whether the same names may stand for other scans in another run, since they depend on what was named."""
        return False

    @property
    @abstractmethod
    def pictures(self) -> Path:
        """The folder of the pictures for pages."""

    @abstractmethod
    def volumes(self, spacing_mm: Sequence[float]) -> OutputPaths:
        """The enhanced scan and its maps, once the voxel size of the result is known."""

    @abstractmethod
    def sidecars(self) -> list[Path]:
        """Sidecars that may be of this scan's results, whatever their voxel size."""

    @abstractmethod
    def metadata_sha256(self) -> str:
        """Checksum of what JSON files say of the scan or scans as they are now; empty where they have none."""

    def outputs(self, spacing_mm: Sequence[float]) -> OutputPaths:
        """Every output, with the page beside the pictures."""
        paths = self.volumes(spacing_mm)
        return replace(paths, report=self.page_of(paths.sidecar) if self.viewer else None)

    def page_of(self, sidecar: Path) -> Path:
        """The interactive page of a result, which may not be there."""
        return self.pictures / f"{sidecar.stem}.html"

    def annotate(self, result: Enhanced) -> Mapping[str, Any]:
        """Further keys of the sidecar."""
        return {}

    def companions(self, name: str, path: Path) -> tuple[Path, ...]:
        """Files beside a map that describe it, by the map's name in the sidecar; a result lacks nothing without any."""
        return ()

    def describe_maps(self, result: Enhanced, maps: Mapping[str, Path]) -> dict[Path, str]:
        """Texts of all companions of these maps."""
        return {}
