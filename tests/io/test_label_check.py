"""Labels, masks and saturated maps are refused as scans; real 8-bit scans are not."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.cli.main import main
from moediff.core.errors import DataError
from moediff.core.volume import Volume
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.io.label_check import INTENTS, flatness, require_intensities, share_at_maximum
from moediff.io.scans import from_nibabel, from_volume, load

pytestmark = pytest.mark.fault(52)
AFFINE = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))


@pytest.fixture
def label_maps(brain_labels) -> dict[str, Volume]:
    labels = brain_labels.float()
    mask = (labels > 0).float()
    probability = torch.nn.functional.avg_pool3d((labels == 2).float()[None, None], 3, 1, 1)[0, 0].mul(255).round()
    smooth = torch.nn.functional.avg_pool3d((labels == 2).float()[None, None], 5, 1, 2)[0, 0]
    smooth = torch.where((smooth > 0) & (smooth < 1), smooth * (1 + 1e-4 * torch.rand(smooth.shape)), smooth)
    maps = {
        "tissue classes": labels,
        "mask": mask,
        "mask of 0.5": mask * 0.5,
        "probabilities": probability,
        "probabilities as real numbers": smooth,
        "thick slices": labels[::3],
    }
    return {name: Volume(data.contiguous(), AFFINE) for name, data in maps.items()}


@pytest.mark.parametrize(
    "name", ["tissue classes", "mask", "mask of 0.5", "probabilities", "probabilities as real numbers", "thick slices"]
)
def test_a_map_is_refused_with_what_to_do_instead(label_maps, name):
    scan = from_volume(label_maps[name])
    with pytest.raises(DataError, match=r"found (labels|a mask) .*nearest neighbour.*--trust-intensities"):
        plan_grids(scan, EnhanceOptions())
    insisting = EnhanceOptions(trust_intensities=True, voxel_size=(1.0,))
    assert plan_grids(scan, insisting).target.spacing_mm == pytest.approx((1, 1, 1))


def test_a_label_intent_is_refused_whatever_the_values(nifti):
    """The intent stands at byte 68; every other file is a scan."""
    labels, scan = load(nifti(intent_code=1002)), load(nifti())
    assert (labels.intent, scan.intent) == (1002, 0)
    require_intensities(scan)
    with pytest.raises(DataError, match=r"found a label map .the header's intent_code is 1002.: enhance the scan"):
        require_intensities(labels)
    with pytest.raises(DataError, match="a statistical map"):
        require_intensities(replace(scan, intent=3))
    assert set(INTENTS) == {*range(2, 25), 1002, 1006, 1007}


def test_the_intent_of_an_image_in_memory_counts_too(voxels):
    image = nib.Nifti1Image(voxels("<f4"), np.diag([5.0, 5, 5, 1]))
    image.header["intent_code"] = 1002
    assert from_nibabel(image).intent == 1002


def test_the_command_refuses_labels_and_insists_on_request(brain_labels, tmp_path, capsys):
    path = tmp_path / "sub-1_dseg.nii.gz"
    nib.save(nib.Nifti1Image(brain_labels.numpy().astype(np.uint8), AFFINE.numpy()), path)
    assert main(["enhance", str(path), "--dry-run"]) == 65
    assert "nearest neighbour" in capsys.readouterr().err
    assert main(["enhance", str(path), "--dry-run", "--trust-intensities"]) == 0


def test_flatness_of_known_values():
    """Rows of equal pairs, every second neighbour equal along X: along Y none is, so stripes are no labels."""
    line = torch.arange(1, 9).repeat_interleave(2).float()
    block = line[:, None, None] + 16 * torch.arange(16.0)[None, :, None].expand(16, 16, 16)
    count, equal = flatness(block)
    assert share_at_maximum(torch.tensor([[[0.0, 1, 2, 2]]])) == pytest.approx(2 / 3)
    assert count == len(torch.unique(block)) and equal == 0.0


def test_real_scans_are_taken(shared_data):
    paths = [p for part in ("train", "val", "anisotropic") for p in sorted((shared_data / part).glob("*.nii.gz"))]
    scans = [p for p in paths if "mask" not in p.name]
    assert len(scans) > 20
    for path in scans:
        require_intensities(load(path))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_scan_enlarged_by_repeated_voxels_is_taken(make_phantom, factor):
    """8 bits and doubled or tripled voxels, as old viewers export them."""
    head = make_phantom()
    data = (head.data_XYZ / head.data_XYZ.max() * 255).round()
    for axis in range(2):
        data = data.repeat_interleave(factor, axis)
    require_intensities(from_volume(Volume(data, head.affine)))


def test_labels_of_the_shared_brains_are_refused(shared_data):
    with pytest.raises(DataError, match=r"5[0-9] different values, 89% of neighbours equal"):
        require_intensities(load(shared_data / "labels" / "training_seg_01.nii.gz"))
