"""Cases of a benchmark: sharp scans, and the low-resolution scans that recipes simulate from them.

A case is degraded exactly as `moediff degrade` does it, with the random key (seed, file name, recipe), from the scan in
canonical orientation: thick slices are then axial for every person, however the file stores its axes.

Annotations belong to a case: regions of the brain where its tissues are distinct, and outlined lesions where
PERSON_mask lies beside PERSON_anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import Recipe
from moediff.anatomy.regions import BACKGROUND, REGIONS, scan_regions
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError, GeometryError, InputMissing, printable
from moediff.core.geometry import field_of_view_mask
from moediff.core.volume import Grid, Volume
from moediff.evaluation.alignment import require_same_grid
from moediff.evaluation.evaluate import Annotations
from moediff.evaluation.lesions import judge_lesions
from moediff.evaluation.metrics.fidelity import head_mask
from moediff.evaluation.pairs import read_files
from moediff.io.dicom.files import is_dicom_export
from moediff.io.label_check import load_intensities, load_truth
from moediff.io.missing import is_dangling, why_missing
from moediff.io.naming import stem_of
from moediff.io.scans import load

T = TypeVar("T")

MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"  # inside nilearn
MEASURED = Recipe(name="measured")  # of pairs: nothing is simulated
MASKS = "_mask"
REMEDY = "name scans; outlines of lesions lie beside theirs as PERSON_mask"
SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """A sharp scan: its name in tables, its file, whether means include it, and the file of its lesions' outlines.

    With an `input`, the same head as it is usually acquired and registered to it, nothing is simulated.
    """

    name: str
    path: Path
    in_means: bool = True
    lesions: Path | None = None
    input: Path | None = None


@dataclass(frozen=True)
class Case:
    """One scan acquired by one recipe with one seed."""

    scan: Scan
    recipe: Recipe
    seed: int

    @property
    def name(self) -> str:
        """For progress lines."""
        return f"{self.scan.name} {self.recipe.name}" + (f" seed {self.seed}" if self.seed else "")

    def acquire(self) -> tuple[Volume, Volume]:
        """The truth, canonical, and the low-resolution scan.

        Raises:
            InputMissing, DataError: the scan cannot be read or degraded.
        """
        truth = load_truth(self.scan.path, REMEDY)
        if self.scan.input is not None:
            return truth, load_intensities(self.scan.input, REMEDY).volume
        rng = rng_for(self.seed, self.scan.path.name, self.recipe.name)
        return truth, degrade(truth, self.recipe, rng)

    def acquire_annotated(self) -> AcquiredCase:
        """As `acquire`, with regions as labels 1.. in the order of REGIONS, and lesions.

        Of a pair, only what both scans cover is judged.

        Raises:
            InputMissing, DataError: the scan cannot be read or degraded, or a pair has nothing in common.
        """
        truth, low = self.acquire()
        missing: dict[str, str] = {}
        mask = None if self.scan.input is None else both_cover(truth, low.grid)
        lesions = _lesions(self.scan.lesions, truth, missing)
        annotations = Annotations(mask=mask, labels=_regions(truth, missing), lesions=lesions)
        return AcquiredCase(self, truth, low, annotations, missing)


@dataclass(frozen=True)
class AcquiredCase:
    """Volumes of a case: the truth, canonical; the low-resolution scan; annotations, and why some are missing."""

    case: Case
    truth: Volume
    low: Volume
    annotations: Annotations
    missing: dict[str, str]


def both_cover(truth: Volume, low: Grid) -> Volume:
    """The head as far as both scans of a pair cover it: 1 inside.

    Raises:
        DataError: that is nothing.
    """
    inside = head_mask(truth.data_XYZ) & field_of_view_mask(low, truth.grid)
    if not bool(inside.any()):
        raise DataError("the two scans of a pair have no part of a head in common: check their headers")
    return truth.with_data(inside.float())


def _regions(truth: Volume, missing: dict[str, str]) -> Volume | None:
    regions = scan_regions(truth.data_XYZ, truth.spacing_mm)
    if regions is None or not bool((regions != BACKGROUND).any()):
        missing["regions"] = "regions cannot be separated by intensity (a skull, or tissues that overlap)"
        return None
    return truth.with_data(((regions.long() + 1) * (regions != BACKGROUND)).float())


def region_names(scores: Mapping[str, T]) -> dict[str, T]:
    """Scores of the labels of `Case.acquire_annotated` by the names of regions."""
    return {REGIONS[int(number) - 1]: one for number, one in scores.items()}


def _lesions(path: Path | None, truth: Volume, missing: dict[str, str]) -> Volume | None:
    """Outlines that can be judged on this truth."""
    if path is None:
        return None
    try:
        outlines = load(path).volume
        require_same_grid("lesion mask", outlines.grid, truth.grid, "draw it on the scan")
        data_XYZ, foreground_XYZ = truth.data_XYZ.float(), head_mask(truth.data_XYZ)
        judge_lesions(data_XYZ, data_XYZ, foreground_XYZ, outlines.data_XYZ > 0.5, truth.spacing_mm)
    except (DataError, GeometryError) as error:
        missing["lesions"] = str(error)
        return None
    return outlines


def find_scans(data: Path | None, names: Sequence[str] = (), excluded: Sequence[str] = ()) -> list[Scan]:
    """Scans to run on.

    Args:
        data: a folder whose `val` holds sharp NIfTI scans; None means nilearn's MNI152.
        names: which of them, with or without suffix, or paths of other files; all but masks when empty.
        excluded: names of scans that means leave out.

    Raises:
        InputMissing: the folder has no `val`, or a named scan, or any at all, is not there.
        ConfigError: two scans share a name, or an excluded name is that of no scan.
    """
    folder = None if data is None else data / "val"
    if folder is not None and not folder.is_dir():
        raise InputMissing(
            f"{printable(folder)}: no such folder, expected sharp scans there: name the folder that holds val/, or "
            "leave --data out for nilearn's MNI152 scan"
        )
    if names:
        paths = {stem_of(path): path for path in (_find(folder, name) for name in names)}
    elif folder is None:
        return _with_exclusions([Scan("MNI152", mni152())], excluded)
    else:
        paths = {stem_of(path): path for path in sorted(folder.iterdir()) if _is_scan(path)}
    if not paths:
        raise InputMissing(f"{printable(folder or '')}: no NIfTI scans here; name a folder whose val/ holds some")
    if len(paths) < len(names):
        raise ConfigError(f"two of the scans {', '.join(names)} share a name; results could not be distinguished")
    return _with_exclusions([Scan(name, path, lesions=_outlines(path)) for name, path in paths.items()], excluded)


def _with_exclusions(scans: list[Scan], excluded: Sequence[str]) -> list[Scan]:
    """The scans, those of these names marked: means leave them out."""
    names = [scan.name for scan in scans]
    for name in excluded:
        if name not in names:
            raise ConfigError(
                f"--exclude-from-means {printable(name)!r} is not among the scans {printable(', '.join(names))}: check "
                "the name, without suffix"
            )
    return [replace(scan, in_means=scan.name not in excluded) for scan in scans]


def find_pairs(listed: Path, excluded: Sequence[str] = ()) -> list[Scan]:
    """Heads that were measured twice, from a CSV file with columns input, ref and perhaps lesions.

    Args:
        listed: the CSV file.
        excluded: names of sharp scans that means leave out.

    Raises:
        InputMissing, DataError: the list or a scan in it cannot be read.
        ConfigError: two sharp scans share a name, or an excluded name is that of no scan.
    """
    scans: list[Scan] = []
    for number, files in enumerate(read_files(listed, ("input", "ref"), ("lesions",)), start=1):
        for path in files.values():
            if not path.is_file():
                why = why_missing(path) if is_dangling(path) else "no such file; paths count from the list's folder"
                raise InputMissing(f"{printable(listed)}: {printable(path)}: {why}")
        ref = files["ref"]
        name = f"pair-{number}" if is_dicom_export(ref) else stem_of(ref)  # an archive may be called like its patient
        scans.append(Scan(name, ref, True, files.get("lesions") or _outlines(ref), files["input"]))
    if len({scan.name for scan in scans}) < len(scans):
        raise ConfigError(f"{printable(listed)}: two sharp scans share a name; results could not be distinguished")
    return _with_exclusions(scans, excluded)


def _is_scan(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and not stem_of(path).endswith(MASKS) and not path.name.startswith(".")


def _outlines(scan: Path) -> Path | None:
    """The file of lesions that belongs to a scan: PERSON_mask beside PERSON_anything."""
    person = stem_of(scan).partition("_")[0]
    beside = [scan.with_name(f"{person}{MASKS}{suffix}") for suffix in SUFFIXES]
    return next((path for path in beside if path != scan and path.is_file()), None)


def _find(folder: Path | None, name: str) -> Path:
    options = [Path(name), *([] if folder is None else [folder / (name + suffix) for suffix in ("", *SUFFIXES)])]
    for path in options:
        if path.is_file() and path.name.endswith(SUFFIXES):
            return path
    where = "as a file" if folder is None else f"as a file or in {printable(folder)}"
    raise InputMissing(f"no scan {printable(name)!r} {where}: check the name; expected .nii or .nii.gz")


def mni152() -> Path:
    """The ICBM 152 T1w average, 1 mm, that nilearn carries.

    Raises:
        InputMissing: nilearn is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("nilearn")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / MNI152
    if path is None or not path.is_file():
        raise InputMissing(
            "no scans were named and nilearn's MNI152 scan is not installed: give --data or --scans, "
            "or install it with: pip install nilearn"
        )
    return path
