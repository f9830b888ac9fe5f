"""BIDS file names: entities in the specification's order, and the names of derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

# Short names in the order of file names, with the long names of filter files (BIDS 1.11.1, rules/entities.yaml).
ENTITIES = {
    "sub": "subject",
    "tpl": "template",
    "ses": "session",
    "cohort": "cohort",
    "sample": "sample",
    "task": "task",
    "tracksys": "tracksys",
    "acq": "acquisition",
    "nuc": "nucleus",
    "voi": "volume",
    "ce": "ceagent",
    "trc": "tracer",
    "stain": "stain",
    "rec": "reconstruction",
    "dir": "direction",
    "run": "run",
    "mod": "modality",
    "echo": "echo",
    "flip": "flip",
    "inv": "inversion",
    "mt": "mtransfer",
    "part": "part",
    "proc": "processing",
    "hemi": "hemisphere",
    "space": "space",
    "split": "split",
    "recording": "recording",
    "chunk": "chunk",
    "atlas": "atlas",
    "seg": "segmentation",
    "scale": "scale",
    "res": "resolution",
    "den": "density",
    "label": "label",
    "desc": "description",
}
RANK = {short: rank for rank, short in enumerate(ENTITIES)}
SCAN_EXTENSIONS = (".nii.gz", ".nii")
SAME_MM = 0.005  # voxel sizes are named in hundredths of a millimetre


@dataclass(frozen=True)
class BidsName:
    """A file's name in its parts: `sub-01_run-02_T1w.nii.gz` has the entities (sub, 01), (run, 02).

    Args:
        entities: keys and values in the order of the name.
        suffix: the last part, such as T1w.
        extension: from the first dot on.
    """

    entities: tuple[tuple[str, str], ...]
    suffix: str
    extension: str

    @classmethod
    def parse(cls, name: str) -> BidsName | None:
        """The parts of a file's name; None where it is not of this form, or has an entity twice."""
        stem, dot, extension = name.partition(".")
        *parts, suffix = stem.split("_")
        pairs = [part.partition("-") for part in parts]
        keys = [key for key, _, _ in pairs]
        if not dot or not suffix or "-" in suffix or len(set(keys)) < len(keys):
            return None
        if not all(key and value for key, _, value in pairs):
            return None
        return cls(tuple((key, value) for key, _, value in pairs), suffix, dot + extension)

    def __str__(self) -> str:
        return "_".join([*[f"{key}-{value}" for key, value in self.entities], self.suffix]) + self.extension

    @property
    def stem(self) -> str:
        """The name without its extension."""
        return str(replace(self, extension=""))

    def get(self, key: str) -> str | None:
        """The value of an entity."""
        return dict(self.entities).get(key)

    def without(self, *keys: str) -> BidsName:
        """The name less some entities."""
        return BidsName(tuple(pair for pair in self.entities if pair[0] not in keys), self.suffix, self.extension)

    def having(self, key: str, value: str) -> BidsName:
        """The name with an entity set, at its place in the specification's order; the others stay where they are."""
        entities = list(self.without(key).entities)
        after = (at for at, (other, _) in enumerate(entities) if RANK.get(other, -1) > RANK[key])
        entities.insert(next(after, len(entities)), (key, value))
        return replace(self, entities=tuple(entities))


def resolution_label(spacing_mm: Sequence[float]) -> str:
    """Voxel sizes as an entity's value, to a hundredth of a mm: iso1, iso0p8, 1x1x0p5.

    BIDS allows letters and digits in it; `p` stands for the point.
    """
    sizes = [f"{size:.2f}".rstrip("0").rstrip(".").replace(".", "p") for size in spacing_mm]
    return f"iso{sizes[0]}" if max(spacing_mm) - min(spacing_mm) < SAME_MM else "x".join(sizes)


def derivative_of(name: BidsName, description: str, resolution: str, suffix: str | None = None) -> BidsName:
    """The name of a derivative: `res-` and `desc-` are replaced where they are there, everything else stays."""
    name = name.having("res", resolution).having("desc", description)
    return replace(name, suffix=suffix or name.suffix, extension=".nii.gz")


def source_key(name: BidsName) -> BidsName:
    """What names of inputs must differ in: two with one key would get one name as derivatives."""
    return BidsName(name.without("res", "desc").entities, name.suffix, "")
