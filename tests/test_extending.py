"""How-to pages for extensions: the code of each page is run as it stands, and what it adds works."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moediff
from moediff.core.config import parse_as
from moediff.core.errors import ConfigError, DataError
from moediff.diffusion.samplers import SAMPLERS
from moediff.inference import tiling
from moediff.inference.enhancer import Enhancer
from moediff.io.formats import FORMATS
from moediff.io.naming import default_output
from moediff.model.bundle import Bundle, BundleConfig
from moediff.model.denoiser import Denoiser
from moediff.model.expert_table import EXPERTS

SHAPE_XYZ = (24, 26, 10)
PAGES = Path(__file__).resolve().parents[1] / "docs" / "howto"


@pytest.fixture
def run_page() -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs the Python of a page in one namespace; the tables that it changes are as before afterwards."""
    saved: list[tuple[dict[Any, Any], dict[Any, Any]]] = []

    def run(name: str, *tables: dict[Any, Any]) -> dict[str, Any]:
        saved.extend((table, dict(table)) for table in tables)
        code = "\n".join(re.findall(r"```python\n(.*?)```", (PAGES / f"{name}.md").read_text(encoding="utf-8"), re.S))
        names: dict[str, Any] = {"__name__": name}
        exec(compile(code, f"{name}.md", "exec"), names)
        return names

    yield run
    for table, before in saved:
        table.clear()
        table.update(before)


@pytest.mark.parametrize("page", sorted(PAGES.glob("add-*.md")), ids=lambda page: page.stem)
def test_a_page_is_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 60


def write_vox(path: Path, data_XYZ: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    words = " ".join(str(number) for number in (*data_XYZ.shape, *spacing_mm))
    path.write_bytes(f"VOX {words}".encode().ljust(64) + data_XYZ.astype("<i2").tobytes(order="F"))


def test_a_file_format_is_one_function_and_one_row(run_page, tmp_path):
    data_XYZ = np.random.default_rng(0).integers(0, 1000, (9, 10, 11))
    write_vox(tmp_path / "scan.vox", data_XYZ, (1.0, 2.0, 3.0))
    with pytest.raises(DataError, match="unsupported kind of file"):
        moediff.load(tmp_path / "scan.vox")
    run_page("add-a-file-format", FORMATS)
    volume = moediff.load(tmp_path / "scan.vox").volume
    torch.testing.assert_close(volume.data_XYZ, torch.from_numpy(data_XYZ).float())
    assert default_output(tmp_path / "scan.vox").name == "scan_desc-sr.nii.gz"
    torch.testing.assert_close(volume.affine, torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64)))


def test_the_new_format_refuses_damaged_files(run_page, tmp_path):
    run_page("add-a-file-format", FORMATS)
    write_vox(tmp_path / "cut.vox", np.arange(990).reshape(9, 10, 11), (1.0, 1.0, 1.0))
    whole = (tmp_path / "cut.vox").read_bytes()
    for damaged in (whole[:-2], b"VAX" + whole[3:], whole[:8]):
        (tmp_path / "cut.vox").write_bytes(damaged)
        with pytest.raises(DataError):
            moediff.load(tmp_path / "cut.vox")


def test_a_sampler_is_one_function_and_one_row(run_page, enhancer, make_phantom):
    with pytest.raises(ConfigError, match="midpoint"):
        moediff.EnhanceOptions(mode="detail", sampler="midpoint")
    run_page("add-a-sampler", SAMPLERS)
    options = moediff.EnhanceOptions(mode="detail", sampler="midpoint", steps=2)
    result = enhancer(make_phantom(SHAPE_XYZ, (1.0, 1.0, 3.0)), options)
    assert result.sidecar.settings.sampler == "midpoint"
    assert torch.isfinite(result.volume.data_XYZ).all()


def test_the_new_sampler_ends_at_the_truth_of_a_perfect_denoiser(run_page):
    midpoint = run_page("add-a-sampler", SAMPLERS)["midpoint"]
    truth = torch.rand(2, 1, 8, 8)
    x = truth + 80 * torch.randn(truth.shape)
    torch.testing.assert_close(midpoint(lambda x, sigma: truth, x, [80.0, 5.0, 0.0]), truth)


def test_the_new_sampler_is_of_second_order(run_page):
    """For data N(0, 1) the exact path is x proportional to sqrt(1 + sigma^2)."""
    midpoint = run_page("add-a-sampler", SAMPLERS)["midpoint"]
    sigmas = [10.0 * 0.5**step for step in range(8)]
    exact = math.sqrt((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2))

    def error(sampler) -> float:
        return abs(float(sampler(lambda x, sigma: x / (1 + sigma**2), torch.ones(()), sigmas)) / exact - 1)

    assert error(midpoint) < 0.3 * error(SAMPLERS["euler"])


def with_new_expert() -> Bundle:
    """An untrained network of the page's recipe."""
    page = (PAGES / "add-an-expert.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    torch.manual_seed(0)
    config = parse_as(BundleConfig, tomllib.loads(recipe)["model"])
    return Bundle(config, Denoiser(config.denoiser).eval(), {}, "")


def test_an_expert_is_one_module_and_one_row(run_page, make_phantom):
    with pytest.raises(ConfigError, match="edges"):
        with_new_expert()
    edges = run_page("add-an-expert", EXPERTS)["Edges"]
    bundle, phantom = with_new_expert(), make_phantom(SHAPE_XYZ, (1.0, 1.0, 3.0))
    options = moediff.EnhanceOptions(single_experts=True, data_consistency=False)
    before = Enhancer(bundle)(phantom, options)
    assert list(before.sidecar.experts) == ["deep white matter", "cortex", "junction", "rest", "cortex"]
    assert before.gate_XYZE.shape[-1] == before.single_experts_XYZE.shape[-1] == 5
    (branch,) = (module for module in bundle.denoiser.modules() if isinstance(module, edges))
    with torch.no_grad():
        branch.factor.mul_(4)
    changed = (
        (Enhancer(bundle)(phantom, options).single_experts_XYZE - before.single_experts_XYZE).abs().amax((0, 1, 2))
    )
    assert changed[4] > 0 and torch.equal(changed[:4], torch.zeros(4))  # its own result, and no other expert's


def test_tiles_of_the_new_expert_equal_the_whole(run_page, make_phantom, monkeypatch):
    run_page("add-an-expert", EXPERTS)
    enhancer, phantom = Enhancer(with_new_expert()), make_phantom((150, 24, 10), (1.0, 1.0, 3.0))
    whole = enhancer(phantom).volume.data_XYZ
    monkeypatch.setattr(tiling, "BYTES_PER_CHANNEL", 17)  # the activations of a whole head no longer fit
    tiled = enhancer(phantom, moediff.EnhanceOptions(memory_mb=64)).volume.data_XYZ
    assert not torch.equal(tiled, whole)
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-4 * float(whole.max()))
