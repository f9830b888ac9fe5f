"""Where the results of a BIDS scan go, under which names, and what their sidecars say in BIDS's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moediff.anatomy.tissue import brain_of
from moediff.cohort.bids_combine import BidsGroup
from moediff.cohort.bids_dataset import SOURCE
from moediff.cohort.bids_index import BidsScan
from moediff.cohort.bids_metadata import metadata_of, still_true
from moediff.cohort.bids_names import BidsName, derivative_of, resolution_label, source_key
from moediff.inference.outputs import OutputPaths
from moediff.inference.result import Enhanced

RESULT, SPREAD = "sr", "srstd"  # values of desc-: the enhanced scan, the standard deviation of its voxels
COARSE_MM = 3.0  # voxels are skipped up to this distance to see whether a head is stripped


@dataclass(frozen=True)
class BidsPlacement:
    """Results of one scan of a dataset, or of several that become one, in a derivative's folder.

    Args:
        group: the scan or scans.
        out: the derivative's folder.
        maps: which maps are written: uncertainty, experts, mask.
        viewer: whether an interactive page is written.
    """

    group: BidsGroup
    out: Path
    maps: tuple[str, ...] = ()
    viewer: bool = False
    maps_described = True

    @property
    def scan(self) -> BidsScan:
        """The scan whose folder counts."""
        return self.group.first

    @property
    def folder(self) -> Path:
        """The folder of the results: as the scan's in its dataset."""
        return self.out / self.scan.relative.parent

    def outputs(self, spacing_mm: Sequence[float]) -> OutputPaths:
        """Every output; `res-` is true of this voxel size.

        Maps that have a suffix of their own carry the contrast in `desc-`: else those of T1w and T2w had one name.
        """
        resolution, contrast = resolution_label(spacing_mm), self.group.name.suffix

        def path(description: str, suffix: str | None = None) -> Path:
            return self.folder / str(derivative_of(self.group.name, description, resolution, suffix))

        scan = path(RESULT)
        page = self.picture_folder(OutputPaths(scan=scan)) / f"{scan.name.removesuffix('.nii.gz')}.html"
        return OutputPaths(
            scan=scan,
            uncertainty=path(SPREAD) if "uncertainty" in self.maps else None,
            experts=path(f"experts{contrast}", "probseg") if "experts" in self.maps else None,
            mask=path(f"{RESULT}{contrast}", "mask") if "mask" in self.maps else None,
            report=page if self.viewer else None,
        )

    def sidecars(self) -> list[Path]:
        """Sidecars of this scan's results, whatever their voxel size."""
        key = source_key(self.group.name)
        return [path for path in sorted(self.folder.glob(f"*_desc-{RESULT}_*.json")) if _key(path) == key]

    def picture_folder(self, outputs: OutputPaths) -> Path:
        """`sub-01/figures`, as in fMRIPrep."""
        return self.out / self.scan.relative.parts[0] / "figures"

    def annotate(self, result: Enhanced) -> Mapping[str, Any]:
        """BIDS metadata: sources, resolution, whether the head is stripped, and how its contrast came about."""
        metadata = self._metadata()
        return {**self._common(result, metadata), **still_true(metadata)}

    def _metadata(self) -> dict[str, Any]:
        """What the JSON files say of the scan, or of all scans alike."""
        first, *others = [metadata_of(scan) for scan in self.group.scans]
        return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}

    def describe_maps(self, result: Enhanced) -> dict[str, dict[str, Any]]:
        """What stands beside each map, by its name in the sidecar."""
        common = self._common(result, self._metadata())
        experts = {f"volume {at}": name for at, name in enumerate(result.expert_names)}
        own: dict[str, dict[str, Any]] = {
            "uncertainty": {
                "Description": f"Standard deviation of each voxel: {result.sidecar.uncertainty.description}"
            },
            "experts": {"Description": "Weight of each expert in each voxel", "LabelMap": experts},
            "mask": {"Description": "Where the network worked: the head without air", "Type": "ROI"},
        }
        return {name: {**common, **own[name]} for name in self.maps}

    def _common(self, result: Enhanced, metadata: Mapping[str, Any]) -> dict[str, Any]:
        sizes = " x ".join(f"{size:.4g}" for size in result.stored.spacing_mm)
        how = "resampled" if result.sidecar.pass_through else "super-resolved"
        stripped = metadata.get("SkullStripped")
        return {
            "Description": f"{how[0].upper()}{how[1:]} by MoEDiff-SR; research use only",
            "Sources": [f"bids:{SOURCE}:{scan.relative}" for scan in self.group.scans],
            "Resolution": f"{sizes} mm, {how} from the scan's own grid",
            "SkullStripped": stripped if isinstance(stripped, bool) else _stripped(result),
        }


def _key(sidecar: Path) -> BidsName | None:
    name = BidsName.parse(sidecar.name)
    return None if name is None else source_key(name)


def _stripped(result: Enhanced) -> bool:
    volume = result.volume
    steps = [max(1, int(COARSE_MM / size)) for size in volume.spacing_mm]
    coarse_XYZ = volume.data_XYZ[:: steps[0], :: steps[1], :: steps[2]]
    return brain_of(coarse_XYZ, [k * s for k, s in zip(steps, volume.spacing_mm, strict=True)]) is not None
