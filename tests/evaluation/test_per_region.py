"""Each part is judged by its own voxels and the scale of the whole."""

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
from moediff.evaluation.per_region import LEAST_VOXELS, by_part, named_parts
from moediff.io.scans import save


@pytest.fixture(scope="module")
def halves(head) -> Volume:
    """Labels 7 and 9 to the left and right, 3 in a few voxels."""
    labels = torch.full(head.shape, 7.0)
    labels[head.shape[0] // 2 :] = 9.0
    labels[20, 20:24, 20:24] = 3.0
    return head.with_data(labels)


def test_an_error_in_one_part_is_seen_there_only(head, halves):
    number, names = named_parts(head, halves)
    assert names == {3: "3", 7: "7", 9: "9"} and (number == 3).sum() < LEAST_VOXELS
    mask = head_mask(head.data_XYZ)
    top = data_range(head.data_XYZ, mask)
    wrong = head.data_XYZ + 0.1 * top * (number == 9)
    found = by_part(wrong, head.data_XYZ, mask, (number, names))
    assert set(found) == {"7", "9"}  # label 3 is too small to say anything
    assert found["7"]["psnr"] == math.inf and found["7"]["nrmse"] == 0
    assert found["9"]["psnr"] == pytest.approx(20, abs=1e-3)
    assert found["9"]["voxels"] == int((mask & (number == 9)).sum())


def test_parts_make_up_the_whole(head, blurred, halves, everywhere):
    number, names = named_parts(head, halves)
    number[number == 3] = 7
    top = data_range(head.data_XYZ, everywhere)
    found = by_part(blurred, head.data_XYZ, everywhere, (number, names))
    voxels = sum(part["voxels"] for part in found.values())
    assert voxels == head.data_XYZ.numel()
    together = sum(part["ssim"] * part["voxels"] for part in found.values()) / voxels
    assert together == pytest.approx(ssim(blurred, head.data_XYZ, everywhere, top), rel=1e-5)


def test_a_stripped_reference_is_judged_by_region(brain_labels):
    levels = torch.zeros(25)
    levels[[2, 3, 4, 24]] = torch.tensor([900.0, 600.0, 250.0, 250.0])
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    brain = Volume((levels[brain_labels.long()] + 10 * torch.rand(brain_labels.shape)) * (brain_labels > 0), affine)
    record = evaluate(brain, brain, EvaluateOptions(metrics=("psnr",), regions=True))
    assert set(record["parts"]) == set(REGIONS)


def test_a_reference_without_distinct_tissues_is_refused(head):
    with pytest.raises(DataError, match="regions cannot be told apart; expected a skull-stripped scan"):
        evaluate(head, head, EvaluateOptions(metrics=("psnr",), regions=True))


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "not whole numbers"), (math.nan, "not whole numbers"), (0.0, "holds 0 labels")]
)
def test_wrong_label_maps_are_refused(value, words, head):
    with pytest.raises(DataError, match=words):
        named_parts(head, head.with_data(torch.full(head.shape, value)))


def test_labels_on_another_grid_are_refused(head, halves):
    other = with_spacing(head.grid, (5.0, 5.0, 5.0))
    with pytest.raises(GeometryError, match="label map"):
        named_parts(head, Volume(torch.ones(other.shape), other.affine))


def test_the_command_prints_and_writes_parts(head, blurred, halves, tmp_path, capsys):
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
