"""The forward pass: read in one sitting, and mathematics only."""

from __future__ import annotations

from pathlib import Path

import moediff.model.denoiser as first

FILES = [
    Path(first.__file__).parent / f"{name}.py"
    for name in ("layers", "encoder", "gate", "feature_branches", "experts", "denoiser")
]
FILES.append(FILES[0].with_name("uncertainty_head.py"))


def test_the_forward_pass_is_at_most_600_lines():
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES) <= 600


def test_nothing_in_it_depends_on_gradients_or_devices():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("is_grad_enabled", "no_grad", "is_cuda", "device.type", "Stream") if word in text]
