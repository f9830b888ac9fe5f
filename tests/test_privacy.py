"""What a DICOM series knows of a person appears in nothing that comes out: files, names, terminal, errors, pages."""

from __future__ import annotations

import base64
import gzip
import html
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
import pydicom
from dicom_maker import SECRETS, slices, write

from moediff.cli.main import main

PERSONAL = re.compile(
    r"name|^patient|birth|date|time|institution|address|comments|description|physician|operator"
    r"|station|device|accession|studyid|protocol|uid$",
    re.IGNORECASE,
)
HARMLESS = re.compile(
    r"^(repetition|echo|(receive|transmit)coil|inversion|acquisitiontimingmode|sop)|transfersyntax"
    r"|class|implementation|patient(position|orientation)|position.*patient|orientation.*patient"
    r"|imag(ing|e)?devicetype|timezone",
    re.IGNORECASE,
)
PACKED = re.compile(rb"(?:[A-Za-z0-9+/]{4}){64,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")  # base64 of some length
UID = re.compile(r"[0-9.]{12,}")
SLICES = 48  # of the real series
LEAST_LETTERS = 4  # shorter values, such as an age, a sex or M, would be found by chance


def unpacked(match: re.Match[bytes]) -> bytes:
    """Volumes and pictures inside a page as they are stored, not as letters that spell words by chance."""
    raw = base64.b64decode(match[0])
    try:
        return zlib.decompress(raw)
    except zlib.error:
        return raw


def texts(folder: Path) -> bytes:
    """Everything in a folder, unpacked, lower case, and the names of its files."""
    found = b""
    for path in sorted(folder.rglob("*")):
        found += str(path.relative_to(folder)).encode() + b"\n"
        if path.is_file():
            raw = path.read_bytes()
            found += gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else PACKED.sub(unpacked, raw)
    return found.lower()


def found_in(everything: bytes, secrets: set[str]) -> list[str]:
    """Secrets that stand as words of their own, not in the middle of a longer number or word."""

    def stands(secret: str) -> bool:
        lower = secret.lower()
        forms = [form.encode() for form in (lower, html.escape(lower), lower.replace("^", " "))]
        there = [re.escape(form) for form in forms if form in everything]  # sooner than the expression alone
        return bool(there) and bool(re.search(rb"(?<![a-z0-9.])(%s)(?![a-z0-9])" % b"|".join(there), everything))

    return [secret for secret in secrets if stands(secret)]


def personal_values(folder: Path) -> set[str]:
    """Values of all elements that may tell who, where or when, UIDs too."""
    found: set[str] = set()
    for path in sorted(folder.rglob("*.dcm"))[:3]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for element in pydicom.dcmread(path, stop_before_pixels=True).iterall():
                if PERSONAL.search(element.keyword) and not HARMLESS.search(element.keyword) and element.VR != "SQ":
                    found.add(str(element.value).strip())
    return {value for value in found if len(value) >= LEAST_LETTERS}


@pytest.fixture(scope="module")
def unpacked_series(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of the MPRAGE series beside the checkout, with a name and an age in its headers; not to be changed."""
    archives = sorted((shared_data / "dicom").glob("*.tar.xz"))
    if not archives:
        pytest.skip("there is no DICOM series beside the checkout")
    folder = tmp_path_factory.mktemp("real")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    for file in sorted(folder.rglob("*.dcm"))[SLICES:]:  # every header names the person; more of them take longer only
        file.unlink()
    return folder


@pytest.fixture
def real_series(unpacked_series: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(unpacked_series, tmp_path / "series")


def every_output(source: Path, out: Path, bundle: Path, *size: str) -> list[str]:
    names = {
        "--experts": "e.nii.gz",
        "--mask": "m.nii.gz",
        "--report": "page.html",
        "--single-experts": "a.nii.gz",
        "--uncertainty": "u.nii.gz",
        "--differences": "d.nii.gz",
    }
    options = [word for option, name in names.items() for word in (option, str(out / name))]
    return ["enhance", str(source), "--bundle", str(bundle), "-o", str(out / "result.nii.gz"), "-v", *options, *size]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "made").mkdir()
    yield tmp_path / "made"


@pytest.mark.fault(43)
def test_no_output_holds_personal_data_of_a_synthetic_series(tmp_path, made, bundle, capsys, caplog):
    caplog.set_level(0)
    source = write(tmp_path / "export", slices())
    assert main(every_output(source, made, bundle, "--voxel-size", "6")) == 0
    assert main(["dicom", "list", str(source)]) == 0
    said = "".join(capsys.readouterr()) + caplog.text
    everything = texts(made) + said.lower().encode()
    assert len(texts(made)) > 10_000 and b"research use only" in everything
    assert found_in(everything, set(SECRETS)) == []


@pytest.mark.fault(43)
@pytest.mark.parametrize("name", ["Quimby_Jane", "Quimby_Jane.zip"])
def test_the_name_of_an_export_stands_in_no_output(name, tmp_path, made, bundle, capsys):
    folder = write(tmp_path / name.removesuffix(".zip"), slices())
    if name.endswith(".zip"):
        shutil.make_archive(str(folder), "zip", folder)
    source, low = tmp_path / name, made / "low.nii.gz"
    assert main(["degrade", str(source), "--recipe", "inplane2", "-o", str(low), "-q"]) == 0
    judged = ["evaluate", "--pred", str(source), "--ref", str(source), "--metrics", "psnr", "-q"]
    assert main([*judged, "--json", str(made / "r.json"), "--csv", str(made / "r.csv")]) == 0
    lists = tmp_path / "pairs.csv"
    lists.write_text(f"pred,ref\n{name},{name}\n{name},none.nii\n")
    assert main(["evaluate", "--pairs", str(lists), "--metrics", "psnr", "--json", str(made / "many.json")]) == 8
    assert main(every_output(source, made, bundle, "--voxel-size", "6")) == 0
    assert found_in(texts(made).replace(b"quimby_jane", b"quimby jane"), set(SECRETS) | {"Quimby"}) == []


@pytest.mark.fault(43)
def test_the_search_would_find_it(tmp_path):
    """The values that are looked for are those of the headers, and are found where they are."""
    source = write(tmp_path / "export", slices())
    values = personal_values(source)
    assert {"Quimby^Jane", "HOSP-47110815", "19601231", "20210405", "Clinic of Nowhere", "1.2.3.5"} <= values
    (tmp_path / "leak.txt").write_text("made for quimby jane")
    assert found_in(texts(tmp_path), values)


@pytest.mark.fault(43)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_no_error_names_a_person(debug, tmp_path):
    """Damaged in every file in turn, with the traceback too."""
    source = write(tmp_path / "export", slices())
    file = sorted(source.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-50])
    (source / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Quimby^Jane" * 9)
    command = [sys.executable, "-m", "moediff", *debug, "enhance", str(source), "-o", str(tmp_path / "o.nii.gz")]
    done = subprocess.run(command, capture_output=True, check=False)
    said = (done.stdout + done.stderr).lower()
    assert done.returncode == 65 and b"export the series again" in said
    assert found_in(said.replace(str(source).lower().encode(), b""), set(SECRETS)) == []


def assert_nothing(everything: bytes, secrets: set[str]) -> None:
    leaked = found_in(everything, secrets)
    assert not leaked, f"{len(leaked)} personal values came out"  # and are not repeated here


@pytest.mark.fault(43)
def test_no_output_holds_personal_data_of_a_real_series(real_series, made, bundle, capsys, caplog):
    """Every file that can be asked for, the later page, what is printed."""
    caplog.set_level(0)
    secrets = personal_values(real_series)
    assert len(secrets) > 10
    assert main(every_output(real_series, made, bundle, "--voxel-size", "4")) == 0
    assert main(["dicom", "list", str(real_series)]) == 0
    assert main(["enhance", str(real_series), "--dry-run"]) == 0
    assert main(["report", str(made / "result.nii.gz"), "--input", str(real_series), "-o", str(made / "2.html")]) == 0
    printed = "".join(capsys.readouterr()) + caplog.text
    assert_nothing(texts(made) + printed.lower().encode(), secrets)


@pytest.mark.fault(43)
def test_a_series_made_of_a_real_one_refers_to_it_by_uid_only(real_series, made, bundle):
    secrets = {value for value in personal_values(real_series) if not UID.fullmatch(value)}
    assert len(secrets) > 5
    command = ["enhance", str(real_series), "--bundle", str(bundle), "--voxel-size", "6", "-q"]
    assert main([*command, "-o", str(made / "r.nii.gz"), "--dicom-out", str(made / "series")]) == 0
    assert len(list((made / "series").iterdir())) > 5
    assert_nothing(texts(made), secrets)


@pytest.mark.fault(43)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_no_error_names_a_real_person(debug, real_series, made):
    """A file of the series cut in the middle of its voxels, one lost, and one that is no image."""
    secrets = personal_values(real_series)
    first, second, third = sorted(real_series.rglob("*.dcm"))[3:6]
    first.write_bytes(first.read_bytes()[:-500])
    second.unlink()
    third.write_bytes(third.read_bytes()[:900])
    for words, code in ((["enhance"], 65), (["dicom", "list"], 0)):  # a list gives the reason in its last column
        command = [sys.executable, "-m", "moediff", *debug, *words, str(real_series)]
        done = subprocess.run(command, capture_output=True, check=False)
        said = (done.stdout + done.stderr).lower().replace(str(real_series).lower().encode(), b"")
        assert done.returncode == code and b"export the series again" in b" ".join(said.split())
        assert_nothing(said, secrets)
