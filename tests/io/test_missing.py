"""Dangling links and AppleDouble files get a sentence of their own, in every command that takes scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.cli.main import main
from moediff.core.errors import DataError, InputMissing
from moediff.evaluation.bids import match
from moediff.io.scans import grid_from_file, load
from moediff.report.cohort import results_of

pytestmark = pytest.mark.fault(7, 53)
APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200)
SENTENCE = "a link whose target is not there: fetch its content, for DataLad or git-annex with `datalad get`"


def dangling(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.parent / ".git" / "annex" / "absent")
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mgz", "a.hdr", "a.zip", "a.dcm", "a"])
@pytest.mark.parametrize("read", [load, grid_from_file])
def test_a_dangling_link_names_the_remedy(tmp_path, name, read):
    with pytest.raises(InputMissing, match=SENTENCE):
        read(dangling(tmp_path / name))


def test_a_link_to_itself_is_dangling(tmp_path):
    (tmp_path / "a.nii").symlink_to(tmp_path / "a.nii")
    with pytest.raises(InputMissing, match=SENTENCE):
        load(tmp_path / "a.nii")


def test_the_other_file_of_a_pair_may_be_dangling(tmp_path):
    (tmp_path / "a.hdr").write_bytes(bytes(352))
    dangling(tmp_path / "a.img")
    with pytest.raises(InputMissing, match=SENTENCE):
        load(tmp_path / "a.img")


COMMANDS = {
    "enhance": ["enhance", "a.nii.gz"],
    "evaluate": ["evaluate", "--pred", "a.nii.gz", "--ref", "a.nii.gz"],
    "report": ["report", "a.nii.gz"],
    "degrade": ["degrade", "a.nii.gz", "-o", "b.nii.gz", "--recipe", "thick5"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_commands_name_a_dangling_link(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    dangling(tmp_path / "a.nii.gz")
    assert main(words) == 66
    assert SENTENCE in " ".join(capsys.readouterr().err.split())


def test_a_folder_to_evaluate_keeps_dangling_scans(tmp_path):
    pred = dangling(tmp_path / "pred" / "sub-1_desc-sr_T1w.nii.gz")
    ref = dangling(tmp_path / "ref" / "sub-1_T1w.nii.gz")
    pairs, left = match(tmp_path / "pred", tmp_path / "ref")
    assert [(pair.pred, pair.ref) for pair in pairs] == [(pred, ref)] and left == []


def test_a_folder_of_results_keeps_dangling_scans(tmp_path):
    scan = dangling(tmp_path / "sub-1_desc-sr_T1w.nii.gz")
    (tmp_path / "sub-1_desc-sr_T1w.json").write_text('{"software": "moediff-sr 0"}')
    (tmp_path / "._sub-1_desc-sr_T1w.nii.gz").write_bytes(APPLE)
    (tmp_path / "._sub-1_desc-sr_T1w.json").write_bytes(APPLE)
    assert results_of([tmp_path]) == [scan]


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", ["._a.nii.gz", "._a.nii"])
def test_apple_double_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(APPLE)
    with pytest.raises(DataError, match=r"AppleDouble.*without \._"):
        load(tmp_path / name)
