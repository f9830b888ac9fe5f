"""The manifest of training data: read, verified, fetched; all without a network."""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

import pytest

from moediff.core.errors import ConfigError, DataError, InputMissing
from moediff.training.config import TrainConfig
from moediff.training.manifest import ManifestRow, check_checksums, read_manifest_table, training_scans

ROOT = Path(__file__).resolve().parents[2]
HEADER = "path,role,person,licence,source,url,sha256,spacing_mm,weight,copies\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def row(content: bytes = b"a scan", **changes: object) -> ManifestRow:
    common = {"path": "train/a.nii.gz", "role": "train", "person": "a", "licence": "CC0", "source": "a repository"}
    return ManifestRow(**{**common, "url": "", "sha256": sha(content), **changes})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "a.nii.gz").write_bytes(b"a scan")
    return tmp_path / "data"


def config(data: Path, **checksums: str) -> TrainConfig:
    return TrainConfig(
        out=str(data.parent / "run"),
        data=str(data),
        cache=str(data.parent / "cache"),
        checksums={"train/a.nii.gz": sha(b"a scan"), **checksums},
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("path,role\n", "the column 'person' is missing"),
        (f"{HEADER}a,trian,p,l,s,,{'0' * 64},,,\n", "a: role 'trian' is unknown"),
        (f"{HEADER}a,train,p,l,s,,123,,,\n", "a: '123' is no SHA-256 checksum"),
        (f"{HEADER}../a,train,p,l,s,,{'0' * 64},,,\n", "below the data folder"),
        (f"{HEADER}a,train,p,l,s,,{'0' * 64},1 mm,,\n", "expected numbers for spacing_mm"),
    ],
)
def test_a_bad_manifest_is_refused(lines, words, tmp_path):
    (tmp_path / "manifest.csv").write_text(lines)
    with pytest.raises(ConfigError, match=words):
        read_manifest_table(tmp_path / "manifest.csv")


def test_a_file_that_is_listed_twice_is_refused(tmp_path):
    line = f"a,train,p,l,s,,{'0' * 64},,,\n"
    (tmp_path / "manifest.csv").write_text(HEADER + line + line)
    with pytest.raises(ConfigError, match="a is listed twice"):
        read_manifest_table(tmp_path / "manifest.csv")


def test_files_are_read_once_and_again_when_they_change(data, monkeypatch):
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha(path.read_bytes())

    monkeypatch.setattr("moediff.training.manifest.sha256_of", counted)
    for _ in range(2):
        check_checksums(config(data))
    assert len(read) == 1 and (data.parent / "cache" / "checksums.json").is_file()
    path = data / "train" / "a.nii.gz"
    path.write_bytes(b"b scan")  # as long as before
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"train/a\.nii\.gz: not the file of the manifest"):
        check_checksums(config(data))
    assert len(read) == 2


def test_missing_files_are_all_named(data):
    with pytest.raises(InputMissing, match=r"2 of 3 files .* b\.nii\.gz, c\.nii\.gz; scripts/fetch_data\.py"):
        check_checksums(config(data, **{"b.nii.gz": "0" * 64, "c.nii.gz": "0" * 64}))


def test_without_a_manifest_nothing_is_checked(tmp_path):
    check_checksums(TrainConfig(out=str(tmp_path / "run"), data="nowhere"))
    assert not (tmp_path / "run").exists()


def test_files_are_fetched_and_verified(data, tmp_path, load_script):
    fetch = load_script("fetch_data").fetch
    url, there = (data / "train" / "a.nii.gz").as_uri(), tmp_path / "there"
    assert fetch(row(url=url), there).outcome == "fetched"
    assert (there / "train" / "a.nii.gz").read_bytes() == b"a scan"
    assert fetch(row(url=url), there).outcome == "there"
    wrong = fetch(row(b"another", url=url), there)
    assert (wrong.outcome, wrong.reason) == ("failed", "another file of this name is there")
    elsewhere = fetch(row(b"another", url=url, path="train/b.nii.gz"), there)
    assert elsewhere.outcome == "failed" and "its checksum is" in elsewhere.reason
    gone = fetch(row(url=(data / "none").as_uri(), path="train/c.nii.gz"), there)
    assert gone.outcome == "failed" and [path.name for path in (there / "train").iterdir()] == ["a.nii.gz"]


def test_a_mirror_is_copied_from_and_what_has_no_link_is_named(data, tmp_path, load_script):
    fetch = load_script("fetch_data").fetch
    there = tmp_path / "there"
    by_hand = fetch(row(), there)
    assert (by_hand.outcome, by_hand.reason) == ("by hand", "a repository")
    assert fetch(row(url="file:///not/asked"), there, data).outcome == "copied"
    assert fetch(row(path="train/b.nii.gz"), there, data).outcome == "failed"


def test_the_script_fetches_all_and_says_what_is_left(data, tmp_path, load_script, capsys):
    lines = [f"train/a.nii.gz,train,a,CC0,a repository,,{sha(b'a scan')},,,\n"]
    lines.append(f"train/b.nii.gz,train,b,CC0,ask the hospital,,{'0' * 64},,,\n")
    (tmp_path / "manifest.csv").write_text(HEADER + "".join(lines))
    script, words = (
        load_script("fetch_data"),
        ["--manifest", str(tmp_path / "manifest.csv"), "--to", str(tmp_path / "to")],
    )
    assert script.main([*words, "--from", str(data)]) == 1
    said = capsys.readouterr().out
    assert "copied   train/a.nii.gz" in said and "failed   train/b.nii.gz" in said
    assert script.main(words) == 1
    assert "by hand  train/b.nii.gz: ask the hospital" in capsys.readouterr().out
    (tmp_path / "manifest.csv").write_text(HEADER + lines[0])
    assert script.main(words) == 0


def test_the_manifest_of_the_shipped_weights():
    """Nobody is learned from and judged by; each file has a licence and a source."""
    rows = read_manifest_table(ROOT / "data" / "manifest.csv")
    assert len(training_scans(rows)) == 18 and sum(row.role == "validation" for row in rows) == 2
    learned = {row.person for row in rows if row.role != "validation"}
    assert learned.isdisjoint({row.person for row in rows if row.role == "validation"})
    assert all(row.licence and row.source for row in rows) and not any(row.path.startswith("val/") for row in rows)
    assert sum(bool(row.url) for row in rows) > 10


def test_the_manifest_is_that_of_the_scans_beside_the_checkout(shared_data):
    for row in read_manifest_table(ROOT / "data" / "manifest.csv"):
        assert sha((shared_data / row.path).read_bytes()) == row.sha256, row.path
    with (shared_data / "manifest.csv").open(newline="") as handle:
        there = {row["file"]: row for row in csv.DictReader(handle)}
    assert all(there[row.path]["licence"] == row.licence for row in read_manifest_table(ROOT / "data" / "manifest.csv"))
