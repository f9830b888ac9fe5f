"""Pairs from two BIDS folders: predictions and references of the same person, session and contrast."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moediff.core.errors import DataError, InputMissing, printable
from moediff.evaluation.pairs import Pair
from moediff.evaluation.records import Unjudged
from moediff.io.missing import is_dangling
from moediff.io.naming import stem_of

SUFFIXES = (".nii.gz", ".nii")
FREE = ("desc", "res", "space", "rec", "label")  # entities in which a result may differ from its reference
NO_SCANS = ("mask", "dseg", "probseg", "sd", "uncertainty")  # suffixes of annotations and maps beside scans
SKIPPED = ("derivatives", "sourcedata", "code")  # folders inside a reference folder
MANY = 20  # names that one message lists

Key = tuple[str, ...]


def key_of(path: Path) -> Key | None:
    """Sorted entities and suffix of a file's name; None where it is not that of a BIDS scan.

    sub-01_ses-2_desc-sr_T1w.nii.gz -> ("ses-2", "sub-01", "T1w")
    """
    if not path.name.endswith(SUFFIXES) or not path.name.startswith("sub-"):
        return None
    *entities, suffix = stem_of(path).split("_")
    if suffix in NO_SCANS or not entities or "-" in suffix:
        return None
    return (*sorted(e for e in entities if e.partition("-")[0] not in FREE), suffix)


def _scans(folder: Path, skipped: Iterable[str]) -> dict[Key, list[Path]]:
    if not folder.is_dir():
        raise InputMissing(f"{printable(folder)}: no such folder; expected a BIDS folder with sub-*/... scans")
    scans: dict[Key, list[Path]] = {}
    for path in sorted(folder.rglob("sub-*")):
        key = key_of(path)
        if (
            key is not None
            and (path.is_file() or is_dangling(path))
            and not set(path.relative_to(folder).parts[:-1]) & set(skipped)
        ):
            scans.setdefault(key, []).append(path)
    if not scans:
        raise InputMissing(f"{printable(folder)}: no scans called sub-..._SUFFIX.nii.gz here; expected a BIDS folder")
    return scans


def match(pred: Path, ref: Path) -> tuple[list[Pair], list[Unjudged]]:
    """Pairs in the order of their names, and a record for everything that has no partner.

    Names must agree in their suffix and in all entities except desc, res, space, rec and label.

    Raises:
        InputMissing: one of the folders is absent or holds no scans.
        DataError: nothing matches at all.
    """
    preds, refs = _scans(pred, ()), _scans(ref, SKIPPED)
    pairs, left = [], []
    for key in sorted(preds.keys() | refs.keys()):
        ours, theirs = preds.get(key, []), refs.get(key, [])
        if len(ours) == len(theirs) == 1:
            pairs.append(Pair(pred=ours[0], ref=theirs[0]))
            continue
        left += [_unmatched(path, "pred", ours, theirs) for path in ours]
        left += [] if ours else [_unmatched(path, "ref", ours, theirs) for path in theirs]
    if not pairs:
        raise DataError(
            f"no prediction in {printable(pred)} has the entities and suffix of a reference in {printable(ref)}"
        )
    return pairs, left


def _unmatched(path: Path, what: str, ours: list[Path], theirs: list[Path]) -> Unjudged:
    if not theirs:
        why = "no reference has these entities and this suffix"
    elif not ours:
        why = "no prediction has these entities and this suffix"
    else:
        names = ", ".join(printable(p.name) for p in (ours if len(ours) > 1 else theirs)[:MANY])
        why = f"several {'predictions' if len(ours) > 1 else 'references'} have one name: {names}; give --pairs"
    return Unjudged(files={what: path.name}, error=why, exit_code=DataError.exit_code)
