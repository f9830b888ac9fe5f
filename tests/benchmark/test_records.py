"""Records of a benchmark: the shipped schema, results that are read back, and rows of the version before."""

import json
import math
from dataclasses import asdict

import pytest

from moediff.benchmark.aggregate import differences, lesion_sums, losses, means, region_means, with_gains
from moediff.benchmark.records import Results, about_this_machine, read_results, row_from, shipped_schema
from moediff.core.errors import DataError, InputMissing
from moediff.core.schema import json_schema_text
from moediff.evaluation.records import json_text

OLD_ROW = {  # as schema 1 wrote it
    "schema": 1,
    "key": "0a",
    "method": "faithful",
    "kind": "bundle",
    "identity": {"name": "faithful", "kind": "bundle", "mode": "faithful", "bundle_sha256": "f0", "command": []},
    "scan": "a_T1w",
    "scan_sha256": "e1",
    "recipe": "thick5",
    "seed": 0,
    "input_shape": [30, 34, 7],
    "output_shape": [30, 34, 36],
    "metrics": {"psnr": "inf", "ssim": 1.0},
    "consistency": {"rms_over_range": 0.01, "noise_over_range": 0.02, "assumed": ["none", "none", "gaussian"]},
    "parts": {"cortex": {"voxels": 200, "psnr": 21.0, "ssim": 0.8, "nrmse": 0.1}},
    "lesions": {
        "count": 1,
        "lost": 1,
        "invented": 3,
        "invented_ml": 0.1,
        "volume_ref_ml": 2.0,
        "volume_pred_ml": 1.0,
        "dice": 0.5,
        "contrast_kept": 0.25,
        "cnr_ref": 3.0,
        "cnr_pred": 2.0,
        "each": [
            {
                "voxels": 9,
                "contrast_ref": 0.2,
                "contrast_pred": 0.1,
                "cnr_ref": 3.0,
                "cnr_pred": 2.0,
                "volume_ref_ml": 2.0,
                "volume_pred_ml": 1.0,
                "dice": 0.5,
                "lost": True,
            }
        ],
    },
    "not_computed": {},
    "fit": {"rule": "huber", "gain": 1.5, "offset": 0.0},
    "warnings": ["w"],
    "seconds": 2.0,
    "cpu_s": 1.0,
    "compute_s": None,
    "gflop": None,
    "peak_mib": 300.0,
    "error": "",
    "data_range": 800.0,
    "mask": {"source": "head of the reference", "voxels": 1000},
    "counts": False,
}


@pytest.fixture
def results(known_rows) -> Results:
    """A whole record of made-up rows."""
    return Results(
        about=about_this_machine(1, "cpu", [0]),
        focus="ours",
        rows=tuple(known_rows),
        means=tuple(means(known_rows)),
        differences=tuple(differences(known_rows, "ours")),
        regions=tuple(region_means(known_rows)),
        lesions=tuple(lesion_sums(known_rows)),
        losses=tuple(losses(known_rows, "ours")),
    )


def test_the_shipped_schema_is_that_of_the_dataclasses():
    """`python -m moediff.benchmark.records > src/moediff/benchmark/schema/results.json` after a change."""
    assert shipped_schema() == json_schema_text(Results)


def test_results_follow_the_schema_and_are_read_back(results, tmp_path, follows_schema):
    (tmp_path / "results.json").write_text(results.to_json())
    values = json.loads(results.to_json())
    follows_schema(values, json.loads(shipped_schema()))
    read = read_results(tmp_path / "results.json")
    assert read.about == results.about and read.focus == "ours"
    assert read.rows == tuple(row_from(json.loads(json_text(asdict(row)))) for row in results.rows)  # six digits
    assert read.rows[0].metrics == results.rows[0].metrics and read.rows[0].lesions == results.rows[0].lesions


def test_rows_of_the_version_before_are_read(tmp_path, follows_schema):
    row = row_from(OLD_ROW)
    assert not row.in_means and row.metrics["psnr"] == math.inf and row.data_consistency.rms_over_range == 0.01
    assert row.regions["cortex"].psnr == 21.0 and row.fit.gain == 1.5 and row.input_shape == (30, 34, 7)
    assert (row.lesions.false_negatives, row.lesions.false_positives) == (1, 3)
    assert row.lesions.each[0].false_negative and row.lesions.contrast_recovery == 0.25
    old = {"schema": 1, "about": {"threads": 1, "seeds": [0]}, "focus": "faithful", "rows": [OLD_ROW], "pairs": []}
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert read_results(tmp_path / "results.json").rows == (row,)
    again = json.loads(read_results(tmp_path / "results.json").to_json())
    follows_schema(again, json.loads(shipped_schema()))
    assert with_gains([row])[0].gain_psnr is None


@pytest.mark.parametrize(("text", "error"), [("{", DataError), ("[]", DataError), ('{"rows": [{}]}', DataError)])
def test_other_files_are_refused(text, error, tmp_path):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(error, match=r"other\.json"):
        read_results(tmp_path / "other.json")
    with pytest.raises(InputMissing, match="cannot be read"):
        read_results(tmp_path / "gone.json")
