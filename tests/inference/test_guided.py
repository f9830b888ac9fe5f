"""A sharp scan of another contrast helps a thick one, or is refused, or is left out with a sentence."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import moediff
from moediff.acquisition.operators import assumed_acquisition
from moediff.cli.main import main
from moediff.core.errors import ConfigError, DataError, InputMissing
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.inference.guided import load_guide
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import save
from moediff.registration.rigid import Rigid
from several_scans import acquired, lopsided, other_contrast

pytest.importorskip("SimpleITK")
OPTIONS = EnhanceOptions(voxel_size=(4.0,))
TRUSTING = EnhanceOptions(voxel_size=(4.0,), align=False)
MOTION = Rigid.of((2, -1, 1.5), (2, 1, -2))


@pytest.fixture(scope="module")
def truth(make_phantom):
    return lopsided(make_phantom())


@pytest.fixture(scope="module")
def thick(truth):
    """Slices of 12 mm."""
    return acquired(truth, 2, factor=3)


@pytest.fixture(scope="module")
def guide(truth):
    """Another contrast of the same head, after a motion."""
    return Volume(other_contrast(truth).data_XYZ, MOTION.matrix @ truth.affine)


@pytest.fixture(scope="module")
def alone(enhancer, thick):
    return enhancer(thick, OPTIONS)


@pytest.fixture(scope="module")
def guided(enhancer, thick, guide):
    return enhancer(thick, OPTIONS, guide=guide)


@pytest.fixture(scope="module")
def guided_in_place(enhancer, thick, truth):
    """By a guide that did not move."""
    return enhancer(thick, TRUSTING, guide=other_contrast(truth))


def rms(result: Volume, truth: Volume) -> float:
    expected = resample(truth, result.grid).data_XYZ
    return float((result.data_XYZ - expected)[expected > 50].square().mean().sqrt())


def test_a_guide_brings_the_result_nearer_the_truth(alone, guided, truth):
    assert rms(guided.volume, truth) < 0.97 * rms(alone.volume, truth)
    assert guided.volume.shape == alone.volume.shape


def test_the_record_tells_where_it_lies_and_what_it_changed(guided, alone, truth):
    record = guided.sidecar.guide
    assert record.not_used is None and record.agreement > 0.7 and record.apart_mm < 2  # of slices of 12
    found = Rigid(torch.tensor(record.transform, dtype=torch.float64))
    assert (found.inverse @ MOTION).displacement_mm((0, 0, 0), 40.0) < 0.3
    assert 0.005 < record.change_over_range < 0.1
    assert json.loads(guided.sidecar.to_json())["guide"]["input"]["shape"] == list(truth.shape)
    assert alone.sidecar.guide is None and alone.guide is None


def test_what_was_added_is_kept_for_the_report(guided, alone):
    added = guided.volume.data_XYZ - alone.volume.data_XYZ
    positive = guided.volume.data_XYZ > 0  # elsewhere it was cut off at zero
    assert_close(added[positive], guided.guide.correction_XYZ[positive], atol=0.1, rtol=0)


def test_slices_average_to_what_they_did_before(guided, alone, thick):
    added = guided.volume.data_XYZ - alone.volume.data_XYZ
    again = assumed_acquisition(guided.volume.grid, thick.grid).apply(added)
    assert float(again.square().mean().sqrt()) < 0.2 * float(added.square().mean().sqrt())
    assert guided.sidecar.data_consistency.rms_over_range < alone.sidecar.data_consistency.rms_over_range + 0.003


def with_sphere(volume: Volume, share: float) -> Volume:
    """White matter of 12 mm that is brighter by a share; the phantom's is homogeneous there."""
    data = volume.data_XYZ.clone()
    data[13:16, 26:29, 20:23] *= 1 + share
    return volume.with_data(data)


def test_a_lesion_of_one_scan_alone_stays_there(enhancer, thick, truth, alone, guided_in_place):
    sharp = other_contrast(truth)
    plain = guided_in_place.volume.data_XYZ
    place = (slice(13, 16), slice(26, 29), slice(20, 23))
    contrast = float(0.3 * truth.data_XYZ[place].mean())
    ghost = enhancer(thick, TRUSTING, guide=with_sphere(sharp, 0.3)).volume.data_XYZ - plain
    assert float(ghost[place].mean().abs()) < 0.1 * contrast
    lesioned = acquired(with_sphere(truth, 0.3), 2, factor=3)
    without = enhancer(lesioned, TRUSTING).volume.data_XYZ - alone.volume.data_XYZ
    kept = enhancer(lesioned, TRUSTING, guide=sharp).volume.data_XYZ - plain
    assert float(kept[place].mean()) > 0.97 * float(without[place].mean()) > 0.3 * contrast


def test_the_uncertainty_stays_that_of_the_scan(guided, alone):
    assert_close(guided.uncertainty.data_XYZ, alone.uncertainty.data_XYZ)


def test_a_mirrored_guide_changes_nothing_and_is_named(enhancer, thick, guide, alone):
    result = enhancer(thick, OPTIONS, guide=guide.with_data(guide.data_XYZ.flip(0)))
    assert_close(result.volume.data_XYZ, alone.volume.data_XYZ)
    assert result.guide is None and "mirror image fits better" in result.sidecar.guide.not_used
    (note,) = set(result.sidecar.warnings) - set(alone.sidecar.warnings)
    assert note.startswith("the guide a guide in memory was not used: ")


def test_another_thing_than_this_head_changes_nothing(enhancer, thick, guide, alone):
    rng = torch.Generator().manual_seed(0)
    noise = guide.with_data(400 + 40 * torch.randn(guide.shape, generator=rng))
    result = enhancer(thick, TRUSTING, guide=noise)
    assert_close(result.volume.data_XYZ, alone.volume.data_XYZ)
    assert "its edges agree with the scan's by 0.3" in result.sidecar.guide.not_used


def test_a_guide_elsewhere_is_named(enhancer, thick, guide):
    away = Volume(guide.data_XYZ, Rigid.of((0, 0, 0), (500, 0, 0)).matrix @ guide.affine)
    result = enhancer(thick, TRUSTING, guide=away)
    assert "holds 0% of the scan's head" in result.sidecar.guide.not_used


def test_part_of_a_guide_helps_where_it_was_measured(enhancer, thick, truth, alone):
    part = Volume(other_contrast(truth).data_XYZ[:28], truth.affine)
    result = enhancer(thick, TRUSTING, guide=part)
    assert result.sidecar.guide.not_used is None
    added = (result.volume.data_XYZ - alone.volume.data_XYZ).abs()
    assert float(added[28:].max()) < 1e-6 and float(added[:28].max()) > 10


def test_a_guide_with_negative_intensities_helps_as_much(enhancer, thick, truth, guided_in_place):
    sharp = other_contrast(truth)
    plain = guided_in_place.volume.data_XYZ
    standardised = enhancer(thick, TRUSTING, guide=sharp.with_data((sharp.data_XYZ - 400) / 100)).volume.data_XYZ
    assert_close(standardised, plain, atol=0.05, rtol=0)  # of intensities up to 1000


def test_a_guide_of_tiny_intensities_helps_as_much(enhancer, thick, truth, guided_in_place):
    sharp = other_contrast(truth)
    tiny = enhancer(thick, TRUSTING, guide=sharp.with_data(sharp.data_XYZ * 1e-9)).volume.data_XYZ
    assert_close(tiny, guided_in_place.volume.data_XYZ, atol=0.05, rtol=0)  # of intensities up to 1000


def test_a_smaller_grid_gets_the_same_detail(enhancer, thick, guide, guided):
    whole = guided.volume
    affine = whole.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([6.0, 8.0, 6.0], dtype=torch.float64)
    like = Volume(whole.data_XYZ[6:40, 8:46, 6:36], affine)
    result = enhancer(thick, EnhanceOptions(like=like.grid), guide=guide)
    assert float((result.volume.data_XYZ - like.data_XYZ).square().mean().sqrt()) < 5  # of intensities up to 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EnhanceOptions(voxel_size=(4.0,), mode="detail"), "--mode detail draws a sample"),
        (EnhanceOptions(voxel_size=(4.0,), single_experts=True), "what the network alone does"),
    ],
)
def test_options_that_do_not_go_with_a_guide(enhancer, thick, guide, options, words):
    with pytest.raises(ConfigError, match=words):
        enhancer(thick, options, guide=guide)


def test_guides_that_cannot_help_are_refused(enhancer, thick, guide, truth):
    with pytest.raises(ConfigError, match="helps one thick scan, 2 were given"):
        enhancer([thick, thick], OPTIONS, guide=guide)
    with pytest.raises(DataError, match="the same voxels as the scan"):
        enhancer(thick, OPTIONS, guide=thick)
    with pytest.raises(DataError, match=r"12 mm across the scan's slices of 12 mm, expected at most 7\.2"):
        enhancer(thick, OPTIONS, guide=other_contrast(thick))
    with pytest.raises(DataError, match="no thick slices"):
        enhancer(truth, EnhanceOptions(voxel_size=(3.0,)), guide=guide)
    labels = guide.with_data((guide.data_XYZ > 300).float())
    with pytest.raises(DataError, match="the guide a guide in memory: expected a scan, found a mask"):
        enhancer(thick, OPTIONS, guide=labels)


def test_a_scan_that_is_passed_through_needs_no_guide(enhancer, truth, guide):
    result = enhancer(truth, OPTIONS, guide=guide)
    assert "the guide changed nothing: the scan was passed through" in result.sidecar.warnings


@pytest.fixture
def files(thick, guide, tmp_path):
    paths = tmp_path / "flair.nii.gz", tmp_path / "t1w.nii.gz"
    for path, scan in zip(paths, (thick, guide), strict=True):
        save(scan, path)
    return paths


def words_of(files, bundle, tmp_path, *more):
    scan, guide = files
    places = [str(scan), "--guide", str(guide), "-o", str(tmp_path / "out.nii.gz"), "--bundle", str(bundle)]
    return ["enhance", *places, "--voxel-size", "4", "--no-align", *more]


def test_the_command_takes_a_guide_and_shows_what_it_added(thick, truth, bundle, tmp_path):
    files = tmp_path / "flair.nii.gz", tmp_path / "t1w.nii.gz"
    for path, scan in zip(files, (thick, other_contrast(truth)), strict=True):
        save(scan, path)
    page = tmp_path / "look.html"
    assert main(words_of(files, bundle, tmp_path, "--report", str(page), "-q")) == 0
    record = json.loads((tmp_path / "out.json").read_text())["guide"]
    assert record["name"] == "t1w.nii.gz" and record["apart_mm"] is None and record["not_used"] is None
    text = page.read_text()
    assert "from the guide" in text and "guide: t1w.nii.gz" in text and "edges agree by" in text


def test_a_dry_run_reads_the_guide(files, bundle, tmp_path, capsys):
    assert main(words_of(files, bundle, tmp_path, "--dry-run")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["guide"] == [48, 56, 44]
    scan = [word for word in words_of(files, bundle, tmp_path, "--dry-run") if word not in ("--guide", str(files[1]))]
    assert main(scan) == 0
    assert json.loads(capsys.readouterr().out)["peak_memory_mib"] < said["peak_memory_mib"]


def _cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def _repeat(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.stack([image.get_fdata()] * 3, -1), image.affine), path)


@pytest.mark.parametrize(
    ("damage", "answer"),
    [
        (lambda path: path.unlink(), (66, "the guide ")),
        (_repeat, (65, "name a guide of one volume")),
        (_cut, (65, "the guide ")),
    ],
    ids=["missing", "4-D", "cut"],
)
def test_bad_guides_are_named_in_one_sentence(files, bundle, tmp_path, capsys, damage, answer):
    damage(files[1])
    assert main(words_of(files, bundle, tmp_path)) == answer[0]
    said = capsys.readouterr().err
    assert answer[1] in said and "--volume" not in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out.nii.gz").exists()


def test_the_scan_itself_is_no_guide(files, bundle, tmp_path, capsys):
    assert main(words_of((files[0], files[0]), bundle, tmp_path)) == 65
    assert "the same voxels as the scan" in capsys.readouterr().err


def test_an_output_never_replaces_the_guide(files, bundle, tmp_path, capsys):
    scan, guide = files
    before = guide.read_bytes()
    words = ["enhance", str(scan), "--guide", str(guide), "-o", str(guide), "--bundle", str(bundle), "--overwrite"]
    assert main(words) == 73
    assert guide.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "words"),
    [(["--guide-series", "3"], "name its folder by --guide"), (["--guide-trust", "sform"], "name its file by --guide")],
)
def test_a_choice_for_no_guide_is_refused(option, words, files, bundle, capsys):
    assert main(["enhance", str(files[0]), *option, "--bundle", str(bundle)]) == 78
    assert words in capsys.readouterr().err


def _reverse_qform(path):
    image = nib.load(path)
    image.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), code=1)
    nib.save(image, path)


def _other_sizes(path):
    image = nib.load(path)
    image.set_qform(image.affine @ np.diag([1, 1, 3, 1]), code=1)
    nib.save(image, path)


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("damage", "answer"),
    [(_reverse_qform, (0, "")), (_other_sizes, (65, "expected at most"))],  # with those sizes it is no sharp scan
    ids=["reversed", "other sizes"],
)
def test_row27_the_remedy_for_a_guide_whose_header_contradicts_itself_works(
    files, bundle, tmp_path, capsys, damage, answer
):
    damage(files[1])
    words = words_of(files, bundle, tmp_path, "--dry-run")
    for more in ([], ["--trust", "sform"]):
        assert main([*words, *more]) == 65
        said = capsys.readouterr().err
        assert "the guide " in said and "give --guide-trust sform or --guide-trust qform" in said
    assert main([*words, "--guide-trust", "sform"]) == 0
    assert main([*words, "--guide-trust", "qform"]) == answer[0]
    said = capsys.readouterr().err
    assert answer[1] in said and "--guide-trust" not in said


@pytest.mark.fault(27)
def test_row27_the_affine_of_a_guide_is_the_one_that_is_trusted(files, bundle, tmp_path, monkeypatch):
    _reverse_qform(files[1])
    guides = []
    monkeypatch.setattr("moediff.inference.dry_run.dry_run", lambda request, _: guides.append(request.guide) or request)
    monkeypatch.setattr("moediff.cli.enhance.asdict", lambda request: {})
    for trust in ("sform", "qform"):
        assert main(words_of(files, bundle, tmp_path, "--dry-run", "--guide-trust", trust)) == 0
    sform, qform = (guide.stored.affine for guide in guides)
    assert float(sform[0, 0]) == pytest.approx(-float(qform[0, 0])) and sform[0, 0] != 0


def test_what_a_message_says_of_other_options_stays(tmp_path):
    """`--trust-intensities` is of both scans."""
    with pytest.raises(InputMissing, match=r"the guide .*--trust-me"):
        load_guide(tmp_path / "--trust-me.nii")


def test_one_call_in_python(files, bundle, tmp_path):
    scan, guide = files
    output = tmp_path / "out.nii.gz"
    result = moediff.enhance(scan, output, guide=guide, bundle=bundle, voxel_size=(4.0,), align=False)
    assert output.exists() and result.sidecar.guide.name == "t1w.nii.gz"
