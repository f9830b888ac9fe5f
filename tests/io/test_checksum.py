"""Checksums of inputs: of bytes, whatever the names."""

import hashlib
import shutil
import zipfile

import pytest

from moediff.core.errors import InputMissing
from moediff.io.checksum import checksum_of


def test_a_file_has_the_sha256_of_its_bytes(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"123")
    assert checksum_of(tmp_path / "a.nii.gz") == hashlib.sha256(b"123").hexdigest()


def test_both_files_of_a_pair_count(tmp_path):
    (tmp_path / "a.hdr").write_bytes(b"1")
    (tmp_path / "a.img").write_bytes(b"2")
    assert checksum_of(tmp_path / "a.hdr") == checksum_of(tmp_path / "a.img") == hashlib.sha256(b"12").hexdigest()


def test_names_inside_a_dicom_export_do_not_count_and_contents_do(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for name in ("x", "y"):
        (first / f"{name}.dcm").write_bytes(name.encode())
    shutil.copytree(first, second)
    (second / "x.dcm").rename(second / "z.dcm")
    assert checksum_of(first) == checksum_of(second)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in second.iterdir():
            archive.write(path, path.name)
    assert checksum_of(tmp_path / "a.zip") == checksum_of(first)
    (second / "z.dcm").write_bytes(b"changed")
    assert checksum_of(first) != checksum_of(second)


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "a.nii").symlink_to(tmp_path / "gone")
    with pytest.raises(InputMissing, match="datalad get"):
        checksum_of(tmp_path / "a.nii")
