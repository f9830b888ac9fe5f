"""The faults that must be survived, row by row: what comes in, and the answer that is promised.

A test belongs to row 7 when its name or the name of one of its cases holds `row07`, or when it carries
`@pytest.mark.fault(7)`. `reliability.py` turns this into docs/reliability.md.
"""

from __future__ import annotations

REFUSED, WARNED, CORRECTED = "refused (65)", "warned of, recorded", "corrected, recorded"

FAULTS: dict[int, tuple[str, str]] = {
    1: ("gzip file cut in half", REFUSED),
    2: ("gzip trailer lost", REFUSED),
    3: ("gzip checksum wrong", REFUSED),
    4: ("a bit flipped in the packed data", REFUSED),
    5: ("bytes after the end", WARNED),
    6: ("`.nii` named `.nii.gz`, and the reverse", f"{REFUSED}, with the right name"),
    7: ("empty file, web page, pointer of git-lfs or git-annex", f"{REFUSED}, saying what it is"),
    8: ("header only, or too few voxels", REFUSED),
    9: ("negative dimension", f"{REFUSED} before allocating"),
    10: ("dimension of zero", f"{REFUSED} before allocating"),
    11: ("dimensions of 32767 x 32767 x 32767", f"{REFUSED} before allocating"),
    12: ("gzip bomb", f"{REFUSED}, cut off early"),
    13: ("0 or 8 dimensions", REFUSED),
    14: ("unknown datatype", REFUSED),
    15: ("bitpix contradicts the datatype", WARNED),
    16: ("vox_offset NaN, huge, or inside the header", REFUSED),
    17: ("bad magic", REFUSED),
    18: ("slope 0, NaN or infinite", "taken as 1, recorded"),
    19: ("slope or intercept beyond any scan", REFUSED),
    20: ("sform all zero with a code", f"qform used and recorded, else {REFUSED}"),
    21: ("NaN in the sform", f"qform used and recorded, else {REFUSED}"),
    22: ("sform and qform codes both 0", "a clear warning: left and right are not known"),
    23: ("voxel size 0", f"{WARNED}; {REFUSED} where the affine needs it"),
    24: ("negative voxel size", CORRECTED),
    25: ("voxel size NaN", REFUSED),
    26: ("invalid quaternion", REFUSED),
    27: ("qform contradicts sform", f"{WARNED}; {REFUSED} when an axis swaps or flips, unless --trust"),
    28: ("sheared affine", f"kept exactly, {WARNED}"),
    29: ("left-handed or oblique affine", "works; the round trip is exact"),
    30: ("units of metre, micron or unknown", f"{CORRECTED}; {REFUSED} when absurd"),
    31: ("voxel or field of view of an unusual size", f"{WARNED}; {REFUSED} when absurd"),
    32: ("isolated NaN or infinite voxels", "filled from neighbours, counted, recorded"),
    33: ("more than 5 % NaN; all NaN, constant or empty", REFUSED),
    34: ("colour or complex voxels", REFUSED),
    35: ("4-D with one volume", "read as 3-D, recorded"),
    36: ("4-D with several volumes", f"{REFUSED} unless --volume"),
    37: ("2-D, 5-D, or fewer than 8 voxels along an axis", REFUSED),
    38: ("big-endian, any integer or float type, huge values", "works"),
    39: ("header extension of a bad size", REFUSED),
    40: ("as fine as the target already", "passed through, warned of"),
    41: ("not a brain, computed tomography, another contrast", WARNED),
    42: ("negative or outlier intensities", f"scaled robustly, {WARNED}"),
    43: ("DICOM: missing, doubled or uneven slices, mixed series, localizer, no pixels", "a defined answer for each"),
    44: ("odd file names, links, read-only input", "safe"),
    45: ("disk full, quota, read-only folder", "73 or 74, nothing partial"),
    46: ("killed at any instant", "nothing partial is taken for a result; running again finishes"),
    47: ("two processes with one output", "one wins, the other says so (75)"),
    48: ("out of memory", "smaller tiles, else 75"),
    49: ("bundle cut, altered, of another shape, or a pickle", "refused (78)"),
    50: ("NaN loss, a worker or a rank dies", "skipped with a record, or stopped; NaN is never saved"),
    51: ("no HOME, no terminal, C locale, clock off, no network", "works"),
}
