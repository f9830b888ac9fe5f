"""Lesions of known size and contrast: kept, weakened, lost, invented."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from moediff.cli import main
from moediff.config import rng_for
from moediff.errors import DataError
from moediff.evaluation.evaluate import Drawn, EvaluateOptions, evaluate
from moediff.evaluation.lesions import components, judge_lesions
from moediff.volume.io import save

SHAPE = (48, 44, 40)
ONE_MM = (1.0, 1.0, 1.0)
TISSUE, BRIGHT = 0.5, 0.8
CENTRES, RADII = ((14, 14, 14), (34, 14, 22), (24, 34, 14)), (4.0, 3.0, 2.0)


def ball(centre: tuple[int, int, int], radius: float) -> Tensor:
    x, y, z = torch.meshgrid(*[torch.arange(n) for n in SHAPE], indexing="ij")
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= radius**2


BALLS = [ball(centre, radius) for centre, radius in zip(CENTRES, RADII, strict=True)]
OUTLINES = torch.stack(BALLS).any(0)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    tissue = TISSUE + 0.01 * torch.randn(SHAPE, generator=rng_for(0, "tissue"))
    return tissue + (BRIGHT - TISSUE) * OUTLINES


def judged(pred: Tensor, truth: Tensor) -> dict:
    return judge_lesions(pred, truth, EVERYWHERE, OUTLINES, ONE_MM)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_components_are_those_of_scipy(share):
    mask = torch.rand(12, 15, 11, generator=rng_for(1)) < share
    wanted, count = ndimage.label(mask.numpy(), structure=torch.ones(3, 3, 3).numpy())
    found = components(mask)
    assert int(found.max()) == count and torch.equal(found > 0, mask)
    pairs = {(int(a), int(b)) for a, b in zip(found[mask], torch.from_numpy(wanted)[mask], strict=True)}
    assert len(pairs) == count  # one to one


def test_no_group_in_an_empty_mask_and_one_in_a_full_one():
    assert int(components(torch.zeros(4, 4, 4, dtype=torch.bool)).max()) == 0
    assert torch.equal(components(torch.ones(4, 4, 4, dtype=torch.bool)), torch.ones(4, 4, 4, dtype=torch.int64))


def test_a_perfect_prediction_keeps_everything(truth):
    found = judged(truth, truth)
    assert (found["count"], found["lost"], found["invented"]) == (3, 0, 0)
    assert found["dice"] == 1 and found["contrast_kept"] == pytest.approx(1)
    assert found["volume_pred_ml"] == found["volume_ref_ml"] == pytest.approx(int(OUTLINES.sum()) / 1000)
    assert found["each"][0]["contrast_ref"] == pytest.approx(BRIGHT - TISSUE, abs=0.01)
    assert 25 < found["cnr_ref"] < 36  # 0.3 over 0.01


def test_one_erased_lesion_is_lost(truth):
    pred = torch.where(BALLS[2], torch.full(SHAPE, TISSUE), truth)
    found = judged(pred, truth)
    assert (found["count"], found["lost"], found["invented"]) == (3, 1, 0)
    lost = next(lesion for lesion in found["each"] if lesion["lost"])
    assert lost["voxels"] == int(BALLS[2].sum()) and lost["volume_pred_ml"] == 0 and lost["dice"] == 0


def test_half_the_contrast_is_measured_as_half(truth):
    pred = truth - 0.5 * (BRIGHT - TISSUE) * OUTLINES
    assert judged(pred, truth)["contrast_kept"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("radius", "invented"), [(2.0, 1), (0.5, 0)])
def test_a_new_bright_spot_is_invented_when_large_enough(radius, invented, truth):
    spot = ball((38, 36, 32), radius)
    pred = truth + (BRIGHT - TISSUE) * spot
    found = judged(pred, truth)
    assert found["invented"] == invented and found["lost"] == 0
    assert found["invented_ml"] == pytest.approx(invented * int(spot.sum()) / 1000)


def test_dark_lesions_are_judged_alike(truth):
    dark, pred = 2 * TISSUE - truth, 2 * TISSUE - truth
    assert judged(dark, dark)["dice"] == 1
    pred = torch.where(BALLS[0], torch.full(SHAPE, TISSUE), pred)
    found = judged(pred + (TISSUE - BRIGHT) * ball((38, 36, 32), 2.0), dark)
    assert (found["lost"], found["invented"]) == (1, 1)


def test_what_the_reference_holds_too_is_not_invented(truth):
    both = truth + (BRIGHT - TISSUE) * ball((38, 36, 32), 3.0)
    assert judged(both, both)["invented"] == 0


def test_outlines_of_two_voxels_are_no_lesion_to_judge(truth):
    speck = torch.zeros(SHAPE, dtype=torch.bool)
    speck[20, 20, 20:22] = True
    with pytest.raises(DataError, match="no lesion to judge; expected outlines of 3 voxels"):
        judge_lesions(truth, truth, EVERYWHERE, speck, ONE_MM)


def test_evaluate_and_the_command_tell_what_became_of_lesions(head, blurred, tmp_path, capsys):
    outlines = torch.zeros(head.shape)
    outlines[18:21, 14:17, 18:21] = 1
    sharp = head.with_data(head.data_XYZ * (1 + 0.5 * outlines))
    options = EvaluateOptions(metrics=("psnr",))
    record = evaluate(head.with_data(blurred), sharp, options, drawn=Drawn(lesions=head.with_data(outlines)))
    assert record["lesions"]["count"] == 1 and record["lesions"]["contrast_kept"] < 0.9
    names = {"p": head.with_data(blurred), "r": sharp, "x": head.with_data(outlines)}
    for name, volume in names.items():
        save(volume, tmp_path / f"{name}.nii.gz")
    p, r, x = (str(tmp_path / f"{name}.nii.gz") for name in names)
    csv = tmp_path / "out.csv"
    assert main(["evaluate", "--pred", p, "--ref", r, "--lesions", x, "--metrics", "psnr", "--csv", str(csv)]) == 0
    assert "lesions_lost" in capsys.readouterr().out
    assert {"lesions_lost", "lesions_invented", "lesions_dice"} <= set(csv.read_text().splitlines()[0].split(","))
