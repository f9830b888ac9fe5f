"""`moediff evaluate`: files in, exit codes, JSON and CSV out."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.cli.main import main
from moediff.core.config import rng_for
from moediff.evaluation.evaluate import METRICS
from moediff.io.scans import save

SHAPE = (36, 40, 32)
NAMES = {"ref", "pred", "low", "mask", "shifted", "flipped", "empty", "nowhere"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_phantom):
    """ref, pred (noisy), low (thick slices), mask, shifted, flipped; 4 mm voxels."""
    path = tmp_path_factory.mktemp("pair")
    ref = make_phantom(SHAPE)
    noisy = ref.with_data(ref.data_XYZ + 20 * torch.randn(SHAPE, generator=rng_for(0)).abs())
    moved = ref.affine.clone()
    moved[1, 3] += 5
    mask = torch.zeros(SHAPE)
    mask[8:28, 8:28, 8:24] = 1
    files = {
        "ref": ref,
        "pred": noisy,
        "low": degrade(ref, thick_slices(3, 0, "thick"), rng_for(0)),
        "mask": ref.with_data(mask),
        "shifted": type(ref)(noisy.data_XYZ, moved),
        "flipped": ref.with_data(noisy.data_XYZ.flip(0)),
    }
    for name, volume in files.items():
        save(volume, path / f"{name}.nii.gz")
    image = nib.Nifti1Image(np.zeros(SHAPE, np.float32), ref.affine.numpy())
    nib.save(image, path / "empty.nii.gz")
    return path


@pytest.fixture
def run(folder):
    """`run(pred, *options)` -> exit code; names without suffix are files of the folder."""

    def named(word):
        return str(folder / f"{word}.nii.gz") if word in NAMES else word

    return lambda pred, *options: main(["evaluate", "--pred", named(pred), "--ref", named("ref"), *map(named, options)])


def test_one_pair_gives_every_metric_on_screen_and_in_json(run, tmp_path, capsys):
    out = str(tmp_path / "e.json")
    assert run("pred", "--input", "low", "--json", out, "--metrics", "all") == 0
    said = capsys.readouterr()
    record = json.loads((tmp_path / "e.json").read_text())
    assert list(record["metrics"]) == list(METRICS)
    assert all(name in said.out for name in METRICS) and "Research use only" in said.out
    assert record["data_consistency"]["assumed"][2] == "gaussian slice profile"
    assert record["fit"]["gain"] == pytest.approx(1, abs=0.05)
    assert record["files"] == {"pred": "pred.nii.gz", "ref": "ref.nii.gz", "input": "low.nii.gz"}


def test_a_choice_of_metrics_a_mask_and_no_fit(run, tmp_path):
    out = str(tmp_path / "e.json")
    assert run("pred", "--mask", "mask", "--metrics", "psnr, ssim", "--no-intensity-fit", "--json", out, "-q") == 0
    record = json.loads((tmp_path / "e.json").read_text())
    assert list(record["metrics"]) == ["psnr", "ssim"] and record["fit"] is None
    assert record["mask"] == {"source": "given", "voxels": 20 * 20 * 16}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("shifted", "--metrics", "psnr"), 65, "5.00 mm apart"),
        (("pred", "--mask", "low"), 65, "mask lies on another grid"),
        (("pred", "--mask", "empty"), 65, "expected voxels inside"),
        (("empty",), 65, "all voxels have the value 0"),
        (("nowhere",), 66, "no such file"),
        (("pred", "--metrics", "psnr,beauty"), 78, "'beauty'; choose from psnr"),
    ],
)
def test_wrong_inputs_end_with_one_sentence(run, capsys, arguments, code, words):
    assert run(*arguments) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_resampling_is_allowed_on_request(run, tmp_path):
    assert run("shifted", "--metrics", "psnr", "--resample", "--json", str(tmp_path / "e.json"), "-q") == 0
    assert json.loads((tmp_path / "e.json").read_text())["resampled"] == "cubic"


def test_a_flip_is_printed_on_the_terminal(run, capsys):
    assert run("flipped", "--metrics", "psnr") == 0
    assert "mirrored left to right" in capsys.readouterr().err


def test_nothing_is_overwritten_without_the_option(run, tmp_path, capsys):
    taken = tmp_path / "e.json"
    taken.write_text("mine")
    assert run("pred", "--metrics", "psnr", "--json", str(taken)) == 73
    assert taken.read_text() == "mine" and "--overwrite" in capsys.readouterr().err
    assert run("pred", "--metrics", "psnr", "--json", str(taken), "--overwrite", "-q") == 0
    assert json.loads(taken.read_text())["metrics"]["psnr"] > 20


def test_an_input_is_never_replaced(run, folder):
    before = (folder / "ref.nii.gz").read_bytes()
    assert run("pred", "--metrics", "psnr", "--json", "ref", "--overwrite") == 73
    assert (folder / "ref.nii.gz").read_bytes() == before


def test_the_sidecar_of_a_result_is_never_replaced(run, folder, tmp_path, capsys):
    result, sidecar = tmp_path / "ours.nii.gz", tmp_path / "ours.json"
    result.write_bytes((folder / "pred.nii.gz").read_bytes())
    for suffix in ("json", "csv"):
        sidecar.write_text("of the result")
        assert run(str(result), "--metrics", "psnr", f"--{suffix}", str(sidecar), "--overwrite") == 73
        assert "an input or its sidecar" in capsys.readouterr().err and sidecar.read_text() == "of the result"
    sidecar.unlink()
    assert run(str(result), "--metrics", "psnr", "--json", str(sidecar), "-q") == 0  # there was none
    longest = result.rename(tmp_path / f"{'x' * 251}.nii")  # no sidecar could have its name
    assert run(str(longest), "--metrics", "psnr", "--json", str(tmp_path / "new.json"), "-q") == 65
    assert "gz" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--pred", "a"], ["--pairs", "a", "--ref", "b"], ["--ref", "b"], []])
def test_contradicting_options_are_usage_errors(options):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *options])
    assert stopped.value.code == 2


def test_a_list_is_judged_to_its_end(folder, tmp_path, capsys):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"pred,ref\n{folder}/pred.nii.gz,{folder}/ref.nii.gz\n{folder}/gone.nii.gz,{folder}/ref.nii.gz\n")
    outputs = ["--csv", str(tmp_path / "o.csv"), "--json", str(tmp_path / "o.json")]
    assert main(["evaluate", "--pairs", str(pairs), "--metrics", "psnr,nrmse", *outputs]) == 8
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert float(rows[0]["psnr"]) > 20 and rows[0]["error"] == ""
    assert rows[1]["psnr"] == "" and "no such file" in rows[1]["error"]
    first, second = json.loads((tmp_path / "o.json").read_text())
    assert float(rows[0]["psnr"]) == first["metrics"]["psnr"] and second["exit_code"] == 66
    assert "2/2 gone.nii.gz" in capsys.readouterr().err


def test_a_list_without_outputs_is_printed_as_csv(folder, tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text(f"pred,ref\n{folder}/pred.nii.gz,{folder}/ref.nii.gz\n")
    assert main(["evaluate", "--pairs", str(tmp_path / "pairs.csv"), "--metrics", "psnr"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert float(row["psnr"]) > 20


def test_two_bids_folders_are_evaluated_and_files_without_partner_named(folder, tmp_path, capsys):
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    for person, made, at in (("01", "pred", pred), ("02", "pred", pred), ("01", "ref", ref), ("03", "ref", ref)):
        anat = at / f"sub-{person}" / "anat"
        anat.mkdir(parents=True)
        name = f"sub-{person}_desc-sr_T1w.nii.gz" if made == "pred" else f"sub-{person}_T1w.nii.gz"
        (anat / name).write_bytes((folder / f"{made}.nii.gz").read_bytes())
    command = ["evaluate", "--pred-bids", str(pred), "--ref-bids", str(ref), "--metrics", "psnr"]
    assert main([*command, "--csv", str(tmp_path / "o.csv")]) == 8
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [(r["pred"], r["ref"]) for r in rows] == [
        ("sub-01_desc-sr_T1w.nii.gz", "sub-01_T1w.nii.gz"),
        ("sub-02_desc-sr_T1w.nii.gz", ""),
        ("", "sub-03_T1w.nii.gz"),
    ]
    assert float(rows[0]["psnr"]) > 20 and "no reference has" in rows[1]["error"]
    assert "not judged: sub-03_T1w.nii.gz: no prediction has" in capsys.readouterr().err
    for path in (*pred.rglob("sub-02*.nii.gz"), *ref.rglob("sub-03*.nii.gz")):
        path.unlink()
    assert main([*command, "-q"]) == 0


def test_one_bids_folder_alone_is_a_usage_error(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--pred-bids", str(tmp_path)])
    assert stopped.value.code == 2


def test_six_metrics_with_units_are_printed_by_default(run, capsys):
    assert run("pred") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert [line[0] for line in lines[:6]] == ["psnr", "nrmse", "ssim", "haarpsi", "hf_ratio", "spectral_distance_db"]
    assert lines[0][2:] == ["dB", "higher", "is", "better"] and lines[4][2:] == ["1", "is", "right"]


def test_nothing_is_said_of_metrics_that_were_not_chosen(run, capsys):
    assert run("pred", "--metrics", "psnr") == 0
    said = capsys.readouterr().out
    assert said.startswith("psnr ") and said.count("\n") == 2 and "lpips" not in said.lower()
