"""The record of an acquisition: JSON and back, impossible values refused, draws inside their ranges."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moediff.acquisition.point_spread import METHODS
from moediff.acquisition.recipe import (
    DRAWN,
    NAMED,
    RESAMPLED,
    AxisRecipe,
    Recipe,
    RecipeRanges,
    draw_recipe,
    thick_slices,
)
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError

AXIS = st.builds(AxisRecipe, method=st.sampled_from(METHODS), factor=st.floats(1, 12), thickness=st.floats(0.3, 2))
RECIPE = st.builds(
    Recipe,
    axes=st.tuples(AXIS, AXIS, AXIS),
    noise=st.floats(0, 0.5),
    bias=st.floats(0, 1),
    gamma=st.floats(0.3, 3),
    warp_mm=st.floats(0, 5),
    slice_gain=st.floats(0, 0.5),
    name=st.text(max_size=8),
)


def low_and_high(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    """Ranges (a, b) with low <= a <= b <= high."""
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


def kind(recipe: Recipe) -> str:
    """Which of the four kinds a drawn recipe is."""
    methods = {axis.method for axis in recipe.axes} - {"none"}
    if not methods:
        return "native"
    return "truncated" if methods == {"truncate"} else "mixed" if "truncate" in methods else "thick"


@given(RECIPE)
def test_json_gives_the_record_back(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("name", NAMED)
def test_named_recipes_carry_their_name_and_survive_json(name, tmp_path):
    assert NAMED[name].name == name
    (tmp_path / "recipe.json").write_text(NAMED[name].to_json())
    assert Recipe.load(tmp_path / "recipe.json") == NAMED[name]


def test_thick_slices_touch_one_axis():
    recipe = thick_slices(4, 0.02, "four", axis=1)
    assert [axis.factor for axis in recipe.axes] == [1, 4, 1]
    assert [axis.method for axis in recipe.axes] == ["none", "gaussian", "none"]
    assert (recipe.noise, recipe.name, recipe.axes[1].thickness) == (0.02, "four", 1)


LIMITS = {"noise": (0, 0.5), "bias": (0, 1), "gamma": (0.3, 3), "warp_mm": (0, 5), "slice_gain": (0, 0.5)}


@pytest.mark.parametrize(("key", "low", "high"), [(key, *limits) for key, limits in LIMITS.items()])
def test_values_outside_their_range_are_refused(key, low, high):
    assert getattr(Recipe(**{key: low}), key) == low and getattr(Recipe(**{key: high}), key) == high
    for value in (low - 1e-6, high + 1e-6, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"recipe {key}=.* must lie in {low}..{high}"):
            Recipe(**{key: value})


@pytest.mark.parametrize(
    "values",
    [
        {"factor": 0.99},
        {"factor": 12.01},
        {"thickness": 0.29},
        {"thickness": 2.01},
        {"factor": float("nan")},
        {"thickness": float("nan")},
    ],
)
def test_axis_values_outside_their_range_are_refused(values):
    with pytest.raises(ConfigError, match=r"must lie in 1\.\.12 .* in 0\.3\.\.2"):
        AxisRecipe(method="gaussian", **values)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'triangle' is unknown; choose from none, gaussian, box, bicubic"):
        AxisRecipe(method="triangle")


AXES = [{}, {}, {}]
NOT_RECIPES = {
    "not JSON": "{",
    "a list": "[]",
    "a word": '"thick5"',
    "null": "null",
    "no axes": "{}",
    "axes a number": '{"axes": 3}',
    "two axes": json.dumps({"axes": [{}, {}]}),
    "four axes": json.dumps({"axes": [{}, {}, {}, {}]}),
    "axis a number": json.dumps({"axes": [1, 2, 3]}),
    "unknown key": json.dumps({"axes": AXES, "nois": 0.1}),
    "unknown axis key": json.dumps({"axes": [{"size": 1}, {}, {}]}),
    "a word for a number": json.dumps({"axes": AXES, "noise": "loud"}),
    "a word for a factor": json.dumps({"axes": [{"factor": "two"}, {}, {}]}),
}


@pytest.mark.parametrize("text", NOT_RECIPES.values(), ids=NOT_RECIPES.keys())
def test_other_text_is_not_a_recipe(text):
    with pytest.raises(ConfigError, match=r"^not a recipe: .*; write one with Recipe.to_json\(\)$"):
        Recipe.from_json(text)


def test_json_with_impossible_values_names_them():
    with pytest.raises(ConfigError, match=r"recipe noise=0\.7 must lie in"):
        Recipe.from_json(json.dumps({"axes": AXES, "noise": 0.7}))
    with pytest.raises(ConfigError, match="'cubic' is unknown"):
        Recipe.from_json(json.dumps({"axes": [{"method": "cubic"}, {}, {}]}))


@given(st.integers(0, 10_000))
def test_the_same_generator_draws_the_same_record(seed):
    assert draw_recipe(rng_for(seed)) == draw_recipe(rng_for(seed))


def test_other_generators_draw_other_records():
    assert len({draw_recipe(rng_for(seed)) for seed in range(50)}) == 50


@given(
    st.integers(0, 10_000),
    st.fixed_dictionaries(
        {
            "slice_factor": low_and_high(1, 12),
            "truncation": low_and_high(1, 4),
            "thickness": low_and_high(0.3, 2),
            "noise": low_and_high(0.001, 0.5),
            "slice_noise": low_and_high(0.001, 0.5),
        }
    ),
)
def test_draws_lie_inside_their_ranges(seed, limits):
    ranges = RecipeRanges(**limits)
    recipe = draw_recipe(rng_for(seed), ranges)

    def inside(value: float, ends: tuple[float, float]) -> bool:
        return ends[0] * (1 - 1e-9) <= value <= ends[1] * (1 + 1e-9)

    assert inside(recipe.noise, ranges.slice_noise if kind(recipe) in ("thick", "mixed") else ranges.noise)
    for axis in recipe.axes:
        if axis.method == "truncate":
            assert inside(axis.factor, ranges.truncation)
        elif axis.method != "none":
            assert inside(axis.factor, ranges.slice_factor) and inside(axis.thickness, ranges.thickness)


@pytest.mark.parametrize("only", ["thick", "truncated", "mixed", "native"])
def test_a_kind_alone_is_always_drawn(only):
    ranges = RecipeRanges(**({"thick": 0, "truncated": 0, "mixed": 0, "native": 0} | {only: 2}))
    drawn = [draw_recipe(rng_for(seed, only), ranges) for seed in range(60)]
    assert {kind(recipe) for recipe in drawn} == {only}
    sliced = [[axis.method in ("gaussian", "box") for axis in recipe.axes] for recipe in drawn]
    assert {sum(axes) for axes in sliced} == {int(only in ("thick", "mixed"))}
    if only in ("thick", "mixed"):
        assert {axes.index(True) for axes in sliced} == {0, 1, 2}


def test_kinds_are_drawn_by_their_shares():
    ranges = RecipeRanges()
    drawn = [kind(draw_recipe(rng_for(seed, "share"), ranges)) for seed in range(3000)]
    for name in ("thick", "truncated", "mixed", "native"):
        assert drawn.count(name) / 3000 == pytest.approx(getattr(ranges, name), abs=0.03), name


def test_gains_of_slices_are_written_only_where_there_are_some():
    """Frozen recipes are known by the digest of their JSON, and old files have no such key."""
    assert "slice_gain" not in NAMED["thick5"].to_json()
    unequal = replace(NAMED["thick5"], slice_gain=0.02)
    assert Recipe.from_json(unequal.to_json()) == unequal


def test_no_frozen_recipe_has_unequal_slices():
    assert {recipe.slice_gain for recipe in NAMED.values()} == {0}


@given(st.integers(0, 10_000))
def test_gains_of_slices_change_nothing_else_that_is_drawn(seed):
    plain = draw_recipe(rng_for(seed))
    drawn = draw_recipe(rng_for(seed), RecipeRanges(slice_gain=0.03))
    assert replace(drawn, slice_gain=0.0) == plain and plain.slice_gain == 0
    assert (0 < drawn.slice_gain <= 0.03) == (kind(plain) in ("thick", "mixed"))


@pytest.mark.parametrize("value", [-0.01, 0.6, float("nan")])
def test_impossible_ranges_of_gains_are_refused(value):
    with pytest.raises(ConfigError, match=r"recipes.slice_gain=.* must lie in 0..0.5"):
        RecipeRanges(slice_gain=value)


@pytest.mark.parametrize("name", [["a"], {"a": 1}, None, 5])
def test_a_name_is_text(name):
    with pytest.raises(ConfigError, match=r"recipe name=.* must be text"):
        Recipe.from_json(json.dumps({"axes": AXES, "name": name}))


def test_resampled_scans_are_drawn_when_asked_for_and_change_no_other_draw():
    only = RecipeRanges(thick=0, truncated=0, mixed=0, native=0, resampled=1.0)
    drawn = [draw_recipe(rng_for(0, n), only) for n in range(300)]
    methods = {axis.method for recipe in drawn for axis in recipe.axes} - {"none"}
    assert methods == set(METHODS) - {"none"} and {recipe.name for recipe in drawn} == {RESAMPLED}
    touched = [sum(axis.method != "none" for axis in recipe.axes) for recipe in drawn]
    assert set(touched) == {1, 2, 3} and 0.35 < sum(n == 3 for n in touched) / 300 < 0.65
    assert all(axis.thickness > 1 for recipe in drawn for axis in recipe.axes if axis.method == "truncate")
    usual = [draw_recipe(rng_for(0, n), RecipeRanges()) for n in range(20)]
    assert usual == [draw_recipe(rng_for(0, n), RecipeRanges(resampled=0.0)) for n in range(20)]
    assert {recipe.name for recipe in usual} == {DRAWN}
