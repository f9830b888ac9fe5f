"""Lesions of known size and contrast: intact, weakened, false negatives and false positives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.evaluation.evaluate import Annotations, EvaluateOptions, evaluate
from moediff.evaluation.lesions import LesionScores, judge_lesions, white_matter
from moediff.io.scans import save

SHAPE = (48, 44, 40)
ONE_MM = (1.0, 1.0, 1.0)
TISSUE, BRIGHT = 0.5, 0.8
CENTRES, RADII = ((14, 14, 14), (34, 14, 22), (24, 34, 14)), (4.0, 3.0, 2.0)


def ball(centre: tuple[int, int, int], radius: float) -> Tensor:
    x, y, z = torch.meshgrid(*[torch.arange(n) for n in SHAPE], indexing="ij")
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= radius**2


DEEP = (26, 16, 28)  # 10 mm and more below the surface of the volume and further than 4 mm from every outline

BALLS = [ball(centre, radius) for centre, radius in zip(CENTRES, RADII, strict=True)]
OUTLINES = torch.stack(BALLS).any(0)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    tissue = TISSUE + 0.01 * torch.randn(SHAPE, generator=rng_for(0, "tissue"))
    return tissue + (BRIGHT - TISSUE) * OUTLINES


def judged(pred: Tensor, truth: Tensor) -> LesionScores:
    return judge_lesions(pred, truth, EVERYWHERE, OUTLINES, ONE_MM)


def test_a_perfect_prediction_scores_perfectly(truth):
    scores = judged(truth, truth)
    assert (scores.count, scores.false_negatives, scores.false_positives) == (3, 0, 0)
    assert scores.dice == 1 and scores.contrast_recovery == pytest.approx(1)
    assert scores.volume_pred_ml == scores.volume_ref_ml == pytest.approx(int(OUTLINES.sum()) / 1000)
    assert scores.each[0].contrast_ref == pytest.approx(BRIGHT - TISSUE, abs=0.01)
    assert 25 < scores.cnr_ref < 36  # 0.3 over 0.01


def test_one_erased_lesion_is_a_false_negative(truth):
    pred = torch.where(BALLS[2], torch.full(SHAPE, TISSUE), truth)
    scores = judged(pred, truth)
    assert (scores.count, scores.false_negatives, scores.false_positives) == (3, 1, 0)
    missed = next(lesion for lesion in scores.each if lesion.false_negative)
    assert missed.voxels == int(BALLS[2].sum()) and missed.volume_pred_ml == 0 and missed.dice == 0


def test_half_the_contrast_is_measured_as_half(truth):
    pred = truth - 0.5 * (BRIGHT - TISSUE) * OUTLINES
    assert judged(pred, truth).contrast_recovery == pytest.approx(0.5, abs=0.01)


def test_bright_and_dark_lesions_do_not_cancel():
    """One of each, of nearly opposite contrast: half of both is half, and their noise ratios are sizes."""
    tissue = TISSUE + 0.01 * torch.randn(SHAPE, generator=rng_for(0, "tissue"))
    change = 0.3 * BALLS[0].float() - 0.29 * BALLS[1].float()
    outlines = BALLS[0] | BALLS[1]
    scores = judge_lesions(tissue + 0.5 * change, tissue + change, EVERYWHERE, outlines, ONE_MM)
    assert scores.count == 2 and scores.contrast_recovery == pytest.approx(0.5, abs=0.02)
    assert scores.cnr_ref == pytest.approx(2 * scores.cnr_pred, rel=0.1) and scores.cnr_ref > 20
    turned = judge_lesions(tissue - change, tissue + change, EVERYWHERE, outlines, ONE_MM)
    assert turned.contrast_recovery == pytest.approx(-1, abs=0.02)


def test_lesions_without_any_contrast_are_judged_not_divided_by():
    flat = torch.full(SHAPE, TISSUE)
    scores = judge_lesions(flat, flat, EVERYWHERE, OUTLINES, ONE_MM)
    assert scores.contrast_recovery == 0 and scores.false_negatives == 0


def test_an_erased_lesion_beside_a_large_one_is_a_false_negative():
    """Three voxels two voxels from a large lesion's edge: what the neighbour shows does not stand for them."""
    small = torch.zeros(SHAPE, dtype=torch.bool)
    small[20, 13:16, 14] = True
    large = BALLS[0] & ~small
    truth = torch.full(SHAPE, TISSUE) + 0.01 * torch.randn(SHAPE, generator=rng_for(0, "tissue"))
    both = truth + 0.3 * (large | small)
    scores = judge_lesions(truth + 0.3 * large, both, EVERYWHERE, large | small, ONE_MM)
    assert (scores.count, scores.false_negatives) == (2, 1)
    intact = judge_lesions(both, both, EVERYWHERE, large | small, ONE_MM)
    assert intact.volume_ref_ml == pytest.approx(int((large | small).sum()) / 1000)


@pytest.mark.parametrize(("radius", "count"), [(2.0, 1), (1.0, 1), (0.5, 0)])
def test_a_new_bright_spot_is_a_false_positive_when_large_enough(radius, count, truth):
    spot = ball(DEEP, radius)
    pred = truth + (BRIGHT - TISSUE) * spot
    scores = judged(pred, truth)
    assert scores.false_positives == count and scores.false_negatives == 0
    assert scores.false_positive_ml == pytest.approx(count * int(spot.sum()) / 1000)


def test_a_spot_of_two_voxels_counts_where_voxels_are_large(truth):
    spot = torch.zeros(SHAPE, dtype=torch.bool)
    spot[DEEP[0], DEEP[1], DEEP[2] : DEEP[2] + 3] = True
    pred = truth + (BRIGHT - TISSUE) * spot
    assert judged(pred, truth).false_positives == 1
    spot[DEEP] = False
    assert judged(truth + (BRIGHT - TISSUE) * spot, truth).false_positives == 0


@pytest.mark.parametrize(("share", "count"), [(0.9, 1), (0.4, 0)])
def test_a_faint_spot_is_no_lesion(share, count, truth):
    assert judged(truth + share * (BRIGHT - TISSUE) * ball(DEEP, 2.0), truth).false_positives == count


def test_a_spot_near_the_surface_is_no_lesion(truth):
    assert judged(truth + (BRIGHT - TISSUE) * ball((38, 36, 35), 2.0), truth).false_positives == 0


def test_a_displaced_edge_is_no_false_positive(truth):
    """A bright band, as cortex is, thicker by two voxels in the prediction; loose rules count its rim."""
    band = torch.zeros(SHAPE, dtype=torch.bool)
    band[:, :, 26:30] = True
    thick = torch.zeros(SHAPE, dtype=torch.bool)
    thick[:, :, 24:32] = True
    assert judged(truth + (BRIGHT - TISSUE) * thick, truth + (BRIGHT - TISSUE) * band).false_positives == 0


def test_a_spot_one_voxel_off_is_there_in_the_reference(truth):
    moved = truth + (BRIGHT - TISSUE) * ball((DEEP[0] - 3, *DEEP[1:]), 1.0)
    assert judged(moved, truth + (BRIGHT - TISSUE) * ball(DEEP, 1.0)).false_positives == 0
    far = truth + (BRIGHT - TISSUE) * ball((DEEP[0] - 5, *DEEP[1:]), 1.0)
    assert judged(far, truth + (BRIGHT - TISSUE) * ball(DEEP, 1.0)).false_positives == 1


def test_noise_on_a_level_is_no_false_positive(truth):
    noisy = truth + 0.04 * torch.randn(SHAPE, generator=rng_for(2))
    assert judged(noisy, truth).false_positives == 0


def test_a_large_bright_patch_without_contrast_of_its_own_is_not_a_lesion(truth):
    """Everything above a slope is bright in the prediction: no ring around it is darker by enough."""
    slope = torch.linspace(0, 2 * (BRIGHT - TISSUE), SHAPE[0])[:, None, None].expand(SHAPE)
    assert judged(truth + slope, truth).false_positives == 0


def test_white_matter_is_segmented_where_tissues_are_distinct(brain_labels):
    levels = torch.zeros(25)
    levels[[2, 3, 4, 24]] = torch.tensor([900.0, 600.0, 250.0, 250.0])
    brain = brain_labels > 0
    data = (levels[brain_labels.long()] + 10 * torch.rand(brain.shape, generator=rng_for(0))) * brain
    scores = white_matter(data, brain, (2.0, 2.0, 2.0))
    assert float((scores == (brain_labels == 2))[brain].float().mean()) > 0.95


def test_dark_lesions_are_judged_alike(truth):
    dark, pred = 2 * TISSUE - truth, 2 * TISSUE - truth
    assert judged(dark, dark).dice == 1
    pred = torch.where(BALLS[0], torch.full(SHAPE, TISSUE), pred)
    scores = judged(pred + (TISSUE - BRIGHT) * ball(DEEP, 2.0), dark)
    assert (scores.false_negatives, scores.false_positives) == (1, 1)


def test_what_the_reference_holds_too_is_no_false_positive(truth):
    both = truth + (BRIGHT - TISSUE) * ball(DEEP, 3.0)
    assert judged(both, both).false_positives == 0


def test_outlines_of_two_voxels_are_no_lesion_to_judge(truth):
    speck = torch.zeros(SHAPE, dtype=torch.bool)
    speck[20, 20, 20:22] = True
    with pytest.raises(DataError, match="no lesion to judge; expected outlines of 3 voxels"):
        judge_lesions(truth, truth, EVERYWHERE, speck, ONE_MM)


def test_evaluate_and_the_command_score_lesions(head, blurred, tmp_path, capsys):
    outlines = torch.zeros(head.shape)
    outlines[18:21, 14:17, 18:21] = 1
    sharp = head.with_data(head.data_XYZ * (1 + 0.5 * outlines))
    options = EvaluateOptions(metrics=("psnr",))
    record = evaluate(
        head.with_data(blurred), sharp, options, annotations=Annotations(lesions=head.with_data(outlines))
    )
    assert record.lesions.count == 1 and record.lesions.contrast_recovery < 0.9
    names = {"p": head.with_data(blurred), "r": sharp, "x": head.with_data(outlines)}
    for name, volume in names.items():
        save(volume, tmp_path / f"{name}.nii.gz")
    p, r, x = (str(tmp_path / f"{name}.nii.gz") for name in names)
    csv = tmp_path / "out.csv"
    assert main(["evaluate", "--pred", p, "--ref", r, "--lesions", x, "--metrics", "psnr", "--csv", str(csv)]) == 0
    assert "lesions_false_negatives" in capsys.readouterr().out
    assert {"lesions_false_negatives", "lesions_false_positives", "lesions_dice"} <= set(
        csv.read_text().splitlines()[0].split(",")
    )
