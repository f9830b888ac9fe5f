"""Data consistency with several scans: known motion, known noise, and what does not belong together."""

import csv
import json
import shutil

import pytest
import torch

from moediff.cli.main import main
from moediff.core.errors import DataError
from moediff.evaluation.data_consistency import consistency
from moediff.evaluation.evaluate import EvaluateOptions, evaluate
from moediff.evaluation.pairs import Pair, judge
from moediff.evaluation.recorded_scans import recorded_scans
from moediff.evaluation.several_scans import InputScan, several_consistency
from moediff.io.scans import save
from moediff.registration.rigid import IDENTITY
from several_scans import other_contrast

NOISE = 0.01  # of the range, as the scans were made
NAMES = ("ax", "sag", "cor")
FAST = EvaluateOptions(metrics=("psnr",))


def inputs_of(stacks, transforms=None, scans=None):
    triples = zip(NAMES, scans or stacks.scans, transforms or stacks.transforms, strict=True)
    return [InputScan(name, scan, transform, 1.0) for name, scan, transform in triples]


@pytest.fixture(scope="module")
def of_truth(stacks):
    return several_consistency(stacks.truth, inputs_of(stacks), fit=True)


def test_the_truth_differs_from_scans_that_moved_by_their_noise(of_truth, stacks):
    assert [one.rms_over_range for one in of_truth.scans] == pytest.approx([NOISE] * 3, rel=0.15)
    assert of_truth.overall.rms_over_range == pytest.approx(NOISE, rel=0.15)
    assert of_truth.scans[1].assumed == ("gaussian slice profile", "none", "none")
    assert of_truth.overall.assumed[2] == "gaussian slice profile or none"
    moved = [t.displacement_mm((0, 0, 0)) for t in stacks.transforms]
    assert [one.displacement_mm for one in of_truth.scans] == pytest.approx(moved, abs=0.5)
    assert of_truth.warnings == ()


def test_the_overall_number_is_the_root_mean_square_of_all_samples(of_truth):
    numbers = torch.tensor([one.rms_over_range for one in of_truth.scans])
    assert float(numbers.min()) < of_truth.overall.rms_over_range < float(numbers.max())
    assert of_truth.overall.rms_over_range == pytest.approx(float(numbers.square().mean().sqrt()), rel=0.03)


def test_a_wrong_place_is_seen_in_its_scan_alone_and_warned_of(of_truth, stacks):
    first, _, third = stacks.transforms
    wrong = several_consistency(stacks.truth, inputs_of(stacks, [first, IDENTITY, third]), fit=True)
    assert wrong.scans[1].rms_over_range > 5 * of_truth.scans[1].rms_over_range
    assert wrong.scans[0] == of_truth.scans[0] and wrong.scans[2] == of_truth.scans[2]
    (warning,) = wrong.warnings
    assert "input sag" in warning and "is it the scan" in warning


def test_what_a_prediction_invents_contradicts_every_scan(of_truth, stacks):
    data = stacks.truth.data_XYZ.clone()
    data[40:52, 46:58, 38:50] += 300
    invented = several_consistency(stacks.truth.with_data(data), inputs_of(stacks), fit=True)
    pairs = zip(invented.scans, of_truth.scans, strict=True)
    assert all(one.rms_over_range > 1.5 * other.rms_over_range for one, other in pairs)


def test_the_gain_of_the_sidecar_counts_where_intensities_are_not_fitted(stacks):
    bright = inputs_of(stacks)
    bright[1] = InputScan("sag", bright[1].scan.with_data(bright[1].scan.data_XYZ * 3), bright[1].transform, 3.0)
    numbers = several_consistency(stacks.truth, bright, fit=False).scans[1].rms_over_range
    assert numbers == pytest.approx(NOISE, rel=0.2)
    unknown = [InputScan(one.name, one.scan, one.transform) for one in bright]  # found by comparison
    assert several_consistency(stacks.truth, unknown, fit=False).scans[1].rms_over_range < 2 * NOISE
    stated_wrong = [*bright[:1], InputScan("sag", bright[1].scan, bright[1].transform, 2.0), bright[2]]
    assert several_consistency(stacks.truth, stated_wrong, fit=False).scans[1].rms_over_range > 0.1


@pytest.mark.parametrize("fit", [True, False])
def test_a_single_scan_in_its_place_gives_the_numbers_of_a_single_input(stacks, fit):
    alone = consistency(stacks.truth, stacks.scans[0], fit=fit)
    several = several_consistency(stacks.truth, inputs_of(stacks)[:1], fit=fit)
    assert several.overall == alone
    assert (several.scans[0].rms_over_range, several.scans[0].noise_over_range) == (
        alone.rms_over_range,
        alone.noise_over_range,
    )


def test_scans_without_a_record_are_registered(of_truth, stacks):
    pytest.importorskip("SimpleITK")
    unknown = [InputScan(name, scan) for name, scan in zip(NAMES, stacks.scans, strict=True)]
    found = evaluate(stacks.truth, stacks.truth, FAST, measured=unknown)
    assert [one.placed_by for one in found.inputs] == ["registration"] * 3
    numbers = [one.rms_over_range for one in found.inputs]
    assert numbers == pytest.approx([one.rms_over_range for one in of_truth.scans], rel=0.15)
    assert found.data_consistency.rms_over_range == pytest.approx(of_truth.overall.rms_over_range, rel=0.15)


def test_registered_scans_of_another_contrast_are_refused(still_stacks):
    pytest.importorskip("SimpleITK")
    first, second, _ = still_stacks.scans
    scans = [InputScan("ax", first), InputScan("odd", other_contrast(second))]
    with pytest.raises(DataError, match=r"input odd does not fit the other inputs .* one head and one contrast"):
        several_consistency(still_stacks.truth, scans, fit=True)


def test_a_scan_that_was_left_out_has_no_numbers(of_truth, stacks):
    first, second, third = inputs_of(stacks)
    out = InputScan("sag", second.scan, second.transform, 1.0, left_out="another head")
    several = several_consistency(stacks.truth, [first, out, third], fit=True)
    assert several.scans[1].rms_over_range is None and several.scans[1].left_out == "another head"
    assert several.scans[0] == of_truth.scans[0]
    with pytest.raises(DataError, match="none of the 1 inputs"):
        several_consistency(stacks.truth, [out], fit=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, still_stacks, bundle):
    """ax, sag and cor, the result that `enhance` makes of them, and ref."""
    path = tmp_path_factory.mktemp("several")
    for name, scan in zip(NAMES, still_stacks.scans, strict=True):
        save(scan, path / f"{name}.nii.gz")
    files = [str(path / f"{name}.nii.gz") for name in NAMES]
    out = ["-o", str(path / "out.nii.gz"), "--bundle", str(bundle), "--voxel-size", "4", "--no-align", "-q"]
    assert main(["enhance", *files, *out]) == 0
    save(still_stacks.truth, path / "ref.nii.gz")
    return path


@pytest.fixture
def run(folder):
    """`run(inputs, *options)` -> exit code."""
    pair = ["--pred", str(folder / "out.nii.gz"), "--ref", str(folder / "ref.nii.gz"), "--metrics", "psnr"]

    def call(inputs, *options):
        given = [str(folder / f"{name}.nii.gz") for name in inputs]
        return main(["evaluate", *pair, "--resample", "--input", *given, *map(str, options)])

    return call


def test_the_command_gives_a_number_for_each_scan_and_one_for_all(run, folder, tmp_path, capsys):
    assert run(NAMES, "--json", tmp_path / "e.json", "--csv", tmp_path / "e.csv") == 0
    said = capsys.readouterr().out
    record, sidecar = json.loads((tmp_path / "e.json").read_text()), json.loads((folder / "out.json").read_text())
    assert record["files"]["input"] == "ax.nii.gz; sag.nii.gz; cor.nii.gz"
    numbers = [one["rms_over_range"] for one in record["inputs"]]
    assert numbers == pytest.approx([scan["residual_over_range"] for scan in sidecar["scans"]], rel=0.25)
    assert [one["placed_by"] for one in record["inputs"]] == ["sidecar"] * 3
    assert min(numbers) < record["data_consistency"]["rms_over_range"] < max(numbers)
    (row,) = csv.DictReader((tmp_path / "e.csv").read_text().splitlines())
    assert [float(row[f"data_consistency_rms_over_range_{n}"]) for n in (1, 2, 3)] == numbers
    assert float(row["data_consistency_rms_over_range"]) == record["data_consistency"]["rms_over_range"]
    (line,) = [line for line in said.splitlines() if "cor.nii.gz" in line]
    assert str(numbers[2]) in line


def test_the_order_of_inputs_does_not_matter_and_some_may_be_missing(run, tmp_path):
    for name, inputs in (("all", NAMES), ("others", ("cor", "sag")), ("one", ("ax",))):
        assert run(inputs, "--json", tmp_path / f"{name}.json", "-q") == 0
    every, others, one = (
        {scan["name"]: scan for scan in json.loads((tmp_path / f"{name}.json").read_text())["inputs"]}
        for name in ("all", "others", "one")
    )
    assert list(others) == ["cor.nii.gz", "sag.nii.gz"]
    for name in others:
        assert others[name]["rms_over_range"] == pytest.approx(every[name]["rms_over_range"], rel=0.02)
    assert one["ax.nii.gz"] == every["ax.nii.gz"]


def test_what_is_no_input_of_the_result_ends_with_one_sentence(run, folder, still_stacks, capsys):
    shutil.copy(folder / "sag.nii.gz", folder / "else.nii.gz")
    (folder / "sub").mkdir()
    save(still_stacks.truth, folder / "sub" / "cor.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "cor.nii.gz").read_bytes()[:3000])
    for inputs, code, words in (
        (("ax", "else"), 65, "else.nii.gz is not among the scans that the sidecar lists (ax.nii.gz, sag.nii.gz, cor"),
        (("ax", "ax"), 65, "is named twice as an input"),
        (("ax", "sub/cor"), 65, "the sidecar says 48 x"),
        (("ax", "cut"), 65, "cut.nii.gz"),
        (("ax", "nowhere"), 66, "no such file"),
    ):
        assert run(inputs) == code
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


def test_a_damaged_list_of_scans_is_named(folder, tmp_path):
    sidecar = json.loads((folder / "out.json").read_text())
    for damage in ({"transform": [[1, 0], [0, 1]]}, {"gain": -1}, {"input": {}}, {"transform": [[2, 0, 0, 0]] * 4}):
        damaged = {**sidecar, "scans": [{**sidecar["scans"][0], **damage}]}
        with pytest.raises(DataError, match="list of scans in the sidecar is damaged"):
            recorded_scans(damaged)
    assert recorded_scans({"scans": []}) == []


def test_a_rounded_rotation_is_a_rotation_again(folder, stacks):
    sidecar = json.loads((folder / "out.json").read_text())
    matrix = stacks.transforms[1].matrix
    rows = [[round(value, 6) for value in row] for row in matrix.tolist()]
    (one,) = recorded_scans({"scans": [{**sidecar["scans"][0], "transform": rows}]})
    assert float((one.transform.matrix - matrix).abs().max()) < 2e-6


def test_a_pair_counts_its_inputs(folder):
    pair = Pair(pred=folder / "out.nii.gz", ref=folder / "ref.nii.gz", input=(folder / "ax.nii.gz",))
    assert list(pair.files) == ["pred", "ref", "input"]
    assert judge(pair, EvaluateOptions(metrics=("psnr",), resample=True)).files["input"] == "ax.nii.gz"
    several = Pair(pred=pair.pred, ref=pair.ref, input=(*pair.input, folder / "sag.nii.gz"))
    assert list(several.files) == ["pred", "ref", "input 1", "input 2"]
