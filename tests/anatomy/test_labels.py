"""Label maps: groups of labels, and what is refused."""

from __future__ import annotations

import pytest
import torch

from moediff.anatomy.labels import BRAIN, LEFT_OF_RIGHT, PARTS, SMALL_PARTS, as_brain_label_map, labelled
from moediff.core.errors import DataError


def test_labelled_voxels_are_those_with_one_of_the_numbers():
    labels = torch.tensor([[[0, 2, 41, 3, 17]]], dtype=torch.int32)
    assert labelled(labels, (2, 41)).flatten().tolist() == [False, True, True, False, False]


def test_both_sides_of_the_brain_have_their_labels():
    assert {whole for *_, whole in PARTS} <= set(BRAIN)
    assert set(LEFT_OF_RIGHT) | set(LEFT_OF_RIGHT.values()) <= set(BRAIN)


def test_parts_of_a_structure_count_as_the_structure(brain_labels):
    """Of FreeSurfer's aparc+aseg and wmparc: parcels of cortex and white matter, corpus callosum, lesions, plexus."""
    numbers = [0, 4, 16, 31, 63, 77, 79, 251, 255, 1000, 1035, 1036, 2035, 3001, 4035, 5002, 11175, 12100, 530]
    wholes = [0, 4, 16, 4, 43, 2, 41, 2, 2, 3, 3, 1036, 42, 2, 41, 41, 3, 42, 530]
    assert as_brain_label_map(torch.tensor([[numbers]]).float()).flatten().tolist() == wholes
    parcels = brain_labels + 1021 * (brain_labels == 3) + 1990 * (brain_labels == 42)
    assert as_brain_label_map(parcels.float()).equal(brain_labels.to(torch.int32))


def test_every_label_of_an_aseg_belongs_to_the_brain():
    """What does not is a hole in synthetic heads without their skull."""
    aseg = [*range(2, 6), 7, 8, *range(10, 19), 24, 26, 28, 30, 31, *range(41, 45), 46, 47, *range(49, 55), 58, 60, 62]
    aseg += [63, 72, *range(77, 83), 85, *range(251, 256)]
    known = as_brain_label_map(torch.tensor([[aseg]]).float())
    assert bool(labelled(known, (*BRAIN, *SMALL_PARTS)).all()) and set(SMALL_PARTS.values()) <= set(BRAIN)


def test_what_is_no_label_map_is_refused(brain_labels):
    assert as_brain_label_map(brain_labels.float()).equal(brain_labels.to(torch.int32))
    with pytest.raises(DataError, match="not whole"):
        as_brain_label_map(brain_labels + 0.25)
    with pytest.raises(DataError, match="FreeSurfer"):
        as_brain_label_map(brain_labels.float().clamp(max=1) * 900)
