"""The factor that makes 90 % intervals hold 90 % of voxels, fitted to scans."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.io.scans import save
from moediff.model.bundle import load_bundle


@pytest.fixture
def script(load_script) -> ModuleType:
    return load_script("fit_error_scale")


def test_the_factor_that_holds_nine_tenths(script):
    even = torch.arange(1, 1001) / 100  # 0.01 .. 10
    assert script.fitted([even]) == pytest.approx(9.0, abs=0.02)
    assert script.fitted([even, 3 * even]) == pytest.approx(script.fitted([3 * even, even]))
    found = [even, 3 * even]  # the mean of both cases counts, however many voxels either has
    assert script.covered(found, script.fitted(found)) == pytest.approx(0.9, abs=2e-3)
    assert script.fitted([even, (3 * even).repeat(5)]) == pytest.approx(script.fitted(found), rel=1e-3)


def test_errors_beyond_all_intervals_are_refused(script):
    with pytest.raises(DataError, match=r"intervals 100 times as wide hold under 0\.9 of voxels: fit the error head"):
        script.fitted([torch.full((10,), 1e4)])


def test_a_bundle_is_scaled_and_stays_so(script, tmp_path: Path, make_phantom: Callable, bundle, monkeypatch, capsys):
    noisy = make_phantom((48, 48, 48), (2.0, 2.0, 2.0))
    noise = 0.05 * float(noisy.data_XYZ.max()) * torch.randn(noisy.shape, generator=rng_for(0))
    save(noisy.with_data((noisy.data_XYZ + noise).clamp_min(0)), tmp_path / "head_T1w.nii.gz")
    (tmp_path / "a.toml").write_text('[[scans]]\npath = "head_T1w.nii.gz"\n[[scans]]\npath = "x"\nlabels = true\n')
    (tmp_path / "none.toml").write_text('[[scans]]\npath = "x"\nlabels = true\n')

    def run(source: Path, out: Path, config: str) -> float:
        words = [str(source), str(out), "--config", str(tmp_path / config), "--side", "32"]
        monkeypatch.setattr(sys, "argv", ["fit_error_scale.py", *words])
        script.main()
        return load_bundle(out).config.error_scale

    assert run(bundle, tmp_path / "out", "none.toml") == load_bundle(bundle).config.error_scale
    assert "no real scans are listed" in capsys.readouterr().out
    once = run(bundle, tmp_path / "once", "a.toml")
    assert once != load_bundle(bundle).config.error_scale
    assert load_bundle(tmp_path / "once").provenance["error_scale"]["cases"] == 4
    assert run(tmp_path / "once", tmp_path / "twice", "a.toml") == pytest.approx(once, rel=1e-3)
