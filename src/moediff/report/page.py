"""One HTML page that shows an enhanced scan: offline, self-contained, and unable to ask for anything.

The Content-Security-Policy lets run only the two scripts whose hashes it names, so text that found its way into a
sidecar or a file name stays text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from moediff import RESEARCH_ONLY
from moediff.errors import ConfigError
from moediff.report.curves import HEIGHT, LEFT, WIDTH, plots
from moediff.report.display import Display, Layer, display
from moediff.report.embed import Embedded, Packed, embed
from moediff.report.facts import Facts, facts
from moediff.report.figure import EXPERT_COLOURS
from moediff.report.picture import HEAT, pictures, rgb
from moediff.report.scans import ReportScans
from moediff.volume.io import write_text

MAX_BYTES = 8_000_000
SPARE_BYTES = 60_000  # the page's own text, plots and style
PARTS = "moediff.report"


def require_jinja2() -> Any:
    """The template engine.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ConfigError("reports need jinja2; install it with: pip install 'moediff-sr[report]'") from error
    return jinja2


def _read(folder: str, name: str) -> str:
    return files(PARTS).joinpath(folder, name).read_text(encoding="utf-8")


def _policy(scripts: tuple[str, ...]) -> str:
    """Nothing may be loaded or sent; pictures and the viewer's textures are data or blob URIs."""
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


def _colour_map() -> dict[str, list[int]]:
    """The viewer's colour map: transparent where nothing is, then dark to bright."""
    colours = [rgb(colour) for _, colour in HEAT]
    return {
        "R": [c[0] for c in colours], "G": [c[1] for c in colours], "B": [c[2] for c in colours],
        "A": [0, *(255 for _ in HEAT[1:])], "I": [round(255 * place) for place, _ in HEAT],
    }  # fmt: skip


def _viewer_layer(layer: Layer, packed: Packed) -> dict[str, object]:
    return {
        "key": layer.key, "high": layer.high, "data": packed.text, "stride": packed.stride,
        "shape": list(packed.grid.shape), "spacing": list(packed.grid.spacing_mm),
        "affine": packed.grid.affine.flatten().tolist(),
    }  # fmt: skip


def _viewer_data(shown: Display, packed: Embedded, told: Facts) -> dict[str, object]:
    colours = [rgb(colour) for colour in EXPERT_COLOURS]
    return {
        "shape": list(shown.grid.shape), "centre": list(shown.centre),
        "scans": [_viewer_layer(*pair) for pair in zip(shown.scans, packed.scans, strict=True)],
        "maps": [_viewer_layer(*pair) for pair in zip(shown.maps, packed.maps, strict=True)],
        "heat": _colour_map(), "experts": [e.name for e in told.experts], "expertColours": colours,
    }  # fmt: skip


def render(scans: ReportScans) -> str:
    """The page's text, at most 8 MB for an adult head; scans lose grey levels before it grows larger.

    Raises:
        ConfigError: jinja2 is not installed.
        DataError: the enhanced scan is constant.
    """
    jinja2 = require_jinja2()
    shown, told = display(scans), facts(scans)
    stills = pictures(shown)
    library, script = _read("static", "niivue.umd.js"), _read("templates", "page.js")
    used = len(library.encode()) + SPARE_BYTES + sum(len(p.uri) for row in stills for p in row)
    packed = embed(shown.scans, shown.maps, shown.grid, MAX_BYTES - used)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    safe = environment.filters["safe"]
    return str(
        environment.from_string(_read("templates", "page.html")).render(
            policy=_policy((library, script)),
            notice=RESEARCH_ONLY,
            name=_one_line(scans.name),
            shown=shown,
            facts=told,
            stills=stills,
            plots=plots(shown),
            packed=packed,
            library=safe(library),
            script=safe(script),
            style=safe(_read("templates", "page.css")),
            data=safe(script_json(_viewer_data(shown, packed, told))),
            viewer=json.loads(_read("static", "niivue.json")),
            licences=_licences(),
            size=(WIDTH, HEIGHT, LEFT),
        )
    )


def _one_line(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name)


def _licences() -> str:
    return "\n\n".join(_read("static", f"niivue.{part}.txt").strip() for part in ("LICENSE", "THIRD-PARTY"))


def write_page(scans: ReportScans, path: Path, *, overwrite: bool = False) -> None:
    """Render and write in one step.

    Raises:
        CannotCreate, OutputFailed: the file exists or could not be written; nothing partial is left.
        ConfigError: jinja2 is not installed.
    """
    write_text(render(scans), path, overwrite=overwrite)
