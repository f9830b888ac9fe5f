"""Faults of the container: gzip streams, foreign files, missing bytes (rows 1-8, 12)."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moediff.core.errors import DataError
from moediff.io.nifti.gzip_stream import Stream, gunzip
from moediff.io.scans import load


def flip_payload_bit(packed: bytes) -> bytes:
    """One bit of a stored (uncompressed) payload, which only the checksum can notice."""
    raw = bytearray(gzip.compress(gzip.decompress(packed), compresslevel=0, mtime=0))
    raw[len(raw) // 2] ^= 1
    return bytes(raw)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "row01_cut_in_half": (lambda b: b[: len(b) // 2], "cut off"),
    "row02_trailer_lost": (lambda b: b[:-8], "cut off"),
    "row02_trailer_half_lost": (lambda b: b[:-3], "cut off"),
    "row03_crc_wrong": (lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], "CRC"),
    "row03_length_wrong": (lambda b: b[:-4] + b"\0\0\0\0", "length in the gzip trailer"),
    "row04_payload_bit_flipped": (flip_payload_bit, "CRC"),
    "row04_deflate_stream_damaged": (lambda b: b[:400] + bytes(64) + b[464:], "gzip"),
    "row06_plain_nifti_named_gz": (gzip.decompress, "rename it to .nii"),
    "row07_empty_file": (lambda b: b"", "empty"),
    "row07_empty_gzip": (lambda b: gzip.compress(b""), "empty"),
    "row07_web_page": (lambda b: b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "row07_web_page_zipped": (lambda b: gzip.compress(b"<html>" * 99), "web page"),
    "row07_lfs_pointer": (lambda b: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "row07_zip_archive": (lambda b: b"PK\x03\x04" + b, "zip archive"),
    "row08_header_only": (lambda b: gzip.compress(gzip.decompress(b)[:352]), "voxels"),
    "row08_half_a_header": (lambda b: gzip.compress(gzip.decompress(b)[:200]), "ends inside its header"),
    "row08_short_data": (lambda b: gzip.compress(gzip.decompress(b)[:-10]), "bytes of voxels, found 5366"),
}


@pytest.mark.fault(60)
@pytest.mark.parametrize(("spoil", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_refused(spoil, words, nifti, tmp_path):
    path = nifti()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        load(path)
    assert words in str(caught.value)
    assert str(caught.value).count(str(path)) == 1 and str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("keep", [0, 100, 352, 4000], ids=lambda n: f"row08_plain_{n}_bytes")
def test_a_short_plain_file_is_refused(keep, nifti):
    path = nifti(name="scan.nii")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"empty|inside its header|too short"):
        load(path)


def test_row06_gzip_named_nii(nifti, tmp_path):
    path = nifti().rename(tmp_path / "scan.nii")
    with pytest.raises(DataError, match=r"gzip data; name it \.nii\.gz"):
        load(path)


@pytest.mark.parametrize("extra", [b"\0" * 512, b"junk", b"\x1f"], ids=["zeros", "junk", "row05_one_byte"])
def test_row05_bytes_after_the_gzip_end_give_a_warning(extra, nifti, voxels):
    path = nifti()
    path.write_bytes(path.read_bytes() + extra)
    loaded = load(path)
    assert any(f"{len(extra)} bytes after the end of the gzip stream" in w for w in loaded.warnings)
    assert np.array_equal(loaded.stored.data_XYZ.numpy(), voxels())


def test_row05_bytes_after_the_voxels_give_a_warning(nifti):
    assert any("7 bytes after the voxels" in w for w in load(nifti(tail=b"surplus")).warnings)
    assert any("7 bytes after the voxels" in w for w in load(nifti(name="a.nii", tail=b"surplus")).warnings)


def test_several_gzip_members_are_one_stream(raw_nifti, tmp_path, voxels):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(raw_nifti[:1000]) + gzip.compress(raw_nifti[1000:]) + gzip.compress(b""))
    loaded = load(path)
    assert loaded.warnings == () and np.array_equal(loaded.stored.data_XYZ.numpy(), voxels())


def test_a_damaged_second_member_is_refused(raw_nifti, tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(raw_nifti) + gzip.compress(b"more")[:-8] + bytes(8))
    with pytest.raises(DataError, match="CRC"):
        load(path)


def write_bomb(path: Path, start: bytes, zero_mib: int) -> None:
    engine = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        file.write(engine.compress(start))
        for _ in range(zero_mib):
            file.write(engine.compress(bytes(1 << 20)))
        file.write(engine.flush())


def test_row12_gzip_bomb_is_cut_off(raw_nifti, tmp_path):
    path = tmp_path / "bomb.nii.gz"
    write_bomb(path, raw_nifti, 64)
    tracemalloc.start()
    with pytest.raises(DataError, match="gzip bomb"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_row12_bomb_that_promises_its_size_is_refused_by_the_budget(nifti):
    with pytest.raises(DataError, match="crop or downsample"):
        load(nifti(dim=[3, 1300, 1300, 1300, 1, 1, 1, 1]))
    with pytest.raises(DataError, match="at most 2147483648"):
        load(nifti(dim=[4, 500, 500, 500, 100, 1, 1, 1]), index=0)


def test_what_deflate_cannot_hold_is_refused_before_allocating(nifti):
    path = nifti(dim=[3, 500, 500, 500, 1, 1, 1, 1])
    tracemalloc.start()
    with pytest.raises(DataError, match="too short"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_unpacked_pieces_are_bounded_and_complete(tmp_path):
    path = tmp_path / "zeros.gz"
    write_bomb(path, struct.pack("<i", 348), 5)
    with path.open("rb") as file:
        sizes = [len(piece) for piece in gunzip(file, [])]
    assert sum(sizes) == 4 + (5 << 20) and max(sizes) <= 1 << 20


def test_stream_reads_skips_and_ends():
    stream = Stream(iter([b"abc", b"defg"]))
    assert stream.read(2) == b"ab" and stream.skip(2) == 2 and stream.read(9) == b"efg" and stream.read(1) == b""


@pytest.mark.fault(60)
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mgz"])
def test_a_file_that_is_packed_twice_says_so(name, tmp_path, raw_nifti):
    (tmp_path / name).write_bytes(gzip.compress(gzip.compress(raw_nifti)))
    with pytest.raises(DataError, match="the file is packed twice: unpack it once with gunzip"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("export.tgz", "an archive of files: unpack it first"),
        ("export.tar.xz", "an archive of files"),
        ("EXPORT.TAR", "an archive of files"),
        ("im1.dcm.gz", "a packed DICOM file: unpack all files with gunzip"),
        ("scan.nii.xz", "a packed scan: unpack it"),
    ],
)
def test_packed_files_of_other_kinds_are_named(name, words, tmp_path):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(DataError, match=words):
        load(tmp_path / name)


@pytest.mark.fault(4)
def test_gzip_data_damaged_from_the_first_block_on_are_refused(tmp_path, raw_nifti):
    packed = bytearray(gzip.compress(raw_nifti, mtime=0))
    packed[10:14] = b"\xff\xff\xff\xff"  # the block's own header, after that of gzip
    (tmp_path / "scan.nii.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"damaged|corrupt|cut short"):
        load(tmp_path / "scan.nii.gz")
