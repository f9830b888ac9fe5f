"""Where the results of a BIDS scan go, under which names, and what their sidecars say in BIDS's words."""

from __future__ import annotations

import hashlib
import json
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
from moediff.cohort.placement import Placement
from moediff.inference.outputs import OutputPaths
from moediff.inference.result import Enhanced
from moediff.io.naming import sidecar_of
from moediff.report.layers import EXPERT_COLOURS

RESULT, SPREAD = "sr", "srstd"  # values of desc-: the enhanced scan, the standard deviation of its voxels
COARSE_MM = 3.0  # voxels are skipped up to this distance to see whether a head is stripped


@dataclass(frozen=True)
class BidsPlacement(Placement):
    """Results of one scan of a dataset, or of several that become one, in a derivative's folder.

    Args:
        group: the scan or scans.
    """

    group: BidsGroup

    @property
    def scan(self) -> BidsScan:
        """The scan whose folder counts."""
        return self.group.first

    @property
    def folder(self) -> Path:
        """As the scan's in its dataset."""
        return self.out / self.scan.relative.parent

    @property
    def pictures(self) -> Path:
        """`sub-01/figures`, as in fMRIPrep."""
        return self.out / self.scan.relative.parts[0] / "figures"

    def volumes(self, spacing_mm: Sequence[float]) -> OutputPaths:
        """Scan and maps; `res-` is true of this voxel size.

        Maps that have a suffix of their own carry the contrast in `desc-`: else those of T1w and T2w had one name.
        """
        resolution, contrast = resolution_label(spacing_mm), self.group.name.suffix

        def path(description: str, suffix: str | None = None) -> Path:
            return self.folder / str(derivative_of(self.group.name, description, resolution, suffix))

        return OutputPaths(
            scan=path(RESULT),
            uncertainty=path(SPREAD) if "uncertainty" in self.maps else None,
            experts=path(f"experts{contrast}", "probseg") if "experts" in self.maps else None,
            expert_labels=path(f"experts{contrast}", "dseg") if "experts" in self.maps else None,
            mask=path(f"{RESULT}{contrast}", "mask") if "mask" in self.maps else None,
        )

    def sidecars(self) -> list[Path]:
        """Sidecars of this scan's results, whatever their voxel size."""
        key = source_key(self.group.name)
        return [path for path in sorted(self.folder.glob(f"*_desc-{RESULT}_*.json")) if _key(path) == key]

    def metadata_sha256(self) -> str:
        """Of what the inherited JSON files say, and those beside the scans."""
        every = [metadata_of(scan) for scan in self.group.scans]
        return hashlib.sha256(json.dumps(every, sort_keys=True).encode()).hexdigest() if any(every) else ""

    def annotate(self, result: Enhanced) -> Mapping[str, Any]:
        """BIDS metadata: sources, resolution, whether the head is stripped, and how its contrast came about."""
        metadata = self._metadata()
        return {**self._common(result, metadata), **still_true(metadata)}

    def _metadata(self) -> dict[str, Any]:
        """What the JSON files say of the scan, or of all scans alike."""
        first, *others = [metadata_of(scan) for scan in self.group.scans]
        return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}

    def companions(self, name: str, path: Path) -> tuple[Path, ...]:
        """A JSON file; of the labels their table too."""
        return (sidecar_of(path), _table_of(path)) if name == "expert_labels" else (sidecar_of(path),)

    def describe_maps(self, result: Enhanced, maps: Mapping[str, Path]) -> dict[Path, str]:
        """A JSON file beside each map; the experts' labels have a table too, as BIDS wants it of a segmentation."""
        common = self._common(result, self._metadata())
        experts = {f"volume {at}": name for at, name in enumerate(result.expert_names)}
        own: dict[str, dict[str, Any]] = {
            "uncertainty": {
                "Description": f"Standard deviation of each voxel: {result.sidecar.uncertainty.description}"
            },
            "experts": {"Description": "Weight of each expert in each voxel", "LabelMap": experts},
            "expert_labels": {"Description": "Expert with the largest weight in each voxel; 0 where none worked"},
            "mask": {"Description": "Where the network worked: the head without air", "Type": "ROI"},
        }
        texts = {sidecar_of(path): json.dumps({**common, **own[name]}, indent=2) + "\n" for name, path in maps.items()}
        if "expert_labels" in maps:
            texts[_table_of(maps["expert_labels"])] = _label_table(result.expert_names)
        return texts

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


def _table_of(labels: Path) -> Path:
    """The table beside a segmentation: `…_dseg.tsv`."""
    return sidecar_of(labels).with_suffix(".tsv")


def _label_table(names: Sequence[str]) -> str:
    """Label, name and colour of each expert, as pages show it."""
    colours = (EXPERT_COLOURS[at % len(EXPERT_COLOURS)] for at in range(len(names)))
    rows = [f"{label}\t{name}\t{colour}" for label, (name, colour) in enumerate(zip(names, colours, strict=True), 1)]
    return "\n".join(["index\tname\tcolor", *rows]) + "\n"


def _key(sidecar: Path) -> BidsName | None:
    name = BidsName.parse(sidecar.name)
    return None if name is None else source_key(name)


def _stripped(result: Enhanced) -> bool:
    volume = result.volume
    steps = [max(1, int(COARSE_MM / size)) for size in volume.spacing_mm]
    coarse_XYZ = volume.data_XYZ[:: steps[0], :: steps[1], :: steps[2]]
    return brain_of(coarse_XYZ, [k * s for k, s in zip(steps, volume.spacing_mm, strict=True)]) is not None
