"""`moediff enhance --report` and `moediff report`."""

import hashlib
import json
import shutil

import pytest
import torch

from moediff.cli.main import main
from moediff.inference.sidecar import InputFile
from moediff.io.scans import load, save, save_maps
from moediff.report.data import source_beside


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory, make_phantom, bundle):
    """A 6 mm phantom, enhanced to 4 mm with a report and all maps; not to be changed."""
    folder = tmp_path_factory.mktemp("enhanced")
    save(make_phantom((32, 36, 28), (6.0, 6.0, 6.0)), folder / "scan.nii.gz")
    options = ["--voxel-size", "4", "--bundle", str(bundle), "--experts", str(folder / "experts.nii.gz"), "-q"]
    assert main(["enhance", str(folder / "scan.nii.gz"), *options, "--report", str(folder / "out.html")]) == 0
    return folder


@pytest.fixture
def folder(enhanced, tmp_path):
    """A copy of it."""
    return shutil.copytree(enhanced, tmp_path, dirs_exist_ok=True)


def test_enhance_writes_a_page_beside_its_result(enhanced):
    text = (enhanced / "out.html").read_text(encoding="utf-8")
    assert "scan.nii.gz" in text and "Research use only" in text and str(enhanced) not in text


def test_report_makes_the_page_again_from_files(folder, capsys):
    result = str(folder / "scan_desc-sr.nii.gz")
    extra = ["--input", str(folder / "scan.nii.gz"), "--truth", result, "--experts", str(folder / "experts.nii.gz")]
    assert main(["report", result, *extra]) == 0
    page = folder / "scan_desc-sr_report.html"
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text(encoding="utf-8")
    assert (
        "expert of the largest weight" in text and "<td>1.0000</td>" in text and str(folder) not in text
    )  # SSIM of truth and result


def test_no_page_is_overwritten_without_the_option(folder, capsys):
    result = str(folder / "scan_desc-sr.nii.gz")
    assert main(["report", result, "-o", str(folder / "out.html")]) == 73
    assert main(["report", result, "-o", str(folder / "out.html"), "--overwrite", "-q"]) == 0
    assert main(["report", result, "-o", result, "--overwrite"]) == 73
    assert "made from" in capsys.readouterr().err


def test_the_report_is_one_of_the_outputs_checked_first(folder, capsys):
    scan = str(folder / "scan.nii.gz")
    assert main(["enhance", scan, "-o", str(folder / "b.nii.gz"), "--report", str(folder / "out.html")]) == 73
    assert "out.html" in capsys.readouterr().err and not (folder / "b.nii.gz").exists()


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 66), ("not json", 65), ("[1]", 65), ("{}", 65), ('{"software": "moediff-sr 0.1.0"}', 0)],
)
def test_a_sidecar_is_needed_but_its_fields_are_not(content, code, folder):
    sidecar = folder / "scan_desc-sr.json"
    sidecar.unlink()
    if content is not None:
        sidecar.write_text(content)
    assert main(["report", str(folder / "scan_desc-sr.nii.gz"), "-q"]) == code


def test_one_broken_result_of_many_costs_its_own_page_only(folder, capsys):
    for name in ("a", "b", "c"):
        for suffix in (".nii.gz", ".json"):
            shutil.copy(folder / f"scan_desc-sr{suffix}", folder / f"{name}_desc-sr{suffix}")
    (folder / "b_desc-sr.json").write_text("not json")
    results = [str(folder / f"{name}_desc-sr.nii.gz") for name in ("a", "b", "c")]
    assert main(["report", *results, "--index", str(folder / "all.html")]) == 8
    told = capsys.readouterr()
    assert told.err.startswith(f"moediff: no page for {results[1]}: ") and told.err.count("\n") == 1
    pages = [folder / f"{name}_desc-sr_report.html" for name in ("a", "b", "c")]
    assert [page.exists() for page in pages] == [True, False, True]
    index = (folder / "all.html").read_text(encoding="utf-8")
    assert "a_desc-sr" in index and "c_desc-sr" in index and "b_desc-sr" not in index


def test_odd_sidecar_values_are_survived(folder):
    odd = {
        "software": "moediff-sr 0.1.0",
        "timings": [1],
        "warnings": "x",
        "input_shape": "y",
        "slices": {"evened": 3},
        "data_consistency": {"rms_over_range": None},
        "steps": {},
    }
    (folder / "scan_desc-sr.json").write_text(json.dumps(odd))
    assert main(["report", str(folder / "scan_desc-sr.nii.gz"), "-q"]) == 0


def test_every_expert_is_shown_where_differences_were_written(folder, bundle):
    scan, differences = str(folder / "scan.nii.gz"), str(folder / "d.nii.gz")
    options = ["--voxel-size", "4", "--bundle", str(bundle), "-o", str(folder / "b.nii.gz"), "-q"]
    page = str(folder / "b.html")
    assert main(["enhance", scan, *options, "--differences", differences, "--report", page]) == 0
    assert main(["report", str(folder / "b.nii.gz"), "--input", scan, "--differences", differences, "-q"]) == 0
    for name in ("b.html", "b_report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count('<option value="single') == 4
        assert "disagreement with the input</option>" in text


def test_a_folder_gets_an_index_with_links_and_the_inputs_beside(folder, capsys):
    assert main(["report", str(folder), "--index", str(folder / "index.html")]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "scan_desc-sr_report.html"), str(folder / "index.html")]
    assert 'href="scan_desc-sr_report.html"' in (folder / "index.html").read_text(encoding="utf-8")
    assert "swipe</option>" in (folder / "scan_desc-sr_report.html").read_text(
        encoding="utf-8"
    )  # there is an input to swipe
    assert main(["report", str(folder), "--index", str(folder / "index.html")]) == 73


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("no.nii.gz", 66, "no.nii.gz: there is no such file"),
        ("none", 66, "none: there is no such file or folder"),
        ("out.html", 65, "out.html: unsupported kind of file"),
    ],
)
def test_what_is_no_result_is_named_as_it_was_given(name, code, said, folder, capsys):
    before = sorted(folder.iterdir())
    assert main(["report", str(folder / name)]) == code
    assert said in capsys.readouterr().err and sorted(folder.iterdir()) == before


def test_files_of_one_result_cannot_serve_several(folder):
    with pytest.raises(SystemExit) as stopped:
        main(["report", "a.nii.gz", "b.nii.gz", "--truth", "c.nii.gz"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("option", [["--truth", "scan.nii.gz"], ["--input", "scan.nii.gz"], ["-o", "x"]])
def test_nor_all_that_lie_in_a_folder(option, folder, capsys):
    for end in ("nii.gz", "json"):
        shutil.copy(folder / f"scan_desc-sr.{end}", folder / f"other_desc-sr.{end}")
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder), *(str(folder / word) if "." in word else word for word in option)])
    assert stopped.value.code == 2 and sorted(folder.iterdir()) == before
    assert "give these with one RESULT" in capsys.readouterr().err


def test_an_input_of_several_volumes_is_read_as_it_was(folder, capsys):
    one, result = load(folder / "scan.nii.gz").volume, str(folder / "scan_desc-sr.nii.gz")
    several = str(folder / "several.nii.gz")
    save_maps(torch.stack([one.data_XYZ, 0.5 * one.data_XYZ], -1), one.affine, several)
    assert main(["report", result, "--input", several, "-q"]) == 65
    assert main(["report", result, "--input", several, "--volume", "0", "-q"]) == 0
    shutil.move(several, folder / "scan.nii.gz")
    for choice, found in (([], False), (["--volume", "0"], True)):
        assert main(["report", result, *choice, "--overwrite", "-q"]) == 0
        page = (folder / "scan_desc-sr_report.html").read_text(encoding="utf-8")
        assert ("swipe</option>" in page) == found
    assert main(["report", str(folder), "--volume", "0", "--overwrite", "-q"]) == 0
    with pytest.raises(SystemExit):
        main(["report", result, result, "--volume", "0"])


@pytest.mark.fault(57)
def test_a_raw_scan_with_its_own_sidecar_is_no_result(tmp_path, make_phantom, capsys):
    """As heudiconv and dcm2niix write it."""
    save(make_phantom(), tmp_path / "sub-1_T1w.nii.gz")
    bids = {"Modality": "MR", "EchoTime": 0.003, "ConversionSoftware": "dcm2niix"}
    (tmp_path / "sub-1_T1w.json").write_text(json.dumps(bids))
    assert main(["report", str(tmp_path / "sub-1_T1w.nii.gz")]) == 65
    said = capsys.readouterr().err
    assert "names no moediff-sr as its software" in said and "name the enhanced scan" in said
    assert {path.suffix for path in tmp_path.iterdir()} == {".gz", ".json"}


@pytest.mark.fault(57)
def test_another_scan_under_a_results_name_is_refused(folder, make_phantom, capsys):
    save(make_phantom((20, 24, 16), (8.0, 8.0, 8.0)), folder / "scan_desc-sr.nii.gz", overwrite=True)
    assert main(["report", str(folder / "scan_desc-sr.nii.gz")]) == 65
    assert "shape [20, 24, 16], its sidecar describes one of [48, 54, 42]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def enhanced_preproc(tmp_path_factory, make_phantom, bundle):
    """A folder with `sub-1_desc-preproc_T1w.nii.gz` and its result; not to be changed."""
    scan = tmp_path_factory.mktemp("preproc") / "sub-1_desc-preproc_T1w.nii.gz"
    save(make_phantom((32, 36, 28), (6.0, 6.0, 6.0)), scan)
    assert main(["enhance", str(scan), "--voxel-size", "4", "--bundle", str(bundle), "-q"]) == 0
    return scan.parent


@pytest.fixture
def preproc(enhanced_preproc, tmp_path):
    """`sub-1_desc-preproc_T1w.nii.gz` and its result, `sub-1_desc-sr_T1w.nii.gz`, in a folder of their own."""
    shutil.copytree(enhanced_preproc, tmp_path, dirs_exist_ok=True)
    return tmp_path / "sub-1_desc-preproc_T1w.nii.gz", tmp_path / "sub-1_desc-sr_T1w.nii.gz"


@pytest.mark.parametrize(("others", "found"), [((), True), (("sub-1_T1w",), False)])
def test_without_a_named_input_it_is_found_by_the_results_name(others, found, preproc):
    """Sidecars of earlier versions; `desc-preproc` was replaced by `desc-sr`; where two scans fit, none is taken."""
    scan, result = preproc
    sidecar = result.with_name("sub-1_desc-sr_T1w.json")
    record = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({key: value for key, value in record.items() if key != "input_file"}))
    for name in others:
        shutil.copy(scan, scan.with_name(f"{name}.nii.gz"))
    assert source_beside(result) == (scan if found else None)


def test_the_sidecar_names_the_input_wherever_the_result_lies(preproc, bundle):
    scan, _ = preproc
    result = scan.parent / "derivatives" / "deep" / "out.nii.gz"
    result.parent.mkdir(parents=True)
    options = ["--voxel-size", "4", "--bundle", str(bundle), "-q", "--experts", str(result.with_name("gate.nii.gz"))]
    assert main(["enhance", str(scan), "-o", str(result), *options]) == 0
    record = json.loads(result.with_name("out.json").read_text())
    assert record["input_file"] == {
        "sha256": hashlib.sha256(scan.read_bytes()).hexdigest(),
        "path": "../../sub-1_desc-preproc_T1w.nii.gz",
    }
    assert record["maps"] == {"experts": "gate.nii.gz"}
    assert source_beside(result) == scan
    assert main(["report", str(result), "-q"]) == 0
    page = result.with_name("out_report.html").read_text(encoding="utf-8")
    assert "sub-1_desc-preproc_T1w" in page and "expert of the largest weight" in page
    shutil.copytree(scan.parent, scan.parent.parent / "moved")
    assert source_beside(scan.parent.parent / "moved" / "derivatives" / "deep" / "out.nii.gz") is not None


def test_an_input_that_changed_is_not_taken(preproc, make_phantom):
    scan, result = preproc
    save(make_phantom((32, 36, 28), (6.0, 6.0, 6.0), seed=7), scan.with_name("other.nii.gz"))
    scan.unlink()
    scan.with_name("other.nii.gz").rename(scan.with_name("sub-1_desc-preproc_T1w.nii.gz"))
    record = json.loads(result.with_name("sub-1_desc-sr_T1w.json").read_text())
    assert InputFile(**record["input_file"]).find(result.with_name("sub-1_desc-sr_T1w.json")) is None
