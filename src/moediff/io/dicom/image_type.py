"""DICOM ImageType: names for images that are no magnitude scan, by the standard's own words and those of vendors."""

from __future__ import annotations

from collections.abc import Iterable

PROJECTION, PHASE, COMPLEX = "a projection", "a phase image", "the real or imaginary part of a complex image"
NO_SCAN = {  # words of the third value on; the words are coded, so they can be printed
    **dict.fromkeys(("MIP", "MINIP", "MIN IP", "MNIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "VOLREN"), PROJECTION),
    **dict.fromkeys(("MPR", "CPR", "RESAMPLED"), "a reformat, interpolated by the scanner's software"),
    **dict.fromkeys(("P", "PHASE", "PHASE MAP", "PHASE CONTRAST", "VELOCITY", "P_FFE", "PHASE_MAP"), PHASE),
    **dict.fromkeys(("R", "I", "REAL", "IMAGINARY", "R_FFE", "I_FFE", "R_IR"), COMPLEX),
    **dict.fromkeys(("ADC", "ADC_UNSPECIFIED", "EADC"), "a map of diffusion coefficients"),
    **dict.fromkeys(("FA", "COLFA", "TENSOR", "TRACEW", "TRACE"), "a diffusion map"),
    **dict.fromkeys(("T1 MAP", "T2 MAP", "T2_STAR MAP", "PD MAP", "R2 MAP", "B0 MAP", "FIELD_MAP"), "a parameter map"),
    **dict.fromkeys(("CBF", "CBV", "RELCBF", "RELCBV", "MTT", "RELMTT", "TTP", "TMAX", "GBP"), "a perfusion map"),
    **dict.fromkeys(("SUBTRACTION", "SUB"), "a difference of images"),
}


def image_type_warnings(image_types: Iterable[tuple[str, ...]]) -> list[str]:
    """A sentence for every kind of image in a series that is no magnitude scan."""
    words = (word.strip().upper() for image_type in image_types for word in image_type[2:])
    named = dict.fromkeys(word for word in words if word in NO_SCAN)
    return [
        f"the series is {NO_SCAN[word]} (ImageType {word}), expected a magnitude scan: the model knows those only, "
        "enhance the scan it was computed from"
        for word in named
    ]
