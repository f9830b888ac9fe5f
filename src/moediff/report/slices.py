"""Slices as PNG data URIs, without a plotting library, for browsers without WebGL and for paper.

Planes are radiological: the patient's right on the image's left, the nose to the left, up is anterior or superior.

Axes: X Y Z voxels (RAS+), H W picture rows and columns.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from moediff.report.layers import EDGES, PLANES, Display, Layer

HEAT = ((0.0, "#00000d"), (0.25, "#4a0c6b"), (0.5, "#a52c60"), (0.75, "#f57d15"), (1.0, "#fcffa4"))  # dark to bright
SIGNED = (
    (0.0, "#9fdcff"),
    (0.25, "#1f6fd6"),
    (0.5, "#000000"),
    (0.75, "#d6591f"),
    (1.0, "#ffd27f"),
)  # less, none, more
TILE_MM_TO_PX = 1.2
SHADE = 0.35  # of a label's colour where the scan is black


@dataclass(frozen=True)
class Picture:
    """A slice: what it is called, where it comes from, its pixels as a data URI, its size in CSS pixels and its edges.

    `edges` are the letters left, right, above and below.
    """

    title: str
    plane: str
    uri: str
    width: int
    height: int
    edges: tuple[str, str, str, str]


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels, [H, W] grey or [H, W, 3] colour, as PNG (ISO/IEC 15948)."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # filter 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 6)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a data URI of this media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def rgb(colour: str) -> tuple[int, int, int]:
    """#rrggbb as three numbers of 0..255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def colour_table(stops: tuple[tuple[float, str], ...]) -> np.ndarray:
    """256 colours [256, 3] between stops."""
    stops_at = [stop * 255 for stop, _ in stops]
    colours = np.array([rgb(colour) for _, colour in stops], dtype=float)
    columns = [np.interp(np.arange(256), stops_at, colours[:, channel]) for channel in range(3)]
    return np.stack(columns, -1).round().astype(np.uint8)


def label_table(layer: Layer) -> np.ndarray:
    """Label -> colour [256, 3]; label 0 is black."""
    table = np.zeros((256, 3), np.uint8)
    table[1 : len(layer.labels) + 1] = [rgb(colour) for _, colour in layer.labels]
    return table


def slice_HW(data_XYZ: Tensor, plane: str, index: int) -> np.ndarray:
    """One plane as a reader expects it."""
    through = PLANES[plane][2]
    flat = data_XYZ.select(through, index).transpose(0, 1)  # every plane's across axis comes before its up axis
    return flat.flip(0, 1).contiguous().numpy()


def _rim(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch its outside."""
    padded = np.pad(mask_HW, 1)
    return mask_HW & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _labelled(layer: Layer, labels_HW: np.ndarray, scan_HW: np.ndarray) -> np.ndarray:
    """Labels over the scan [H, W, 3]: a single one as its outline, several as tints."""
    colours = label_table(layer)[labels_HW]
    grey = np.repeat(scan_HW[..., None], 3, axis=-1)
    if len(layer.labels) == 1:
        return np.where(_rim(labels_HW > 0)[..., None], colours, grey)
    tint = (colours * (SHADE + (1 - SHADE) / 255 * scan_HW[..., None])).astype(np.uint8)
    return np.where((labels_HW > 0)[..., None], tint, grey)


def _picture(layer: Layer, plane: str, display: Display, *, is_map: bool) -> Picture:
    grid, index = display.grid, display.centre[PLANES[plane][2]]
    pixels = slice_HW(layer.data_XYZ, plane, index)
    if layer.labels:
        scan = next(scan for scan in display.scans if scan.key == "enhanced")
        pixels = _labelled(layer, pixels, slice_HW(scan.data_XYZ, plane, index))
    elif is_map:
        pixels = colour_table(SIGNED if layer.signed else HEAT)[pixels]
    across, up, _ = PLANES[plane]
    width, height = (round(grid.shape[a] * grid.spacing_mm[a] * TILE_MM_TO_PX) for a in (across, up))
    return Picture(layer.title, plane, data_uri(png(pixels), "image/png"), width, height, EDGES[plane])


def pictures(display: Display) -> list[list[Picture]]:
    """Per plane, one picture of every scan and map where views open."""
    layers = [*((layer, False) for layer in display.scans), *((layer, True) for layer in display.maps)]
    return [[_picture(layer, plane, display, is_map=is_map) for layer, is_map in layers] for plane in PLANES]
