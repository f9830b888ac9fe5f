"""A running Chromium for tests of pages; see CONTRIBUTING."""

from __future__ import annotations

import base64
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_GL = ("--disable-gpu", "--disable-3d-apis")
WAIT_MS = 60_000


def settled(page: Any) -> None:
    """Waits until what was asked for is drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")


def pixels(page: Any, selector: str) -> np.ndarray:
    """What is seen of an element, [rows, columns, RGB], 0..1."""
    settled(page)
    return matplotlib.image.imread(BytesIO(page.locator(selector).screenshot()))[..., :3]


GREY = """([i, share]) => {
  const { canvas } = moediffViewer.views[i], [w, h] = [canvas.width, canvas.height].map((n) => Math.floor(n * share));
  const { data } = canvas.getContext("2d").getImageData((canvas.width - w) >> 1, (canvas.height - h) >> 1, w, h);
  let text = "";
  for (let k = 0; k < w * h; k++) text += String.fromCharCode(data[4 * k]);
  return [btoa(text), w];
}"""


def canvas_grey(page: Any, view: int, share: float = 1.0) -> np.ndarray:
    """Red of the middle part of a view's canvas, one number a canvas pixel, [rows, columns]."""
    settled(page)
    text, width = page.evaluate(GREY, [view, share])
    return np.frombuffer(base64.b64decode(text), np.uint8).astype(int).reshape(-1, width)


def state(page: Any) -> dict[str, Any]:
    """What the viewer shows, once it is drawn."""
    settled(page)
    return page.evaluate("moediffViewer.state")


def serious(page: Any) -> list[str]:
    """What axe-core finds serious or worse: rule, and the first element."""
    axe = pytest.importorskip("axe_playwright_python", reason="no axe: pip install axe-playwright-python")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    bad = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in bad]
