"""The series in an export, which of them can be enhanced, and which one is meant."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moediff.core.errors import DataError, GeometryError, InputMissing
from moediff.io.dicom.files import DicomFile, open_export
from moediff.io.dicom.geometry import Stack, stack_frames
from moediff.io.dicom.tags import Frame, is_dicom, read_frames, require_pydicom

MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Series:
    """One series of an export.

    Args:
        label: the series number, with a letter where several series share it; what `--series` takes.
        frames: its images as found.
        stack: its images in order, None where they are not one stack.
        fault: why there is no stack.
    """

    label: str
    frames: tuple[Frame, ...]
    stack: Stack | None
    fault: DataError | None

    def row(self) -> dict[str, Any]:
        """What may be shown: numbers and coded words."""
        first = self.frames[0]
        spacing = first.spacing_mm or ()
        step = () if self.stack is None else (float((self.stack.affine[:3, 2] ** 2).sum() ** 0.5),)
        return {
            "series": self.label,
            "modality": first.modality,
            "sequence": first.sequence,
            "matrix": list(first.size),
            "slices": len(self.frames) if self.stack is None else len(self.stack.frames),
            "spacing_mm": [round(s, 4) for s in (*spacing, *step)],
            "usable": self.stack is not None,
            "reason": str(self.fault or ""),
        }

    def line(self) -> str:
        """The row as one line of a message."""
        row = self.row()
        size = " x ".join(str(n) for n in [*row["matrix"], row["slices"]])
        mm = " x ".join(f"{s:g}" for s in row["spacing_mm"])
        said = f"{self.label}: {' '.join(filter(None, (row['modality'], row['sequence'])))}, {size}, {mm} mm"
        return said if row["usable"] else f"{said} (not usable: {row['reason']})"


def list_series(path: Path) -> list[Series]:
    """Every series in a folder, zip or file.

    Raises:
        ConfigError: pydicom is not installed.
        InputMissing: nothing there, or no DICOM in it.
        DataError: a DICOM file or the archive is damaged.
    """
    require_pydicom()
    with open_export(path) as files:
        return find_series(files)


def find_series(files: list[DicomFile]) -> list[Series]:
    """Group the images of these files by series, in order of their numbers; see `list_series`."""
    groups: dict[str, list[Frame]] = defaultdict(list)
    for frame in _every_frame(files):
        groups[frame.series_uid].append(frame)
    if not groups:
        raise InputMissing(
            "there are no DICOM images here: name a folder or zip of DICOM files, or one .nii or .nii.gz file"
        )
    ordered = sorted(groups.values(), key=lambda frames: (_number(frames), frames[0].series_uid))
    return [_series(label, frames) for label, frames in zip(_labels(ordered), ordered, strict=True)]


def choose_series(every: list[Series], wanted: str | None) -> Series:
    """The series that `wanted` names (label or UID), else the only usable one.

    Raises:
        DataError: it is not there or not usable, or there are several to choose from.
    """
    if wanted is not None:
        named = [s for s in every if wanted.strip() in (s.label, s.frames[0].series_uid)]
        if not named:
            raise DataError(f"no series has the number or UID asked for; there are {_listing(every)}")
        return _usable(named[0])
    usable = [s for s in every if s.stack is not None]
    if len(usable) > 1 or (not usable and len(every) > 1):
        count = len(usable) or "no"
        remedy = "choose one with --series" if usable else "export another series"
        alone = "; or, where a command has no such option, name a folder of one series alone" if usable else ""
        raise DataError(f"there are {count} usable series, expected one: {remedy} from {_listing(every)}{alone}")
    return _usable((usable or every)[0])


def _usable(series: Series) -> Series:
    if series.fault is not None:
        raise type(series.fault)(f"series {series.label}: {series.fault}") from series.fault
    return series


def _listing(every: list[Series]) -> str:
    return "; ".join(s.line() for s in every)


def _every_frame(files: list[DicomFile]) -> list[Frame]:
    frames: list[Frame] = []
    for number, file in enumerate(files):
        with file.open() as stream:
            if is_dicom(stream):
                frames += read_frames(number, stream)
            elif file.claimed:
                raise DataError(
                    "a file is named like DICOM but does not begin like it (cut short, or older than the DICOM file "
                    "format): copy or export the series again"
                )
    return frames


def _number(frames: list[Frame]) -> int:
    numbers = [f.number for f in frames if f.number is not None]
    return max(0, numbers[0]) if numbers else 0


def _labels(ordered: list[list[Frame]]) -> list[str]:
    numbers = [_number(frames) for frames in ordered]
    seen: dict[int, int] = defaultdict(int)
    labels = []
    for number in numbers:
        place = seen[number]
        seen[number] += 1
        mark = MARKS[place] if place < len(MARKS) else f"-{place}"
        labels.append(f"{number}{mark}" if numbers.count(number) > 1 else str(number))
    return labels


def _series(label: str, frames: list[Frame]) -> Series:
    try:
        if not frames[0].series_uid:
            raise GeometryError("the images do not say which series they belong to: export the series again")
        return Series(label, tuple(frames), stack_frames(frames), None)
    except DataError as error:
        return Series(label, tuple(frames), None, error)
