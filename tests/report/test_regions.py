"""What each expert did and how unsure each part is: known answers on a phantom made for it."""

from dataclasses import replace

import pytest
import torch

from moediff.core.volume import Volume
from moediff.report.data import ReportScans
from moediff.report.regions import experts, regions

SHAPE = (24, 24, 24)


@pytest.fixture
def halves() -> ReportScans:
    """Intensities 0..100; the left half belongs to the first expert, who changed nothing, the right to the second."""
    truth = torch.linspace(0, 100, SHAPE[2]).expand(SHAPE).contiguous()
    place = Volume(truth, torch.eye(4, dtype=torch.float64))
    gate_XYZE = torch.zeros(*SHAPE, 2)
    gate_XYZE[:12, ..., 0] = gate_XYZE[12:, ..., 1] = 1.0
    change = torch.zeros(SHAPE)
    change[12:] = 4.0 * (1 - 2 * (torch.arange(24) // 2 % 2))[:, None]  # up and down: a fit of intensities leaves it
    unsure = torch.full(SHAPE, 1.0)
    unsure[12:] = 3.0
    return ReportScans(
        enhanced=place.with_data(truth + change),
        name="a",
        interpolated=place,
        truth=place,
        uncertainty_XYZ=unsure,
        gate_XYZE=gate_XYZE,
        changed_XYZE=torch.stack([change, change + 2.0], -1),
        expert_names=("cortex", "other"),
    )


def test_an_expert_is_judged_where_it_weighs_most(halves):
    first, second = experts(halves)
    assert first.share == pytest.approx(0.5) and first.changed == 0 and first.apart == 0
    assert second.changed == pytest.approx(0.04, rel=0.08) and second.apart == pytest.approx(0.02, rel=0.08)
    assert first.meant_for and not second.meant_for
    assert experts(replace(halves, gate_XYZE=None)) == []


def test_regions_tell_uncertainty_beside_the_true_error(halves):
    lesion = torch.zeros(SHAPE)
    lesion[14:20, 8:16, 8:16] = 1
    found = {r.name: r for r in regions(replace(halves, lesions=halves.enhanced.with_data(lesion)))}
    assert list(found) == ["whole head", "cortex", "other", "outlined lesions"]
    assert found["cortex"].unsure == pytest.approx(0.01, rel=0.08) and found["cortex"].wrong == pytest.approx(
        0, abs=1e-5
    )
    assert found["other"].unsure == pytest.approx(0.03, rel=0.08)
    assert found["outlined lesions"].unsure == pytest.approx(found["other"].unsure)
    assert found["other"].wrong == pytest.approx(0.04, rel=0.08) and found["other"].share == pytest.approx(0.5)
    assert regions(replace(halves, uncertainty_XYZ=None)) == []


def test_voxels_that_the_network_left_alone_are_in_no_region(halves):
    unsure = halves.uncertainty_XYZ.clone()
    unsure[:12] = 0
    found = {r.name: r for r in regions(replace(halves, uncertainty_XYZ=unsure))}
    assert list(found) == ["whole head", "other"] and found["whole head"].unsure == pytest.approx(found["other"].unsure)
