"""Which DICOM tags are read at all, and what is kept of them: numbers and coded words, never free text.

Nothing that names a person, a place or a day is on the list. UIDs and image types can carry dates or words, so they
serve comparisons only and are never shown. pydicom's warnings and errors quote values, so none of them gets out.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from moediff.core.errors import ConfigError, DataError, MoeDiffError
from moediff.io.dicom.files import MAGIC, PREAMBLE_BYTES

FRAME_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "Modality",
    "ImageType",
    "ScanningSequence",
    "MRAcquisitionType",
    "EchoTime",
    "ImagesInAcquisition",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "LossyImageCompression",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GROUPS = {  # where an enhanced multi-frame file keeps what others have at the top
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "EchoTime": "MREchoSequence",
}
MODALITIES = frozenset(("MR", "CT", "PT", "NM", "US", "CR", "DX", "XA", "MG", "OT", "SC", "SR", "PR", "KO", "SEG"))
SEQUENCES = frozenset(("SE", "IR", "GR", "EP", "RM"))
ACQUISITIONS = frozenset(("2D", "3D"))
PICTURE_KINDS = frozenset(("MONOCHROME1", "MONOCHROME2"))
DEFLATED = b"1.2.840.10008.1.2.1.99"
META_BYTES = 2048  # the transfer syntax stands within these
DEFER_BYTES = 1024  # larger values, that is the voxels, are passed over until wanted
DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One slice, as its tags describe it; None where a tag is absent or unusable.

    Args:
        file, index: which file of the export, and which frame in it.
        series_uid, instance_uid, image_type: for comparisons, never shown.
        class_uid, study_uid, place_uid: for references in a DICOM result, never shown; the place is the frame of
            reference.
        size: columns and rows.
        spacing_mm: between columns and between rows.
        orientation: LPS direction along a row, then along a column.
        position_mm: LPS centre of the first voxel.
    """

    file: int
    index: int
    series_uid: str = field(repr=False)
    instance_uid: str = field(repr=False)
    image_type: tuple[str, ...] = field(repr=False)
    class_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    place_uid: str = field(repr=False)
    number: int | None
    modality: str
    sequence: str
    has_pixels: bool
    decodable: bool
    gray: bool
    inverted: bool
    lossy: bool
    size: tuple[int, int]
    spacing_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    position_mm: tuple[float, ...] | None
    slope: float
    inter: float
    scaling_fixed: bool
    echo_ms: float | None
    declared_step_mm: float | None
    declared_count: int | None


def require_pydicom() -> None:
    """Raises ConfigError, with the remedy, where pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "reading DICOM needs pydicom, which is not installed: pip install 'moediff-sr[dicom]'"
        ) from error


@contextmanager
def silence_pydicom(fault: str) -> Iterator[None]:
    """Run pydicom without a word from it; any failure becomes DataError(fault)."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MoeDiffError, MemoryError, OSError):
        raise
    except Exception:
        raise DataError(fault) from None
    finally:
        logger.disabled = before


def is_dicom(stream: BinaryIO) -> bool:
    """Does the DICOM mark follow the preamble?"""
    return stream.read(PREAMBLE_BYTES + len(MAGIC)).endswith(MAGIC)


def read_frames(file: int, stream: BinaryIO) -> list[Frame]:
    """What one DICOM file holds; voxels are passed over. A DICOMDIR holds no frames.

    Raises:
        DataError: the file is damaged.
    """
    with silence_pydicom("a DICOM file is damaged: copy or export the series again"):
        head = open_dataset(stream)
        if str(head.file_meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY:
            return []
        groups = _value(head, "PerFrameFunctionalGroupsSequence") or [None]
        shared = (_value(head, "SharedFunctionalGroupsSequence") or [None])[0]
        if groups == [None]:  # frames without functional groups cannot be placed; one stands for all
            return [_frame(file, 0, (head,))]
        return [_frame(file, index, (own, shared, head)) for index, own in enumerate(groups)]


def open_dataset(stream: BinaryIO) -> Any:
    """The allowed tags of one file, as a pydicom data set."""
    from pydicom import dcmread

    stream.seek(0)
    if DEFLATED in stream.read(META_BYTES):  # pydicom would inflate it without a limit
        raise DataError("the DICOM files are deflated: expected another transfer syntax; export them uncompressed")
    stream.seek(0)
    return dcmread(stream, defer_size=DEFER_BYTES, specific_tags=[*FRAME_TAGS, *PIXEL_TAGS])


def _frame(file: int, index: int, places: tuple[Any, ...]) -> Frame:
    """`places` are searched in turn: the frame's own group, the shared group, the top of the file."""
    head = places[-1]
    spacing = _numbers(places, "PixelSpacing", 2)
    slope, inter, fixed = _scaling(places)
    photometric = _text(head, "PhotometricInterpretation")
    return Frame(
        file=file,
        index=index,
        series_uid=_text(head, "SeriesInstanceUID"),
        instance_uid=_text(head, "SOPInstanceUID"),
        class_uid=_text(head, "SOPClassUID"),
        study_uid=_text(head, "StudyInstanceUID"),
        place_uid=_text(head, "FrameOfReferenceUID"),
        image_type=_texts(head, "ImageType"),
        number=_integer(head, "SeriesNumber"),
        modality=_listed(_texts(head, "Modality"), MODALITIES) or "other",
        sequence=" ".join(
            filter(
                None,
                (
                    _listed(_texts(head, "MRAcquisitionType"), ACQUISITIONS),
                    _listed(_texts(head, "ScanningSequence"), SEQUENCES),
                ),
            )
        ),
        has_pixels=any(keyword in head for keyword in PIXELS),
        decodable=_decodable(head),
        gray=photometric in PICTURE_KINDS and _integer(head, "SamplesPerPixel") in (1, None),
        inverted=photometric == "MONOCHROME1",
        lossy=_text(head, "LossyImageCompression") == "01",
        size=(_integer(head, "Columns") or 0, _integer(head, "Rows") or 0),
        spacing_mm=None if spacing is None or min(spacing) <= 0 else spacing[::-1],
        orientation=_numbers(places, "ImageOrientationPatient", 6),
        position_mm=_numbers(places, "ImagePositionPatient", 3),
        slope=slope,
        inter=inter,
        scaling_fixed=fixed,
        echo_ms=_number(places, "EchoTime"),
        declared_step_mm=_number(places, "SpacingBetweenSlices"),
        declared_count=_integer(head, "ImagesInAcquisition"),
    )


def _scaling(places: tuple[Any, ...]) -> tuple[float, float, bool]:
    """Slope, intercept, and whether an unusable one was replaced."""
    if all(_find(places, keyword) is None for keyword in ("RescaleSlope", "RescaleIntercept")):
        return 1.0, 0.0, False
    slope, inter = _number(places, "RescaleSlope"), _number(places, "RescaleIntercept")
    if not slope or inter is None:
        return 1.0, 0.0, True
    return slope, inter, False


def _decodable(head: Any) -> bool:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = head.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _find(places: tuple[Any, ...], keyword: str) -> Any:
    for place in places[:-1]:
        group = None if place is None else _value(place, GROUPS[keyword])
        found = _value(group[0], keyword) if group else None
        if found is not None:
            return found
    return _value(places[-1], keyword)


def _value(dataset: Any, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except (ValueError, TypeError, OverflowError, NotImplementedError):  # the value does not fit its type
        return None


def _numbers(places: tuple[Any, ...], keyword: str, count: int) -> tuple[float, ...] | None:
    found = _find(places, keyword)
    try:
        numbers = tuple(float(v) for v in ([found] if count == 1 else found))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _number(places: tuple[Any, ...], keyword: str) -> float | None:
    found = None if _find(places, keyword) is None else _numbers(places, keyword, 1)
    return None if found is None else found[0]


def _integer(dataset: Any, keyword: str) -> int | None:
    try:
        return int(_value(dataset, keyword))
    except (TypeError, ValueError):
        return None


def _text(dataset: Any, keyword: str) -> str:
    return str(_value(dataset, keyword) or "").strip()


def _texts(dataset: Any, keyword: str) -> tuple[str, ...]:
    found = _value(dataset, keyword)
    return tuple(str(v) for v in ([found] if isinstance(found, str) else found or ()))


def _listed(found: tuple[str, ...], allowed: frozenset[str]) -> str:
    """The words that the standard defines; whatever else stands there is dropped."""
    return "+".join(word for word in found if word in allowed)
