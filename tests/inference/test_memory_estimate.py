"""Memory estimate: near a measured peak, and growing with what it should grow with."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import RAS
from moediff.core.volume import Grid
from moediff.inference.grid_plan import GridPlan
from moediff.inference.memory_estimate import cost_sentence, peak_memory_mib, seconds_on_cpu
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import save
from moediff.model.bundle import load_bundle
from moediff.model.config import BackboneConfig, DenoiserConfig

MEASURED = """
import sys
from moediff.cli.main import main
assert main(sys.argv[1:]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""  # not ru_maxrss: a process inherits that from the one that started it


def grid(*shape: int) -> Grid:
    return Grid((shape[0], shape[1], shape[2]), torch.eye(4, dtype=torch.float64))


THICK = Grid((64, 64, 20), torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float64)))


def plan(source: Grid, target: Grid, working: Grid | None = None) -> GridPlan:
    return GridPlan(source, target, RAS, working or target, None, 0.0, 0.0)


def predicted(target: Grid, working: Grid | None = None, **options) -> int:
    network = DenoiserConfig(backbone=BackboneConfig(width=64))
    return peak_memory_mib(plan(THICK, target, working), EnhanceOptions(**options), network)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from Linux' /proc")
def test_it_is_near_the_peak_of_a_process(make_phantom, tmp_path):
    truth = make_phantom((128, 144, 112), (1.5, 1.5, 1.5))
    low = degrade(truth, thick_slices(4, 0.01, "thick4"), rng_for(0))
    save(low, tmp_path / "a.nii.gz")
    words = ["enhance", str(tmp_path / "a.nii.gz"), "--voxel-size", "1.5", "-q", "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
    estimate = peak_memory_mib(plan(low.grid, truth.grid), EnhanceOptions(), load_bundle().config.denoiser)
    assert estimate == pytest.approx(int(done.stdout) / 1024, rel=0.25)


def test_it_grows_with_voxels_tiles_and_maps():
    small, large = grid(100, 100, 100), grid(200, 200, 200)
    assert predicted(large) > predicted(small) + 500
    assert predicted(large, memory_mb=64) == pytest.approx(predicted(large) - 1.4 * 8e6 * 64 / 2**20 + 64, abs=2)
    assert predicted(large, single_experts=True) == pytest.approx(predicted(large) + 16 * 8e6 / 2**20, abs=2)
    assert predicted(large, tta=2) == predicted(large, tta=8) == pytest.approx(predicted(large) + 114, abs=2)


def test_a_scan_that_is_passed_through_needs_no_tile():
    network = DenoiserConfig(backbone=BackboneConfig(width=64))
    as_fine, options = plan(grid(100, 100, 100), grid(100, 100, 100)), EnhanceOptions()
    through = peak_memory_mib(as_fine, options, network)
    assert through < predicted(grid(100, 100, 100)) - 50
    assert peak_memory_mib(replace(as_fine, one_of_several=True), options, network) > through + 50  # goes its usual way


def test_it_counts_the_voxels_that_are_worked_on():
    target, working = grid(50, 50, 50), grid(178, 178, 178)
    assert predicted(target, working=working) > predicted(working)
    turned = torch.eye(4, dtype=torch.float64)
    turned[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    assert (
        predicted(Grid(target.shape, turned), working=working, memory_mb=64)
        > predicted(target, working=working, memory_mb=64) + 150
    )


def fine_grid(size: float, shape: int) -> Grid:
    return Grid((shape, shape, shape), torch.diag(torch.tensor([size, size, size, 1.0], dtype=torch.float64)))


def fine_plan(size: float, shape: int) -> GridPlan:
    return plan(grid(64, 64, 64), fine_grid(size, shape))


def test_a_result_finer_than_a_millimetre_is_announced_with_its_cost():
    network = DenoiserConfig(backbone=BackboneConfig(width=64))
    said = cost_sentence([fine_plan(0.5, 128)], EnhanceOptions(), network, 2)
    assert said is not None and "0.5 x 0.5 x 0.5 mm: a grid of 128 x 128 x 128, 8.0 times the input's voxels" in said
    assert "GiB" in said and "on 2 CPU threads" in said
    assert cost_sentence([fine_plan(1.0, 64)], EnhanceOptions(), network, 2) is None
    as_fine = plan(fine_grid(0.5, 128), fine_grid(0.5, 128))
    assert cost_sentence([as_fine], EnhanceOptions(), network, 2) is None
    assert cost_sentence([replace(as_fine, one_of_several=True)] * 2, EnhanceOptions(), network, 2) is not None
    three = cost_sentence([fine_plan(0.5, 128)] * 3, EnhanceOptions(), network, 2)
    assert three is not None and _seconds(three) > 2 * _seconds(said)


def test_a_guide_costs_memory_and_time():
    network = DenoiserConfig(backbone=BackboneConfig(width=64))
    plans, options = [fine_plan(0.5, 256)], EnhanceOptions()
    alone = cost_sentence(plans, options, network, 1)
    guided = cost_sentence(plans, options, network, 1, guide=grid(200, 200, 200))
    assert alone is not None and guided is not None
    assert "seconds" in alone and "minutes" in guided
    assert _seconds(guided) > 3 * _seconds(alone)
    assert _gib(guided) > _gib(alone)


def _seconds(sentence: str) -> float:
    number, unit = re.findall(r"([\d.]+) (minutes|seconds) on", sentence)[0]
    return float(number) * (60 if unit == "minutes" else 1)


def _gib(sentence: str) -> float:
    return float(re.findall(r"about ([\d.]+) GiB", sentence)[0])


def test_time_counts_every_evaluation():
    head, network = fine_plan(0.5, 400), DenoiserConfig(backbone=BackboneConfig(width=64))

    def times(**options) -> float:
        return seconds_on_cpu(head, EnhanceOptions(**options), 1) / seconds_on_cpu(head, EnhanceOptions(), 1)

    assert times(samples=2) == pytest.approx(1 + 2 * 3)  # faithful: the mean, and the samples beside it
    assert times(samples=2, tta=4, steps=5) == pytest.approx(4 + 2 * 5)
    assert times(mode="detail") == pytest.approx(3)
    assert times(mode="detail", sampler="heun", steps=4) == pytest.approx(2 * 4 - 1)
    alone, singles = (
        _seconds(cost_sentence([head], EnhanceOptions(single_experts=asked), network, 1) or "")
        for asked in (False, True)
    )
    assert singles == pytest.approx((1 + len(network.experts.branches)) * alone, rel=0.1)


def test_time_is_that_of_the_measured_heads():
    """LOG.md, 2026-11-27: 224x224x208 voxels take 16.4 and 9.8 s of network time on one and two threads."""
    head = plan(grid(64, 64, 20), grid(224, 224, 208))
    assert seconds_on_cpu(head, EnhanceOptions(), 1) == pytest.approx(16.4, rel=0.15)
    assert seconds_on_cpu(head, EnhanceOptions(), 2) == pytest.approx(9.8, rel=0.15)
    assert seconds_on_cpu(head, EnhanceOptions(mode="detail"), 2) == pytest.approx(26.0, rel=0.25)
