"""Names of devices and precisions, and what a processor is fast at."""

from __future__ import annotations

import pytest
import torch

from moediff.core.device import SLOW_BFLOAT16, has_fast_bfloat16, parse_device, parse_dtype, visible_gpus
from moediff.core.errors import ConfigError
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.session import Session
from pretend_gpu import pretended

CPU = torch.device("cpu")


def scan() -> Volume:
    """A few thick slices of a ball."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij")
    ball = (x**2 + y**2 + z**2 < 0.8) * 100 + torch.rand(24, 24, 24)
    return Volume(ball[..., ::3].contiguous(), torch.diag(torch.tensor([2.0, 2, 6, 1], dtype=torch.float64)))


def test_names_are_taken_or_refused_with_the_choices():
    assert parse_device("cpu") == CPU and parse_dtype("bfloat16") == torch.bfloat16
    for name in ("gpu", "cuda:", "cuda:²", "cuda:1 ", "CUDA", "cuda:-1"):
        with pytest.raises(ConfigError, match=f"device '{name}' is unknown; choose auto, cpu, cuda or cuda:N"):
            parse_device(name)
    with pytest.raises(ConfigError, match=r"torch sees \d+ CUDA devices; use cpu"):
        parse_device("cuda:99")
    with pytest.raises(ConfigError, match="dtype 'half' is unknown; choose from float32, bfloat16"):
        parse_dtype("half")


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({"avx512_bf16": True, "amx_bf16": False}, True), ({"avx512_bf16": False, "avx2": True}, False), ({}, False)],
)
def test_fast_bfloat16_is_read_from_the_processor(capabilities, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bfloat16(CPU) is fast


def test_an_older_torch_counts_as_fast(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_fast_bfloat16(CPU)


@pytest.mark.parametrize(
    ("dtype", "fast", "warned"), [("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False)]
)
def test_slow_precision_gives_a_warning(dtype, fast, warned, monkeypatch):
    monkeypatch.setattr("moediff.core.device.has_fast_bfloat16", lambda _: fast)
    record = Enhancer(dtype=dtype, device="cpu")(scan()).sidecar
    assert (SLOW_BFLOAT16 in record.warnings) is warned
    assert record.settings.dtype == dtype


@pytest.mark.skipif(not has_fast_bfloat16(CPU), reason="this processor has no bfloat16 instructions")
def test_only_the_network_runs_in_bfloat16(monkeypatch):
    """What is done with its result, data consistency above all, needs float32."""
    seen, real = [], Session.compose

    def watched(*args):
        seen.append(torch.is_autocast_enabled("cpu"))
        return real(*args)

    monkeypatch.setattr(Session, "compose", watched)
    result = Enhancer(dtype="bfloat16", device="cpu")(scan())
    assert seen == [False] and result.volume.data_XYZ.dtype == torch.float32


def test_gpus_are_named_as_the_environment_names_them(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus("cpu") == ()
    with pretended():
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert visible_gpus("auto") == visible_gpus("cuda") == ("0", "1")
        assert visible_gpus("cuda:1") == ("",) and visible_gpus("cpu") == ()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5e2a")
        assert visible_gpus("auto") == ("3", "GPU-5e2a")
