"""Plan of several scans of one head: all of them are checked before the first goes through the network."""

from __future__ import annotations

from collections.abc import Sequence

from moediff.core.errors import ConfigError, prefix_errors
from moediff.core.volume import Grid
from moediff.inference.grid_plan import GridPlan, aligned_grid, parallel_grid, plan_grids, thick_sampling
from moediff.inference.options import EnhanceOptions
from moediff.io.label_check import require_intensities
from moediff.io.scans import LoadedScan


def plan_several(scans: Sequence[LoadedScan], options: EnhanceOptions) -> GridPlan:
    """The grid plan of the first scan, once all of them can be enhanced with these options.

    Args:
        scans: as loaded.
        options: from `several_options`.

    Raises:
        DataError: one of them holds labels, no intensities; see `plan_grids`.
        ConfigError: a slice thickness that one with thick slices cannot have, or does not say, or none has thick ones.
    """
    with prefix_errors(_named(scans[0])):
        plan = plan_grids(scans[0], options, one_of_several=True)
    for scan in scans[1:]:
        with prefix_errors(_named(scan)):
            if not options.trust_intensities:
                require_intensities(scan)
    if options.slice_thickness is not None:
        _check_thickness(scans, plan.working, options)
    return plan


def _named(scan: LoadedScan) -> str:
    """For messages before the work: the file, or which series of a folder."""
    return scan.stem or str(scan.path or "a scan in memory")


def _check_thickness(scans: Sequence[LoadedScan], common: Grid, options: EnhanceOptions) -> None:
    """Refuse a slice thickness as the scans' sessions would, wherever registration may place them."""
    assert options.slice_thickness is not None
    any_thick = False
    for scan in scans:
        own = scan.volume.grid
        grids = [aligned_grid(own, common)]
        if scan is not scans[0] and options.align:  # after which its axes are hardly parallel to the common grid's
            grids.append(parallel_grid(own, common))
        with prefix_errors(_named(scan)):
            for fine in grids:
                any_thick |= thick_sampling(scan, fine, options.slice_thickness, optional=True) is not None
    if not any_thick:
        raise ConfigError(
            "--slice-thickness needs slices much thicker than the plane's voxels and than the target's, and no "
            "scan has such: leave it out"
        )
