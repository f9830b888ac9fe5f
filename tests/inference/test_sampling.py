"""How a scan was sampled: what the user states, in the order of the file's axes, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.operators import assumed_sampling, recipe_sampling
from moediff.acquisition.point_spread import NAMES, Sampling, parse_sampling
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.core.geometry import StorageOrder, centre_crop
from moediff.core.volume import Volume
from moediff.inference.grid_plan import GridPlan, plan_grids, stated_sampling
from moediff.inference.options import EnhanceOptions
from moediff.inference.sidecar import SampledAxes
from moediff.io.scans import from_volume, load

BOX, CUBIC, NONE = Sampling("box"), Sampling("bicubic", 1.2), Sampling()


@pytest.fixture
def plan() -> GridPlan:
    """Thick along A, coarse along S, fine along R; stored as S, R, A."""
    scan = Volume(torch.rand(24, 8, 16), torch.diag(torch.tensor([1.0, 3.0, 1.5, 1.0], dtype=torch.float64)))
    return GridPlan.between(scan, Volume(torch.rand(24, 24, 24), torch.eye(4, dtype=torch.float64)).grid)


def test_one_statement_holds_for_all_coarse_axes(plan):
    assert stated_sampling((BOX,), StorageOrder(), plan) == (NONE, BOX, BOX)


def test_three_statements_are_in_the_files_order(plan):
    stated = (CUBIC, NONE, BOX)  # of S, R, A
    assert stated_sampling(stated, StorageOrder(axes=(1, 2, 0)), plan) == (NONE, BOX, CUBIC)


def test_along_an_axis_of_coarser_target_voxels_nothing_is_undone():
    """Of windows there even frequencies were read that the target's voxels cannot hold."""
    scan = from_volume(Volume(torch.rand(24, 24, 8) + 0.1, torch.diag(torch.tensor([2.0, 4, 12, 1]).double())))
    stated = (Sampling("truncate"), Sampling("hamming", 1.2), Sampling("gaussian"))
    plan = plan_grids(scan, EnhanceOptions(profile=stated, trust_intensities=True, voxel_size=(4.0,)))
    assert plan.sampling == (NONE, *stated[1:])  # voxels of equal size can be sharpened
    (note,) = (one for one in plan.warnings if "--profile" in one)
    assert "how axis 1 of the file was sampled" in note and "coarser than the scan's" in note
    quiet = EnhanceOptions(profile=(NONE, *stated[1:]), trust_intensities=True, voxel_size=(4.0,))
    assert not any("--profile" in one for one in plan_grids(scan, quiet).warnings)


def test_two_statements_are_refused():
    with pytest.raises(ConfigError, match="profile has 2 values: give one or three"):
        EnhanceOptions(profile=(BOX, BOX))


def test_a_thickness_and_a_profile_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        EnhanceOptions(profile=(BOX,), slice_thickness=3.0)


def test_the_plan_holds_what_is_stated():
    scan = from_volume(Volume(torch.rand(24, 24, 12) + 0.1, torch.diag(torch.tensor([1.0, 1, 2, 1]).double())))
    options = EnhanceOptions(profile=(CUBIC,), trust_intensities=True, voxel_size=(1.0,))
    assert plan_grids(scan, options).sampling == (NONE, NONE, CUBIC)
    assert plan_grids(scan, EnhanceOptions(trust_intensities=True, voxel_size=(1.0,))).sampling is None


def test_statements_are_read_from_text():
    assert parse_sampling("box") == BOX and parse_sampling(" bicubic:1.2") == CUBIC and parse_sampling("none") == NONE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bix", "'bix' is unknown; choose from none"),
        ("box:wide", "'wide' is no width"),
        ("box:9", "must lie in 0.3..2"),
    ],
)
def test_bad_statements_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_sampling(text)


@pytest.mark.parametrize("method", sorted(set(NAMES) - {"none", "truncate"}))
def test_a_scan_whose_sampling_is_stated_starts_nearer_to_the_truth(method, make_phantom):
    truth = make_phantom((48, 48, 40), (4.0, 4.0, 4.0))
    recipe = Recipe(axes=(AxisRecipe(method=method, factor=2),) * 3, noise=0.003)
    low = degrade(truth, recipe, rng_for(0))
    stated, assumed = (
        prepare(low, truth.grid, PrepareSettings(), sampling=sampling)
        for sampling in (recipe_sampling(recipe.axes), None)
    )
    errors = [
        float((one.scaling.undo(one.interpolated_XYZ) - truth.data_XYZ).square().mean()) for one in (stated, assumed)
    ]
    assert errors[0] < 0.98 * errors[1]
    assert assumed.acquisition.sampling == assumed_sampling(assumed.positions)
    assert stated.acquisition.names == (NAMES[method],) * 3


def test_data_consistency_uses_what_is_stated(make_phantom):
    """The truth itself, acquired again, is the scan: nothing is left unexplained."""
    from moediff.acquisition.data_consistency import discrepancy

    truth = make_phantom((40, 40, 40), (4.0, 4.0, 4.0))
    recipe = Recipe(axes=(AxisRecipe(method="hamming", factor=2, thickness=1.2),) * 3)
    low = degrade(truth, recipe, rng_for(0))
    gaps = []
    for sampling in (recipe_sampling(recipe.axes), None):
        ready = prepare(low, truth.grid, PrepareSettings(), sampling=sampling)
        gaps.append(float(discrepancy(ready.scaling.apply(truth.data_XYZ), ready).gap_XYZ.abs().max()))
    assert gaps[0] < 1e-4 < 0.05 < gaps[1]


@pytest.mark.parametrize("told", [None, (NONE, NONE, Sampling("hamming", 1.2))])
def test_what_the_spectrum_shows_is_used_and_recorded(told, make_phantom, monkeypatch):
    truth = make_phantom((40, 40, 40), (4.0, 4.0, 4.0))
    low = degrade(truth, Recipe(axes=(AxisRecipe(method="truncate", factor=2),) * 3), rng_for(0))
    monkeypatch.setattr("moediff.acquisition.prepare.estimated_sampling", lambda *_: told)
    ready = prepare(low, truth.grid, PrepareSettings(), sampling="spectrum")
    assert ready.sampling == told and ready.from_spectrum == (told is not None)
    assert SampledAxes.of(ready).known_from == ("voxel sizes" if told is None else "spectrum")
    known = prepare(low, truth.grid, PrepareSettings(), sampling=told)
    assert torch.equal(ready.interpolated_XYZ, known.interpolated_XYZ)
    assert SampledAxes.of(known).known_from == ("voxel sizes" if told is None else "stated")


DATA = Path(__file__).parents[3] / "shared" / "data" / "val"


@pytest.mark.skipif(not (DATA / "fsf_T1w.nii.gz").is_file(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", ["fsf_T1w", "ljms07_FLAIR"])
def test_of_real_heads_filters_are_told_and_nothing_else(name):
    truth = centre_crop(load(DATA / f"{name}.nii.gz").volume, 112)
    for method, expected in (("tukey", True), ("fermi", True), ("truncate", False), ("box", False)):
        recipe = Recipe(axes=(AxisRecipe(method=method, factor=2),) * 3, noise=0.003)
        low = degrade(truth, recipe, rng_for(0))
        told = prepare(low, truth.grid, PrepareSettings(), sampling="spectrum").sampling
        assert (told is not None) == expected
        assert told is None or {axis.method for axis in told} <= {"tukey", "fermi", "hamming"}
