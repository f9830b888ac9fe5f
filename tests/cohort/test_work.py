"""Tasks of a cohort: what counts in the checksum of options, and which results are replaced."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from moediff.cohort.batch_inputs import BatchScan, find_inputs
from moediff.cohort.batch_placement import BatchPlacement
from moediff.cohort.tasks import Task
from moediff.cohort.work import ModelChoice, Reading, ScanSpec, enhance_task
from moediff.core.errors import CannotCreate, ConfigError
from moediff.core.volume import Grid
from moediff.inference.options import EnhanceOptions
from moediff.inference.sidecar import InputFile
from moediff.io.scans import save
from moediff.model.bundle import MANIFEST, load_bundle, read_manifest


def spec(maps=(), dtype="float32", reading=None, **options) -> ScanSpec:
    here = Path("scan.nii.gz")
    return ScanSpec(
        source=here,
        placement=BatchPlacement(BatchScan(here, Path("scan")), out=Path("out"), maps=maps),
        model=ModelChoice(bundle=None, sha256="0", dtype=dtype),
        options=EnhanceOptions(**options),
        reading=reading or Reading(),
    )


def test_defaults_do_not_count_so_that_further_options_change_nothing():
    assert spec().options_sha256() == hashlib.sha256(b"{}").hexdigest()
    assert spec(memory_mb=800).options_sha256() == spec().options_sha256()


def test_every_choice_counts(make_phantom):
    grid: Grid = make_phantom().grid
    specs = [
        spec(),
        spec(voxel_size=(1.0,)),
        spec(voxel_size=(1.0, 1.0, 1.0)),
        spec(tta=2),
        spec(mode="detail"),
        spec(like=grid),
        spec(maps=("experts",)),
        spec(dtype="bfloat16"),
        spec(reading=Reading(index=0)),
        spec(reading=Reading(trust="sform")),
        spec(data_consistency=False),
        spec(align=False),
    ]
    assert len({chosen.options_sha256() for chosen in specs}) == len(specs)


def test_no_uncertainty_of_a_single_sample():
    with pytest.raises(ConfigError, match="--samples 2"):
        spec(maps=("uncertainty",), mode="detail")


def named_alone(source: Path, out: Path, bundle: Path, maps=(), **changes) -> Task:
    """The task of a batch run that names this file alone."""
    (scan,) = find_inputs([str(source)], [], out)
    placement = BatchPlacement(scan, out=out, maps=maps, viewer="viewer_size" in changes)
    model = ModelChoice.of(bundle, device="cpu", dtype="float32")
    options = EnhanceOptions(voxel_size=(12.0,))
    return Task("T1", ScanSpec(source=source, placement=placement, model=model, options=options, **changes))


def test_no_result_is_replaced_by_that_of_another_scan(tmp_path, make_phantom, bundle):
    first, second, out = tmp_path / "s1/T1.nii.gz", tmp_path / "s2/T1.nii.gz", tmp_path / "out"
    for seed, source in enumerate((first, second)):
        source.parent.mkdir()
        save(make_phantom((16, 16, 16), (12.0, 12.0, 12.0), seed=seed), source)
    assert enhance_task(named_alone(first, out, bundle)).status == "done"
    record = json.loads((out / "T1_desc-sr.json").read_text())
    for path in (record["input_file"]["path"], None):  # of a DICOM folder there is none
        record["input_file"]["path"] = path
        (out / "T1_desc-sr.json").write_text(json.dumps(record))
        with pytest.raises(CannotCreate, match="the result of another scan"):
            enhance_task(named_alone(second, out, bundle))
    record["input_file"] = {"sha256": "before", "path": InputFile.of(second, out / "T1_desc-sr.json").path}
    (out / "T1_desc-sr.json").write_text(json.dumps(record))
    assert enhance_task(named_alone(second, out, bundle)).status == "done"  # it has changed since


def test_maps_of_a_replaced_result_go_with_it(tmp_path, make_phantom, bundle):
    out = tmp_path / "out"
    save(make_phantom((16, 16, 16), (12.0, 12.0, 12.0)), tmp_path / "T1.nii.gz")
    enhance_task(named_alone(tmp_path / "T1.nii.gz", out, bundle, maps=("experts", "mask")))
    (out / "T1_desc-srstd.nii.gz").touch()  # no sidecar names it
    enhance_task(named_alone(tmp_path / "T1.nii.gz", out, bundle, maps=("mask",)))
    assert sorted(path.name for path in out.glob("*.nii.gz")) == [
        "T1_desc-sr.nii.gz",
        "T1_desc-srmask.nii.gz",
        "T1_desc-srstd.nii.gz",
    ]


def test_a_result_of_other_settings_of_the_same_weights_is_made_again(tmp_path, make_phantom, bundle):
    """As those of weights that were calibrated once more."""
    save(make_phantom((16, 16, 16), (12.0, 12.0, 12.0)), tmp_path / "T1.nii.gz")
    again = shutil.copytree(bundle, tmp_path / "calibrated")
    manifest = read_manifest(again)
    manifest["config"]["uncertainty_scale"] *= 2
    (again / MANIFEST).write_text(json.dumps(manifest))
    run = lambda folder: enhance_task(named_alone(tmp_path / "T1.nii.gz", tmp_path / "out", folder)).status  # noqa: E731
    assert [run(bundle), run(bundle), run(again), run(again)] == ["done", "skipped", "done", "skipped"]
    sidecar = tmp_path / "out" / "T1_desc-sr.json"
    record = json.loads(sidecar.read_text())
    assert record["weights"].pop("settings_sha256") == load_bundle(again).settings_sha256
    sidecar.write_text(json.dumps(record))  # as version 0.2.0 wrote it
    assert run(again) == "skipped"


def test_a_page_of_another_size_is_drawn_again(tmp_path, make_phantom, bundle):
    save(make_phantom((16, 16, 16), (12.0, 12.0, 12.0)), tmp_path / "T1.nii.gz")
    sizes = ("small", "small", "full")
    tasks = [named_alone(tmp_path / "T1.nii.gz", tmp_path / "out", bundle, viewer_size=size) for size in sizes]
    assert [enhance_task(task).status for task in tasks] == ["done", "skipped", "done"]
    assert enhance_task(named_alone(tmp_path / "T1.nii.gz", tmp_path / "out", bundle)).status == "skipped"
