"""Tissue volumes and overlap of brains whose tissues are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import EvaluateOptions, evaluate
from moediff.evaluation.metrics.tissue_volumes import compare_tissues

TWO_MM = (2.0, 2.0, 2.0)
OPTIONS = EvaluateOptions(metrics=("psnr",), tissues=True)


def scan(labels_XYZ: Tensor, grey: float = 600.0) -> Tensor:
    levels = torch.zeros(25)
    levels[[2, 3, 4, 24]] = torch.tensor([900.0, grey, 250.0, 250.0])
    data = levels[labels_XYZ.long()] + 10 * torch.randn(labels_XYZ.shape, generator=rng_for(0))
    return data.clamp_min(1) * (labels_XYZ > 0)


def test_a_copy_overlaps_fully_with_the_volumes_of_its_labels(brain_labels):
    data = scan(brain_labels)
    overlaps = compare_tissues(data, data, TWO_MM)
    assert list(overlaps) == ["fluid", "grey", "white"]
    assert all(one.dice == 1 and one.volume_ref_ml == one.volume_pred_ml for one in overlaps.values())
    for name, numbers in {"white": (2,), "grey": (3,), "fluid": (4, 24)}.items():
        true_ml = int(torch.isin(brain_labels, torch.tensor(numbers, dtype=torch.int32)).sum()) * 0.008
        assert overlaps[name].volume_ref_ml == pytest.approx(true_ml, rel=0.05)


def test_white_matter_that_became_cortex_is_missed_by_its_volume(brain_labels):
    changed = brain_labels.clone()
    front = torch.zeros(changed.shape, dtype=torch.bool)
    front[:, 56:] = True
    moved = front & (changed == 2)
    changed[moved] = 3
    overlaps = compare_tissues(scan(changed), scan(brain_labels), TWO_MM)
    missing_ml = overlaps["white"].volume_ref_ml - overlaps["white"].volume_pred_ml
    assert missing_ml == pytest.approx(int(moved.sum()) * 0.008, rel=0.05) and int(moved.sum()) > 1000
    assert overlaps["white"].dice < 0.97 and overlaps["fluid"].dice > 0.98


def test_what_lies_around_the_brain_does_not_count(brain_labels):
    data = scan(brain_labels)
    overlaps = compare_tissues(data + 40 * (brain_labels == 0), data, TWO_MM)
    assert min(one.dice for one in overlaps.values()) == 1


@pytest.mark.parametrize(
    ("pred", "ref", "words"), [(600.0, 900.0, "of the reference overlap"), (900.0, 600.0, "of the prediction overlap")]
)
def test_tissues_that_are_not_distinct_name_the_scan(pred, ref, words, brain_labels):
    with pytest.raises(DataError, match=words):
        compare_tissues(scan(brain_labels, pred), scan(brain_labels, ref), TWO_MM)


def test_evaluate_says_why_there_are_none(head, brain_labels):
    record = evaluate(head, head, OPTIONS)
    assert record.tissues is None and "of the reference overlap" in record.not_computed["tissues"]
    brain = Volume(scan(brain_labels), torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)))
    record = evaluate(brain, brain, OPTIONS)
    assert record.tissues["white"].dice > 0.999 and "tissues" not in record.not_computed


def test_metrics_that_need_weights_are_not_computed_without(head):
    chosen, every = (
        evaluate(head, head, options) for options in (EvaluateOptions(metrics=("psnr",)), EvaluateOptions())
    )
    assert chosen.not_computed == {} and chosen.tissues is None
    assert {"lpips", "dists"} <= set(every.not_computed)
