"""Scores per region: each region by its own voxels and the scale of the whole."""

from __future__ import annotations

import math

import pytest
import torch

from moediff.anatomy.regions import REGIONS
from moediff.cli.main import main
from moediff.core.errors import DataError, GeometryError
from moediff.core.geometry import with_spacing
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import EvaluateOptions, evaluate
from moediff.evaluation.metrics.fidelity import data_range, head_mask, ssim
from moediff.evaluation.per_region import LEAST_VOXELS, Regions, regions_of, score_regions
from moediff.io.scans import save


@pytest.fixture(scope="module")
def halves(head) -> Volume:
    """Labels 7 and 9 to the left and right, 3 in a few voxels."""
    labels = torch.full(head.shape, 7.0)
    labels[head.shape[0] // 2 :] = 9.0
    labels[20, 20:24, 20:24] = 3.0
    return head.with_data(labels)


def test_an_error_in_one_region_is_seen_there_only(head, halves):
    regions = regions_of(head, halves)
    number = regions.number_XYZ
    assert regions.names == {3: "3", 7: "7", 9: "9"} and (number == 3).sum() < LEAST_VOXELS
    mask = head_mask(head.data_XYZ)
    top = data_range(head.data_XYZ, mask)
    wrong = head.data_XYZ + 0.1 * top * (number == 9)
    scores = score_regions(wrong, head.data_XYZ, mask, regions)
    assert set(scores) == {"7", "9"}  # label 3 is too small to say anything
    assert scores["7"].psnr == math.inf and scores["7"].nrmse == 0
    assert scores["9"].psnr == pytest.approx(20, abs=1e-3)
    assert scores["9"].voxels == int((mask & (number == 9)).sum())


def test_regions_make_up_the_whole(head, blurred, halves, everywhere):
    regions = regions_of(head, halves)
    number = regions.number_XYZ.clone()
    number[number == 3] = 7
    top = data_range(head.data_XYZ, everywhere)
    scores = score_regions(blurred, head.data_XYZ, everywhere, Regions(number, regions.names))
    voxels = sum(one.voxels for one in scores.values())
    assert voxels == head.data_XYZ.numel()
    together = sum(one.ssim * one.voxels for one in scores.values()) / voxels
    assert together == pytest.approx(ssim(blurred, head.data_XYZ, everywhere, top), rel=1e-5)


def test_a_stripped_reference_is_judged_by_region(brain_labels):
    levels = torch.zeros(25)
    levels[[2, 3, 4, 24]] = torch.tensor([900.0, 600.0, 250.0, 250.0])
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    brain = Volume((levels[brain_labels.long()] + 10 * torch.rand(brain_labels.shape)) * (brain_labels > 0), affine)
    record = evaluate(brain, brain, EvaluateOptions(metrics=("psnr",), regions=True))
    assert set(record.regions) == set(REGIONS)


def test_a_reference_without_distinct_tissues_is_refused(head):
    with pytest.raises(DataError, match="regions cannot be separated; expected a skull-stripped scan"):
        evaluate(head, head, EvaluateOptions(metrics=("psnr",), regions=True))


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "not whole numbers"), (math.nan, "not whole numbers"), (0.0, "holds 0 labels")]
)
def test_wrong_label_maps_are_refused(value, words, head):
    with pytest.raises(DataError, match=words):
        regions_of(head, head.with_data(torch.full(head.shape, value)))


def test_labels_on_another_grid_are_refused(head, halves):
    other = with_spacing(head.grid, (5.0, 5.0, 5.0))
    with pytest.raises(GeometryError, match="label map"):
        regions_of(head, Volume(torch.ones(other.shape), other.affine))


def test_the_command_prints_and_writes_regions(head, blurred, halves, tmp_path, capsys):
    for name, volume in {"p": head.with_data(blurred), "r": head, "l": halves}.items():
        save(volume, tmp_path / f"{name}.nii.gz")
    files = [str(tmp_path / f"{name}.nii.gz") for name in "prl"]
    command = ["evaluate", "--pred", files[0], "--ref", files[1], "--metrics", "psnr"]
    assert main([*command, "--labels", files[2], "--csv", str(tmp_path / "out.csv")]) == 0
    assert "voxels" in capsys.readouterr().out
    header = (tmp_path / "out.csv").read_text().splitlines()[0].split(",")
    assert {"labels", "psnr_7", "ssim_9", "nrmse_9", "voxels_7"} <= set(header)
    assert main([*command, "--regions"]) == 65
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--regions", "--labels", files[2]])
