"""A page of several scans shows each as registered, which one decided where, and what is left of each."""

from dataclasses import replace
from importlib.resources import files

import pytest
import torch

from moediff.inference.result import GuideShare, ScanShare
from moediff.report.curves import plots
from moediff.report.display import display
from moediff.report.page import render
from moediff.report.several_scans import scan_rows


@pytest.fixture
def shares(scans):
    first = torch.zeros(scans.enhanced.shape)
    first[:24] = 0.9
    residual = scans.source.with_data(torch.full(scans.source.shape, 5.0))
    return (
        ScanShare("ax", scans.source, first, residual),
        ScanShare("sag", scans.source, 1 - first, residual.with_data(-residual.data_XYZ)),
        ScanShare("other", scans.source),
    )


RECORD = {
    "scans": [
        {"name": "ax", "weight": 0.45, "residual_over_range": 0.01, "noise_over_range": 0.012, "displacement_mm": 0},
        {"name": "sag", "weight": 0.55, "displacement_mm": 4.2, "rotation_deg": 3, "doubted_slices": [7, 8]},
        {"name": "<b>", "left_out": "it differs", "weight": 0.0, "displacement_mm": 1.0, "rotation_deg": 0.0},
        "no record",
    ]
}


def test_all_inputs_are_shown_as_registered(scans, shares):
    keys = [scan.key for scan in display(replace(scans, shares=shares)).scans]
    assert keys[:3] == ["input", "scan2", "scan3"] and "enhanced" in keys


def test_the_scan_of_the_largest_weight_has_its_colour(scans, shares):
    layers = {layer.key: layer for layer in display(replace(scans, shares=shares)).maps}
    assert set(layers) >= {"scans", "weight1", "weight2", "gap1", "gap2"} and "weight3" not in layers
    labels = layers["scans"].data_XYZ
    assert int(labels[0, 5, 5]) == 1 and int(labels[-1, 5, 5]) == 2
    assert [name for name, _ in layers["scans"].labels] == ["scan 1: ax", "scan 2: sag"]


def test_residuals_share_one_scale(scans, shares):
    layers = {layer.key: layer for layer in display(replace(scans, shares=shares)).maps}
    assert layers["gap1"].high == layers["gap2"].high == 5
    middle = tuple(n // 2 for n in layers["gap1"].data_XYZ.shape)
    assert (int(layers["gap1"].data_XYZ[middle]), int(layers["gap2"].data_XYZ[middle])) == (255, 1)


def test_the_table_says_what_became_of_each():
    rows = scan_rows(RECORD)
    assert [row.name for row in rows] == ["ax", "sag", "<b>"]
    assert rows[0].moved == "" and rows[1].moved == "4.2 mm, 3.0°"
    assert rows[1].note == "slices 7, 8 count less"
    assert rows[2].note == "left out: it differs" and rows[2].weight is None
    assert scan_rows({"scans": "foreign"}) == ()


def test_the_page_holds_the_table_and_escapes_names(scans, shares):
    page = render(replace(scans, shares=shares, record=scans.record | RECORD))
    assert "The scans that became one" in page and "slices 7, 8 count less" in page
    assert "3: &lt;b&gt;" in page and "3: <b>" not in page


def test_plots_compare_scans_of_one_unit_and_every_curve_has_a_colour(scans, shares):
    guide = GuideShare("T2w", scans.source, torch.zeros(scans.enhanced.shape))
    scans = replace(scans, shares=shares, guide=guide)
    intensities, detail = ([key for key, _, _ in plot.curves] for plot in plots(display(scans)))
    assert intensities == ["input", "interpolated", "enhanced", "truth"] and detail == intensities[1:]
    style = files("moediff.report").joinpath("templates/page.css").read_text()
    assert all(f".k-{key} {{ stroke: var(--k-{key})" in style for key in intensities)
