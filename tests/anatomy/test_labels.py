"""Label maps: groups of labels, and what is refused."""

from __future__ import annotations

import pytest
import torch

from moediff.anatomy.labels import BRAIN, LEFT_OF_RIGHT, as_brain_label_map, labelled
from moediff.core.errors import DataError


def test_labelled_voxels_are_those_with_one_of_the_numbers():
    labels = torch.tensor([[[0, 2, 41, 3, 17]]], dtype=torch.int32)
    assert labelled(labels, (2, 41)).flatten().tolist() == [False, True, True, False, False]


def test_both_sides_of_the_brain_have_their_labels():
    assert set(LEFT_OF_RIGHT) | set(LEFT_OF_RIGHT.values()) <= set(BRAIN)


def test_what_is_no_label_map_is_refused(brain_labels):
    assert as_brain_label_map(brain_labels.float()).equal(brain_labels.to(torch.int32))
    with pytest.raises(DataError, match="not whole"):
        as_brain_label_map(brain_labels + 0.25)
    with pytest.raises(DataError, match="FreeSurfer"):
        as_brain_label_map(brain_labels.float().clamp(max=1) * 900)
