"""Slices as PNG data URIs, without a plotting library, for browsers without scripts and for paper.

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

from moediff.core.volume import Grid
from moediff.report.layers import EDGES, PLANES, Display, Layer, Scan, air, nearest, to_bytes

HEAT = ((0.0, "#7b1fa2"), (0.35, "#d81b60"), (0.7, "#ff9800"), (1.0, "#fff59d"))  # none to most
SIGNED = ((0.0, "#b3e5ff"), (0.499, "#2979ff"), (0.501, "#ff6d00"), (1.0, "#ffe0b2"))  # darker, none, brighter
FULL_AT = 0.6  # of a map's range; from here on it covers the scan, below it is the clearer the less there is
TILE_MM_TO_PX = 1.2
TINT = 0.5  # opacity of labels over a scan


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


def overlay_table(layer: Layer) -> np.ndarray:
    """Colour and opacity of every level [256, 4]; opacity grows evenly from nothing, so no value draws an edge."""
    if layer.labels:
        return (
            np.concatenate([label_table(layer), np.full((256, 1), 255, np.uint8)], axis=1)
            * (np.arange(256) > 0).astype(np.uint8)[:, None]
        )
    levels = np.arange(256)
    amount = np.abs(levels - 128) / 127 if layer.signed else levels / 255
    opacity = np.clip(amount / FULL_AT, 0, 1) * 255
    colours = colour_table(SIGNED if layer.signed else HEAT)
    return np.concatenate([colours, opacity.round().astype(np.uint8)[:, None]], axis=1)


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


def grey_HW(scan: Scan, display: Display, plane: str, index: int) -> np.ndarray:
    """One plane of a scan on the display's grid, 8 bits, in the window in which pages open."""
    through, window = PLANES[plane][2], display.windows[0]
    shape, affine = list(display.grid.shape), display.grid.affine.clone()
    affine[:3, 3] += affine[:3, through] * index
    shape[through] = 1
    read_XYZ = nearest(scan.volume, Grid((shape[0], shape[1], shape[2]), affine), outside=air(scan.volume))
    return slice_HW(to_bytes(read_XYZ, window.low, window.high), plane, 0)


def laid_over(layer: Layer, levels_HW: np.ndarray, scan_HW: np.ndarray) -> np.ndarray:
    """A map over a scan [H, W, 3], as a page's viewer draws it: a single label as its outline, all else as tints."""
    table = overlay_table(layer).astype(np.float32)
    opacity = table[levels_HW, 3:] / 255
    if len(layer.labels) == 1:
        opacity = _rim(levels_HW > 0)[..., None].astype(np.float32)
    elif layer.labels:
        opacity = opacity * TINT
    mixed = (1 - opacity) * scan_HW[..., None] + opacity * table[levels_HW, :3]
    return mixed.round().astype(np.uint8)


def _picture(layer: Scan | Layer, plane: str, display: Display) -> Picture:
    grid, index = display.grid, display.centre[PLANES[plane][2]]
    if isinstance(layer, Scan):
        pixels = grey_HW(layer, display, plane, index)
    else:
        scan_HW = grey_HW(display.enhanced, display, plane, index)
        pixels = laid_over(layer, slice_HW(layer.data_XYZ, plane, index), scan_HW)
    across, up, _ = PLANES[plane]
    width, height = (round(grid.shape[a] * grid.spacing_mm[a] * TILE_MM_TO_PX) for a in (across, up))
    return Picture(layer.title, plane, data_uri(png(pixels), "image/png"), width, height, EDGES[plane])


def pictures(display: Display) -> list[list[Picture]]:
    """Per plane, one picture of every scan, and of every map over the enhanced one, where views open."""
    layers: list[Scan | Layer] = [*display.scans, *display.maps]
    return [[_picture(layer, plane, display) for layer in layers] for plane in PLANES]
