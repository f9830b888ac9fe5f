"""Maps lie where the head is, in scales that can be compared."""

from dataclasses import replace

import numpy as np
import torch

from moediff.core.volume import Volume
from moediff.report.data import ReportScans
from moediff.report.display import display
from moediff.report.figure import _expert_layer
from moediff.report.layers import Layer
from moediff.report.maps import expert_labels
from moediff.report.slices import grey_HW, laid_over, overlay_table, rgb


def layer(scans: ReportScans, key: str):
    return next(m for m in display(scans).maps if m.key == key)


def test_experts_share_one_scale(scans):
    changed_XYZE = torch.stack([torch.full(scans.enhanced.shape, float(e)) for e in range(1, 5)], -1)
    shown = display(replace(scans, changed_XYZE=changed_XYZE))
    single = [m for m in shown.maps if m.key.startswith("single")]
    assert [int(m.data_XYZ.max()) for m in single] == [160, 192, 223, 255]  # 128 is no change
    assert {m.high for m in single} == {4.0} and {m.low for m in single} == {-4.0}


def test_darker_and_brighter_changes_differ_and_none_is_in_the_middle(scans):
    change = torch.zeros(scans.enhanced.shape)
    change[24, 28, 20], change[24, 28, 22] = 5.0, -5.0
    assert scans.interpolated is not None
    enhanced = scans.enhanced.with_data(scans.interpolated.data_XYZ + change)
    shown = display(replace(scans, enhanced=enhanced, interpolated=scans.interpolated))
    drawn = next(m for m in shown.maps if m.key == "change")
    assert drawn.signed and int(drawn.data_XYZ.min()) == 1 and int(drawn.data_XYZ.max()) == 255
    assert int(drawn.data_XYZ.flatten().median()) == 128


def test_views_open_inside_an_outlined_lesion(scans, phantom):
    mask = torch.zeros(phantom.shape)
    mask[12:15, 20:26, 30:33] = 1
    shown = display(replace(scans, lesions=phantom.with_data(mask)))
    lesions = next(m for m in shown.maps if m.key == "lesions")
    assert int(lesions.data_XYZ[shown.centre]) == 1
    nothing = display(replace(scans, lesions=phantom.with_data(0 * mask)))
    assert nothing.centre == display(scans).centre


def test_a_residual_on_coarse_voxels_is_drawn_as_blocks_and_nothing_is_said_beyond_them(scans, phantom):
    affine = phantom.affine @ torch.diag(torch.tensor([4.0, 4, 4, 1], dtype=torch.float64))
    gap = Volume(torch.zeros(7, 14, 11), affine)  # the last of its voxels ends in the middle of the head
    gap.data_XYZ[6] = -7.0
    drawn = layer(replace(scans, residual=gap), "residual").data_XYZ
    planes = [x for x, plane in enumerate(drawn) if int(plane.min()) == 1]
    assert len(planes) == 4 and planes[3] - planes[0] == 3
    assert bool((drawn[planes[3] + 1 :] == 128).all())


def test_lesions_are_labels_on_the_enhanced_grid(scans, phantom):
    mask = torch.zeros(phantom.shape)
    mask[20:24, 20:24, 20:24] = 1
    lesions = layer(replace(scans, lesions=phantom.with_data(mask)), "lesions")
    assert int(lesions.data_XYZ.sum()) == 64 and len(lesions.labels) == 1


def test_the_expert_map_follows_the_head_and_not_the_blocks_of_the_gate(scans, phantom):
    head = (phantom.data_XYZ > 30).float()
    gate_XYZE = torch.zeros(*phantom.shape, 2)
    gate_XYZE[..., 1] = 0.4
    gate_XYZE[:, :, :20, 0] = 1.0
    gate_XYZE[24, 28, 30, 0] = 1.0  # one voxel among others
    drawn = layer(replace(scans, enhanced=phantom, gate_XYZE=gate_XYZE), "experts").data_XYZ
    assert int(expert_labels(gate_XYZE)[24, 28, 30]) == 2
    assert int(drawn[0, 0, 0]) == 0 and 0.8 < float((drawn > 0).sum()) / float(head.sum()) < 2


def test_a_map_grows_clearer_without_an_edge_towards_nothing():
    """A value that is cut off draws holes, and holes look like lesions."""
    levels = torch.zeros(1, 1, 1, dtype=torch.uint8)
    heat = overlay_table(Layer("a", "a", levels, 0, 1))[:, 3].astype(int)
    signed = overlay_table(Layer("a", "a", levels, -1, 1, signed=True))[:, 3].astype(int)
    assert heat[0] == 0 and heat[-1] == 255 and signed[128] == 0 and signed[0] == signed[255] == 255
    assert np.diff(heat).min() >= 0 and np.diff(heat).max() <= 3
    assert np.abs(np.diff(signed)).max() <= 4 and np.diff(signed[128:]).min() >= 0


def test_a_still_of_a_map_shows_the_scan_under_it(scans):
    shown = display(scans)
    change = layer(scans, "change")
    scan_HW = grey_HW(shown.enhanced, shown, "axial", shown.centre[2])
    still = laid_over(change, np.full_like(scan_HW, 128), scan_HW)
    assert np.array_equal(still, np.repeat(scan_HW[..., None], 3, -1))
    assert tuple(laid_over(change, np.full_like(scan_HW, 255), scan_HW)[0, 0]) == tuple(overlay_table(change)[255, :3])


def test_the_page_and_the_figure_show_the_same_experts(scans):
    """Both the largest weight; where no expert worked, neither shows any."""
    gate_XYZE = scans.gate_XYZE.clone()
    gate_XYZE[..., 0] *= 0.4
    gate_XYZE[..., 2] += 0.5 * (gate_XYZE[..., 0] > 0)
    changed = replace(scans, gate_XYZE=gate_XYZE)
    drawn = layer(changed, "experts")
    labels = expert_labels(gate_XYZE)
    assert "largest" in drawn.title and "largest" in drawn.note
    assert set(drawn.data_XYZ.unique().tolist()) == set(labels.unique().tolist()) == {0, 2, 3, 4}
    column = _expert_layer(gate_XYZE, scans.enhanced, scans.enhanced, (0.0, 1e-6))
    assert "largest gate weight" in column.title
    pixel = tuple((column.data[tuple((labels == 3).nonzero()[0])] * 255).round().int().tolist())
    assert pixel == rgb(dict(drawn.labels)["junction"])
