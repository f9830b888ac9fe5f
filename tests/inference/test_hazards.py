"""Hazards: with the embedded weights, lesions of a usual size are neither lost nor added."""

from __future__ import annotations

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import recipe_for
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.evaluation.lesions import judge_lesions
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

START, SIDE = (40, 90, 85), 64  # a box of the MNI152 average
PLACES, RADIUS_MM = ((33, 14, 30), (34, 44, 30)), 4.0  # even white matter
CONTRAST = 0.6  # of the intensity around: dark, as in a T1-weighted scan


@pytest.fixture(scope="module")
def truth(mni_scan) -> tuple[Volume, torch.Tensor]:
    """A box of the average with two lesions of 8 mm, and their mask."""
    box = tuple(slice(s, s + SIDE) for s in START)
    affine = mni_scan.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor(START, dtype=torch.float64)
    plain = mni_scan.data_XYZ[box]
    axes = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float32)] * 3, indexing="ij")
    mask = torch.zeros(plain.shape, dtype=torch.bool)
    for place in PLACES:
        mask |= torch.stack([a - p for a, p in zip(axes, place, strict=True)]).norm(dim=0) <= RADIUS_MM
    return Volume(torch.where(mask, plain * CONTRAST, plain), affine), mask


@pytest.mark.parametrize("recipe", ["thick3", "iso2"])
@pytest.mark.parametrize("mode", ["faithful", "detail"])
def test_no_lesion_is_missing_or_added(truth, recipe, mode):
    scan, mask = truth
    low = degrade(scan, recipe_for(recipe), rng_for(3))
    result = Enhancer()(low, EnhanceOptions(like=scan.grid, mode=mode)).volume.data_XYZ
    scores = judge_lesions(
        result, scan.data_XYZ, scan.data_XYZ > 0.1 * float(scan.data_XYZ.max()), mask, (1.0, 1.0, 1.0)
    )
    assert (scores.count, scores.false_negatives, scores.false_positives) == (2, 0, 0)
    assert 0.7 < scores.contrast_recovery < 1.15 and scores.dice > 0.6
