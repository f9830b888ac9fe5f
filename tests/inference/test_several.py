"""Several scans of one phantom head become one result."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import moediff
from moediff.acquisition.point_spread import Sampling
from moediff.cli.main import main
from moediff.core.errors import ConfigError, DataError
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.inference import grid_plan, out_of_distribution, several
from moediff.inference.dry_run import dry_run, plans_of
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.inference.outputs import OutputPaths
from moediff.inference.run import EnhanceRequest, PlannedScan, enhance_to
from moediff.inference.several import NOT_CALIBRATED, several_options
from moediff.io.scans import from_volume, save
from moediff.model.bundle import load_bundle
from moediff.registration.align import Alignment
from several_scans import other_contrast, stacks_of

pytest.importorskip("SimpleITK")
FAR = np.array([[0, 0, 0, 500], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # mm
OPTIONS = EnhanceOptions(voxel_size=(4.0,), align=False)


def rms(result: Volume, truth: Volume) -> float:
    expected = resample(truth, result.grid).data_XYZ
    return float((result.data_XYZ - expected)[expected > 50].square().mean().sqrt())


@pytest.fixture(scope="module")
def result(enhancer, still_stacks):
    return enhancer(still_stacks.scans, OPTIONS)


def test_three_planes_are_nearer_the_truth_than_the_best_alone(enhancer, still_stacks, result):
    alone = [enhancer(scan, OPTIONS) for scan in still_stacks.scans]
    assert rms(result.volume, still_stacks.truth) < 0.75 * rms(alone[0].volume, still_stacks.truth)
    assert_close(result.volume.affine, alone[0].volume.affine)
    assert result.volume.shape == alone[0].volume.shape
    inside = result.mask_XYZ
    assert result.uncertainty.data_XYZ[inside].mean() < alone[0].uncertainty.data_XYZ[inside].mean()


def test_the_sidecar_tells_of_every_scan(result, still_stacks):
    records = result.sidecar.scans
    assert [r.left_out for r in records] == [None] * 3
    assert records[0].transform == ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    assert records[1].displacement_mm == 0
    assert sum(r.weight for r in records) == pytest.approx(1, abs=0.01)
    assert all(r.residual_over_range < 0.1 and 0 < r.noise_over_range < 0.1 for r in records)
    assert json.loads(result.sidecar.to_json())["scans"][2]["input"]["shape"] == list(still_stacks.scans[2].shape)


def test_weights_show_which_scan_decided(result):
    total = sum(share.weight_XYZ for share in result.scans)
    inside = result.mask_XYZ & (total > 0)
    assert_close(total[inside], torch.ones(int(inside.sum())), atol=0.02, rtol=0)
    assert all(share.residual.shape == share.scan.shape for share in result.scans)


def test_the_order_of_the_others_does_not_matter(enhancer, still_stacks, result):
    first, second, third = still_stacks.scans
    swapped = enhancer([first, third, second], OPTIONS)
    assert_close(swapped.volume.data_XYZ, result.volume.data_XYZ, atol=1e-3, rtol=0)  # of intensities up to 1000
    assert_close(swapped.uncertainty.data_XYZ, result.uncertainty.data_XYZ, atol=1e-3, rtol=0)
    assert [r.name for r in swapped.sidecar.scans] == [r.name for r in result.sidecar.scans]


def test_a_scan_that_does_not_fit_is_left_out_and_named(enhancer, still_stacks):
    first, second, third = still_stacks.scans
    pair = enhancer([first, third], OPTIONS)
    odd = enhancer([first, other_contrast(second), third], OPTIONS)
    assert odd.sidecar.scans[1].left_out
    assert any("was left out" in note for note in odd.sidecar.warnings)
    assert float((odd.volume.data_XYZ - pair.volume.data_XYZ).abs().mean()) < 1e-3


def test_a_first_scan_that_does_not_fit_is_refused(enhancer, still_stacks):
    first, second, third = still_stacks.scans
    with pytest.raises(DataError, match="gives the frame of the result and does not fit"):
        enhancer([other_contrast(second), first, third], OPTIONS)


def test_fewer_than_two_are_refused(enhancer, still_stacks):
    first, second, _ = still_stacks.scans
    with pytest.raises(DataError, match="fewer than two scans fit"):
        enhancer([first, other_contrast(second)], OPTIONS)
    with pytest.raises(DataError, match="count twice"):
        enhancer([first, first], OPTIONS)


def test_a_dark_slice_counts_less(enhancer, still_stacks, result, monkeypatch):
    """Alignment is left out: on so few slices it would take the scan for another head."""
    monkeypatch.setattr(several, "align", lambda scans, **_: [Alignment(rank=i) for i in range(len(scans))])
    first, second, third = still_stacks.scans
    data = second.data_XYZ.clone()
    middle = data.shape[0] // 2  # its slices lie across the first axis
    data[middle] *= 0.2
    darkened = enhancer([first, second.with_data(data), third], OPTIONS)
    assert [record.doubted_slices for record in darkened.sidecar.scans] == [(), (middle,), ()]
    assert [record.doubted_slices for record in result.sidecar.scans] == [()] * 3
    assert any("contradict the other scans" in note for note in darkened.sidecar.warnings)
    assert rms(darkened.volume, still_stacks.truth) < 1.2 * rms(result.volume, still_stacks.truth)


def test_scans_are_combined_where_alignment_places_them(enhancer, still_stacks, result, monkeypatch):
    """In place of a registration its answer is known: three motions, and the second scan twice as bright."""
    moved = stacks_of(still_stacks.truth, factor=3)
    gains = (1.0, 2.0, 1.0)
    known = [Alignment(transform=move, gain=gain) for move, gain in zip(moved.transforms, gains, strict=True)]
    monkeypatch.setattr(several, "align", lambda scans, **_: known)
    together = enhancer(
        [scan.with_data(scan.data_XYZ * g) for scan, g in zip(moved.scans, gains, strict=True)], OPTIONS
    )
    assert rms(together.volume, still_stacks.truth) < 1.3 * rms(result.volume, still_stacks.truth)


@pytest.mark.slow
def test_a_sample_is_conditioned_on_all(enhancer, still_stacks, result):
    sample = enhancer(still_stacks.scans, replace(OPTIONS, mode="detail"))
    assert len(sample.sidecar.scans) == 3
    assert rms(sample.volume, still_stacks.truth) < 1.2 * rms(result.volume, still_stacks.truth)


def test_a_combination_of_samples_says_what_its_uncertainty_is(enhancer, still_stacks, tmp_path):
    """Also of one sample each: it is that of the combination, so a map can be written."""
    request = EnhanceRequest(
        source=still_stacks.scans[:2],
        options=replace(OPTIONS, mode="detail", steps=2),
        outputs=OutputPaths(scan=tmp_path / "out.nii.gz", uncertainty=tmp_path / "sd.nii.gz"),
    )
    sidecar = enhance_to(request, lambda _: enhancer).sidecar
    assert sidecar.uncertainty.kind == "predicted" and sidecar.uncertainty.description == NOT_CALIBRATED
    assert (tmp_path / "sd.nii.gz").exists() and sidecar.uncertainty.mean_over_range > 0
    two = replace(request, options=replace(request.options, samples=2), overwrite=True)
    assert not [note for note in dry_run(two, enhancer.bundle.config).warnings if "too small" in note]


def test_warnings_of_every_scan_are_kept(enhancer, still_stacks, monkeypatch):
    first, _, second = still_stacks.scans
    banded = second.data_XYZ.clone()
    banded[:, ::2] *= 1.07  # its slices lie across the second axis
    scores = iter((8.0, 9.0))
    monkeypatch.setattr(out_of_distribution, "score", lambda *_: next(scores))
    monkeypatch.setattr(grid_plan, "kind_of_map", lambda scan: "a mask" if scan.volume.shape == second.shape else None)
    scans = [first, second.with_data(banded)]
    warnings = enhancer(scans, replace(OPTIONS, trust_intensities=True)).sidecar.warnings
    of_second = [warning for warning in warnings if warning.startswith("a scan in memory: ")]
    for words in ("every other slice is", "looks like a mask", "unlike its training scans"):
        assert len([warning for warning in of_second if words in warning]) == 1
    assert len([warning for warning in warnings if "unlike its training scans" in warning]) == 2


def test_the_finest_voxels_that_the_scans_support(still_stacks):
    loaded = [from_volume(scan) for scan in still_stacks.scans]
    assert several_options(loaded, EnhanceOptions()).voxel_size == (1.0, 1.0, 1.0)
    fine = Volume(
        still_stacks.scans[1].data_XYZ,
        still_stacks.scans[1].affine @ torch.diag(torch.tensor([1, 0.15, 0.15, 1.0]).double()),
    )
    assert several_options([loaded[0], from_volume(fine)], EnhanceOptions()).voxel_size == pytest.approx((1, 0.6, 0.6))
    assert several_options(loaded, OPTIONS) is OPTIONS


def test_one_profile_is_that_of_all_scans(still_stacks):
    loaded = [from_volume(scan) for scan in still_stacks.scans]
    box = replace(OPTIONS, profile=(Sampling("box"),))
    assert several_options(loaded, box) is box
    planned = PlannedScan(tuple(loaded), box, plan_grids(loaded[0], box))
    for plan in plans_of(planned):
        assert sorted(axis.method for axis in plan.sampling).count("box") == 1
    with pytest.raises(ConfigError, match="3 values for 3 scans, expected one"):
        several_options(loaded, replace(OPTIONS, profile=(Sampling("box"),) * 3))


def test_no_scan_at_all_is_refused(enhancer):
    with pytest.raises(ConfigError, match="no scan"):
        enhancer([])


@pytest.fixture
def files(still_stacks, tmp_path):
    paths = [tmp_path / f"{name}.nii.gz" for name in ("ax", "sag", "cor")]
    for path, scan in zip(paths, still_stacks.scans, strict=True):
        save(scan, path)
    return paths


def test_the_command_takes_several_files(files, bundle, tmp_path, capsys):
    output = tmp_path / "out.nii.gz"
    words = [
        "enhance",
        *map(str, files),
        "-o",
        str(output),
        "--bundle",
        str(bundle),
        "--voxel-size",
        "4",
        "--no-align",
        "-q",
    ]
    assert main(words) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert [scan["name"] for scan in record["scans"]] == ["ax.nii.gz", "sag.nii.gz", "cor.nii.gz"]
    assert main(words) == 73  # exists already


def test_a_dry_run_estimates_all_inputs(files, bundle, tmp_path, capsys):
    words = ["-o", str(tmp_path / "out.nii.gz"), "--bundle", str(bundle), "--voxel-size", "4", "--dry-run"]
    memory = []
    for inputs in (files[:1], files[:2], files):
        assert main(["enhance", *map(str, inputs), *words]) == 0
        said = json.loads(capsys.readouterr().out)
        assert len(said["inputs"]) == len(inputs)
        memory.append(said["peak_memory_mib"])
    assert memory == sorted(set(memory))


@pytest.mark.parametrize(("size", "words"), [(4.0, ""), (6.0, "finer detail was given up")])
def test_scans_as_fine_as_the_target_go_through_the_network_together(still_stacks, bundle, tmp_path, size, words):
    noise = torch.randn(still_stacks.truth.shape, generator=torch.Generator().manual_seed(0))
    again = still_stacks.truth.with_data(still_stacks.truth.data_XYZ + 10 * noise)
    request = EnhanceRequest(
        source=[still_stacks.truth, again],
        options=EnhanceOptions(voxel_size=(size,), align=False),
        outputs=OutputPaths(scan=tmp_path / "out.nii.gz"),
    )
    said = " ".join(dry_run(request, load_bundle(bundle).config).warnings)
    assert words in said and "passed through" not in said and "nothing was enhanced" not in said


def test_one_of_four_dimensions_is_named(files, bundle, tmp_path, capsys):
    series = nib.load(files[1])
    nib.save(nib.Nifti1Image(np.stack([series.get_fdata()] * 3, -1), series.affine), files[1])
    output = tmp_path / "out.nii.gz"
    assert main(["enhance", *map(str, files), "-o", str(output), "--bundle", str(bundle)]) == 65
    said = capsys.readouterr().err
    assert "sag.nii.gz" in said and "--volume" in said
    assert not output.exists()


def test_the_same_file_twice_and_no_overlap_are_refused_in_a_sentence(files, bundle, tmp_path, capsys):
    output = tmp_path / "out.nii.gz"
    rest = ["-o", str(output), "--bundle", str(bundle), "--no-align", "-q"]
    assert main(["enhance", str(files[0]), str(files[0]), *rest]) == 65
    assert "count twice" in capsys.readouterr().err
    elsewhere = nib.load(files[1])
    nib.save(nib.Nifti1Image(elsewhere.get_fdata(), elsewhere.affine + FAR), files[1])
    assert main(["enhance", str(files[0]), str(files[1]), *rest]) == 65
    assert "the two share 0% of the head" in capsys.readouterr().err
    assert not output.exists()


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


def test_one_call_in_python(files, bundle, tmp_path):
    output = tmp_path / "out.nii.gz"
    result = moediff.enhance(files[:2], output, bundle=bundle, voxel_size=(4.0,), align=False)
    assert output.exists() and len(result.scans) == 2


@pytest.mark.slow
def test_scans_that_moved_are_registered_first(enhancer, stacks):
    options = EnhanceOptions(voxel_size=(1.3,))
    alone, together = enhancer(stacks.scans[0], options), enhancer(stacks.scans, options)
    assert rms(together.volume, stacks.truth) < 0.75 * rms(alone.volume, stacks.truth)
    moved = [record.displacement_mm for record in together.sidecar.scans]
    assert moved == pytest.approx([0, *(t.displacement_mm((0, 0, 0)) for t in stacks.transforms[1:])], abs=0.5)
