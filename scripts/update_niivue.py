"""Vendor a version of the NiiVue viewer from npm, with the licences of all it bundles.

    python scripts/update_niivue.py 0.69.0

Needs npm and a network to its registry; nothing of the packages is run. Check the browser tests afterwards.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

STATIC = Path(__file__).resolve().parents[1] / "src" / "moediff" / "report" / "static"
PACKAGE, BUILD = "@niivue/niivue", "dist/niivue.umd.js"


def install(version: str, folder: Path) -> Path:
    """Fetch the package and what it depends on; returns node_modules."""
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"{PACKAGE}@{version}"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "node_modules"


def licence_of(package: Path) -> str:
    """Name, version, licence and its text for one installed package."""
    about = json.loads((package / "package.json").read_text(encoding="utf-8"))
    texts = [p.read_text(encoding="utf-8") for p in sorted(package.iterdir()) if p.name.lower().startswith("licen")]
    head = f"{about['name']} {about['version']} ({about.get('license', 'see its text')})"
    return "\n\n".join([head, *texts]).strip()


def packages(modules: Path) -> list[Path]:
    """Every installed package but NiiVue, whose own licence is kept in niivue.LICENSE.txt."""
    found = [p.parent for p in [*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")]]
    return sorted(p for p in found if p != modules / PACKAGE)


def main(version: str) -> None:
    """Replace the vendored build, its licences and its record."""
    with tempfile.TemporaryDirectory() as folder:
        modules = install(version, Path(folder))
        code = (modules / PACKAGE / BUILD).read_bytes()
        licences = [licence_of(package) for package in packages(modules)]
    record = {
        "package": PACKAGE,
        "version": version,
        "file": BUILD,
        "licence": "BSD-2-Clause",
        "sha256": hashlib.sha256(code).hexdigest(),
        "bytes": len(code),
    }
    (STATIC / "niivue.umd.js").write_bytes(code)
    (STATIC / "niivue.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (STATIC / "niivue.THIRD-PARTY.txt").write_text(f"\n\n{'-' * 80}\n\n".join(licences) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
