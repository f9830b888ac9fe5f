"""Bad files, whoever reads them: one sentence that names the file, the right exit code, and nothing left behind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.cli import main
from moediff.inference.outputs import OutputPaths
from moediff.volume.io import save
from moediff.volume.volume import Volume


def _gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _with(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def _voxels(data: bytes, change: Callable[[np.ndarray], None]) -> bytes:
    image = nib.Nifti1Image.from_bytes(data)
    voxels = np.asarray(image.dataobj, dtype=np.float32).copy()
    change(voxels)
    return nib.Nifti1Image(voxels, image.affine).to_bytes()


def _four_d(data: bytes) -> bytes:
    image = nib.Nifti1Image.from_bytes(data)
    return nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, -1), image.affine).to_bytes()


DIM, DATATYPE = 40, 70  # offsets in the header
BAD: dict[str, Callable[[bytes], bytes]] = {
    "row01_cut_in_half": lambda data: _gz(data)[: len(_gz(data)) // 2],
    "row02_trailer_lost": lambda data: _gz(data)[:-8],
    "row03_crc_wrong": lambda data: _with(_gz(data), len(_gz(data)) - 8, b"\1\2\3\4"),
    "row07_empty": lambda data: b"",
    "row07_html_page": lambda data: b"<!DOCTYPE html><html>404 not found</html>" * 20,
    "row08_header_only": lambda data: _gz(data[:352]),
    "row10_zero_dim": lambda data: _gz(_with(data, DIM + 2, b"\0\0")),
    "row11_huge_dims": lambda data: _gz(_with(data, DIM + 2, b"\xff\x7f" * 3)),
    "row14_unknown_datatype": lambda data: _gz(_with(data, DATATYPE, b"\x4d\0")),
    "row33_all_nan": lambda data: _gz(_voxels(data, lambda v: v.fill(np.nan))),
    "row33_constant": lambda data: _gz(_voxels(data, lambda v: v.fill(7))),
    "row34_rgb": lambda data: _gz(_with(data, DATATYPE, b"\x80\0\x18\0")),
    "row36_several_volumes": lambda data: _gz(_four_d(data)),
}
CALLS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "enhance": lambda bad, good, out: ["enhance", bad, "-o", out / "a.nii.gz"],
    "enhance_like": lambda bad, good, out: ["enhance", good, "--like", bad, "-o", out / "a.nii.gz"],
    "evaluate_pred": lambda bad, good, out: ["evaluate", "--pred", bad, "--ref", good, "--json", out / "a.json"],
    "evaluate_ref": lambda bad, good, out: ["evaluate", "--pred", good, "--ref", bad, "--json", out / "a.json"],
    "degrade": lambda bad, good, out: ["degrade", bad, "--recipe", "thick5", "-o", out / "a.nii.gz"],
    "report": lambda bad, good, out: ["report", bad, "-o", out / "a.html"],
    "report_input": lambda bad, good, out: ["report", good, "--input", bad, "-o", out / "a.html"],
    "report_truth": lambda bad, good, out: ["report", good, "--truth", bad, "-o", out / "a.html"],
}


@pytest.fixture
def good(tmp_path: Path, make_phantom) -> Path:
    """A phantom head, with a sidecar as a result has."""
    path = tmp_path / "good_T1w.nii.gz"
    save(make_phantom((40, 44, 36), (4.0, 4.0, 4.0)), path)
    OutputPaths(scan=path).sidecar.write_text(json.dumps({"experts": []}))
    return path


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_by_whoever_reads_it(kind, call, good: Path, tmp_path: Path, capsys):
    bad, out = tmp_path / "bad_T1w.nii.gz", tmp_path / "out"
    bad.write_bytes(BAD[kind](gzip.decompress(good.read_bytes())))
    OutputPaths(scan=bad).sidecar.write_text("{}")
    out.mkdir()
    before = everything(tmp_path)
    code = main([str(part) for part in CALLS[call](bad, good, out)])
    told = capsys.readouterr().err
    assert code == 65, told
    assert told.startswith("moediff: ") and told.count("\n") == 1 and bad.name in told
    assert everything(tmp_path) == before


@pytest.mark.parametrize("call", CALLS)
def test_a_file_that_is_not_there_is_named(call, good: Path, tmp_path: Path, capsys):
    code = main([str(part) for part in CALLS[call](tmp_path / "none.nii.gz", good, tmp_path)])
    told = capsys.readouterr().err
    assert code == 66 and told.count("\n") == 1 and "none" in told


@pytest.mark.parametrize("kind", BAD)
def test_training_names_the_scan_it_cannot_use(kind, good: Path, tmp_path: Path, capsys):
    (tmp_path / "bad.nii.gz").write_bytes(BAD[kind](gzip.decompress(good.read_bytes())))
    (tmp_path / "config.toml").write_text('out = "run"\nsteps = 1\nbatch = 1\n[[scans]]\npath = "bad.nii.gz"\n')
    code = main(["train", str(tmp_path / "config.toml"), "-q", "--processes", "1"])
    told = capsys.readouterr().err
    assert code == 65 and told.count("\n") == 1 and "bad.nii.gz" in told
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_scan_without_any_head_never_passes_without_a_warning(good: Path, tmp_path: Path, capsys):
    noise = 100 + torch.randn(40, 44, 36, generator=torch.Generator().manual_seed(0))
    save(Volume(noise, torch.diag(torch.tensor([4.0, 4, 4, 1], dtype=torch.float64))), tmp_path / "noise.nii.gz")
    code = main(["enhance", str(tmp_path / "noise.nii.gz"), "--voxel-size", "3", "-o", str(tmp_path / "out.nii.gz")])
    assert code == 65 or "warning" in capsys.readouterr().err
