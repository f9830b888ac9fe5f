"""Memory that one task of a cohort needs, estimated from headers, so that as many run at once as fit."""

from __future__ import annotations

from collections.abc import Sequence

from moediff.cohort.tasks import RunnerOptions, Task
from moediff.cohort.work import ScanSpec
from moediff.core.config import parse_as
from moediff.core.errors import MoeDiffError
from moediff.core.geometry import StorageOrder
from moediff.inference.grid_plan import GridPlan, target_grid, working_grid
from moediff.inference.memory_estimate import peak_mib_of
from moediff.io.scans import grid_from_file
from moediff.model.bundle import BundleConfig, embedded_path, read_manifest

MOST_HEADERS = 64  # that are read
MARGIN = 1.15  # the estimate is right to 15 %


def task_memory_mb(tasks: Sequence[Task]) -> int:
    """Peak memory of the largest of at most 64 of these tasks, in MiB; the runner's default where no header is read."""
    step = max(1, len(tasks) // MOST_HEADERS)
    needs = [need for task in tasks[::step] if (need := _need_mb(task)) is not None]
    return max(needs, default=RunnerOptions.task_memory_mb)


def _need_mb(task: Task) -> int | None:
    spec = task.spec
    assert isinstance(spec, ScanSpec)
    try:
        bundle = embedded_path() if spec.model.bundle is None else spec.model.bundle
        config = parse_as(BundleConfig, read_manifest(bundle)["config"], warn=False)
        stored = grid_from_file(spec.source, option="")
        source = StorageOrder.of(stored.affine).apply_grid(stored)
        stored_target = target_grid(stored, spec.options)
        storage = StorageOrder.of(stored_target.affine)
        target = storage.apply_grid(stored_target)
        plan = GridPlan(
            source=source,
            target=target,
            storage=storage,
            working=working_grid(source, target),
            measured_XYZ=None,
            air=0.0,
            floor=0.0,
        )
        plans = [plan] * (1 + len(spec.others))  # scans of one head are about as large
        return round(MARGIN * peak_mib_of(plans, spec.options, config.denoiser))
    except (MoeDiffError, OSError):
        return None  # the task itself will say why
