"""Grey levels and voxels of an embedded scan: kept where there is room, else given up in a known order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.core.volume import Volume
from moediff.inference.outputs import REPORT_SIZES
from moediff.report.display import display
from moediff.report.embed import SIZES, embed, estimated_length, in_levels, pack_map, placed_on
from moediff.report.layers import Layer, own_voxels
from report.test_codec import unpacked

FULL, SMALL = SIZES["full"], SIZES["small"]


def test_the_sizes_have_the_names_that_requests_know():
    assert tuple(SIZES) == REPORT_SIZES


def test_intensities_come_back_within_half_a_level(scans):
    shown = display(scans)
    embedded = embed(shown, FULL, 0)
    assert embedded.grey_levels == 1023 and not embedded.halved
    scan, one = shown.scans[0], embedded.scans[0]  # the input, on its own few voxels
    values = one.low + one.step * unpacked(one.packed)
    assert np.abs(values - scan.volume.data_XYZ.numpy()).max() <= 0.501 * shown.windows[0].width / 1023


def test_a_full_page_never_has_fewer_than_200_levels_in_the_lesion_window_however_large(scans):
    shown = display(scans)
    brain, lesion, _ = shown.windows
    levels = embed(shown, FULL, FULL.most_bytes).grey_levels
    assert levels == 511 and levels * lesion.width / brain.width > 250


def test_a_small_page_gives_up_levels_first_and_voxels_last(scans):
    shown = display(scans)
    steps = {levels: shown.windows[0].width / levels for levels in (255, 63)}
    lengths = {n: sum(estimated_length(s.volume, 0.0, step) for s in shown.scans) for n, step in steps.items()}
    maps = sum(len(one.packed.text) for one in embed(shown, SMALL, 0).maps)
    rooms = (1.3 * lengths[255], 1.1 * lengths[63], 0.4 * lengths[63])
    roomy, tight, least = (embed(shown, SMALL, SMALL.most_bytes - int(maps + room)) for room in rooms)
    assert (roomy.grey_levels, roomy.halved) == (255, False)
    assert tight.grey_levels < 255 and not tight.halved
    assert least.halved and sum(len(one.packed.text) for one in least.scans) < 0.5 * lengths[63]


@pytest.mark.parametrize("size", [FULL, SMALL])
@pytest.mark.parametrize(("signed", "nothing"), [(True, 128), (False, 0)])
def test_merged_maps_keep_their_place_and_nothing_stays_nothing(size, signed, nothing, make_phantom):
    levels = torch.full((7, 8, 9), nothing, dtype=torch.uint8)
    levels[0, 0, 0] = 255
    one = pack_map(Layer("a", "a", levels, -1, 1, signed=signed), make_phantom((7, 8, 9)).grid, size)
    found = unpacked(one.packed)
    assert one.start_mm == pytest.approx((0, 0, 0), abs=1e-9) and one.voxel_mm[0] == 4 * size.map_block
    assert found[0, 0, 0] > nothing and set(found.flat[1:]) == {nothing}


def test_the_input_keeps_its_own_voxels_and_lies_where_it_was(phantom):
    affine = phantom.affine @ torch.diag(torch.tensor([1.0, 1, 4, 1], dtype=torch.float64))
    affine[:3, 3] += 1.5 * phantom.affine[:3, 2]
    thick = Volume(torch.rand(*phantom.shape[:2], 11), affine)  # its faces lie on those of the thin voxels
    part = own_voxels(thick, phantom.grid)
    start_mm, voxel_mm = placed_on(part.grid, phantom.grid)
    assert part.shape == thick.shape and voxel_mm == pytest.approx((4, 4, 16)) and start_mm == pytest.approx((0, 0, 0))


def test_what_cannot_be_a_level_is_cut_off():
    assert in_levels(torch.tensor([-5.0, float("nan"), 1.0, 1e9]), 0.0, 0.5).tolist() == [0, 0, 2, 32767]
