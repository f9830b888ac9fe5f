"""Series of a DICOM export: a list of them, which can be enhanced, and the choice of one."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moediff.core.errors import DataError, GeometryError, InputMissing
from moediff.io.dicom.files import MAGIC, PREAMBLE_BYTES, DicomFile, open_export
from moediff.io.dicom.geometry import Stack, stack_images
from moediff.io.dicom.tags import DicomImage, read_images, require_pydicom
from moediff.io.missing import APPLE_DOUBLE, FETCH
from moediff.io.nifti.affine import check_plausible
from moediff.io.nifti.header import select_volume

POINTERS = (b"/annex/objects", b"version https://git-lfs")
MOST_TURNED = math.cos(math.radians(10))  # of a plane that still has its plain name
LABEL = re.compile(r"\d{1,6}([a-z]|-\d{1,4})?")  # what may be repeated in a message: a UID can hold a date
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class SeriesRow:
    """A series in numbers and coded words, nothing personal.

    Args:
        series: what `--series` takes.
        study: which study of the export it belongs to, counted from 1; series of one can be combined.
        study_description: of the study, words on an allow-list alone.
        description: of the series, words on an allow-list alone.
        modality, sequence: coded words.
        plane: axial, coronal or sagittal, "oblique" before it where it is turned by more than 10 degrees.
        tr_ms, te_ms: repetition and echo time; None where not stated.
        matrix: columns and rows of an image.
        slices: images.
        thickness_mm: of a slice; None where not stated.
        spacing_mm: of columns, rows and slices, as far as known.
        usable: whether it can be enhanced.
        reason: why not.
    """

    series: str
    study: int
    study_description: str
    description: str
    modality: str
    sequence: str
    plane: str
    tr_ms: float | None
    te_ms: float | None
    matrix: tuple[int, ...]
    slices: int
    thickness_mm: float | None
    spacing_mm: tuple[float, ...]
    usable: bool
    reason: str

    def __str__(self) -> str:
        """One line of a message."""
        size = " x ".join(str(n) for n in (*self.matrix, self.slices))
        mm = " x ".join(f"{s:g}" for s in self.spacing_mm)
        words = ", ".join(filter(None, (" ".join(filter(None, (self.modality, self.sequence))), self.description)))
        text = f"{self.series}: {words}, {self.plane or 'plane unknown'}, {size}, {mm} mm"
        return text if self.usable else f"{text} (not usable: {self.reason})"


@dataclass(frozen=True)
class Series:
    """One series of an export.

    Args:
        label: the series number, with a letter where several series share it; what `--series` takes.
        images: its images in the order of the files.
        stack: its images in order, None where they are not one stack.
        fault: why there is no stack.
        study: which study of the export it belongs to, counted from 1.
    """

    label: str
    images: tuple[DicomImage, ...]
    stack: Stack | None
    fault: DataError | None
    study: int = 1

    @property
    def refusal(self) -> DataError | None:
        """Why it cannot be enhanced: no stack, or one of too few voxels or an impossible size."""
        if self.stack is None:
            return self.fault
        try:
            select_volume(self.stack.shape, None, [])
            check_plausible(self.stack.affine, self.stack.shape, [])
        except DataError as error:
            return error
        return None

    def row(self) -> SeriesRow:
        """What may be printed."""
        first = self.images[0]
        spacing = first.spacing_mm or ()
        step = () if self.stack is None else (float((self.stack.affine[:3, 2] ** 2).sum() ** 0.5),)
        return SeriesRow(
            series=self.label,
            study=self.study,
            study_description=first.study_description,
            description=first.description,
            modality=first.modality,
            sequence=first.sequence,
            plane=_plane(first),
            tr_ms=first.repetition_ms,
            te_ms=first.echo_ms,
            matrix=tuple(first.size),
            slices=len(self.images) if self.stack is None else len(self.stack.images),
            thickness_mm=first.thickness_mm,
            spacing_mm=tuple(round(s, 4) for s in (*spacing, *step)),
            usable=self.refusal is None,
            reason=str(self.refusal or ""),
        )


def _plane(image: DicomImage) -> str:
    """By the axis that its normal lies nearest to; empty where the orientation is not stated."""
    if image.orientation is None:
        return ""
    normal = np.cross(image.orientation[:3], image.orientation[3:])
    length = float(np.linalg.norm(normal))
    if not length > 0:
        return ""
    axis = int(np.abs(normal).argmax())
    turned = abs(float(normal[axis])) / length < MOST_TURNED
    return ("oblique " if turned else "") + ("sagittal", "coronal", "axial")[axis]


def list_series(path: Path, notes: list[str] | None = None) -> list[Series]:
    """Every series in a folder, zip or file.

    Args:
        notes: gets a warning where files were passed over.

    Raises:
        ConfigError: pydicom is not installed.
        InputMissing: nothing there, or no DICOM in it.
        DataError: a DICOM file or the archive is damaged.
    """
    require_pydicom()
    with open_export(path) as files:
        return find_series(files, notes)


def find_series(files: list[DicomFile], notes: list[str] | None = None) -> list[Series]:
    """Group the images of these files by series, in order of their numbers; see `list_series`.

    Args:
        notes: gets a warning where files were passed over.
    """
    groups: dict[str, list[DicomImage]] = defaultdict(list)
    for image in _all_images(files, [] if notes is None else notes):
        groups[image.series_uid].append(image)
    if not groups:
        raise InputMissing(
            "there are no DICOM images here: name a folder or zip of DICOM files, or one .nii or .nii.gz file"
        )
    ordered = sorted(groups.values(), key=lambda images: (_number(images), images[0].series_uid))
    studies = list(dict.fromkeys(images[0].study_uid for images in ordered))
    return [
        _series(label, images, studies.index(images[0].study_uid) + 1)
        for label, images in zip(_labels(ordered), ordered, strict=True)
    ]


def choose_series(all_series: list[Series], wanted: str | None) -> Series:
    """The series that `wanted` names (label or UID), else the only usable one.

    Raises:
        DataError: it is not there or not usable, or there are several to choose from.
    """
    if wanted is not None:
        return _named(all_series, wanted)
    stacks = [s for s in all_series if s.stack is not None]
    usable = [s for s in stacks if s.refusal is None] or stacks  # what is too small is read back, and refused later
    if len(usable) > 1 or (not usable and len(all_series) > 1):
        count = len(usable) or "no"
        remedy = "choose one with --series" if usable else "export another series"
        raise DataError(f"there are {count} usable series, expected one: {remedy} from {_listing(all_series)}")
    return _usable((usable or all_series)[0])


def choose_several(all_series: list[Series], wanted: Sequence[str]) -> list[Series]:
    """The series that are named, which are to become one result, in this order.

    Args:
        wanted: labels or UIDs.

    Raises:
        DataError: one is not there, not usable or named twice, or they are of several studies.
    """
    chosen: list[Series] = []
    for name in wanted:
        one = _named(all_series, name)
        if one in chosen:
            raise DataError(f"series {one.label} is named twice and would count twice: name it once")
        chosen.append(one)
    studies: dict[int, list[Series]] = defaultdict(list)
    for one in chosen:
        studies[one.study].append(one)
    if len(studies) > 1:
        listed = "; ".join(_study(number, studies[number]) for number in sorted(studies))
        raise DataError(
            f"the series are of {len(studies)} studies ({listed}), expected scans of one head from one study: name "
            "series of one study, as `moediff dicom list` shows them"
        )
    return chosen


def _study(number: int, series: Sequence[Series]) -> str:
    words = series[0].images[0].study_description or "no description"
    return f"study {number}, {words}: series {', '.join(one.label for one in series)}"


def _named(all_series: Sequence[Series], wanted: str) -> Series:
    name = wanted.strip()
    named = [s for s in all_series if name in (s.label, s.images[0].series_uid)]
    if not named:
        which = f" ({name})" if LABEL.fullmatch(name) else ""
        raise DataError(f"no series has this number or UID{which}; there are {_listing(all_series)}")
    return _usable(named[0])


def _usable(series: Series) -> Series:
    if series.fault is not None:
        raise type(series.fault)(f"series {series.label}: {series.fault}") from series.fault
    return series


def _listing(all_series: Sequence[Series]) -> str:
    return "; ".join(str(s.row()) for s in all_series)


def _all_images(files: list[DicomFile], notes: list[str]) -> list[DicomImage]:
    images: list[DicomImage] = []
    faults: Counter[str] = Counter()
    passed_over = 0
    for number, file in enumerate(files):
        with file.open() as stream:
            start = stream.read(PREAMBLE_BYTES + len(MAGIC))
            if start.endswith(MAGIC):
                images += read_images(number, stream)
            elif not start.startswith(APPLE_DOUBLE):
                fault = _fault(start) if file.may_be_slice else ""
                if file.named_as_dicom and not fault:
                    raise DataError(
                        "a file is named like DICOM but does not begin like it (cut short, or older than the DICOM "
                        "file format): copy or export the series again"
                    )
                faults[fault] += bool(fault)
                passed_over += not fault
    for fault, count in sorted((+faults).items()):
        raise DataError(f"{count} of {len(files)} files are {fault}")
    if passed_over:
        notes.append(f"{passed_over} of {len(files)} files are not DICOM and were passed over")
    return images


def _fault(start: bytes) -> str:
    """What is wrong with a file by its first bytes, and the remedy, where its content is not there at all."""
    if any(pointer in start for pointer in POINTERS):
        return f"pointers to content that is not there: {FETCH}, for Git LFS with `git lfs pull`"
    if not start.strip(b"\0"):
        return "empty or hold zeros only: copy or export the series again"
    return ""


def _number(images: list[DicomImage]) -> int:
    numbers = [image.number for image in images if image.number is not None]
    return max(0, numbers[0]) if numbers else 0


def _labels(ordered: list[list[DicomImage]]) -> list[str]:
    numbers = [_number(images) for images in ordered]
    seen: dict[int, int] = defaultdict(int)
    labels = []
    for number in numbers:
        index = seen[number]
        seen[number] += 1
        letter = LETTERS[index] if index < len(LETTERS) else f"-{index}"
        labels.append(f"{number}{letter}" if numbers.count(number) > 1 else str(number))
    return labels


def _series(label: str, images: list[DicomImage], study: int) -> Series:
    try:
        if not images[0].series_uid:
            raise GeometryError("the images do not say which series they belong to: export the series again")
        return Series(label, tuple(images), stack_images(images), None, study)
    except DataError as error:
        return Series(label, tuple(images), None, error, study)
