"""`result.plot()`: a column for everything a result holds."""

import matplotlib.image
import pytest

from moediff.errors import CannotCreate
from moediff.inference.options import EnhanceOptions


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
