"""Rigid transforms."""

import math

import pytest
import torch
from torch.testing import assert_close

from moediff.core.errors import GeometryError
from moediff.core.volume import Grid
from moediff.registration.rigid import IDENTITY, Rigid


def test_angles_turn_by_the_right_hand_about_the_centre():
    quarter = Rigid.of((0, 0, 90), (0, 0, 5), (10, 0, 0))
    point = torch.tensor([11.0, 0, 0, 1], dtype=torch.float64)
    assert_close(quarter.matrix @ point, torch.tensor([10.0, 1, 5, 1], dtype=torch.float64))
    assert quarter.angle_deg == pytest.approx(90)


def test_inverse_and_product_undo_each_other():
    one = Rigid.of((3, -4, 5), (1, 2, 3), (7, 8, 9))
    assert_close((one @ one.inverse).matrix, torch.eye(4, dtype=torch.float64))


def test_placing_moves_voxels_back_to_the_common_frame():
    transform = Rigid.of((0, 0, 0), (4, 0, 0))  # the head lies 4 mm further right in the scan
    placed = transform.placed_grid(Grid((8, 8, 8), torch.eye(4, dtype=torch.float64)))
    assert placed.affine[0, 3] == -4


def test_displacement_is_the_root_mean_square_over_a_ball():
    assert Rigid.of((0, 0, 0), (3, 0, 4)).displacement_mm((0, 0, 0)) == pytest.approx(5)
    turn, rng = Rigid.of((2, 0, 0), (0, 0, 0)), torch.Generator().manual_seed(0)
    points = (torch.rand((200_000, 3), generator=rng, dtype=torch.float64) * 2 - 1) * 80
    points = points[points.norm(dim=1) < 80]
    moved = points @ turn.matrix[:3, :3].T - points
    assert turn.displacement_mm((0, 0, 0)) == pytest.approx(math.sqrt(float(moved.square().sum(1).mean())), rel=0.01)
    assert IDENTITY.displacement_mm((5, 5, 5)) == 0


def test_what_is_no_rotation_is_refused():
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    with pytest.raises(GeometryError, match="rotation"):
        Rigid(mirror)
    with pytest.raises(GeometryError, match="rotation"):
        Rigid(torch.eye(4) * 1.1)
