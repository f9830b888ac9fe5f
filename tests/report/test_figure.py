"""The comparison picture: one column per scan, drawn where the scans lie."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import torch

from moediff.core.errors import CannotCreate, ConfigError, DataError
from moediff.core.volume import Volume
from moediff.report.figure import compare, comparison_figure

EXPERTS = ("deep white matter", "cortex", "junction", "rest")


def pixels(path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3]


def picture(panels, path, **options) -> np.ndarray:
    comparison_figure(panels, path, **options)
    return pixels(path)


def column(image: np.ndarray, index: int, count: int) -> np.ndarray:
    width = image.shape[1] // count
    return image[:, index * width : (index + 1) * width]


@pytest.fixture
def head(make_phantom) -> Volume:
    return make_phantom((40, 46, 38), (5.0, 5.0, 5.0))


def test_every_panel_is_a_column(head, tmp_path):
    one = picture({"input": head}, tmp_path / "one.png")
    three = picture({"a": head, "b": head, "c": head}, tmp_path / "three.png")
    assert three.shape[1] == pytest.approx(3 * one.shape[1], rel=0.1)
    assert three.shape[0] == pytest.approx(one.shape[0], rel=0.1)


def test_all_panels_share_one_window(head, tmp_path):
    dim = head.with_data(0.5 * head.data_XYZ)
    image = picture({"dim": dim, "bright": head}, tmp_path / "two.png")
    assert 1.3 < column(image, 1, 2).mean() / column(image, 0, 2).mean() < 2.5


def test_a_scan_at_an_angle_is_named_by_the_voxels_it_was_measured_with(head):
    turn = torch.tensor([[0.9, -(0.19**0.5), 0], [0.19**0.5, 0.9, 0], [0, 0, 1]], dtype=torch.float64)
    affine = head.affine.clone()
    affine[:3, :3] = turn @ affine[:3, :3] @ torch.diag(torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))
    texts = [text.get_text() for text in compare({"input": Volume(head.data_XYZ, affine), "enhanced": head}).texts]
    assert "5 x 5 x 10 mm, resampled" in texts and "5 mm" in texts


def test_the_patients_right_is_on_the_left(head, tmp_path):
    """A bright ball on the patient's right (low x in RAS+) appears in the left half of the axial plane."""
    x, y, z = (int(n * share) for n, share in zip(head.shape, (0.25, 0.5, 0.5), strict=True))
    data = torch.where(head.data_XYZ > 0, 300.0, 0.0)
    data[x - 4 : x + 4, y - 4 : y + 4, z - 4 : z + 4] = 1000
    affine = head.affine.clone()
    assert float(affine[0, 0]) > 0  # x grows to the right side, so low x is the patient's left
    image = picture({"scan": Volume(data, affine)}, tmp_path / "ball.png").mean(-1)
    axial = image[image.shape[0] // 8 : image.shape[0] // 3]
    bright = np.argwhere(axial > 0.9 * axial.max())[:, 1].mean() / axial.shape[1]
    assert bright > 0.5  # the patient's left is on the image's right


def test_errors_and_experts_get_columns_of_their_own(head, tmp_path):
    weights = torch.zeros(*head.shape, 4)
    weights[..., 1] = (head.data_XYZ > 0).float()
    panels = {"enhanced": head.with_data(1.1 * head.data_XYZ), "truth": head}
    plain = picture(panels, tmp_path / "plain.png")
    full = picture(
        panels, tmp_path / "full.png", error_of=("enhanced", "truth"), expert_map_XYZE=weights, expert_names=EXPERTS
    )
    assert full.shape[1] == pytest.approx(2 * plain.shape[1], rel=0.1)
    assert np.ptp(column(plain, 0, 2), axis=-1).max() < 0.05  # scans are grey
    experts = column(full, 3, 4)
    orange = (experts[..., 0] - experts[..., 2] > 0.3).mean()  # the second expert's colour
    assert orange > 0.05


@pytest.mark.parametrize(
    ("panels", "error_of", "error"),
    [({}, None, ConfigError), ({"a": None}, ("a", "truth"), ConfigError), ({"flat": "flat"}, None, DataError)],
)
def test_what_cannot_be_drawn_is_refused(panels, error_of, error, head, tmp_path):
    flat = head.with_data(torch.ones(head.shape))
    drawn = {name: flat if kind == "flat" else head for name, kind in panels.items()}
    with pytest.raises(error):
        comparison_figure(drawn, tmp_path / "none.png", error_of=error_of)
    assert not (tmp_path / "none.png").exists()


def test_a_closed_folder_is_told(head, tmp_path):
    with pytest.raises(CannotCreate):
        comparison_figure({"a": head}, tmp_path / "missing" / "picture.png")
