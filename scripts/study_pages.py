"""Pictures of docs/howto/study.md: the tutorial's study is made and enhanced, and its pages are opened in Chromium.

python scripts/study_pages.py           minutes
python scripts/study_pages.py FOLDER    of the tutorial, where it was followed already
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = "/usr/bin/chromium"  # Debian's
PICTURES = {"study_index.png": "index.html", "study_participant.png": "sub-03.html"}
COLOURS = 128  # grey pages need no more


def follow_tutorial(folder: Path) -> Path:
    """Make and enhance the study in a folder; returns where its pages are."""
    from moediff.cli.main import main

    sys.path.insert(0, str(ROOT / "examples"))
    from phantom_study import make_study

    out = folder / "study" / "derivatives" / "moediff"
    if not (out / "index.html").exists():
        make_study(folder / "study")
        main(["bids", str(folder / "study"), str(out), "participant", "--voxel-size", "1.5", "--viewer"])
    return out


def photograph(pages: Path) -> None:
    """The top of each page, as a small PNG in docs/images."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        for picture, page in PICTURES.items():
            path = ROOT / "docs" / "images" / picture
            tab.goto((pages / page).absolute().as_uri())
            tab.screenshot(path=path)
            with Image.open(path) as image:
                small = image.convert("RGB").quantize(COLOURS)
            small.save(path, optimize=True)
            print(path)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of the tutorial")
    chosen = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        photograph(follow_tutorial(chosen or Path(scratch)))
