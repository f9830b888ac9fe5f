"""Slices that cannot be read must not be treated as not there: links, empty files, pointers, numbers; AppleDouble."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicom_maker import enhanced, known_voxels, slices, write

from moediff.cli.main import main
from moediff.core.errors import DataError, InputMissing
from moediff.io.dicom.series import list_series
from moediff.io.scans import load

pytestmark = pytest.mark.fault(43, 53)
APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200)
ANNEX = b"/annex/objects/MD5E-s1234--0123456789abcdef.dcm\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A series whose files have no suffix."""
    write(tmp_path / "export", slices())
    for file in sorted((tmp_path / "export").iterdir()):
        file.rename(file.with_suffix(""))
    return tmp_path / "export"


def last(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())[-2:]


def assert_known(path: Path) -> None:
    loaded = load(path)
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), known_voxels())
    assert loaded.warnings == ()


@pytest.mark.parametrize("read", [load, list_series])
def test_dangling_links_are_refused_with_the_remedy(folder, read):
    for file in last(folder):
        file.unlink()
        file.symlink_to(folder / ".git/annex/objects/absent")
    with pytest.raises(InputMissing, match=r"2 of 9 files are links whose targets are not there.*datalad get"):
        read(folder)


CONTENT = {
    "empty": (b"", "2 of 9 files are empty or hold zeros only: copy or export"),
    "zeroed": (bytes(1000), "2 of 9 files are empty or hold zeros only: copy or export"),
    "annex": (ANNEX, "2 of 9 files are pointers to content that is not there.*datalad get"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "2 of 9 files are pointers.*git lfs pull"),
}


@pytest.mark.parametrize("suffix", ["", ".dcm"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("content", "sentence"), CONTENT.values(), ids=CONTENT.keys())
def test_files_without_content_are_refused(folder, content, sentence, zipped, suffix):
    for file in last(folder):
        file.write_bytes(content)
        file.rename(file.with_suffix(suffix))
    with pytest.raises(DataError, match=sentence):
        load(archived(folder) if zipped else folder)


def archived(folder: Path) -> Path:
    path = folder.parent / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def test_a_linked_folder_is_followed_once(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for file in last(folder):
        file.rename(tmp_path / "elsewhere" / file.name)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(folder)
    assert_known(folder)


def test_other_files_are_counted(folder):
    (folder / "notes.txt").write_text("nothing")
    (folder / ".hidden").touch()
    assert load(folder).warnings == ("2 of 11 files are not DICOM and were passed over",)


def test_the_list_counts_what_was_passed_over_and_names_doubts(folder, tmp_path, capsys):
    (folder / "notes.txt").write_text("nothing")
    assert main(["dicom", "list", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert (
        err == "moediff: warning: 1 of 10 files are not DICOM and were passed over\n" and json.loads(out)[0]["usable"]
    )
    datasets = slices()
    for number, one in enumerate(datasets, 9):
        one.InstanceNumber = number
    assert main(["dicom", "list", str(write(tmp_path / "late", datasets))]) == 0
    assert "warning: series 5: the images are numbered 9 to 17" in capsys.readouterr().err


def test_the_list_calls_nothing_usable_that_is_refused(tmp_path, capsys):
    """Six slices are too few; beside a whole series they are no choice."""
    assert main(["dicom", "list", str(write(tmp_path / "few", slices()[:6])), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert not row["usable"] and "at least 8 voxels" in row["reason"]
    folder = write(tmp_path / "both", slices())
    for file in write(tmp_path / "other", slices(series="1.2.9", number=9)[:6]).iterdir():
        file.rename(folder / f"other-{file.name}")
    assert "series 5 was taken" in load(folder).warnings[0]


NUMBERS = {
    "begins at 9": (range(9, 18), "numbered 9 to 17, 8 numbers before and 0 between"),
    "a gap": ([1, 2, 3, 4, 5, 8, 9, 10, 11], "numbered 1 to 11, 0 numbers before and 2 between"),
    "every other": (range(1, 19, 2), ""),
    "from zero": (range(9), ""),
    "all alike": ([1] * 9, ""),
}


@pytest.mark.parametrize(("numbers", "sentence"), NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_tell_of_absent_slices(tmp_path, numbers, sentence):
    datasets = slices()
    for one, number in zip(datasets, numbers, strict=True):
        one.InstanceNumber = number
    warnings = load(write(tmp_path / "export", datasets)).warnings
    assert (len(warnings) == 1 and sentence in warnings[0]) if sentence else warnings == ()


def test_a_complete_acquisition_may_be_numbered_from_anywhere(tmp_path):
    datasets = slices(ImagesInAcquisition=9)
    for one in datasets:
        one.InstanceNumber += 40
    assert load(write(tmp_path / "export", datasets)).warnings == ()


def test_one_multi_frame_file_may_have_any_number(tmp_path):
    whole = enhanced()
    whole.InstanceNumber = 9
    assert load(write(tmp_path / "export", [whole])).warnings == ()


@pytest.mark.fault(54)
@pytest.mark.parametrize("zipped", [False, True])
def test_apple_double_files_are_passed_over(folder, zipped):
    (folder / "__MACOSX" / "export").mkdir(parents=True)
    (folder / "__MACOSX" / "export" / "._one.dcm").write_bytes(APPLE)
    for file in last(folder):
        file.with_name(f"._{file.name}.dcm").write_bytes(APPLE)
    assert_known(archived(folder) if zipped else folder)
