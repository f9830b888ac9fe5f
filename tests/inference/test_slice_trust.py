"""Which slices of a scan contradict the other scans, on measurements whose truth is known."""

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.combine import Measurement
from moediff.inference.slice_trust import slice_trust

NOISE = 10.0  # of intensities up to 1000


def trust_of(measured, truth):
    return slice_trust(Measurement(measured, NOISE, truth.grid), truth.data_XYZ, torch.ones(truth.shape) > 0)


def damaged(scan, slices, share):
    """A scan whose slices across the first axis lost signal."""
    data = scan.data_XYZ.clone()
    data[slices] *= share
    return scan.with_data(data)


def test_slices_that_fit_are_trusted(still_stacks):
    assert trust_of(still_stacks.scans[1], still_stacks.truth) == (None, None)


def test_a_slice_that_lost_half_its_signal_is_doubted_and_no_other(still_stacks):
    middle = still_stacks.scans[1].shape[0] // 2
    trust_XYZ, common_XYZ = trust_of(damaged(still_stacks.scans[1], [middle], 0.5), still_stacks.truth)
    expected_S = torch.arange(len(trust_XYZ)) != middle
    assert_close((trust_XYZ > 0.5).float(), expected_S[:, None, None].float().expand(trust_XYZ.shape))
    assert float(trust_XYZ[middle].max()) < 0.1 and float(trust_XYZ[expected_S].min()) == 1
    # Slices of 12 mm on voxels of 4 mm: three planes of the common grid for each.
    assert common_XYZ.shape == still_stacks.truth.shape
    planes_X = common_XYZ[:, 0, 0] < 0.1
    assert planes_X.nonzero()[:, 0].tolist() == [3 * middle + i for i in range(3)]
    assert float(common_XYZ[~planes_X].min()) == pytest.approx(1)


def test_slices_without_tissue_are_not_judged(still_stacks):
    """The outermost slice of a head holds too little to contradict anything."""
    assert trust_of(damaged(still_stacks.scans[1], [0], 0.0), still_stacks.truth) == (None, None)


def test_where_the_others_say_nothing_no_slice_is_doubted(still_stacks):
    measured = damaged(still_stacks.scans[1], [8], 0.5)
    unknown = torch.zeros(still_stacks.truth.shape) > 0
    measurement = Measurement(measured, NOISE, still_stacks.truth.grid)
    assert slice_trust(measurement, still_stacks.truth.data_XYZ, unknown) == (None, None)
