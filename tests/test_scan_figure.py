"""The figure of a scan of one's own: the brain is taken out, both rows show the same place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from moediff.core.volume import Volume


@pytest.fixture
def script(load_script):
    return load_script("scan_figure")


def head() -> np.ndarray:
    """A ball (brain) in a shell (scalp), with a gap of fluid and one bridge between them; 1 x 1 x 4 mm."""
    x, y, z = np.meshgrid(np.arange(-40, 40), np.arange(-40, 40), 4 * np.arange(-10, 10), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    bridge = (abs(y) < 2) & (abs(z) < 4) & (x > 0)
    return np.where((radius < 26) | ((radius > 31) & (radius < 35)) | (bridge & (radius < 35)), 100.0, 0.0)


def test_scalp_and_bridge_leave_and_the_brain_stays(script):
    data = head()
    mask = script.brain(data, (1.0, 1.0, 4.0), 5.0)
    x, y, z = np.meshgrid(np.arange(-40, 40), np.arange(-40, 40), 4 * np.arange(-10, 10), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    assert not mask[radius > 32].any() and mask[radius < 22].all()


def test_too_much_erosion_is_said(script):
    with pytest.raises(SystemExit, match="smaller number"):
        script.brain(head(), (1.0, 1.0, 4.0), 40.0)


def test_the_picture_has_two_rows_of_three(script, tmp_path):
    volume = Volume(torch.from_numpy(head()).float(), torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0])).double())
    script.draw(dict.fromkeys("abc", volume) | {}, "coronal", 0.5, (0.5, 0.3), tmp_path / "out.png")
    picture = np.asarray(Image.open(tmp_path / "out.png").convert("L"))
    assert picture.shape[1] > picture.shape[0] > 0.5 * picture.shape[1]
    thirds = np.array_split(picture, 3, axis=1)
    assert all(third.max() > 200 and third.min() < 20 for third in thirds)
