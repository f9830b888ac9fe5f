"""A small head and a blurred, noisy version of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moediff.benchmark.aggregate import with_gains
from moediff.benchmark.records import BenchmarkRow
from moediff.core.config import rng_for
from moediff.core.resample import apply_axes
from moediff.core.volume import Volume
from moediff.core.windows import gaussian_matrix
from moediff.evaluation.lesions import LesionScores
from moediff.evaluation.per_region import RegionScores

SHAPE = (40, 44, 36)


@pytest.fixture(scope="session")
def head(make_phantom) -> Volume:
    """4 mm phantom head."""
    return make_phantom(SHAPE)


@pytest.fixture(scope="session")
def blurred(head: Volume) -> Tensor:
    """The head blurred by one voxel with 2 % noise."""
    data = apply_axes(head.data_XYZ, [gaussian_matrix(n, 1.0, 3) for n in SHAPE])
    return data + 20 * torch.randn(SHAPE, generator=rng_for(0, "blurred"))


@pytest.fixture(scope="session")
def everywhere() -> Tensor:
    """A mask of the whole volume."""
    return torch.ones(SHAPE, dtype=torch.bool)


@pytest.fixture(scope="session")
def slices():
    """`slices((a, b))` -> the two pictures that numbers of piq in these tests were computed of."""

    def pictures(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """A pattern that fades to zero at the rim, and the same with ripples; 0..1."""
        a, b = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape)
        fade = (1 - a[:, None] ** 4) * (1 - b**4)
        truth = fade * (
            0.5 + 0.3 * torch.sin(9 * a[:, None] * (1 + b)) + 0.2 * torch.sign(torch.cos(7 * b + 2 * a[:, None]))
        )
        pred = truth + 0.05 * fade * torch.sin(40 * a[:, None]) * torch.cos(33 * b)
        truth[:2], truth[-2:], truth[:, :2], truth[:, -2:] = 0, 0, 0, 0
        pred[:2], pred[-2:], pred[:, :2], pred[:, -2:] = 0, 0, 0, 0
        return pred.clamp(0, 1), truth.clamp(0, 1)

    return pictures


def _check(value, schema, root):
    """The part of JSON schema that pydantic writes for dataclasses."""
    if "$ref" in schema:
        return _check(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        faults = [_check(value, option, root) for option in schema["anyOf"]]
        return None if None in faults else f"{value!r}: {faults}"
    if "enum" in schema:
        return None if value in schema["enum"] else f"{value!r} is none of {schema['enum']}"
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kinds["null"] = type(None)
    if not isinstance(value, kinds[schema["type"]]) or (schema["type"] != "boolean" and isinstance(value, bool)):
        return f"{value!r} is no {schema['type']}"
    items = []
    if isinstance(value, dict):
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties", {})
        absent = [key for key in schema.get("required", []) if key not in value]
        unknown = [key for key in value if key not in properties] if properties else []
        if absent or unknown:
            return f"absent {absent}, unknown {unknown}"
        items = [(item, properties.get(key, extra)) for key, item in value.items()]
    elif isinstance(value, list):
        prefix = schema.get("prefixItems", [schema.get("items")] * len(value))
        items = list(zip(value, prefix, strict=True))
    return next((fault for item, part in items if (fault := _check(item, part, root))), None)


@pytest.fixture(scope="session")
def follows_schema():
    """`follows_schema(values, schema)` fails where plain values do not follow a JSON schema."""

    def check(values, schema):
        assert _check(values, schema, schema) is None

    return check


PSNR = {"cubic": (20.0, 30.0), "zero-fill": (21.0, 29.0), "tv": (24.0, 30.5), "ours": (23.0, 33.0)}
HF = {"cubic": 0.5, "zero-fill": 0.6, "tv": 1.1, "ours": 0.8}


def _lesions(false_negatives, contrast_recovery):
    return LesionScores(
        count=4,
        false_negatives=false_negatives,
        false_positives=1,
        false_positive_ml=0.1,
        volume_ref_ml=2.0,
        volume_pred_ml=1.5,
        contrast_recovery=contrast_recovery,
        dice=0.5,
        cnr_ref=3.0,
        cnr_pred=2.0,
    )


def _row(method, scan, psnr, *, in_means=True):
    return BenchmarkRow(
        method=method,
        kind="interpolation",
        scan=scan,
        recipe="thick5",
        seed=0,
        in_means=in_means,
        metrics={"psnr": psnr, "ssim": psnr / 100, "hf_ratio": HF[method]},
        regions={"cortex": RegionScores(voxels=200, psnr=psnr - 2, ssim=0.8, nrmse=0.1)} if scan == "a" else None,
        lesions=_lesions(2, 0.5) if scan == "b" else _lesions(1, 0.7),
        seconds=2.0,
        cpu_s=1.5,
        compute_s=1.0,
        peak_mib=300.0,
    )


@pytest.fixture
def known_rows():
    """A benchmark's rows whose sums are easy: two persons, and one who is excluded from means."""
    rows = [_row(m, s, v) for m, values in PSNR.items() for s, v in zip("ab", values, strict=True)]
    return with_gains([*rows, *(_row(m, "c", 99.0, in_means=False) for m in PSNR)])
