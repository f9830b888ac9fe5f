"""File formats of scans: one table, with a row for each suffix of a file name.

docs/howto/add-a-file-format.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from moediff.io.nifti.gzip_stream import Stream
from moediff.io.nifti.header import Header, read_header, read_pair_header
from moediff.io.nifti.mgh import read_mgh_header

HeaderReader: TypeAlias = "Callable[[Stream, list[str]], tuple[Header, bytes]]"


@dataclass(frozen=True)
class Format:
    """How the files of one suffix are read.

    Args:
        read_header: reads the header from the unpacked stream and appends warnings to a list; returns the header and
            its bytes.
        gzipped: whether the file is compressed.
        unpacked_suffix: suffix of the same content without compression.
        pair: suffixes of the header's and the voxels' file where there are two.
        trailing_data: whether data that belong to the format follow the voxels.
        two_forms: whether the header has an sform and a qform, so that the user may choose one (`trust`).
    """

    read_header: HeaderReader
    gzipped: bool
    unpacked_suffix: str
    pair: tuple[str, str] | None = None
    trailing_data: bool = False
    two_forms: bool = False


FORMATS = {
    ".nii.gz": Format(read_header, True, ".nii", two_forms=True),
    ".nii": Format(read_header, False, ".nii", two_forms=True),
    ".mgz": Format(read_mgh_header, True, ".mgh", trailing_data=True),
    ".mgh.gz": Format(read_mgh_header, True, ".mgh", trailing_data=True),
    ".mgh": Format(read_mgh_header, False, ".mgh", trailing_data=True),
    ".hdr": Format(read_pair_header, False, ".hdr", (".hdr", ".img"), two_forms=True),
    ".img": Format(read_pair_header, False, ".img", (".hdr", ".img"), two_forms=True),
    ".hdr.gz": Format(read_pair_header, True, ".hdr", (".hdr.gz", ".img.gz"), two_forms=True),
    ".img.gz": Format(read_pair_header, True, ".img", (".hdr.gz", ".img.gz"), two_forms=True),
}
