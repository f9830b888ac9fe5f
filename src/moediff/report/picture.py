"""Slices as PNG data URIs, without a plotting library; they show where no WebGL is, and on paper.

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

from moediff.report.canvas import PLANES
from moediff.report.layers import Display, Layer

HEAT = ((0.0, "#00000d"), (0.25, "#4a0c6b"), (0.5, "#a52c60"), (0.75, "#f57d15"), (1.0, "#fcffa4"))  # dark to bright
TILE_MM_TO_PX = 1.2


@dataclass(frozen=True)
class Picture:
    """A slice: what it is called, where it comes from, and its pixels as a data URI; size in CSS pixels."""

    title: str
    plane: str
    uri: str
    width: int
    height: int


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


def heat_table() -> np.ndarray:
    """256 colours [256, 3], perceptually rising, readable with any colour vision."""
    places = [place * 255 for place, _ in HEAT]
    colours = np.array([rgb(colour) for _, colour in HEAT], dtype=float)
    columns = [np.interp(np.arange(256), places, colours[:, channel]) for channel in range(3)]
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


def _coloured(layer: Layer, pixels_HW: np.ndarray, *, is_map: bool) -> np.ndarray:
    """Grey for scans, else colours [H, W, 3]."""
    if not is_map:
        return pixels_HW
    return (label_table(layer) if layer.labels else heat_table())[pixels_HW]


def _picture(layer: Layer, plane: str, shown: Display, *, is_map: bool) -> Picture:
    grid, index = shown.grid, shown.centre[PLANES[plane][2]]
    pixels = _coloured(layer, slice_HW(layer.data_XYZ, plane, index), is_map=is_map)
    across, up, _ = PLANES[plane]
    width, height = (round(grid.shape[a] * grid.spacing_mm[a] * TILE_MM_TO_PX) for a in (across, up))
    return Picture(layer.title, plane, data_uri(png(pixels), "image/png"), width, height)


def pictures(shown: Display) -> list[list[Picture]]:
    """Per plane, one picture of every scan and map through the middle of the head."""
    layers = [*((layer, False) for layer in shown.scans), *((layer, True) for layer in shown.maps)]
    return [[_picture(layer, plane, shown, is_map=is_map) for layer, is_map in layers] for plane in PLANES]
