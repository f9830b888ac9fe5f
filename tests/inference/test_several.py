"""Several scans of one phantom head become one result."""

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import moediff
from moediff.cli.main import main
from moediff.core.errors import ConfigError, DataError
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.inference.options import EnhanceOptions
from moediff.inference.several import several_options
from moediff.io.scans import from_volume, save
from several_scans import other_contrast

pytest.importorskip("SimpleITK")
OPTIONS = EnhanceOptions(voxel_size=(2.0,))


def rms(result: Volume, truth: Volume) -> float:
    expected = resample(truth, result.grid).data_XYZ
    return float((result.data_XYZ - expected)[expected > 50].square().mean().sqrt())


@pytest.fixture(scope="module")
def result(enhancer, stacks):
    return enhancer(stacks.scans, OPTIONS)


def test_three_planes_are_nearer_the_truth_than_the_best_alone(enhancer, stacks, result):
    alone = [enhancer(scan, OPTIONS) for scan in stacks.scans]
    assert rms(result.volume, stacks.truth) < 0.75 * rms(alone[0].volume, stacks.truth)
    assert_close(result.volume.affine, alone[0].volume.affine)
    assert result.volume.shape == alone[0].volume.shape
    inside = result.mask_XYZ
    assert result.uncertainty.data_XYZ[inside].mean() < alone[0].uncertainty.data_XYZ[inside].mean()


def test_the_sidecar_tells_of_every_scan(result, stacks):
    records = result.sidecar.scans
    assert [r.left_out for r in records] == [None] * 3
    assert records[0].transform == ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    assert records[1].displacement_mm == pytest.approx(stacks.transforms[1].displacement_mm((0, 0, 0)), abs=0.5)
    assert sum(r.weight for r in records) == pytest.approx(1, abs=0.01)
    assert all(r.residual_over_range < 0.1 and 0 < r.noise_over_range < 0.1 for r in records)
    assert json.loads(result.sidecar.to_json())["scans"][2]["input"]["shape"] == list(stacks.scans[2].shape)


def test_weights_show_which_scan_decided(result):
    total = sum(share.weight_XYZ for share in result.scans)
    inside = result.mask_XYZ & (total > 0)
    assert_close(total[inside], torch.ones(int(inside.sum())), atol=0.02, rtol=0)
    assert all(share.residual.shape == share.scan.shape for share in result.scans)


@pytest.mark.slow
def test_the_order_of_the_others_does_not_matter(enhancer, stacks, result):
    first, second, third = stacks.scans
    swapped = enhancer([first, third, second], OPTIONS)
    apart = (swapped.volume.data_XYZ - result.volume.data_XYZ).abs()
    assert float(apart.mean()) < 1e-3  # rounding; at the edge of a field of view a voxel may change sides
    assert float((apart > 0.05).float().mean()) < 1e-3


def test_a_scan_that_does_not_fit_is_left_out_and_named(enhancer, stacks):
    first, second, third = stacks.scans
    pair = enhancer([first, third], OPTIONS)
    odd = enhancer([first, other_contrast(second), third], OPTIONS)
    assert odd.sidecar.scans[1].left_out
    assert any("was left out" in note for note in odd.sidecar.warnings)
    assert float((odd.volume.data_XYZ - pair.volume.data_XYZ).abs().mean()) < 1e-3


def test_fewer_than_two_are_refused(enhancer, stacks):
    first, second, _ = stacks.scans
    with pytest.raises(DataError, match="fewer than two scans fit"):
        enhancer([first, other_contrast(second)], OPTIONS)
    with pytest.raises(DataError, match="count twice"):
        enhancer([first, first], OPTIONS)


def test_a_dark_slice_counts_less(enhancer, stacks, result):
    first, second, third = stacks.scans
    data = second.data_XYZ.clone()
    axis = max(range(3), key=lambda a: second.spacing_mm[a])
    middle = data.shape[axis] // 2
    data.select(axis, middle).mul_(0.5)
    darkened = enhancer([first, second.with_data(data), third], OPTIONS)
    assert middle in darkened.sidecar.scans[1].doubted_slices
    assert any("contradict the other scans" in note for note in darkened.sidecar.warnings)
    assert rms(darkened.volume, stacks.truth) < 1.1 * rms(result.volume, stacks.truth)


@pytest.mark.slow
def test_a_sample_is_conditioned_on_all(enhancer, stacks, result):
    sample = enhancer(stacks.scans, replace(OPTIONS, mode="detail"))
    assert len(sample.sidecar.scans) == 3
    assert rms(sample.volume, stacks.truth) < 1.2 * rms(result.volume, stacks.truth)


def test_the_finest_voxels_that_the_scans_support(stacks):
    loaded = [from_volume(scan) for scan in stacks.scans]
    assert several_options(loaded, EnhanceOptions()).voxel_size == (1.0, 1.0, 1.0)
    fine = Volume(
        stacks.scans[1].data_XYZ, stacks.scans[1].affine @ torch.diag(torch.tensor([1, 0.3, 0.3, 1.0]).double())
    )
    assert several_options([loaded[0], from_volume(fine)], EnhanceOptions()).voxel_size == pytest.approx((1, 0.6, 0.6))
    assert several_options(loaded, OPTIONS) is OPTIONS


def test_no_scan_at_all_is_refused(enhancer):
    with pytest.raises(ConfigError, match="no scan"):
        enhancer([])


@pytest.fixture
def files(stacks, tmp_path):
    paths = [tmp_path / f"{name}.nii.gz" for name in ("ax", "sag", "cor")]
    for path, scan in zip(paths, stacks.scans, strict=True):
        save(scan, path)
    return paths


def test_the_command_takes_several_files(files, bundle, tmp_path, capsys):
    output = tmp_path / "out.nii.gz"
    words = ["enhance", *map(str, files), "-o", str(output), "--bundle", str(bundle), "--voxel-size", "4", "-q"]
    assert main(words) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert [scan["name"] for scan in record["scans"]] == ["ax.nii.gz", "sag.nii.gz", "cor.nii.gz"]
    assert main(words) == 73  # exists already


def test_one_corrupt_file_of_three_is_named_and_nothing_is_written(files, bundle, tmp_path, capsys):
    files[1].write_bytes(files[1].read_bytes()[:2000])
    output = tmp_path / "out.nii.gz"
    assert main(["enhance", *map(str, files), "-o", str(output), "--bundle", str(bundle)]) == 65
    assert "sag.nii.gz" in capsys.readouterr().err
    assert not output.exists()


def test_an_output_never_replaces_a_later_input(files, bundle, capsys):
    words = ["enhance", *map(str, files), "-o", str(files[2]), "--bundle", str(bundle), "--overwrite"]
    before = files[2].read_bytes()
    assert main(words) == 73
    assert "replace the input" in capsys.readouterr().err
    assert files[2].read_bytes() == before


@pytest.mark.slow
def test_one_call_in_python(files, bundle, tmp_path):
    output = tmp_path / "out.nii.gz"
    result = moediff.enhance(files[:2], output, bundle=bundle, voxel_size=(4.0,))
    assert output.exists() and len(result.scans) == 2
