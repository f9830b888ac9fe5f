"""File names: the suffix of a format, the stem without it, the sidecar beside a scan, the default name of a result."""

from __future__ import annotations

from pathlib import Path

from moediff.io.formats import FORMATS


def suffix_of(path: Path) -> str | None:
    """The suffix of `FORMATS` that a file's name ends with, in lower case; None for any other name."""
    return next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)


def files_of(path: Path) -> tuple[Path, Path]:
    """The file of the header and the file of the voxels: the same one unless the format is a pair."""
    suffix = suffix_of(path)
    pair = FORMATS[suffix].pair if suffix else None
    if suffix is None or pair is None:
        return path, path
    stem, own = path.name[: -len(suffix)], path.name[-len(suffix) :]
    header, voxels = (path.with_name(stem + (end.upper() if own.isupper() else end)) for end in pair)
    return header, voxels


def has_two_forms(path: Path) -> bool:
    """Whether a file of this name has an sform and a qform, so that one of them can be trusted; True if unknown."""
    suffix = suffix_of(path)
    return suffix is None or FORMATS[suffix].two_forms


def stem_of(path: Path) -> str:
    """File name without the suffix of its format."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def sidecar_of(scan: Path) -> Path:
    """The JSON beside a scan that belongs to it, by BIDS and as we write it."""
    return scan.parent / (stem_of(scan) + ".json")


def default_output(source: Path, stem: str | None = None) -> Path:
    """`<stem>_desc-sr_<suffix>.nii.gz` beside the input; names without a BIDS suffix get `_desc-sr` at the end.

    BIDS allows an entity once, so `desc-sr` replaces another description; that of a result becomes `desc-sr2`.

    Args:
        stem: replaces the input's own, which may be a patient's name (DICOM).
    """
    if source.name in ("", ".."):  # a folder named by dots has no parent to write into until it is resolved
        source = source.resolve()
    parts = (stem or stem_of(source)).split("_")
    desc = "desc-sr2" if "desc-sr" in parts else "desc-sr"
    described = len(parts) > 1 and parts[-1].startswith("desc-")  # a name without a suffix ends with its entities
    entities = [part for number, part in enumerate(parts) if number == 0 or not part.startswith("desc-")]
    at = len(entities) if described or len(entities) == 1 else -1
    entities[at:at] = [desc]
    return source.with_name(f"{'_'.join(entities)}.nii.gz")
