"""What a DICOM export can have wrong with it, which series is taken, and that nothing personal comes out."""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
import pydicom
from dicom_maker import SECRETS, enhanced, known_voxels, slices, write
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from moediff.cli.main import main
from moediff.core.errors import DataError
from moediff.io.dicom.series import list_series
from moediff.io.scans import load

pytestmark = pytest.mark.fault(43)


def changed(index: int, **tags: object) -> list:
    datasets = slices()
    for name, value in tags.items():
        setattr(datasets[index], name, value)
    return datasets


def without(*names: str) -> list:
    datasets = slices()
    for one in datasets:
        for name in names:
            delattr(one, name)
    return datasets


def moved(index: int, z_mm: float) -> list:
    datasets = slices(np.array([[1.0, 0, 0], [0, 1, 0]]))
    datasets[index].ImagePositionPatient[2] += z_mm
    return datasets


def twin(index: int, **tags: object) -> list:
    """One slice once more, as another file."""
    datasets = slices()
    again = slices()[index]
    for name, value in tags.items():
        setattr(again, name, value)
    return [*datasets, again]


FAULTS = {
    "missing slice": (slices()[:4] + slices()[6:], "2 slices are missing"),
    "unequal spacing": (moved(4, 3.0), "5 to 11 mm apart, expected equal spacing"),
    "mixed orientations": (changed(3, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), "2 orientations"),
    "localizer": (slices(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "this is a localizer"),
    "mosaic": (slices(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), "a mosaic of slices"),
    "no pixel data": (without("PixelData"), "9 of 9 images have no pixel data"),
    "no position": (without("ImagePositionPatient"), "9 of 9 images do not say where they lie"),
    "several sizes": (changed(3, Rows=9), "several sizes"),
    "several pixel spacings": (changed(3, PixelSpacing=[7, 6.5]), "several pixel spacings"),
    "colour": (slices(PhotometricInterpretation="RGB", SamplesPerPixel=3), "in colour"),
    "two echoes": (slices(EchoTime=5.0) + slices(EchoTime=9.0), "differ"),
    "one slice": (slices()[:1], "there is 1 slice"),
    "few slices": (slices()[:4], "at least 8 voxels"),
    "other voxels in a copy": (twin(2, PixelData=bytes(240)), "twice with different voxels"),
    "voxels cut short": (changed(3, PixelData=bytes(100)), "cannot be decoded"),
    "a copy elsewhere": (twin(2, ImagePositionPatient=[0, 0, 0]), "twice at different positions"),
    "skewed orientation": (slices(np.array([[1, 0, 0], [0.5, 0.866, 0]])), "not two perpendicular unit vectors"),
    "long direction": (slices(ImageOrientationPatient=[1.1, 0, 0, 0, 1, 0]), "not two perpendicular unit vectors"),
    "slope far too large": (slices(RescaleSlope=1e30, RescaleIntercept=0), "the rescale slope is 1e.30"),
    "slope far too small": (slices(RescaleSlope=1e-30, RescaleIntercept=0), "the rescale slope is 1e-30"),
    "no rows": (slices(Rows=0), "no rows or no columns"),
    "huge": (slices(Rows=65535, Columns=65535), "choose a smaller series"),
}


@pytest.mark.parametrize(("datasets", "sentence"), FAULTS.values(), ids=FAULTS.keys())
def test_row43_faults_are_refused_with_a_sentence(tmp_path, datasets, sentence):
    if sentence == "differ":
        for number, one in enumerate(datasets):
            one.SOPInstanceUID = f"1.2.3.77.{number}"
        sentence = "at 9 positions; they differ in echo time"
    with pytest.raises(DataError, match=sentence) as caught:
        load(write(tmp_path / "export", datasets))
    assert caught.value.exit_code == 65
    assert not any(secret in str(caught.value).lower() for secret in SECRETS)


def test_row43_an_unknown_compression_names_the_remedy(tmp_path):
    datasets = slices()
    for one in datasets:
        one.file_meta.TransferSyntaxUID = MPEG2MPML
        one.PixelData = encapsulate([one.PixelData])
        one["PixelData"].is_undefined_length = True
    with pytest.raises(DataError, match="pylibjpeg"):
        load(write(tmp_path / "export", datasets))


def test_row43_deflated_files_are_refused_before_they_are_inflated(tmp_path, monkeypatch):
    """A small one could fill the memory."""
    one = slices()[0]
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = write(tmp_path / "export", [one])
    opened = []
    monkeypatch.setattr(pydicom, "dcmread", lambda *words, **_: opened.append(words))
    with pytest.raises(DataError, match="are deflated: expected another transfer syntax"):
        load(folder)
    assert opened == []


WARNED = {
    "copy": (twin(2), "1 images existed twice"),
    "modality": (slices(Modality="CT"), "the modality is CT, expected MR"),
    "declared distance": (slices(SpacingBetweenSlices=5.0), "8 mm apart, their tags say 5 mm"),
    "end missing": (slices(ImagesInAcquisition=12), "9 images were found, the acquisition had 12"),
    "no slope": (slices(RescaleSlope=0, RescaleIntercept=0), "unusable rescale slope"),
}


@pytest.mark.parametrize(("datasets", "sentence"), WARNED.values(), ids=WARNED.keys())
def test_row43_doubts_are_warned_of(tmp_path, datasets, sentence):
    loaded = load(write(tmp_path / "export", datasets))
    assert sentence in " ".join(loaded.warnings)
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), known_voxels())


def test_row43_a_slope_that_is_no_number_is_warned_of(tmp_path):
    folder = write(tmp_path / "export", slices(RescaleSlope=9876, RescaleIntercept=0))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"9876", b"none"))
    loaded = load(folder)
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), known_voxels())
    assert "unusable rescale slope" in loaded.warnings[0]


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
def test_row43_an_empty_slope_or_intercept_is_one_that_is_absent(tmp_path, name):
    loaded = load(write(tmp_path / "export", slices(**{"RescaleSlope": 1, "RescaleIntercept": 0, name: ""})))
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), known_voxels())
    assert loaded.warnings == ()


@pytest.mark.fault(55)
def test_row43_a_slope_without_an_intercept_counts_slice_by_slice(tmp_path):
    datasets = slices()
    for z, one in enumerate(datasets):
        one.RescaleSlope = 0.5 + z
    loaded = load(write(tmp_path / "export", datasets))
    np.testing.assert_allclose(loaded.stored.data_XYZ.numpy(), known_voxels() * (0.5 + np.arange(9)))
    assert loaded.warnings == ()


@pytest.mark.fault(55)
def test_row43_an_intercept_without_a_slope_counts(tmp_path):
    loaded = load(write(tmp_path / "export", slices(RescaleIntercept=25.0)))
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), known_voxels() + 25.0)
    assert loaded.warnings == ()


@pytest.mark.fault(55)
def test_row43_an_unusable_slope_leaves_the_intercept(tmp_path):
    loaded = load(write(tmp_path / "export", slices(RescaleSlope=0, RescaleIntercept=25.0)))
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), known_voxels() + 25.0)
    assert "unusable rescale slope" in loaded.warnings[0]


PADDING = {
    "value": ({"PixelPaddingValue": -2000}, -2000, -2000),
    "range": ({"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}, -1995, -1990),
    "unsigned tag": ({"PixelPaddingValue": 63536}, -2000, -2000),
}


@pytest.mark.fault(55)
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(("tags", "first", "second"), PADDING.values(), ids=PADDING.keys())
def test_row43_padding_is_no_data(tmp_path, tags, first, second, implicit):
    expected, datasets = known_voxels().astype(float), slices(PixelRepresentation=1, BitsStored=16, HighBit=15)
    for z, one in enumerate(datasets):
        stored_XY = known_voxels()[:, :, z].astype("<i2")
        stored_XY[0], stored_XY[-1] = first, second
        one.PixelData = stored_XY.T.tobytes()
        expected[0], expected[-1] = 0, 0
        for name, value in tags.items():
            one.add_new(name, "US" if value > 0 else "SS", value)
        if implicit:
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    loaded = load(write(tmp_path / "export", datasets))
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), expected)
    assert loaded.warnings == ("180 voxels are padding (PixelPaddingValue), not data: they were taken as 0",)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Two usable series of the same number, a third, and a localizer."""
    folder = tmp_path / "export"
    write(folder, slices(), "a")
    write(folder, slices(series="1.2.3.6"), "b")
    write(folder, slices(series="1.2.3.7", number=7, RescaleSlope=2, RescaleIntercept=0), "c")
    return write(folder, slices(series="1.2.3.1", number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "d")


def test_row43_several_series_need_a_choice(several):
    with pytest.raises(
        DataError, match=r"3 usable series.*--series.*5a: MR 2D GR, t1 \.\.\., .*axial, 12 x 10 x 9.*5b.*7: .*"
    ):
        load(several)
    assert load(several, series="7").stem == "series-7_MR"
    assert float(load(several, series="1.2.3.7").stored.data_XYZ.max()) == 2 * known_voxels().max()
    with pytest.raises(DataError, match="localizer"):
        load(several, series="1")
    with pytest.raises(DataError, match="no series has this number"):
        load(several, series="5")


def test_the_only_usable_series_is_taken(tmp_path):
    folder = write(tmp_path / "export", slices(), "a")
    write(folder, slices(series="1.2.3.1", number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "d")
    loaded = load(folder)
    assert loaded.stem == "series-5_MR"
    assert "1 others cannot be enhanced" in loaded.warnings[0]


def test_the_list_shows_numbers_and_codes_only(several, capsys):
    assert main(["dicom", "list", str(several), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["series"] for row in rows] == ["1", "5a", "5b", "7"]
    assert rows[1]["spacing_mm"] == [6, 7, 8] and rows[1]["slices"] == 9 and not rows[0]["usable"]
    assert main(["dicom", "list", str(several)]) == 0
    said = capsys.readouterr().out
    assert "5b" in said and "1.2.3" not in said
    assert not any(secret in (said + str(rows)).lower() for secret in SECRETS)


def test_a_damaged_file_is_refused_without_its_name(tmp_path, caplog, recwarn):
    folder = write(tmp_path / "export", slices())
    file = sorted(folder.iterdir())[3]
    file.write_bytes(file.read_bytes()[:100])
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DataError, match="copy or export the series again") as caught:
        list_series(folder)
    said = (str(caught.value) + caplog.text + "".join(str(w.message) for w in recwarn)).lower()
    assert not any(secret in said for secret in SECRETS)


def test_two_echoes_of_one_enhanced_file_are_named(tmp_path):
    """There the echo time is called EffectiveEchoTime."""
    whole = enhanced()
    groups = list(whole.PerFrameFunctionalGroupsSequence)
    frames = []
    for echo_ms in (5.0, 90.0):
        for group in groups:
            frame, echo = deepcopy(group), Dataset()
            echo.EffectiveEchoTime = echo_ms
            frame.MREchoSequence = [echo]
            frames.append(frame)
    whole.PerFrameFunctionalGroupsSequence, whole.NumberOfFrames = frames, len(frames)
    whole.PixelData = whole.PixelData * 2
    with pytest.raises(DataError, match="echo time"):
        load(write(tmp_path / "export", [whole]))
