"""Reading training scans: one scale, voxel sizes asked for, label maps with regions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, InputMissing
from moediff.core.volume import Volume
from moediff.io.scans import save
from moediff.training.cache import ScanSource
from moediff.training.patches import (
    NO_REGION,
)
from moediff.training.sources import coarsest_truth, load_training_scans

EYE = torch.eye(4, dtype=torch.float64)


def test_no_scans_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"name at least one under \[\[scans\]\]"):
        load_training_scans((), tmp_path, 0)


@pytest.mark.parametrize("last", [{"path": "none.nii.gz"}, {"path": "a.nii", "input": "none.nii.gz"}])
def test_a_scan_that_is_missing_is_named_before_others_are_read(last, tmp_path):
    (tmp_path / "a.nii").write_text("no scan, and never read")
    with pytest.raises(InputMissing, match=r"none\.nii\.gz: there is no such training scan"):
        load_training_scans([ScanSource(path="a.nii"), ScanSource(**last)], tmp_path, 0)


def test_a_scan_becomes_one_head_per_voxel_size(tmp_path: Path, make_phantom):
    scan = make_phantom((60, 72, 52), (2.5, 2.5, 2.5))
    save(scan, tmp_path / "head_T1w.nii.gz")
    plain, fine, coarse = load_training_scans(
        [ScanSource(path="head_T1w.nii.gz", weight=2.0), ScanSource(path="head_T1w.nii.gz", spacing_mm=(2.5, 5.0))],
        tmp_path,
        0,
    )
    assert (plain.weight, fine.weight, coarse.weight) == (2.0, 0.5, 0.5)
    assert plain.data_XYZ.shape == fine.data_XYZ.shape == (60, 72, 52) and coarse.data_XYZ.shape == (30, 36, 26)
    assert plain.data_XYZ.dtype == torch.float16 and plain.region_XYZ is None
    brain = plain.data_XYZ[20:40, 24:48, 16:36].float()
    assert float(brain[brain > 0.2].median()) == pytest.approx(0.5, abs=0.15)
    ratio = plain.data_XYZ.float() / scan.data_XYZ.clamp_min(1)  # one scale for all voxels
    tissue = scan.data_XYZ > 100
    assert float(ratio[tissue].std() / ratio[tissue].mean()) < 2e-3
    inside = tissue[tuple(plain.inside_N3.T)].float()  # patches are centred in the head, not in air
    assert float(inside.mean()) > 1.4 * float(tissue.float().mean()) and 50_000 <= len(inside) < 100_000
    assert float(coarse.data_XYZ.float().mean() / plain.data_XYZ.float().mean()) == pytest.approx(1, abs=0.03)


def test_the_truth_of_simulations_is_the_coarsest_scan_that_training_takes(tmp_path: Path, make_phantom):
    save(make_phantom((60, 72, 52), (2.5, 2.5, 2.5)), tmp_path / "head_T1w.nii.gz")
    source = ScanSource(path="head_T1w.nii.gz", spacing_mm=(2.5, 5.0))
    truth, learned = coarsest_truth(source, tmp_path), load_training_scans([source], tmp_path, 0)[1].data_XYZ.float()
    assert truth.spacing_mm == pytest.approx((5.0, 5.0, 5.0))
    scale = float((truth.data_XYZ * learned).sum() / learned.square().sum())
    torch.testing.assert_close(truth.data_XYZ / scale, learned, rtol=2e-3, atol=2e-3)
    assert coarsest_truth(ScanSource(path="head_T1w.nii.gz"), tmp_path).shape == (60, 72, 52)
    with pytest.raises(ConfigError, match=r"head_T1w\.nii\.gz: .*finer voxels than the scan's 2\.5 mm"):
        coarsest_truth(ScanSource(path="head_T1w.nii.gz", spacing_mm=(2.0,)), tmp_path)


def test_a_stripped_scan_brings_its_regions(tmp_path: Path, brain_labels):
    labels = brain_labels
    data = torch.zeros(labels.shape)
    for label, level in ((2, 900.0), (3, 600.0), (4, 250.0), (24, 250.0)):
        data[labels == label] = level
    data = data + 20 * torch.randn(data.shape, generator=rng_for(0, "scan")) * (data > 0)
    save(Volume(data, torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))), tmp_path / "head_T1w.nii.gz")
    (head,) = load_training_scans([ScanSource(path="head_T1w.nii.gz")], tmp_path, 0)
    assert head.region_XYZ is not None and head.region_XYZ.shape == head.data_XYZ.shape
    assert {0, 1, 2} <= set(head.region_XYZ.unique().tolist())


def test_voxels_finer_than_the_scan_are_refused(tmp_path: Path, make_phantom):
    save(make_phantom((60, 72, 52), (2.5, 2.5, 2.5)), tmp_path / "head_T1w.nii.gz")
    with pytest.raises(ConfigError, match=r"finer voxels than the scan's 2\.5 mm"):
        load_training_scans([ScanSource(path="head_T1w.nii.gz", spacing_mm=(3.0, 2.0))], tmp_path, 0)
    with pytest.raises(ConfigError, match=r"head_T1w\.nii\.gz: .*fewer than 16 voxels .* up to 8\.12 mm"):
        load_training_scans([ScanSource(path="head_T1w.nii.gz", spacing_mm=(50.0,))], tmp_path, 0)


def test_a_label_map_becomes_several_scans_with_known_regions(tmp_path: Path):
    labels = torch.zeros(40, 36, 34)
    labels[6:34, 6:30, 6:28] = 3
    labels[10:30, 10:26, 10:24] = 2
    save(Volume(labels, EYE), tmp_path / "labels.nii.gz")
    listed = [ScanSource(path="labels.nii.gz", labels=True, copies=2, weight=3.0)]
    one, two = load_training_scans(listed, tmp_path, 0)
    assert (one.weight, two.weight) == (1.5, 1.5)
    assert one.data_XYZ.shape == (28 + 16, 24 + 16, 22 + 16)  # cut to the labels, with 8 voxels of air
    assert one.region_XYZ is not None and two.region_XYZ is not None
    assert torch.equal(one.region_XYZ, two.region_XYZ) and not torch.equal(one.data_XYZ, two.data_XYZ)
    assert (one.region_XYZ[:8] == NO_REGION).all() and int(one.region_XYZ[8, 20, 18]) == 1
    assert int(one.region_XYZ[22, 20, 18]) == 0
    assert torch.equal(one.inside_N3, (one.region_XYZ != NO_REGION).nonzero())
    again = load_training_scans(listed, tmp_path, 0)[0]
    assert torch.equal(again.data_XYZ, one.data_XYZ)
    assert not torch.equal(load_training_scans(listed, tmp_path, 1)[0].data_XYZ, one.data_XYZ)


def test_every_voxel_size_of_a_label_map_has_contrasts_of_its_own(tmp_path: Path):
    labels = torch.zeros(40, 40, 40)
    labels[8:32, 8:32, 8:32] = 3
    labels[14:26, 14:26, 14:26] = 2
    save(Volume(labels, EYE), tmp_path / "labels.nii")
    draw = lambda **how: load_training_scans([ScanSource(path="labels.nii", labels=True, **how)], tmp_path, 0)  # noqa: E731
    (plain,) = draw()
    first, second = draw(spacing_mm=(1.0, 1.0))
    assert torch.equal(first.data_XYZ, plain.data_XYZ) and not torch.equal(second.data_XYZ, plain.data_XYZ)


def test_a_label_map_is_drawn_on_finer_voxels_too(tmp_path: Path):
    labels = torch.zeros(30, 28, 26)
    labels[6:24, 6:22, 6:20] = 3
    labels[9:20, 9:19, 9:17] = 2
    save(Volume(labels, EYE), tmp_path / "labels.nii.gz")
    own, fine = load_training_scans(
        [ScanSource(path="labels.nii.gz", labels=True, spacing_mm=(1.0, 0.5), weight=3.0)], tmp_path, 0
    )
    plain = load_training_scans([ScanSource(path="labels.nii.gz", labels=True, weight=1.5)], tmp_path, 0)[0]
    assert (own.weight, fine.weight) == (1.5, 1.5) and torch.equal(own.data_XYZ, plain.data_XYZ)
    assert fine.data_XYZ.shape == (36 + 16, 32 + 16, 28 + 16)
    assert own.region_XYZ is not None and fine.region_XYZ is not None
    volume = [float((region != NO_REGION).sum()) for region in (own.region_XYZ, fine.region_XYZ)]
    assert volume[1] / 8 == pytest.approx(volume[0], rel=0.02)
    with pytest.raises(ConfigError, match=r"labels\.nii\.gz: spacing_mm=2 cannot be drawn from a label map of 1 mm"):
        load_training_scans([ScanSource(path="labels.nii.gz", labels=True, spacing_mm=(2.0,))], tmp_path, 0)
