"""`moediff degrade`: a recipe by name or file, the scan and its sidecar."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED, AxisRecipe, Recipe
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.io.scans import load, save, save_maps

FROZEN = {
    "thick3": "999cd1b5ba9b",
    "thick5": "a58f5528579f",
    "low1.5": "75f7f5a65a11",
    "iso1.5": "bbd7ce3f8e80",
    "iso2": "a542e217ec08",
    "mixed": "9a8b48752c28",
    "low-field": "46b0ac08d1fe",
    "inplane2": "471e68a57c69",
}


@pytest.fixture
def scan(tmp_path, make_phantom):
    """A phantom head of 4 mm voxels on disk."""
    save(make_phantom((36, 40, 30)), tmp_path / "head_T1w.nii.gz", codes=(1, 4))
    return tmp_path / "head_T1w.nii.gz"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "low.nii.gz"


def run(scan, out, recipe, *options):
    return main(["degrade", str(scan), "--recipe", str(recipe), "-o", str(out), *options])


@pytest.mark.parametrize("name", NAMED)
def test_named_recipes_are_frozen(name):
    assert hashlib.sha256(NAMED[name].to_json().encode()).hexdigest()[:12] == FROZEN[name]


@pytest.mark.parametrize(
    ("name", "shape"), [("thick3", (36, 40, 10)), ("inplane2", (18, 20, 30)), ("low-field", (24, 27, 20))]
)
def test_a_named_recipe_gives_the_simulators_scan(scan, out, name, shape, capsys):
    assert run(scan, out, name, "--seed", "4") == 0
    assert str(out) in capsys.readouterr().out
    expected = degrade(load(scan).volume, NAMED[name], rng_for(4, scan.name, name))
    written = load(out)
    assert written.volume.shape == shape and written.codes == (1, 4)
    assert_close(written.volume.data_XYZ, expected.data_XYZ, atol=1e-3, rtol=1e-6)
    assert_close(written.volume.affine, expected.affine, atol=1e-4, rtol=0)


def test_the_sidecar_is_enough_to_do_it_again(scan, out, tmp_path):
    assert run(scan, out, "low-field", "--seed", "9", "-q") == 0
    record = json.loads((tmp_path / "low.json").read_text())
    assert record["seed"] == 9 and record["output_shape"] == [24, 27, 20]
    assert Recipe.from_json(json.dumps(record["recipe"])) == NAMED["low-field"]
    again = tmp_path / "again.nii.gz"
    assert run(scan, again, tmp_path / "low.json", "--seed", "9", "-q") == 0
    assert again.read_bytes() == out.read_bytes()


def test_the_seed_changes_the_noise_alone(scan, tmp_path):
    one, other = tmp_path / "1.nii.gz", tmp_path / "2.nii.gz"
    assert run(scan, one, "thick3", "-q") == run(scan, other, "thick3", "--seed", "1", "-q") == 0
    gap = nib.load(one).get_fdata() - nib.load(other).get_fdata()
    assert 0 < np.abs(gap).max() < 100


def test_a_recipe_of_ones_own(scan, out, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(Recipe(axes=(AxisRecipe(), AxisRecipe(method="box", factor=4), AxisRecipe()), name="own").to_json())
    assert run(scan, out, own, "-q") == 0
    assert load(out).volume.shape == (36, 10, 30)


WRONG = {
    "unknown name": ("thick9", None, 78, "choose from thick3, thick5, low1.5"),
    "no file": ("gone.json", None, 66, "cannot be read"),
    "no JSON": ("bad.json", "{", 78, "not a recipe"),
    "no record": ("bad.json", "[1]", 78, "not a recipe: expected an object with axes"),
    "no end": ("bad.json", "[" * 100_000, 78, "not a recipe"),
    "no such noise": ("bad.json", '{"axes": [{}, {}, {}], "noise": 7}', 78, "noise=7"),
}


@pytest.mark.parametrize(("recipe", "text", "code", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_recipes_end_with_one_sentence(recipe, text, code, words, request):
    scan, out, capsys = (request.getfixturevalue(name) for name in ("scan", "out", "capsys"))
    file = scan.with_name(recipe)
    if text is not None:
        file.write_text(text)
    assert run(scan, out, file if recipe.endswith(".json") else recipe) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not out.exists()


def test_a_missing_scan_ends_with_66(tmp_path, out):
    assert run(tmp_path / "none.nii.gz", out, "thick3") == 66


@pytest.mark.parametrize("taken", ["low.nii.gz", "low.json"])
def test_nothing_is_overwritten_without_the_option(scan, out, tmp_path, taken, capsys):
    (tmp_path / taken).write_text("mine")
    assert run(scan, out, "thick3") == 73
    assert (tmp_path / taken).read_text() == "mine" and "--overwrite" in capsys.readouterr().err
    assert run(scan, out, "thick3", "--overwrite", "-q") == 0
    assert load(out).volume.shape == (36, 40, 10)


def test_the_input_is_never_replaced(scan):
    before = scan.read_bytes()
    assert run(scan, scan, "thick3", "--overwrite") == 73
    assert scan.read_bytes() == before


def test_a_recipe_of_ones_own_is_not_replaced_by_the_sidecar(scan, out):
    own = out.with_suffix("").with_suffix(".json")
    own.write_text(Recipe(axes=(AxisRecipe(), AxisRecipe(method="box", factor=4), AxisRecipe()), name="own").to_json())
    before = own.read_bytes()
    assert run(scan, out, own, "--overwrite") == 73
    assert own.read_bytes() == before and not out.exists()


def test_a_sidecar_that_came_with_the_scan_is_not_replaced(scan):
    beside = scan.with_name("head_T1w.json")
    beside.write_text('{"EchoTime": 0.1}')
    assert run(scan, scan.with_name("head_T1w.nii"), "thick3", "--overwrite") == 73
    assert beside.read_text() == '{"EchoTime": 0.1}'


@pytest.mark.fault(22)
def test_a_scan_without_orientation_is_described_in_our_own_words(scan, out, tmp_path, capsys):
    lost = nib.load(scan)
    lost.header["qform_code"] = lost.header["sform_code"] = 0
    image = nib.Nifti1Image(np.asarray(lost.dataobj), None, lost.header)
    nib.save(image, tmp_path / "lost.nii.gz")
    assert run(tmp_path / "lost.nii.gz", out, "thick3", "-q") == 0 and capsys.readouterr().err == ""
    assert run(tmp_path / "lost.nii.gz", out, "thick3", "--overwrite") == 0
    assert "moediff: warning: LEFT AND RIGHT ARE NOT KNOWN" in capsys.readouterr().err
    assert load(out).codes == (0, 1)


def test_one_volume_of_several_can_be_chosen(scan, out, capsys):
    one = load(scan).volume
    save_maps(torch.stack([one.data_XYZ, 2 * one.data_XYZ], -1), one.affine, scan, overwrite=True)
    assert main(["degrade", str(scan), "--recipe", "iso2", "-o", str(out)]) == 65
    assert "--volume 0 to --volume 1" in capsys.readouterr().err
    assert main(["degrade", str(scan), "--recipe", "iso2", "-o", str(out), "--volume", "1", "-q"]) == 0
    assert json.loads(out.with_name("low.json").read_text())["noise_reference"] > 1000
