"""Registration across contrasts of one phantom head with known motion."""

import pytest
import torch

from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.registration.across_contrasts import place_guide
from moediff.registration.edges import align_edges
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm
from several_scans import acquired, lopsided, other_contrast

MOTION = ((1.0, -0.6, 0.8), (0.7, -0.5, 0.9))


@pytest.fixture(scope="module")
def pair(make_phantom):
    """A sharp head of 10 cm, and its other contrast after a motion, with that motion."""
    truth = lopsided(make_phantom((72, 80, 68), (1.4, 1.4, 1.4)))
    motion = Rigid.of(*MOTION, grid_centre_mm(truth.grid))
    moved = resample(truth, motion.placed_grid(truth.grid)).data_XYZ.clamp_min(0)
    return truth, other_contrast(Volume(moved, truth.affine)), motion


def off_mm(found: Rigid, true: Rigid, volume: Volume) -> float:
    return (found.inverse @ true).displacement_mm(grid_centre_mm(volume.grid), 40.0)


def test_edges_find_a_motion_of_another_contrast(pair):
    truth, moved, motion = pair
    inside = truth.data_XYZ > 0
    coarse = align_edges(truth, inside, moved, IDENTITY, search="coarse")
    found = align_edges(truth, inside, moved, coarse.transform)
    assert off_mm(found.transform, motion, truth) < 0.3  # of voxels of 1.4 mm
    assert found.agreement > 0.6
    there = align_edges(truth, inside, moved, IDENTITY, search="none")
    assert (
        torch.equal(there.transform.matrix, IDENTITY.matrix)
        and there.agreement < coarse.agreement < found.agreement + 0.02
    )


def test_edges_that_share_nothing_agree_by_chance(pair):
    truth, _, _ = pair
    rng = torch.Generator().manual_seed(0)
    noise = truth.with_data(torch.rand(truth.shape, generator=rng))
    found = align_edges(truth, truth.data_XYZ > 0, noise, IDENTITY, search="none")
    assert found.agreement == pytest.approx(1 / 3, abs=0.02)


def test_no_common_field_of_view_agrees_by_nothing(pair):
    truth, _, _ = pair
    away = Rigid.of((0, 0, 0), (500, 0, 0))
    assert align_edges(truth, truth.data_XYZ > 0, truth, away).agreement == 0


def test_a_guide_is_found_from_far_and_a_mirrored_one_does_not_fit(pair):
    pytest.importorskip("SimpleITK")
    truth, moved, motion = pair
    inside, thick = truth.data_XYZ > 0, acquired(truth, 2, factor=3)
    away = Rigid.of((0, 0, 0), (200, 30, -20))
    right = place_guide(thick, truth, inside, Volume(moved.data_XYZ, away.matrix @ moved.affine), registered=True)
    assert right.misfit is None and off_mm(right.transform, away @ motion, truth) < 0.3
    assert right.shared > 0.9
    mirrored = place_guide(thick, truth, inside, moved.with_data(moved.data_XYZ.flip(0)), registered=True)
    assert mirrored.misfit is not None
    assert mirrored.agreement < right.agreement - 0.1
