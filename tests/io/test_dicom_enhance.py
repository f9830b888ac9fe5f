"""From a DICOM export to an enhanced NIfTI scan, with nothing personal in anything that comes out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicom_maker import SECRETS, known_affine, slices, write

import moediff
from moediff.cli.main import main
from moediff.core.errors import CannotCreate
from moediff.io.naming import default_output
from moediff.io.scans import load, save


def test_a_series_is_enhanced_and_nothing_personal_comes_out(tmp_path, bundle, capsys):
    folder = write(tmp_path / "export", slices())
    assert main(["enhance", str(folder), "--bundle", str(bundle), "--voxel-size", "6", "-v"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"export", "series-5_desc-sr_MR.nii.gz", "series-5_desc-sr_MR.json"}
    written = gzip.decompress((tmp_path / "series-5_desc-sr_MR.nii.gz").read_bytes())
    said = "".join(capsys.readouterr()).encode()
    everything = (written + (tmp_path / "series-5_desc-sr_MR.json").read_bytes() + said).lower()
    assert [secret for secret in SECRETS if secret.encode() in everything] == []
    ours = load(tmp_path / "series-5_desc-sr_MR.nii.gz").stored
    directions = ours.affine[:3, :3].numpy() / 6
    np.testing.assert_allclose(directions, known_affine()[:3, :3] / (6, 7, 8), atol=1e-5)


def test_the_series_and_the_name_can_be_chosen(tmp_path, capsys):
    folder = write(tmp_path / "export", slices(), "a")
    write(folder, slices(series="1.2.3.7", number=7), "b")
    assert main(["enhance", str(folder), "--dry-run"]) == 65
    assert "choose one with --series from 5: MR 2D GR" in capsys.readouterr().err
    assert main(["enhance", str(folder), "--series", "7", "--dry-run", "-o", str(tmp_path / "out.nii.gz")]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["input"] == [12, 10, 9] and plan["files"][0].endswith("out.nii.gz")


@pytest.mark.parametrize("name", ["export", "Quimby.zip", "study.v2"])
def test_the_default_name_never_repeats_the_export(name):
    assert default_output(Path("data") / name, "series-5_MR") == Path("data/series-5_desc-sr_MR.nii.gz")


def test_a_folder_named_by_dots_gets_its_output_beside_it(tmp_path, monkeypatch):
    (tmp_path / "export").mkdir()
    monkeypatch.chdir(tmp_path / "export")
    assert default_output(Path("."), "series-5_MR").resolve() == tmp_path / "series-5_desc-sr_MR.nii.gz"


def test_in_python_too_a_series_is_chosen_by_loading_it(tmp_path, bundle):
    folder = write(tmp_path / "export", slices(), "a")
    write(folder, slices(series="1.2.3.7", number=7), "b")
    chosen = moediff.load(folder, series="7")
    result = moediff.enhance(chosen, tmp_path / "out.nii.gz", bundle=bundle, voxel_size=(6.0,))
    assert (tmp_path / "out.json").is_file() and result.source.stem == "series-7_MR"


@pytest.mark.parametrize("read", [moediff.load, nib.load, str])
def test_a_scan_is_not_replaced_by_its_result_however_it_is_given(read, tmp_path, bundle, make_phantom):
    path = tmp_path / "scan.nii.gz"
    save(make_phantom((30, 34, 20), (6.0, 6.0, 9.0)), path)
    with pytest.raises(CannotCreate, match="would replace the input"):
        moediff.enhance(read(path), path, bundle=bundle, overwrite=True)
