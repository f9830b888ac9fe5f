"""Every option of every command that names a scan: a bad file gets one clear sentence, and nothing is left behind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.cli.main import main
from moediff.core.errors import DataError, GeometryError
from moediff.core.volume import Volume
from moediff.io.scans import save

OUT = ["-o", "{out}/made.nii.gz"]
MODEL = ["--bundle", "{bundle}"]
PAGE = ["-o", "{out}/page.html"]
COMMANDS = {
    "enhance": ["enhance", "{bad}", *OUT, *MODEL],
    "enhance --like": ["enhance", "{good}", "--like", "{bad}", *OUT, *MODEL],
    "enhance --dry-run": ["enhance", "{bad}", "--dry-run"],
    "degrade": ["degrade", "{bad}", "--recipe", "thick3", *OUT],
    "evaluate --pred": ["evaluate", "--pred", "{bad}", "--ref", "{good}", "--json", "{out}/a.json"],
    "evaluate --ref": ["evaluate", "--pred", "{good}", "--ref", "{bad}", "--csv", "{out}/a.csv"],
    "evaluate --input": ["evaluate", "--pred", "{good}", "--ref", "{good}", "--input", "{bad}"],
    "evaluate --mask": ["evaluate", "--pred", "{good}", "--ref", "{good}", "--mask", "{bad}"],
    "evaluate --labels": ["evaluate", "--pred", "{good}", "--ref", "{good}", "--labels", "{bad}"],
    "evaluate --lesions": ["evaluate", "--pred", "{good}", "--ref", "{good}", "--lesions", "{bad}"],
    "report": ["report", "{bad}", *PAGE],
    "report --input": ["report", "{good}", "--input", "{bad}", *PAGE],
    "report --truth": ["report", "{good}", "--truth", "{bad}", *PAGE],
    "report --uncertainty": ["report", "{good}", "--uncertainty", "{bad}", *PAGE],
    "report --experts": ["report", "{good}", "--experts", "{bad}", *PAGE],
    "benchmark": ["benchmark", "--scans", "{bad}", "--methods", "cubic", "--recipes", "thick3", "-o", "{out}/bench"],
    "train": ["train", "{config}", "-q"],
}
CONFIG = """
out = "{out}/run"
steps = 1
batch = 1
patch = 32
[[scans]]
path = "{bad}"
"""


def image(data: np.ndarray) -> bytes:
    return gzip.compress(nib.Nifti1Image(data, np.diag([4.0, 4, 4, 1])).to_bytes(), mtime=0)


def header_changed(good: bytes, at: int, raw: bytes) -> bytes:
    plain = gzip.decompress(good)
    return gzip.compress(plain[:at] + raw + plain[at + len(raw) :], mtime=0)


BAD: dict[str, Callable[[bytes], bytes]] = {
    "row01_cut": lambda good: good[: len(good) // 2],
    "row03_crc": lambda good: good[:-8] + b"\0\0\0\0" + good[-4:],
    "row07_web_page": lambda good: b"<html>404</html>",
    "row09_negative_dim": lambda good: header_changed(good, 42, b"\xf0\xff"),
    "row11_dims_32767": lambda good: header_changed(good, 42, b"\xff\x7f" * 3),
    "row14_datatype": lambda good: header_changed(good, 70, b"\x4d\0"),
    "row33_constant": lambda good: image(np.zeros((48, 56, 44), np.float32)),
    "row34_colour": lambda good: image(np.zeros((16, 16, 16), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_phantom, bundle) -> dict[str, Path]:
    """A good scan with a sidecar, as `enhance` leaves it."""
    folder = tmp_path_factory.mktemp("bad")
    save(make_phantom(), folder / "good.nii.gz")
    (folder / "good.json").write_text(json.dumps({"software": "moediff-sr 0.1.0", "warnings": [], "experts": []}))
    (folder / "bad.json").write_text((folder / "good.json").read_text())
    (folder / "tiny.toml").write_text(CONFIG.format(out=folder / "out", bad=folder / "bad.nii.gz"))
    (folder / "out").mkdir()
    return {
        "good": folder / "good.nii.gz",
        "bad": folder / "bad.nii.gz",
        "out": folder / "out",
        "bundle": bundle,
        "config": folder / "tiny.toml",
    }


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD.keys())
def test_a_bad_scan_gets_one_sentence_and_leaves_nothing(spoil, command, place, capsys):
    place["bad"].write_bytes(spoil(place["good"].read_bytes()))
    if "--like" in command and spoil is BAD["row33_constant"]:
        pytest.skip("of a reference only the grid counts")
    assert main([word.format(**place) for word in command]) == 65
    said = capsys.readouterr().err.strip().splitlines()
    assert "bad.nii.gz: " in said[-1] and said[-1].startswith("moediff: ") and "Traceback" not in "".join(said)
    assert len(said) == 1 or command[0] in ("benchmark", "train")
    assert left(place["out"]) == []


def left(folder: Path) -> list[Path]:
    """Files that a run left; clears them for the next."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    return files


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_missing_scan_ends_with_66(command, place, capsys):
    place["bad"].unlink(missing_ok=True)
    assert main([word.format(**place) for word in command]) == 66
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "bad.nii.gz" in said and "check the name" in said and left(place["out"]) == []


@pytest.mark.fault(41)
def test_a_scan_without_any_head_never_passes_without_a_warning(tmp_path, capsys):
    noise = 100 + torch.randn(40, 44, 36, generator=torch.Generator().manual_seed(0))
    save(Volume(noise, torch.diag(torch.tensor([4.0, 4, 4, 1], dtype=torch.float64))), tmp_path / "noise.nii.gz")
    words = ["--voxel-size", "3", "-o", str(tmp_path / "out.nii.gz")]
    assert main(["enhance", str(tmp_path / "noise.nii.gz"), *words]) == 0
    assert "unlike its training scans" in capsys.readouterr().err


def four_volumes(folder: Path) -> Path:
    path = folder / "four.nii.gz"
    path.write_bytes(image(np.random.default_rng(0).random((8, 8, 8, 4), dtype=np.float32)))
    return path


def two_forms(folder: Path) -> Path:
    path = folder / "two_forms.nii.gz"
    turned = nib.Nifti1Image(np.random.default_rng(0).random((8, 8, 8), dtype=np.float32), np.eye(4))
    turned.set_sform(np.eye(4), 1)
    turned.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    path.write_bytes(gzip.compress(turned.to_bytes()))
    return path


@pytest.mark.parametrize(
    ("make", "option", "instead"),
    [
        (four_volumes, "--volume", "write that volume to a file of its own"),
        (two_forms, "--trust", "correct the header"),
    ],
)
def test_what_to_do_where_a_command_lacks_the_option_that_a_message_names(make, option, instead, tmp_path, capsys):
    path = str(make(tmp_path))
    assert main(["evaluate", "--pred", path, "--ref", path]) in (DataError.exit_code, GeometryError.exit_code)
    assert capsys.readouterr().err.endswith(f"(`moediff evaluate` has no {option}: {instead})\n")
    assert main(["degrade", path, "--recipe", "thick3", "-o", str(tmp_path / "low.nii.gz")]) > 0
    said = capsys.readouterr().err
    assert option in said and "has no" not in said
