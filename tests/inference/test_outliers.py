"""Outlier voxels: one or fifty of them, dark or bright, must not change the rest of the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.evaluation.data_consistency import consistency
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.label_check import load_truth
from moediff.io.scans import load, save
from moediff.io.voxels import without_outliers
from moediff.training.sources import brain_scaled

OPTIONS = EnhanceOptions(voxel_size=(3.0,))
LEVELS = (-30.0, -200.0, -1000.0, -10_000.0, -32_768.0, -1e30, 1e5, 1e9, 1e15, 1e30)
pytestmark = pytest.mark.fault(42)


@pytest.fixture(scope="module")
def low(make_phantom) -> Volume:
    truth = make_phantom((60, 64, 60), (3.0, 3.0, 3.0))
    return degrade(truth, thick_slices(4, 0.01, "thick4"), rng_for(0))


@pytest.fixture(scope="module")
def clean(low, enhancer):
    return enhancer(low, OPTIONS)


def spoiled(volume: Volume, level: float, count: int) -> Volume:
    """Voxels of the air at the volume's first corner take this level."""
    data_XYZ = volume.data_XYZ.clone()
    data_XYZ[0, :count, 0] = level
    return volume.with_data(data_XYZ)


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("level", LEVELS)
def test_outliers_in_air_leave_the_head_alone(enhancer: Enhancer, low, clean, level, count):
    result = enhancer(spoiled(low, level, count), OPTIONS)
    head = clean.volume.data_XYZ > 100
    change = (result.volume.data_XYZ - clean.volume.data_XYZ)[head]
    assert float(change.abs().max()) < 0.01 * float(clean.volume.data_XYZ[head].mean())
    new = [warning for warning in result.sidecar.warnings if warning not in clean.sidecar.warnings]
    assert len(new) == 1 and f"outlier intensities: {count} voxels" in new[0]


@pytest.mark.parametrize("level", [-10_000.0, 1e5, 1e15])
def test_a_scan_that_is_only_resampled_does_not_see_them_and_one_that_is_copied_keeps_them(enhancer, low, level):
    changed = {}
    for size in (low.spacing_mm, (4.5, 4.5, 12.0)):
        before, after = (enhancer(scan, EnhanceOptions(voxel_size=size)) for scan in (low, spoiled(low, level, 1)))
        assert before.sidecar.pass_through and after.sidecar.pass_through
        changed[size[0]] = (after.volume.data_XYZ - before.volume.data_XYZ).abs()
    assert float(changed[4.5].max()) < 10  # of 1000
    assert int((changed[3.0] > 0).sum()) == 1 and float(changed[3.0][0, 0, 0]) > 0.9 * abs(level)


@pytest.mark.parametrize("level", [-10_000.0, 1e15])
def test_data_consistency_of_any_prediction_does_not_see_them(low, clean, level):
    judged = consistency(clean.volume, spoiled(low, level, 1), fit=False)
    assert judged.rms_over_range == pytest.approx(consistency(clean.volume, low, fit=False).rms_over_range, rel=0.01)


@pytest.mark.parametrize("level", [-10_000.0, 1e15])
def test_training_scans_and_simulations_do_not_see_them(low, level, tmp_path, capsys):
    scaled, _ = brain_scaled(low)
    again, _ = brain_scaled(spoiled(low, level, 1))
    assert float((again.data_XYZ - scaled.data_XYZ).abs().max()) < 0.01
    simulated = {}
    for name, volume in (("clean", low), ("spoiled", spoiled(low, level, 1))):
        (tmp_path / name).mkdir()
        save(volume, tmp_path / name / "in.nii.gz")
        target = tmp_path / name / "out.nii.gz"
        assert main(["degrade", str(tmp_path / name / "in.nii.gz"), "-o", str(target), "--recipe", "iso1.5"]) == 0
        simulated[name] = load(target).volume.data_XYZ
        truth = load_truth(tmp_path / name / "in.nii.gz", "name a scan").data_XYZ
        assert float((truth - low.data_XYZ).abs().max()) < 10
    assert float((simulated["spoiled"] - simulated["clean"]).abs().max()) < 10
    assert "outlier intensities: 1 voxels" in capsys.readouterr().err


def test_a_real_head_stays_within_a_percent(mni_scan, enhancer):
    """The middle of the average head, slices of 5 mm, one voxel of air at -10,000."""
    crop = Volume(mni_scan.data_XYZ[:, :, 40:120].contiguous(), mni_scan.affine)
    real = degrade(crop, thick_slices(5, 0.01, "thick5"), rng_for(0))
    options = EnhanceOptions(voxel_size=(2.0,))
    before = enhancer(real, options).volume.data_XYZ
    after = enhancer(spoiled(real, -10_000.0, 1), options).volume.data_XYZ
    head = before > 0.2 * float(before.max())
    assert float((after - before)[head].abs().max()) < 0.01 * float(before[head].mean())


def test_an_outlier_in_the_head_takes_the_median_of_its_neighbours(low):
    data_XYZ = low.data_XYZ.clone()
    data_XYZ[30, 32, 7] = -1000.0
    around = torch.cat([low.data_XYZ[29:32, 31:34, 6:9].flatten()[:13], low.data_XYZ[29:32, 31:34, 6:9].flatten()[14:]])
    assert float(without_outliers(data_XYZ)[30, 32, 7]) == float(around.median())


TAILS = {
    "zero air": np.maximum(np.random.default_rng(1).normal(0, 300, 100_000), 0),
    "standardised": np.random.default_rng(2).normal(0, 1, 2_000_000),
    "long dark tail": -np.random.default_rng(3).exponential(1, 2_000_000),
    "air at a level": np.random.default_rng(4).normal(1000, 5, 100_000),
}


@pytest.mark.parametrize("values", TAILS.values(), ids=TAILS.keys())
def test_natural_tails_are_no_outliers(values):
    data_XYZ = torch.from_numpy(values.astype(np.float32)).reshape(50, 50, -1)
    assert without_outliers(data_XYZ) is data_XYZ
