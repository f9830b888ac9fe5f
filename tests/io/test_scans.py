"""Reading and writing as a user sees it: round trips, names, missing inputs, failing disks (rows 28, 29, 34-46)."""

from __future__ import annotations

import errno
import gzip
import os
import resource
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from moediff.core.errors import (
    CannotCreate,
    ConfigError,
    DataError,
    GeometryError,
    InputMissing,
    MoeDiffWarning,
    OutputFailed,
)
from moediff.core.volume import Volume
from moediff.io.scans import load, save, save_maps


def random_affine(seed: int) -> torch.Tensor:
    """Oblique, left- or right-handed, anisotropic, far from the origin."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if seed % 4 == 0:
        rotation = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(4, 9, 3)
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    return torch.from_numpy(affine)


def random_volume(affine: torch.Tensor, seed: int = 0) -> Volume:
    return Volume(torch.randn((16, 14, 13), generator=torch.Generator().manual_seed(seed)).abs() * 300, affine)


@pytest.mark.parametrize("seed", range(20), ids=lambda s: f"row29_affine_{s}")
def test_what_is_saved_is_loaded_again(seed, tmp_path):
    volume = random_volume(random_affine(seed), seed)
    for codes in ((1, 1), (1, 0), (0, 2), (4, 4)):
        path = tmp_path / f"scan-{codes[0]}{codes[1]}.nii{'.gz' if seed % 2 else ''}"
        save(volume, path, codes=codes)
        loaded = load(path)
        assert torch.equal(loaded.stored.data_XYZ, volume.data_XYZ)
        assert loaded.warnings == () and loaded.codes[0] == codes[0] and loaded.path == path
        assert torch.allclose(loaded.stored.affine, volume.affine, rtol=0, atol=2e-3 if codes[1] == 0 else 1e-4)
        assert np.allclose(nib.load(path).affine, loaded.stored.affine, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_ras_scan_is_written_in_the_order_of_its_file(seed, tmp_path):
    save(random_volume(random_affine(seed), seed), tmp_path / "scan.nii")
    loaded = load(tmp_path / "scan.nii")
    save(loaded.volume, tmp_path / "again.nii", storage=loaded.storage, codes=loaded.codes)
    first, again = (nib.load(tmp_path / name) for name in ("scan.nii", "again.nii"))
    assert np.array_equal(again.affine, first.affine) and np.array_equal(again.dataobj, first.dataobj)
    maps_XYZE = torch.stack([loaded.volume.data_XYZ, -loaded.volume.data_XYZ], -1)
    save_maps(maps_XYZE, loaded.volume.affine, tmp_path / "maps.nii", storage=loaded.storage)
    assert torch.equal(load(tmp_path / "maps.nii", index=1).stored.data_XYZ, -loaded.stored.data_XYZ)


def test_row28_a_sheared_affine_is_kept_exactly(tmp_path):
    affine = random_affine(1)
    affine[:3, 0] += 0.2 * affine[:3, 1]
    for codes in ((1, 1), (1, 0), (0, 1)):
        path = tmp_path / f"{codes[0]}{codes[1]}.nii.gz"
        save(random_volume(affine), path, codes=codes)
        loaded = load(path)
        assert torch.allclose(loaded.stored.affine, affine, rtol=0, atol=1e-4)
        assert any("sheared" in w for w in loaded.warnings)


def test_the_written_header_says_what_it_must(nifti, tmp_path):
    source = nifti(cal_max=500, cal_min=5, descrip=b"JOHN DOE", qform_code=1, sform_code=2, scl_slope=2)
    loaded = load(source)
    save(loaded.volume, tmp_path / "out.nii.gz", storage=loaded.storage, codes=loaded.codes)
    header = nib.load(tmp_path / "out.nii.gz").header
    assert header.get_data_dtype() == np.float32 and header.get_xyzt_units()[0] == "mm"
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 2)
    raw = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    assert np.frombuffer(raw, "<f4", 3, 108).tolist() == [352, 1, 0]  # vox_offset, scl_slope, scl_inter
    assert float(header["cal_max"]) == float(header["cal_min"]) == 0 and not header.extensions
    assert header["descrip"].item() == b"MoEDiff-SR research use only" and b"DOE" not in raw
    assert header.get_zooms() == (5, 5, 5)


def test_gzip_output_is_the_same_every_time(tmp_path):
    volume = random_volume(random_affine(2))
    save(volume, tmp_path / "one.nii.gz")
    save(volume, tmp_path / "two.nii.gz")
    packed = (tmp_path / "one.nii.gz").read_bytes()
    assert packed == (tmp_path / "two.nii.gz").read_bytes() and packed[4:8] == bytes(4)  # mtime 0


def test_without_orientation_the_sform_gets_code_1_and_says_so(tmp_path):
    volume = random_volume(random_affine(3))
    with pytest.warns(MoeDiffWarning, match="sform_code 1"):
        save(volume, tmp_path / "out.nii", codes=(0, 0))
    loaded = load(tmp_path / "out.nii")
    assert loaded.codes == (0, 1) and torch.allclose(loaded.stored.affine, volume.affine, atol=1e-4)


def test_maps_are_written_as_one_4d_file(tmp_path):
    maps = torch.rand(16, 14, 13, 4)
    save_maps(maps, random_affine(5).numpy(), tmp_path / "maps.nii.gz", codes=(2, 1))
    assert np.array_equal(nib.load(tmp_path / "maps.nii.gz").get_fdata(dtype=np.float32), maps.numpy())
    assert nib.load(tmp_path / "maps.nii.gz").header.get_zooms()[3] == 1
    loaded = load(tmp_path / "maps.nii.gz", index=2)
    assert torch.equal(loaded.stored.data_XYZ, maps[..., 2]) and loaded.codes == (2, 1)
    with pytest.raises(GeometryError, match="expected 4 axes"):
        save_maps(maps[..., 0], torch.eye(4), tmp_path / "flat.nii")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int16, torch.bool])
def test_any_tensor_is_written_as_float32(dtype, tmp_path):
    data = (torch.rand(9, 10, 11).permute(2, 0, 1) * 100).to(dtype)  # not contiguous
    save(Volume(data, torch.diag(torch.tensor([9.0, 9, 9, 1]))), tmp_path / "out.nii")
    assert np.array_equal(nib.load(tmp_path / "out.nii").get_fdata(dtype=np.float32), data.float().numpy())


ODD_NAMES = ["a b.nii.gz", 'o\'clock "x".nii', "line\nbreak.nii.gz", "Ωμέγ.nii.gz", "-rf.nii", "%s{}.nii", "A.NII.GZ"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda n: f"row44_{n!r}")
def test_odd_file_names_work(name, tmp_path):
    volume = random_volume(random_affine(6))
    save(volume, tmp_path / name)
    assert torch.equal(load(tmp_path / name).stored.data_XYZ, volume.data_XYZ)
    assert os.listdir(tmp_path) == [name]
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_row44_the_input_is_not_touched_and_links_are_followed(nifti, tmp_path):
    path = nifti()
    path.chmod(0o444)
    link = tmp_path / "link.nii.gz"
    link.symlink_to(path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert torch.equal(load(link).stored.data_XYZ, load(path).stored.data_XYZ)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_inputs_that_are_not_there(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.nii")
    expected = {
        "none.nii": "no such file",
        "folder": "no DICOM images here",
        "folder/x/none.nii": "no such file",
        "pipe.nii": "not an ordinary file",
        "nul\0.nii": "no such file",
    }
    for name, words in expected.items():
        with pytest.raises(InputMissing, match=words) as caught:
            load(tmp_path / name)
        assert caught.value.exit_code == 66 and str(caught.value).count(str(tmp_path)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_input_without_read_permission(nifti):
    path = nifti()
    path.chmod(0)
    with pytest.raises(InputMissing, match="cannot be read"):
        load(path)


@pytest.mark.parametrize("name", ["scan.txt", "scan.gz", "scan", "nii", "scan.mnc"])
def test_other_kinds_of_file_are_refused(name, nifti, tmp_path):
    path = nifti(name=name)
    with pytest.raises(DataError, match=r"supported are \.nii, \.nii\.gz, \.mgz"):
        load(path)
    with pytest.raises(CannotCreate, match=r"written as \.nii or \.nii\.gz"):
        save(random_volume(random_affine(7)), path, overwrite=True)


def test_an_existing_output_stays_unless_overwriting_is_allowed(tmp_path):
    path = tmp_path / "out.nii"
    path.write_bytes(b"old")
    volume = random_volume(random_affine(8))
    with pytest.raises(CannotCreate, match="exists already") as caught:
        save(volume, path)
    assert path.read_bytes() == b"old" and str(caught.value).count(str(path)) == 1
    save(volume, path, overwrite=True)
    assert torch.equal(load(path).stored.data_XYZ, volume.data_XYZ) and os.listdir(tmp_path) == ["out.nii"]


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_row45_no_room_for_the_scan(name, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OutputFailed, match="free some space"):
            save(random_volume(random_affine(9)), tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=["row45_full", "row45_quota", "row45_io"])
@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_the_disk_fails_at_the_sync_of_a_scan(code, name, tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputFailed, match=os.strerror(code)) as caught:
        save(random_volume(random_affine(11)), tmp_path / name)
    assert caught.value.exit_code == 74 and os.listdir(tmp_path) == []


def test_codes_outside_the_standard_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"within 0\.\.5"):
        save(random_volume(random_affine(12)), tmp_path / "out.nii", codes=(9, 1))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_row46_data_that_the_disk_altered_are_never_accepted(name, tmp_path, monkeypatch):
    """A disk that flips a bit between writing and reading back."""
    sync = os.fsync

    def flip(handle: int) -> None:
        sync(handle)
        temporary = next(tmp_path.glob(".moediff-*"))
        raw = bytearray(temporary.read_bytes())
        raw[len(raw) // 2] ^= 4
        temporary.write_bytes(raw)

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(OutputFailed, match="cannot be read back"):
        save(random_volume(random_affine(10)), tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_ten_million_voxels_take_about_a_second(tmp_path):
    data_XYZ = torch.zeros(256, 256, 152)
    data_XYZ[40:216, 40:216, 20:132] = torch.rand(176, 176, 112) * 1000
    volume = Volume(data_XYZ, torch.eye(4))
    start = time.perf_counter()
    save(volume, tmp_path / "big.nii.gz")
    saved = time.perf_counter()
    load(tmp_path / "big.nii.gz")
    assert saved - start < 4 and time.perf_counter() - saved < 3  # generous: the machine may be busy


def test_paths_may_be_text(nifti):
    path = nifti()
    assert load(str(path)).path == Path(path)
