"""Report page of an enhanced scan: one HTML file, offline, self-contained, and unable to load or send anything.

The Content-Security-Policy lets run only the scripts whose hashes it names, so text that found its way into a sidecar
or a file name stays text. The viewer (`templates/viewer/`) draws planes on canvases and needs no WebGL.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from moediff._version import RESEARCH_ONLY
from moediff.core.extras import require_modules
from moediff.io.scans import write_text
from moediff.report.codec import BLOCK_PLANES
from moediff.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plots
from moediff.report.data import ReportScans
from moediff.report.display import display
from moediff.report.embed import SIZES, Embedded, PageSize, Placed, embed
from moediff.report.layers import Display, Layer, Scan
from moediff.report.sanitise import one_line
from moediff.report.slices import overlay_table, pictures, rgb
from moediff.report.summary_text import summarise

SPARE_BYTES = 100_000  # the page's own text, plots, script and style
PARTS = "moediff.report"
SCRIPTS = ("codec", "volume", "view", "viewer", "controls", "input", "main")  # in this order
LEGEND_STOPS = 10
FULL_LEVELS = SIZES["full"].grey_levels[-1]  # that every full page has in the brain's window
EMPTY = torch.zeros(0, dtype=torch.uint8)


def _read(*path: str) -> str:
    return files(PARTS).joinpath("templates", *path).read_text(encoding="utf-8")


def viewer_script() -> str:
    """All files of the viewer as one script that leaves no names behind."""
    parts = "\n".join(_read("viewer", f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def policy(scripts: Sequence[str], images: str = "data: blob:") -> str:
    """Content-Security-Policy: these scripts alone run, and nothing but images of these sources may be loaded."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode("ascii") for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _placed(placed: Placed) -> dict[str, object]:
    return {
        "shape": placed.packed.shape,
        "weights": placed.packed.weights,
        "first_weights": placed.packed.first_weights,
        "block_planes": BLOCK_PLANES,
        "start_mm": placed.start_mm,
        "voxel_mm": placed.voxel_mm,
    }


def _viewer_scan(scan: Scan, placed: Placed) -> dict[str, object]:
    merged = placed.packed.shape != scan.volume.shape
    voxel_size = f"{scan.voxel_size}, shown coarser" if merged else scan.voxel_size
    named = {"key": scan.key, "title": scan.title, "voxel_size": voxel_size}
    return {**named, "low": placed.low, "step": placed.step, **_placed(placed)}


def _viewer_map(layer: Layer, placed: Placed) -> dict[str, object]:
    named = {"key": layer.key, "title": layer.title, "high": layer.high, "signed": layer.signed}
    labels = [{"name": name, "colour": rgb(colour)} for name, colour in layer.labels]
    table = overlay_table(layer).flatten().tolist()
    return {**named, "labels": labels, "outline": len(labels) == 1, "table": table, **_placed(placed)}


def _viewer_data(layers: Display, packed: Embedded) -> dict[str, object]:
    return {
        "shape": layers.grid.shape,
        "spacing": layers.grid.spacing_mm,
        "affine": layers.grid.affine.tolist(),
        "centre": layers.centre,
        "windows": [{"name": w.name, "low": w.low, "high": w.high} for w in layers.windows],
        "scans": [_viewer_scan(*pair) for pair in zip(layers.scans, packed.scans, strict=True)],
        "maps": [_viewer_map(*pair) for pair in zip(layers.maps, packed.maps, strict=True)],
    }


def dropped(packed: Embedded) -> str:
    """What a page gave up for its size, in a sentence; empty for a full page."""
    if packed.size.name != "small":
        return ""
    block = packed.size.map_block
    given_up = [f"{packed.grey_levels} grey levels in the brain's window"] if packed.grey_levels < FULL_LEVELS else []
    given_up += ["scans in blocks of 2 x 2 x 2 voxels, so fine detail is lost"] if packed.halved else []
    given_up += [f"maps in blocks of {block} x {block} x {block} voxels"]
    return f"{'; '.join(given_up)}. Judge fine differences on the full page."


def environment(*packages: str) -> Any:
    """Jinja's environment of all pages: escaped, and strict about names.

    Args:
        packages: with further templates, which come before those of reports.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    require_modules("jinja2")
    import jinja2

    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in (*packages, PARTS)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )


def render(scans: ReportScans, size: PageSize = SIZES["full"]) -> str:
    """The page's text: 25 to 45 MB for an adult head of 320 x 320 x 220 voxels; a small page has at most 7 MB.

    Args:
        scans: what it shows.
        size: how large it may become.

    Raises:
        ConfigError: jinja2 is not installed.
        DataError: the enhanced scan is constant.
    """
    pages = environment()
    layers = display(scans)
    stills = pictures(layers)
    script, safe = viewer_script(), pages.filters["safe"]
    packed = embed(layers, size, SPARE_BYTES + len(script) + sum(len(p.uri) for row in stills for p in row))
    return str(
        pages.get_template("page.html").render(
            policy=policy((script,), images="data:"),
            notice=RESEARCH_ONLY,
            name=one_line(scans.name),
            scans=scans,
            display=layers,
            summary=summarise(scans),
            stills=stills,
            plots=plots(layers),
            packed=packed,
            dropped=dropped(packed),
            embedded=[*zip(layers.scans, packed.scans, strict=True), *zip(layers.maps, packed.maps, strict=True)],
            script=safe(script),
            style=safe(_style()),
            data=safe(script_json(_viewer_data(layers, packed))),
            box={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        )
    )


def _gradient(*, signed: bool) -> str:
    """Colours of a map as CSS, as clear as over a scan."""
    table = overlay_table(Layer("key", "", EMPTY, 0, 1, signed=signed))
    stops = [round(255 * i / LEGEND_STOPS) for i in range(LEGEND_STOPS + 1)]
    return ", ".join(
        f"rgb({r} {g} {b} / {a / 255:.2f}) {100 * s / 255:.0f}%" for s in stops for r, g, b, a in [table[s]]
    )


def _style() -> str:
    style = _read("page.css")
    return style.replace("{{ heat }}", _gradient(signed=False)).replace("{{ signed }}", _gradient(signed=True))


def write_page(scans: ReportScans, path: Path, *, overwrite: bool = False, size: PageSize = SIZES["full"]) -> None:
    """Render and write in one step.

    Raises:
        CannotCreate, OutputFailed: the file exists or could not be written; nothing partial is left.
        ConfigError: jinja2 is not installed.
    """
    write_text(render(scans, size), path, overwrite=overwrite)
