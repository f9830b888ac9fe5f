"""Options: defaults, limits, and exclusions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.core.errors import ConfigError, MoeDiffWarning
from moediff.core.volume import Grid
from moediff.inference.options import MODES, EnhanceOptions

GRID = Grid((4, 4, 4), torch.eye(4))


def test_defaults_are_the_faithful_single_result():
    options = EnhanceOptions()
    assert (options.mode, options.samples, options.data_consistency, options.voxel_size, options.like) == (
        "faithful",
        1,
        True,
        None,
        None,
    )
    assert options.mode in MODES


ALLOWED = [
    {"voxel_size": (1.0,)},
    {"voxel_size": (0.2, 1.0, 12.0)},
    {"like": GRID},
    {"mode": "detail"},
    {"steps": 2},
    {"steps": 64},
    {"samples": 1},
    {"samples": 64},
    {"memory_mb": 64},
]


@pytest.mark.parametrize("given", ALLOWED, ids=str)
def test_values_on_the_limits_are_taken_as_given(given):
    options = EnhanceOptions(**given)
    for name, value in given.items():
        assert getattr(options, name) is value


REFUSED = {
    "mode": ({"mode": "pretty"}, "mode 'pretty' is unknown; choose from faithful, detail"),
    "both": ({"voxel_size": (1.0,), "like": GRID}, "exclude each other"),
    "two_numbers": ({"voxel_size": (1.0, 1.0)}, "one or three numbers"),
    "no_number": ({"voxel_size": ()}, "one or three numbers"),
    "too_fine": ({"voxel_size": (1.0, 1.0, 0.19)}, "at least 0.2 mm"),
    "bare_number": ({"voxel_size": 1.0}, "voxel size is 1.0, expected a tuple"),
    "a_file": ({"like": "t1.nii.gz"}, "like is a str, expected a grid: give moediff.load(FILE).stored_grid"),
    "negative": ({"voxel_size": (-1.0,)}, "at least 0.2 mm"),
    "unknown_sampler": ({"sampler": "ddim"}, "choose from dpm-solver++, heun, euler"),
    "one_step": ({"steps": 1}, "expected 2 to 64"),
    "many_steps": ({"steps": 65}, "expected 2 to 64"),
    "tta": ({"tta": 3}, "expected 1, 2, 4 or 8"),
    "flipped_samples": ({"tta": 2, "mode": "detail"}, "tta averages the posterior mean"),
    "no_sample": ({"samples": 0}, "expected 1 to 64"),
    "many_samples": ({"samples": 65}, "expected 1 to 64"),
    "no_memory": ({"memory_mb": 63}, "memory_mb (--mem-mb) is 63, expected 64 to"),
}


@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_impossible_values_are_refused_with_the_remedy(given, words):
    with pytest.raises(ConfigError) as caught:
        EnhanceOptions(**given)
    assert words in str(caught.value)


@pytest.mark.parametrize("size", [(float("nan"),), (1.0, float("nan"), 1.0), (float("inf"),)], ids=str)
def test_voxel_sizes_that_are_no_numbers_are_refused(size):
    with pytest.raises(ConfigError):
        EnhanceOptions(voxel_size=size)


def test_options_are_keywords_only():
    with pytest.raises(TypeError):
        EnhanceOptions((1.0,))  # type: ignore[misc]


def test_whole_numbers_of_any_library_become_pythons():
    options = EnhanceOptions(samples=np.int64(2), seed=np.arange(3)[1])
    assert type(options.samples) is int and type(options.seed) is int


@pytest.mark.parametrize("given", [{"steps": "3"}, {"steps": None}, {"samples": 2.5}, {"tta": 2.0}], ids=str)
def test_what_is_no_whole_number_is_refused(given):
    with pytest.raises(ConfigError, match="expected a whole number"):
        EnhanceOptions(**given)


def test_a_voxel_size_in_words_is_refused():
    with pytest.raises(ConfigError, match="one or three numbers"):
        EnhanceOptions(voxel_size=("a",))  # type: ignore[arg-type]


FORMER = {
    "mirrors": ("tta", 4),
    "even_slices": ("correct_slice_intensity", True),
    "consistency": ("data_consistency", False),
    "each_expert": ("single_experts", True),
}


@pytest.mark.parametrize(("former", "present", "value"), [(old, *new) for old, new in FORMER.items()])
def test_former_names_are_read_with_a_warning_that_gives_the_present_ones(former, present, value):
    with pytest.warns(MoeDiffWarning, match=f"{former} is now {present}"):
        options = EnhanceOptions(**{former: value})
    assert options == EnhanceOptions(**{present: value}) != EnhanceOptions()
    with pytest.raises(ConfigError, match=f"{former} is the former name of {present}: give that one alone"):
        EnhanceOptions(**{former: value, present: value})
