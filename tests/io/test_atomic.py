"""Whole files or none: names taken, folders closed, disks full, races (rows 44-46)."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moediff.core.errors import CannotCreate, DataError, OutputFailed, printable
from moediff.io.atomic import check_free, name_hash, remove_leftovers, whole_file, whole_folder, write_file, write_text

TEXT = '{"π": 3}\n'


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_text_is_written_whole(tmp_path):
    write_text(TEXT, tmp_path / "side.json")
    assert (tmp_path / "side.json").read_text(encoding="utf-8") == TEXT and names(tmp_path) == ["side.json"]


@pytest.mark.fault(44)
def test_row44_text_that_names_a_file_that_is_not_utf8_is_written(tmp_path):
    write_text(os.fsdecode(b"sub-\xe9.nii") + " \u03c0", tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == "sub-\\udce9.nii \u03c0"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(TEXT, tmp_path / "side.json")
    finally:
        os.umask(before)
    assert (tmp_path / "side.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("replaced", [False, True])
def test_a_disk_that_sets_modes_itself_takes_files_all_the_same(replaced, tmp_path, monkeypatch):
    """FAT, or a share mounted for another user, lets us write but refuses any change of mode."""

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refuse)
    with whole_file(tmp_path / "weights", overwrite=False) as hidden:
        if replaced:
            hidden.unlink()
            os.close(os.open(hidden, os.O_CREAT | os.O_WRONLY, 0o600))
        hidden.write_text(TEXT)
    assert (tmp_path / "weights").read_text() == TEXT and names(tmp_path) == ["weights"]


@pytest.mark.parametrize("ask", [check_free, lambda path, overwrite: write_text("new", path, overwrite=overwrite)])
def test_an_existing_file_stays_unless_overwriting_is_allowed(ask, tmp_path):
    path = tmp_path / "side.json"
    path.write_text("old")
    with pytest.raises(CannotCreate, match="exists already") as caught:
        ask(path, overwrite=False)
    assert str(caught.value).count(str(path)) == 1 and caught.value.exit_code == 73
    assert path.read_text() == "old"
    ask(path, overwrite=True)
    assert names(tmp_path) == ["side.json"]


def test_check_free_leaves_nothing(tmp_path):
    check_free(tmp_path / "new.nii.gz", overwrite=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_names_that_cannot_be_created(overwrite, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("missing/side.json", "file/side.json", "folder", "x" * 300, "nul\0.json"):
        for ask in (check_free, lambda path, overwrite: write_text("new", path, overwrite=overwrite)):
            with pytest.raises(CannotCreate):
                ask(tmp_path / path, overwrite=overwrite)
    assert names(tmp_path) == ["file", "folder"]


def test_row45_a_read_only_folder(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    if os.geteuid() == 0:  # root may write there all the same; the kernel's own folder refuses everybody
        folder = Path("/sys")
        if not folder.is_dir():
            pytest.skip("root, and no folder that refuses root")
    for ask in (check_free, lambda path, overwrite: write_text("new", path, overwrite=overwrite)):
        with pytest.raises(CannotCreate, match="is not writable"):
            ask(folder / "side.json", overwrite=False)


@pytest.fixture
def small_disk():
    """Files may not grow beyond 64 KiB: a real failure in the middle of writing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_row45_no_room_in_the_middle_of_writing(small_disk, tmp_path):
    with pytest.raises(OutputFailed, match="free some space") as caught:
        write_text("x" * 200_000, tmp_path / "side.json")
    assert caught.value.exit_code == 74 and names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=["row45_full", "row45_quota", "row45_io"])
def test_row45_the_disk_fails_at_the_sync(code, tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "side.json").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputFailed, match=os.strerror(code)):
        write_text(TEXT, tmp_path / "side.json", overwrite=True)
    assert names(tmp_path) == ["side.json"] and (tmp_path / "side.json").read_text() == "old"


def test_data_that_cannot_be_read_back_are_removed(tmp_path):
    def reject(_: Path) -> None:
        raise DataError("shape (1, 2, 3) instead of (3, 2, 1)")

    with pytest.raises(OutputFailed, match="cannot be read back"):
        write_file(tmp_path / "a.nii", lambda file: None, overwrite=False, verify=reject)
    assert names(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "a.nii", interrupt, overwrite=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("links", [True, False], ids=["hard_links", "no_hard_links"])
def test_a_file_that_another_process_created_meanwhile_stays(links, tmp_path, monkeypatch):
    path = tmp_path / "side.json"
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(CannotCreate, match="another process"):
        write_file(path, lambda file: path.write_text("other") and None, overwrite=False)
    assert path.read_text() == "other" and names(tmp_path) == ["side.json"]
    write_text(TEXT, tmp_path / "free.json")
    assert (tmp_path / "free.json").read_text(encoding="utf-8") == TEXT and len(names(tmp_path)) == 2


def test_row45_a_rename_that_fails_without_hard_links_leaves_no_file(tmp_path, monkeypatch):
    def fail(code: int):
        def call(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        return call

    monkeypatch.setattr(os, "link", fail(errno.EPERM))
    monkeypatch.setattr(os, "replace", fail(errno.ENOSPC))
    with pytest.raises(OutputFailed, match="free some space"):
        write_text(TEXT, tmp_path / "side.json")
    assert names(tmp_path) == []


def test_row44_a_link_as_output_is_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_text("old")
    for target in ("precious", "nowhere"):
        link = tmp_path / "link.json"
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / target)
        with pytest.raises(CannotCreate):
            write_text(TEXT, link)
        write_text(TEXT, link, overwrite=True)
        assert not link.is_symlink() and (tmp_path / "precious").read_text() == "old"
    assert names(tmp_path) == ["link.json", "precious"]


def test_row46_a_killed_writer_leaves_no_result(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from moediff.io.atomic import write_file\n"
        "def fill(file):\n"
        "    file.write(b'half'); file.flush(); print('half', flush=True); time.sleep(60)\n"
        "write_file(Path(sys.argv[1]), fill, overwrite=False)\n"
    )
    path = tmp_path / "a.json"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert not path.exists() and all(name.startswith(".moediff-") for name in names(tmp_path))
    write_text(TEXT, path)
    assert path.read_text(encoding="utf-8") == TEXT


def write_folder(path: Path, text: str, *, overwrite: bool = False) -> None:
    with whole_folder(path, overwrite=overwrite) as hidden:
        (hidden / "a").write_text(text)


def test_a_folder_appears_whole_and_replaces_another_only_when_allowed(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, "one")
    with pytest.raises(CannotCreate, match="exists already"):
        write_folder(folder, "two")
    assert (folder / "a").read_text() == "one"
    (folder / "b").write_text("of the first alone")
    write_folder(folder, "two", overwrite=True)
    assert names(tmp_path) == ["model"] and names(folder) == ["a"] and (folder / "a").read_text() == "two"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), DataError("bad")], ids=repr)
def test_a_folder_that_is_not_finished_leaves_the_older_one(end, tmp_path):
    def fail(_: Path) -> None:
        raise end

    write_folder(tmp_path / "model", "one")
    with (
        pytest.raises(KeyboardInterrupt if isinstance(end, KeyboardInterrupt) else OutputFailed),
        whole_folder(tmp_path / "model", overwrite=True, verify=fail) as hidden,
    ):
        (hidden / "a").write_text("two")
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "a").read_text() == "one"


def test_a_folder_whose_rename_fails_is_put_back(tmp_path, monkeypatch):
    write_folder(tmp_path / "model", "one")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputFailed, match="broken"):
        write_folder(tmp_path / "model", "two", overwrite=True)
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "a").read_text() == "one"


def test_a_folder_without_a_place_cannot_be_created(tmp_path):
    with pytest.raises(CannotCreate, match="is not writable"):
        write_folder(tmp_path / "missing" / "model", "one")


def test_leftovers_are_those_of_one_path(tmp_path):
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        (tmp_path / f".moediff-{name_hash(path)}-12.tmp").mkdir()
    remove_leftovers(paths[0])
    assert names(tmp_path) == [f".moediff-{name_hash(paths[1])}-12.tmp"]


def test_printable_puts_a_name_on_one_line():
    assert printable("/a/sub 1/π.nii") == "/a/sub 1/π.nii" and printable("a\nb\x1b\udcff") == "a\\nb\\x1b\\udcff"


@pytest.mark.fault(60)
def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path):
    """255 bytes are what Linux takes; letters beyond ASCII take two and more."""
    for name in ("a" * 249 + ".nii.gz", "ä" * 125 + ".nii.gz"):
        with pytest.raises(CannotCreate, match=r"the name is too long: 25[67] bytes, the folder takes 255"):
            check_free(tmp_path / name, overwrite=False)
    check_free(tmp_path / ("a" * 248 + ".nii.gz"), overwrite=False)
