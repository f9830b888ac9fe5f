"""Outputs: their names, what is refused before any work, and that the sidecar comes last."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.core.errors import CannotCreate
from moediff.core.geometry import RAS
from moediff.core.volume import Grid
from moediff.inference import outputs
from moediff.inference.outputs import OutputPaths, check_outputs, write
from moediff.inference.result import Enhanced, Maps
from moediff.inference.sidecar import Settings, Sidecar, Uncertainty, Weights
from moediff.inference.sidecar_parts import GridRecord
from moediff.io.scans import LoadedScan


def test_paths_may_be_text(tmp_path):
    paths = OutputPaths(scan=str(tmp_path / "out.nii.gz"), mask="m.nii")  # type: ignore[arg-type]
    assert paths.every() == [tmp_path / "out.nii.gz", Path("m.nii"), tmp_path / "out.json"]
    assert paths == OutputPaths(scan=tmp_path / "out.nii.gz", mask=Path("m.nii"))


def test_the_sidecar_is_named_after_the_scan_and_comes_last():
    paths = OutputPaths(scan=Path("a/b_T1w.nii.gz"), mask=Path("m.nii"), experts=Path("e.nii"))
    assert paths.sidecar == Path("a/b_T1w.json")
    assert list(paths.every()) == [paths.scan, paths.experts, paths.mask, paths.sidecar]


def test_free_names_are_accepted_and_nothing_is_created(tmp_path):
    paths = OutputPaths(scan=tmp_path / "out.nii.gz", mask=tmp_path / "mask.nii.gz")
    check_outputs(paths, tmp_path / "in.nii.gz", overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["out.nii.gz", "out.json", "mask.nii.gz", "spread.nii.gz", "experts.nii.gz"])
def test_an_existing_file_is_refused_unless_overwriting(taken, tmp_path):
    (tmp_path / taken).write_text("precious")
    paths = OutputPaths(
        scan=tmp_path / "out.nii.gz",
        mask=tmp_path / "mask.nii.gz",
        uncertainty=tmp_path / "spread.nii.gz",
        experts=tmp_path / "experts.nii.gz",
    )
    with pytest.raises(CannotCreate, match=rf"{taken}: the file exists already"):
        check_outputs(paths, tmp_path / "in.nii.gz", overwrite=False)
    check_outputs(paths, tmp_path / "in.nii.gz", overwrite=True)
    assert (tmp_path / taken).read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.fault(44)
def test_the_input_is_never_replaced(overwrite, tmp_path):
    source = tmp_path / "in.nii.gz"
    source.write_text("precious")
    (tmp_path / "link.nii.gz").symlink_to(source)
    (tmp_path / "sub").mkdir()
    for name in ("in.nii.gz", "link.nii.gz", "sub/../in.nii.gz"):
        with pytest.raises(CannotCreate, match="would replace the input"):
            check_outputs(OutputPaths(scan=tmp_path / name), source, overwrite=overwrite)
    with pytest.raises(CannotCreate, match="would replace the input"):
        check_outputs(OutputPaths(scan=tmp_path / "out.nii", mask=source), source, overwrite=overwrite)


@pytest.mark.fault(44)
@pytest.mark.parametrize("of", ["source", "read"])
def test_a_sidecar_that_came_with_the_input_is_never_replaced(of, tmp_path):
    """BIDS metadata lie beside a scan under the same name, whether it is packed or not."""
    scan, other = tmp_path / "in.nii.gz", tmp_path / "other.nii.gz"
    source, read = (scan, []) if of == "source" else (other, [scan])
    paths = OutputPaths(scan=tmp_path / "in.nii")
    check_outputs(paths, source, read=read, overwrite=True)  # there is none yet
    (tmp_path / "in.json").write_text('{"EchoTime": 0.1}')
    with pytest.raises(CannotCreate, match=r"in\.nii\.gz: an output would replace the input's sidecar in\.json"):
        check_outputs(paths, source, read=read, overwrite=True)
    with pytest.raises(CannotCreate, match="sidecar"):
        check_outputs(OutputPaths(scan=tmp_path / "a.nii", report=tmp_path / "in.json"), scan, overwrite=True)
    check_outputs(OutputPaths(scan=tmp_path / "in_desc-sr.nii"), source, read=read, overwrite=True)


@pytest.mark.parametrize(("name", "refused"), [("in.mgz", False), ("in.nii.gz", True)])
def test_the_record_of_an_older_result_is_no_sidecar_of_a_scan_that_we_do_not_write(name, refused, tmp_path):
    """in.mgz can be enhanced into in.nii again; in.json beside in.nii.gz may be what tells of that very scan."""
    (tmp_path / "in.json").write_text('{"software": "moediff-sr 1.0"}')
    paths = OutputPaths(scan=tmp_path / "in.nii")
    with pytest.raises(CannotCreate, match="sidecar") if refused else nullcontext():
        check_outputs(paths, tmp_path / name, overwrite=True)
    (tmp_path / "in.json").write_text('{"EchoTime": 0.1}')
    with pytest.raises(CannotCreate, match="sidecar"):
        check_outputs(paths, tmp_path / name, overwrite=True)


def test_a_sidecar_beside_a_folder_of_dicom_files_is_an_older_results(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export.json").write_text("{}")
    check_outputs(OutputPaths(scan=tmp_path / "export.nii.gz"), tmp_path / "export", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_dicom_folder_that_exists_is_refused(overwrite, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        paths = OutputPaths(scan=tmp_path / "a.nii", dicom=tmp_path / name)
        with pytest.raises(CannotCreate, match=f"{name}: this exists already .* give the name of a new folder"):
            check_outputs(paths, tmp_path / "in.nii", overwrite=overwrite)
    check_outputs(
        OutputPaths(scan=tmp_path / "a.nii", dicom=tmp_path / "new"), tmp_path / "in.nii", overwrite=overwrite
    )
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}


def test_two_outputs_need_two_names(tmp_path):
    paths = OutputPaths(scan=tmp_path / "out.nii.gz", mask=tmp_path / "." / "out.nii.gz")
    with pytest.raises(CannotCreate, match="two outputs have the same name"):
        check_outputs(paths, tmp_path / "in.nii.gz", overwrite=True)


def test_a_folder_is_no_name_for_a_result(tmp_path):
    with pytest.raises(CannotCreate, match="a folder has this name: name a file in it"):
        check_outputs(OutputPaths(scan=tmp_path), tmp_path / "scan.nii.gz", overwrite=False)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CannotCreate, match="does not exist: create it first"):
        check_outputs(OutputPaths(scan=tmp_path / "new" / "out.nii"), tmp_path / "in.nii", overwrite=False)


def a_sidecar(grid: Grid) -> Sidecar:
    return Sidecar(
        software="moediff-sr 1.0",
        weights=Weights("small", "ab" * 32),
        experts=("smooth", "sharp"),
        input=GridRecord.of(grid),
        output=GridRecord.of(grid),
        settings=Settings(
            mode="faithful",
            sampler="euler",
            steps=1,
            tta=1,
            samples=1,
            seed=0,
            data_consistency=True,
            device="cpu",
            dtype="float32",
        ),
        uncertainty=Uncertainty("predicted", "standard deviation"),
    )


@pytest.fixture
def result(make_phantom) -> Enhanced:
    volume = make_phantom((10, 12, 8))
    gate = torch.rand(10, 12, 8, 2, generator=torch.Generator().manual_seed(0))
    mask = volume.data_XYZ > 0
    return Enhanced(
        volume,
        RAS,
        Maps(lambda: volume, lambda: gate, lambda: mask),
        volume.with_data(volume.data_XYZ / 10),
        ("smooth", "sharp"),
        LoadedScan(volume, RAS, None, (0, 2), ()),
        a_sidecar(volume.grid),
    )


def all_paths(folder: Path) -> OutputPaths:
    return OutputPaths(
        scan=folder / "out.nii.gz",
        uncertainty=folder / "spread.nii",
        experts=folder / "experts.nii",
        mask=folder / "mask.nii",
    )


def test_everything_is_written_as_it_was(result, tmp_path):
    paths = all_paths(tmp_path)
    written = write(result, paths)
    expected = {
        paths.scan: result.volume.data_XYZ,
        paths.uncertainty: result.volume.data_XYZ / 10,
        paths.experts: result.gate_XYZE,
        paths.mask: result.mask_XYZ.float(),
    }
    for path, data in expected.items():
        image = nib.Nifti1Image.from_filename(path)
        np.testing.assert_array_equal(np.asarray(image.dataobj, dtype=np.float32), data.numpy())
        np.testing.assert_allclose(image.affine, result.volume.affine.numpy(), atol=1e-4)
        assert int(image.header["sform_code"]) == 2
    assert json.loads(paths.sidecar.read_text(encoding="utf-8")) == written.sidecar.to_dict()
    assert written.sidecar.maps == {name: path.name for name, path in paths.maps().items()}
    assert sorted(tmp_path.iterdir()) == sorted(paths.every())


def test_only_requested_outputs_are_written(result, tmp_path):
    write(result, OutputPaths(scan=tmp_path / "out.nii.gz"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "out.nii.gz"]


@pytest.mark.fault(46)
def test_without_a_sidecar_the_result_is_not_complete(result, tmp_path, monkeypatch):
    """An interrupted overwrite leaves no old sidecar beside a new scan."""
    paths = all_paths(tmp_path)
    write(result, paths)

    def broken(*args, **kwargs):
        raise CannotCreate("the disk went away")

    monkeypatch.setattr(outputs, "save_maps", broken)
    with pytest.raises(CannotCreate, match="went away"):
        write(result, paths, overwrite=True)
    assert paths.scan.exists() and not paths.sidecar.exists()


@pytest.mark.fault(22)
def test_row22_a_source_without_orientation_is_written_without_a_second_word(result, tmp_path):
    """Reading said it; Python's own warnings are errors in these tests."""
    paths = all_paths(tmp_path)
    write(replace(result, source=replace(result.source, codes=(0, 0))), paths)
    for path in paths.volumes():
        assert int(nib.Nifti1Image.from_filename(path).header["sform_code"]) == 1


def test_writing_twice_needs_overwrite(result, tmp_path):
    paths = OutputPaths(scan=tmp_path / "out.nii.gz")
    write(result, paths)
    with pytest.raises(CannotCreate, match="exists already"):
        write(result, paths)
    write(result, paths, overwrite=True)
    assert paths.sidecar.exists()


@pytest.mark.parametrize("of", ["source", "read"])
def test_a_series_does_not_lie_among_files_that_are_read(of, tmp_path):
    """A second input's, or a guide's, as little as the first one's."""
    for name in ("dcm", "other"):
        (tmp_path / name).mkdir()
    source, read = (tmp_path / name for name in (("dcm", "other") if of == "source" else ("other", "dcm")))
    for place in ("dcm/new", "dcm/../dcm/new"):
        paths = OutputPaths(scan=tmp_path / "a.nii.gz", dicom=tmp_path / place)
        with pytest.raises(CannotCreate, match=r"new: the new series would lie among the input's files in .*dcm"):
            check_outputs(paths, source, read=[tmp_path / "like.nii.gz", read], overwrite=True)
    paths = OutputPaths(scan=tmp_path / "a.nii.gz", dicom=tmp_path / "new")
    check_outputs(paths, source, read=[tmp_path / "like.nii.gz", read], overwrite=True)
