"""Average the weights of two bundles of one descent: often better than either (Wortsman et al. 2022, model soups).

    python scripts/average_bundles.py FIRST SECOND OUT

Settings and provenance are the second's, with both checksums.
"""

from __future__ import annotations

import sys
from pathlib import Path

from moediff.model.bundle import load_bundle, save_bundle


def average(one: Path, other: Path, out: Path) -> None:
    """Write the bundle whose weights are the mean of two."""
    first, second = load_bundle(one), load_bundle(other)
    if first.config.denoiser != second.config.denoiser:
        raise SystemExit("the bundles hold different networks; only weights of one network can be averaged")
    theirs = second.denoiser.state_dict()
    weights = {name: (value + theirs[name]) / 2 for name, value in first.denoiser.state_dict().items()}
    provenance = {**second.provenance, "averaged_from": [first.sha256, second.sha256]}
    save_bundle(out, second.config, weights, provenance)


if __name__ == "__main__":
    average(*(Path(argument) for argument in sys.argv[1:4]))
