"""DICOM tags that are read, by an allow-list: numbers and coded words; of free text only words on a list.

Nothing that names a person, a place or a day is on the list. UIDs and image types can carry dates or words, so they
serve comparisons only and are never printed. pydicom's warnings and errors quote values, so none of them gets out.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from moediff.core.errors import ConfigError, DataError, MoeDiffError
from moediff.io.dicom.description import described
from moediff.io.dicom.files import MAGIC, PREAMBLE_BYTES

IMAGE_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Modality",
    "ImageType",
    "ScanningSequence",
    "MRAcquisitionType",
    "EchoTime",
    "EffectiveEchoTime",
    "RepetitionTime",
    "SeriesDescription",
    "StudyDescription",
    "ImagesInAcquisition",
    "SpacingBetweenSlices",
    "SliceThickness",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "LossyImageCompression",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
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
GROUPS = {  # the sequence in which an enhanced multi-frame file stores what other files have at their top dataset
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "EchoTime": "MREchoSequence",
    "EffectiveEchoTime": "MREchoSequence",  # the name of it there
    "RepetitionTime": "MRTimingAndRelatedParametersSequence",
}
MODALITIES = frozenset(("MR", "CT", "PT", "NM", "US", "CR", "DX", "XA", "MG", "OT", "SC", "SR", "PR", "KO", "SEG"))
SEQUENCES = frozenset(("SE", "IR", "GR", "EP", "RM"))
ACQUISITIONS = frozenset(("2D", "3D"))
GREY_SCALE = frozenset(("MONOCHROME1", "MONOCHROME2"))
ECHO_TIMES = ("EffectiveEchoTime", "EchoTime")
SYNTAX_OF: dict[Any, str] = {  # of uncompressed voxels, by (implicit type names, little-endian)
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
DEFLATED = b"1.2.840.10008.1.2.1.99"
META_BYTES = 2048  # the transfer syntax stands within these
DEFER_BYTES = 1024  # larger values, that is the voxels, are passed over until wanted
DIRECTORY = "1.2.840.10008.1.3.10"
_silence = threading.RLock()  # log and warnings belong to the process: threads would restore each other's state


@dataclass(frozen=True, kw_only=True)
class DicomImage:
    """One slice as its tags describe it: a file, or a frame of a multi-frame file. None: a tag is absent or unusable.

    Args:
        file, index: which file of the export, and which frame of that file.
        series_uid, instance_uid, image_type: for comparisons, never printed.
        class_uid, study_uid, frame_of_reference_uid: for references in a DICOM result, never printed.
        description, study_description: words of the descriptions of series and study that are on a list.
        size: columns and rows.
        spacing_mm: between columns and between rows.
        orientation: LPS direction along a row, then along a column.
        position_mm: LPS centre of the first voxel.
        padding: least and greatest stored value that stands for no data.
    """

    file: int
    index: int
    series_uid: str = field(repr=False)
    instance_uid: str = field(repr=False)
    image_type: tuple[str, ...] = field(repr=False)
    class_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    number: int | None
    instance_number: int | None
    modality: str
    sequence: str
    has_pixels: bool
    decodable: bool
    grey: bool
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
    repetition_ms: float | None
    description: str
    study_description: str
    padding: tuple[int, int] | None
    declared_step_mm: float | None
    thickness_mm: float | None
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
    """Run pydicom without its log and warnings, one thread at a time; any failure becomes DataError(fault)."""
    logger = logging.getLogger("pydicom")
    with _silence:
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
    """Whether the DICOM signature follows the preamble."""
    return stream.read(PREAMBLE_BYTES + len(MAGIC)).endswith(MAGIC)


def read_images(file: int, stream: BinaryIO) -> list[DicomImage]:
    """The images of one DICOM file; voxels are not read yet. A DICOMDIR holds no images.

    Raises:
        DataError: the file is damaged.
    """
    with silence_pydicom("a DICOM file is damaged: copy or export the series again"):
        header = open_dataset(stream)
        if str(header.file_meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY:
            return []
        groups = _value(header, "PerFrameFunctionalGroupsSequence") or [None]
        shared = (_value(header, "SharedFunctionalGroupsSequence") or [None])[0]
        if groups == [None]:  # frames without functional groups cannot be placed; one image stands for all
            return [_image(file, 0, (header,))]
        return [_image(file, index, (own, shared, header)) for index, own in enumerate(groups)]


def open_dataset(stream: BinaryIO) -> Any:
    """The allowed tags of one file, as a pydicom data set."""
    from pydicom import dcmread
    from pydicom.uid import UID

    stream.seek(0)
    if DEFLATED in stream.read(META_BYTES):  # pydicom would inflate it without a limit
        raise DataError("the DICOM files are deflated: expected another transfer syntax; export them uncompressed")
    stream.seek(0)
    dataset = dcmread(stream, defer_size=DEFER_BYTES, specific_tags=[*IMAGE_TAGS, *PIXEL_TAGS])
    if "TransferSyntaxUID" not in dataset.file_meta:  # pydicom found the tags' encoding, but would not decode voxels
        dataset.file_meta.TransferSyntaxUID = UID(SYNTAX_OF[dataset.original_encoding])
    return dataset


def _image(file: int, index: int, datasets: tuple[Any, ...]) -> DicomImage:
    """`datasets` are searched in turn: the frame's own group, the shared group, the top of the file."""
    header = datasets[-1]
    spacing = _numbers(datasets, "PixelSpacing", 2)
    slope, inter, fixed = _scaling(datasets)
    photometric = _text(header, "PhotometricInterpretation")
    return DicomImage(
        file=file,
        index=index,
        series_uid=_text(header, "SeriesInstanceUID"),
        instance_uid=_text(header, "SOPInstanceUID"),
        class_uid=_text(header, "SOPClassUID"),
        study_uid=_text(header, "StudyInstanceUID"),
        frame_of_reference_uid=_text(header, "FrameOfReferenceUID"),
        image_type=_texts(header, "ImageType"),
        number=_integer(header, "SeriesNumber"),
        instance_number=_integer(header, "InstanceNumber"),
        modality=_listed(_texts(header, "Modality"), MODALITIES) or "other",
        sequence=" ".join(
            filter(
                None,
                (
                    _listed(_texts(header, "MRAcquisitionType"), ACQUISITIONS),
                    _listed(_texts(header, "ScanningSequence"), SEQUENCES),
                ),
            )
        ),
        has_pixels=any(keyword in header for keyword in PIXELS),
        decodable=_decodable(header),
        grey=photometric in GREY_SCALE and _integer(header, "SamplesPerPixel") in (1, None),
        inverted=photometric == "MONOCHROME1",
        lossy=_text(header, "LossyImageCompression") == "01",
        size=(_integer(header, "Columns") or 0, _integer(header, "Rows") or 0),
        spacing_mm=None if spacing is None or min(spacing) <= 0 else spacing[::-1],
        orientation=_numbers(datasets, "ImageOrientationPatient", 6),
        position_mm=_numbers(datasets, "ImagePositionPatient", 3),
        slope=slope,
        inter=inter,
        scaling_fixed=fixed,
        echo_ms=next((ms for ms in (_number(datasets, name) for name in ECHO_TIMES) if ms is not None), None),
        padding=_padding(header),
        repetition_ms=_number(datasets, "RepetitionTime"),
        description=described(_text(header, "SeriesDescription")),
        study_description=described(_text(header, "StudyDescription")),
        declared_step_mm=_number(datasets, "SpacingBetweenSlices"),
        thickness_mm=_number(datasets, "SliceThickness"),
        declared_count=_integer(header, "ImagesInAcquisition"),
    )


def _scaling(datasets: tuple[Any, ...]) -> tuple[float, float, bool]:
    """Slope, intercept, and whether an unusable one was replaced; one that is absent is 1 or 0."""
    slope, slope_fixed = _factor(datasets, "RescaleSlope", 1.0)
    inter, inter_fixed = _factor(datasets, "RescaleIntercept", 0.0)
    return slope or 1.0, inter, slope_fixed or inter_fixed or slope == 0


def _factor(datasets: tuple[Any, ...], keyword: str, default: float) -> tuple[float, bool]:
    """A number, and whether the default stands for an unusable one."""
    number = _number(datasets, keyword)
    return (default, _is_stated(datasets, keyword)) if number is None else (number, False)


def _padding(header: Any) -> tuple[int, int] | None:
    value, limit = (_stored_value(header, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return None
    return min(value, value if limit is None else limit), max(value, value if limit is None else limit)


def _stored_value(header: Any, keyword: str) -> int | None:
    """A number of the voxels' own type, whatever type the tag was written with."""
    value = _value(header, keyword)
    number = int.from_bytes(value, "little") if isinstance(value, bytes) and value else _integer(header, keyword)
    bits, signed = _integer(header, "BitsAllocated") or 16, _integer(header, "PixelRepresentation")
    if number is None or -(2 ** (bits - 1)) > number or number >= 2**bits:
        return None
    number %= 2**bits
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def _decodable(header: Any) -> bool:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _find(datasets: tuple[Any, ...], keyword: str) -> Any:
    for dataset in datasets[:-1]:
        group = None if dataset is None else _value(dataset, GROUPS[keyword])
        value = _value(group[0], keyword) if group else None
        if value is not None:
            return value
    return _value(datasets[-1], keyword)


def _is_stated(datasets: tuple[Any, ...], keyword: str) -> bool:
    """Whether a tag is there with any content, usable or not."""
    groups = [None if d is None else _value(d, GROUPS[keyword]) for d in datasets[:-1]]
    places = [group[0] for group in groups if group] + [datasets[-1]]
    return any(_has_content(dataset, keyword) for dataset in places)


def _has_content(dataset: Any, keyword: str) -> bool:
    """Of the value as it was read: what does not fit its type is content too, an empty value is not."""
    value = dataset.get_item(keyword).value if keyword in dataset else None
    return bool(value.strip()) if isinstance(value, (bytes, str)) else value is not None


def _value(dataset: Any, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except (ValueError, TypeError, OverflowError, NotImplementedError):  # the value does not fit its type
        return None


def _numbers(datasets: tuple[Any, ...], keyword: str, count: int) -> tuple[float, ...] | None:
    value = _find(datasets, keyword)
    try:
        numbers = tuple(float(v) for v in ([value] if count == 1 else value))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _number(datasets: tuple[Any, ...], keyword: str) -> float | None:
    value = None if _find(datasets, keyword) is None else _numbers(datasets, keyword, 1)
    return None if value is None else value[0]


def _integer(dataset: Any, keyword: str) -> int | None:
    try:
        return int(_value(dataset, keyword))
    except (TypeError, ValueError):
        return None


def _text(dataset: Any, keyword: str) -> str:
    return str(_value(dataset, keyword) or "").strip()


def _texts(dataset: Any, keyword: str) -> tuple[str, ...]:
    value = _value(dataset, keyword)
    return tuple(str(v) for v in ([value] if isinstance(value, str) else value or ()))


def _listed(value: tuple[str, ...], allowed: frozenset[str]) -> str:
    """The words that the standard defines; all others are dropped."""
    return "+".join(word for word in value if word in allowed)
