"""`result.plot()`: a column for everything a result holds."""

import matplotlib.image
import numpy as np
import pytest

from moediff.core.errors import CannotCreate
from moediff.core.geometry import crop
from moediff.inference.options import EnhanceOptions
from moediff.report.figure import ERROR_COLOURS


@pytest.fixture(scope="module")
def result(enhancer, make_phantom):
    low = make_phantom((32, 36, 28), (6.0, 6.0, 6.0))
    return enhancer(low, EnhanceOptions(voxel_size=(4.0,), samples=2, steps=2))


def titles(figure) -> list[str]:
    return [t.get_text() for t in figure.texts if t.get_weight() == "bold"]


def test_every_column_is_there(result, tmp_path):
    figure = result.plot(tmp_path / "a.png", truth=result.interpolated)
    assert titles(figure) == ["input", "interpolated", "enhanced", "truth", "error", "expert map", "uncertainty"]
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.1


def test_nothing_is_written_unless_asked(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "truth" not in titles(result.plot())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CannotCreate):
        result.plot(tmp_path / "missing" / "a.png")


def test_no_error_is_shown_beyond_the_truth(result):
    truth = result.interpolated.with_data(2 * result.interpolated.data_XYZ)
    x, y, z = truth.shape
    slab = crop(truth, (0, 0, 0), (x, y, z // 2))
    whole, cut = (rows_with_error(result.plot(truth=part)) for part in (truth, slab))
    assert sum(rows > z // 2 for rows in whole) == 3
    assert sum(rows > z // 2 for rows in cut) == 1  # the axial plane: its rows run along y
    assert min(cut) > z // 8


def test_a_truth_of_other_units_shows_the_same_error(result):
    same, scaled = (result.interpolated.with_data(factor * result.interpolated.data_XYZ) for factor in (1, 10))
    one, other = (errors(result.plot(truth=truth)) for truth in (same, scaled))
    assert all(np.allclose(a, b, atol=0.1) for a, b in zip(one, other, strict=True))  # in % of the shown range


def errors(figure) -> list[np.ndarray]:
    """What is shown of the error, in each of the three planes."""
    shown = [image for axes in figure.axes for image in axes.images if image.get_cmap().name == ERROR_COLOURS]
    return [np.asarray(image.get_array()) for image in shown]


def rows_with_error(figure) -> list[int]:
    """How many rows of voxels show an error, in each of the three planes."""
    return [int((error != 0).any(axis=1).sum()) for error in errors(figure)]
