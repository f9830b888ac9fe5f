"""Memory that a task needs, from headers alone."""

from dataclasses import replace

from moediff.cohort.batch_inputs import find_inputs
from moediff.cohort.batch_placement import BatchPlacement
from moediff.cohort.memory_need import MARGIN, task_memory_mb
from moediff.cohort.tasks import RunnerOptions, Task
from moediff.cohort.work import ModelChoice, ScanSpec
from moediff.inference.grid_plan import plan_grids
from moediff.inference.memory_estimate import peak_memory_mib, several_peak_mib
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load, save


def test_the_largest_scan_counts_as_in_a_dry_run(tmp_path, make_phantom, bundle, enhancer):
    save(make_phantom((32, 36, 28), (6.0, 6.0, 6.0)), tmp_path / "small.nii.gz")
    save(make_phantom((60, 60, 60), (4.0, 4.0, 4.0)), tmp_path / "large.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    options = EnhanceOptions(voxel_size=(2.0,))
    model = ModelChoice.of(bundle, device="cpu", dtype="float32")
    tasks = [
        Task(
            scan.source.name,
            ScanSpec(source=scan.source, placement=BatchPlacement(scan, out=tmp_path), model=model, options=options),
        )
        for scan in find_inputs([str(tmp_path)], [], tmp_path / "out")
    ]
    plan = plan_grids(load(tmp_path / "large.nii.gz"), options)
    expected = MARGIN * peak_memory_mib(plan, options, enhancer.bundle.config.denoiser)
    assert abs(task_memory_mb(tasks) - expected) < 1
    assert task_memory_mb(tasks[:1]) == RunnerOptions(folder=tmp_path).task_memory_mb
    large = next(task for task in tasks if "large" in task.name)
    several = replace(large.spec, others=(tmp_path / "small.nii.gz",) * 3)
    expected = MARGIN * several_peak_mib([plan] * 4, options, enhancer.bundle.config.denoiser)
    assert abs(task_memory_mb([Task("several", several)]) - expected) < 1
