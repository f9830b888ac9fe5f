"""GPU: which data it gets and where the host waits for it, on a device that is only simulated."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.inference import session
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from pretend_gpu import OnGpu, pretended

CHOICES = {
    "faithful": {"tta": 2, "single_experts": True, "correct_slice_intensity": True},
    "detail": {"mode": "detail", "steps": 2, "samples": 2},
    "small tiles": {"memory_mb": 64, "data_consistency": False},
}


@pytest.fixture(scope="module")
def low(make_phantom) -> Volume:
    return degrade(make_phantom((44, 48, 44), (3.0, 3.0, 3.0)), thick_slices(4, 0.01, "thick4"), rng_for(0))


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    with pretended() as gpu:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert there.device == torch.device("cuda:0") and isinstance(there * 2, OnGpu)
        for mixed in (
            lambda: there + here,
            lambda: here.mul_(there[0]),
            lambda: here[there.long()],
            lambda: torch.cat([here, there]),
            lambda: there.index_select(0, here.long()),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert not gpu.waits
        assert float(there.sum()) == 3 and there[here > 0].cpu().tolist() == [1, 1, 1]
        assert sum(gpu.waits.values()) == 3  # a number, a mask, a copy back


@pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES)
def test_a_gpu_gets_everything_and_gives_the_same_back(bundle, enhancer, low, chosen, monkeypatch):
    options, places = EnhanceOptions(voxel_size=(3.0,), **chosen), []
    plain = enhancer(low, options)
    finish = session.Session.finish

    def watched(self, output):
        parts = self.prepared.interpolated_XYZ, self.prepared.mask_XYZ, output.result_XYZ
        places.extend(part.device.type for part in parts)
        return finish(self, output)

    monkeypatch.setattr(session.Session, "finish", watched)
    with pretended() as gpu:
        result = Enhancer(bundle, device="cuda")(low, options)
    assert places == ["cuda"] * 3
    tolerance = {"rtol": 1e-3, "atol": 0.2}  # of 1000; quantiles are float32 there
    assert_close(result.volume.data_XYZ, plain.volume.data_XYZ, **tolerance)
    assert_close(result.gate_XYZE, plain.gate_XYZE, rtol=1e-4, atol=1e-4)
    assert torch.equal(result.mask_XYZ, plain.mask_XYZ) and plain.residual is not None and result.residual is not None
    assert_close(result.residual.data_XYZ, plain.residual.data_XYZ, **tolerance)
    assert plain.uncertainty is not None and result.uncertainty is not None
    assert_close(result.uncertainty.data_XYZ, plain.uncertainty.data_XYZ, **tolerance)
    if plain.single_experts_XYZE is not None:
        assert_close(result.single_experts_XYZE, plain.single_experts_XYZE, **tolerance)
    network = {place: count for place, count in gpu.waits.items() if " model/" in place}
    assert network and all(" model/execution.py" in place for place in network)


def test_what_does_not_fit_beside_the_network_is_prepared_on_the_cpu(bundle, enhancer, low, monkeypatch):
    options, seen = EnhanceOptions(voxel_size=(3.0,)), []
    real = session.prepare

    def watched(scan, *rest, **words):
        seen.append(scan.data_XYZ.device.type)
        return real(scan, *rest, **words)

    monkeypatch.setattr(session, "prepare", watched)
    plain = enhancer(low, options)
    with pretended():
        on_gpu = Enhancer(bundle, device="cuda")
        for free in (2**40, options.memory_mb * 2**20):
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, free=free: (free, 2**40))
            assert_close(on_gpu(low, options).volume.data_XYZ, plain.volume.data_XYZ, rtol=1e-3, atol=0.05)
    assert seen == ["cpu", "cuda", "cpu"]
