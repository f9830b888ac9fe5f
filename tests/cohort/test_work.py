"""Checksum of options: what was chosen counts, what was left alone does not."""

import hashlib
from pathlib import Path

import pytest

from moediff.cohort.batch_inputs import BatchScan
from moediff.cohort.batch_placement import BatchPlacement
from moediff.cohort.work import ModelChoice, Reading, ScanSpec
from moediff.core.errors import ConfigError
from moediff.core.volume import Grid
from moediff.inference.options import EnhanceOptions


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
