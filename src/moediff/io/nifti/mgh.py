"""FreeSurfer's .mgh and .mgz header: big-endian, voxels at byte 284, scanner coordinates.

https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat. What follows the voxels (echo times, command lines with
user names) is never read.
"""

from __future__ import annotations

import numpy as np

from moediff.core.errors import DataError, GeometryError
from moediff.io.nifti.gzip_stream import GZIP_MAGIC, REMEDY, Stream
from moediff.io.nifti.header import MM, Header, refuse_other_formats

LAYOUT = np.dtype(
    [
        ("version", ">i4"),
        ("dims", ">i4", 4),
        ("type", ">i4"),
        ("dof", ">i4"),
        ("good_ras", ">i2"),
        ("spacing", ">f4", 3),
        ("directions", ">f4", (3, 3)),
        ("centre", ">f4", 3),
        ("unused", "V194"),
    ]
)
VERSION = 1
DATATYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
CORONAL = np.array([[-1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # FreeSurfer's own guess where a file says nothing


@np.errstate(invalid="ignore")  # damaged fields may hold signalling NaN
def read_mgh_header(stream: Stream, notes: list[str]) -> tuple[Header, bytes]:
    """The checked header and its bytes; its affine is stored as the sform.

    Raises:
        DataError, GeometryError: it is no .mgh header, is cut short, or holds an impossible field.
    """
    raw = stream.read(LAYOUT.itemsize)
    _check_start(raw)
    field = np.frombuffer(raw, LAYOUT, count=1)[0]
    dims = [int(n) for n in field["dims"]]
    if min(dims) < 1:
        raise DataError(f"every dimension must be at least 1, but the header says {dims}: convert the scan again")
    code = int(field["type"])
    if code not in DATATYPES:
        raise DataError(f"voxels of type {code} cannot be enhanced, expected real numbers: convert the scan again")
    spacing, columns = _directions(field, notes)
    shape = tuple(dims) if dims[3] > 1 else tuple(dims[:3])
    centre = field["centre"].astype(np.float64) if int(field["good_ras"]) == 1 else np.zeros(3)
    srow = np.column_stack([columns, centre - columns @ (np.array(dims[:3]) / 2)])
    return Header(
        shape=shape,
        dtype=np.dtype(DATATYPES[code]),
        offset=len(raw),
        slope=1.0,
        inter=0.0,
        pixdim=(1.0, *spacing),
        codes=(0, 1),
        quaternion=(0.0,) * 6,
        srow=srow,
        unit=MM,
    ), raw


def _check_start(raw: bytes) -> None:
    if raw.startswith(GZIP_MAGIC):
        raise DataError("expected an .mgh scan, found gzip data; name it .mgz")
    refuse_other_formats(raw)
    if len(raw) < LAYOUT.itemsize:
        raise DataError(f"the file ends inside its header, after {len(raw)} bytes: {REMEDY}")
    version = int(np.frombuffer(raw, ">i4", count=1)[0])
    if version != VERSION:
        raise DataError(f"expected version {VERSION} in the .mgh header, found {version}: is this a FreeSurfer file?")


def _directions(field: np.void, notes: list[str]) -> tuple[list[float], np.ndarray]:
    """Voxel sizes and the affine's 3x3 part."""
    if int(field["good_ras"]) != 1:
        notes.append(
            "LEFT AND RIGHT ARE NOT KNOWN: the file sets no orientation; 1 mm coronal slices were taken, "
            "as FreeSurfer does"
        )
        return [1.0] * 3, CORONAL.T.copy()
    spacing = field["spacing"].astype(np.float64)
    columns = field["directions"].astype(np.float64).T * spacing
    if not (np.isfinite(columns).all() and np.isfinite(field["centre"]).all() and min(spacing) > 0):
        raise GeometryError(
            f"voxel sizes {spacing.tolist()} or directions are impossible, expected positive and finite numbers: "
            "convert the scan again"
        )
    return spacing.tolist(), columns
