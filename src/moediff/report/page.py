"""Report page of an enhanced scan: one HTML file, offline, self-contained, and unable to load or send anything.

The Content-Security-Policy lets run only the scripts whose hashes it names, so text that found its way into a sidecar
or a file name stays text. The viewer lies packed in the page; its hash is that of the unpacked script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from moediff._version import RESEARCH_ONLY
from moediff.core.extras import require_modules
from moediff.io.scans import write_text
from moediff.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plots
from moediff.report.data import ReportScans
from moediff.report.display import display
from moediff.report.embed import Embedded, Packed, embed
from moediff.report.layers import Display, Layer
from moediff.report.maps import SINGLE_EXPERT
from moediff.report.privacy import why_no_3d
from moediff.report.sanitise import one_line
from moediff.report.slices import HEAT, SIGNED, pictures, rgb
from moediff.report.summary_text import summarise

MAX_BYTES = 8_000_000
SPARE_BYTES = 80_000  # the page's own text, plots and style
PARTS = "moediff.report"
LIBRARY_LEVEL = 6  # of zlib


def _read(folder: str, name: str) -> str:
    return files(PARTS).joinpath(folder, name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _packed_library() -> str:
    """The viewer's script as base64 of zlib; a third of its size, and scans need the room."""
    return base64.b64encode(zlib.compress(_read("static", "niivue.umd.js").encode(), LIBRARY_LEVEL)).decode("ascii")


def policy(scripts: tuple[str, ...]) -> str:
    """Content-Security-Policy: these scripts alone run, and nothing may be loaded or sent.

    Pictures and the viewer's textures are data or blob URIs.
    """
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode("ascii") for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _colour_map(stops: tuple[tuple[float, str], ...], nothing: float) -> dict[str, list[int]]:
    """A colour map of the viewer, clear at the place that stands for nothing and opaque away from it."""
    steep = 3 if nothing == 0 else 2
    colours = [rgb(colour) for _, colour in stops]
    return {
        "R": [c[0] for c in colours],
        "G": [c[1] for c in colours],
        "B": [c[2] for c in colours],
        "A": [round(255 * min(1, steep * abs(stop - nothing))) for stop, _ in stops],
        "I": [round(255 * stop) for stop, _ in stops],
    }


def _viewer_layer(layer: Layer, packed: Packed) -> dict[str, object]:
    return {
        "key": layer.key,
        "title": layer.title,
        "low": layer.low,
        "high": layer.high,
        "signed": layer.signed,
        "data": packed.text,
        "stride": packed.stride,
        "shape": list(packed.grid.shape),
        "spacing": list(packed.grid.spacing_mm),
        "affine": packed.grid.affine.flatten().tolist(),
        "labels": [{"name": name, "colour": rgb(colour)} for name, colour in layer.labels],
    }


def _viewer_data(layers: Display, packed: Embedded) -> dict[str, object]:
    return {
        "shape": list(layers.grid.shape),
        "centre": list(layers.centre),
        "scans": [_viewer_layer(*pair) for pair in zip(layers.scans, packed.scans, strict=True)],
        "maps": [_viewer_layer(*pair) for pair in zip(layers.maps, packed.maps, strict=True)],
        "heat": _colour_map(HEAT, 0),
        "signed": _colour_map(SIGNED, 0.5),
    }


def render(scans: ReportScans) -> str:
    """The page's text, at most 8 MB for an adult head; scans lose grey levels before it grows larger.

    Raises:
        ConfigError: jinja2 is not installed.
        DataError: the enhanced scan is constant.
    """
    require_modules("jinja2")
    import jinja2

    layers = display(scans)
    stills = pictures(layers)
    library = _read("static", "niivue.umd.js")
    flat, script = (_read("templates", name) for name in ("flat.js", "page.js"))
    used = len(_packed_library()) + SPARE_BYTES + sum(len(p.uri) for row in stills for p in row)
    packed = embed(layers.scans, layers.maps, layers.grid, MAX_BYTES - used)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    safe = environment.filters["safe"]
    return str(
        environment.from_string(_read("templates", "page.html")).render(
            policy=policy((library, flat, script)),
            notice=RESEARCH_ONLY,
            name=one_line(scans.name),
            display=layers,
            summary=summarise(scans),
            stills=stills,
            plots=plots(layers),
            packed=packed,
            why_no_3d=why_no_3d(scans),
            library=_packed_library(),
            flat=safe(flat),
            script=safe(script),
            single_expert=SINGLE_EXPERT,
            style=safe(_style()),
            data=safe(script_json(_viewer_data(layers, packed))),
            viewer=json.loads(_read("static", "niivue.json")),
            licences=_licences(),
            box={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        )
    )


def _style() -> str:
    style = _read("templates", "page.css")
    for mark, stops in {"{{ heat }}": HEAT, "{{ signed }}": SIGNED}.items():
        style = style.replace(mark, ", ".join(f"{colour} {100 * stop:.0f}%" for stop, colour in stops))
    return style


def _licences() -> str:
    return "\n\n".join(_read("static", f"niivue.{part}.txt").strip() for part in ("LICENSE", "THIRD-PARTY"))


def write_page(scans: ReportScans, path: Path, *, overwrite: bool = False) -> None:
    """Render and write in one step.

    Raises:
        CannotCreate, OutputFailed: the file exists or could not be written; nothing partial is left.
        ConfigError: jinja2 is not installed.
    """
    write_text(render(scans), path, overwrite=overwrite)
