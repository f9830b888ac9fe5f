"""Agreement against published worked examples and independent programs."""

import numpy as np
import pytest

from moediff.study.agreement import icc, krippendorff_alpha, wilson

NAN = np.nan
# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, example C
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
# Shrout and Fleiss (1979), table 2
TABLE = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, alpha):
    assert krippendorff_alpha(EXAMPLE, level) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_as_the_package_computes_it(level):
    krippendorff = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    for _ in range(5):
        ratings = rng.integers(1, 5, (3, 30)).astype(float)
        ratings[rng.random(ratings.shape) < 0.2] = NAN
        expected = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
        assert krippendorff_alpha(ratings, level) == pytest.approx(expected)


def test_alpha_needs_two_values_and_two_readers():
    assert krippendorff_alpha(np.ones((3, 5)), "nominal") is None
    assert krippendorff_alpha(np.array([[1.0, NAN], [NAN, 2.0]]), "nominal") is None


def test_icc_of_the_published_table():
    found = icc(TABLE)
    assert (found.single, found.average, found.single_fixed) == pytest.approx((0.29, 0.62, 0.71), abs=5e-3)
    assert icc(np.vstack([TABLE, [1, NAN, 2, 3]])) == found
    assert icc(TABLE[:, :1]) is None and icc(np.ones((4, 3))) is None


@pytest.mark.parametrize(
    ("successes", "total", "interval"), [(8, 10, (0.490, 0.943)), (0, 10, (0, 0.278)), (10, 20, (0.299, 0.701))]
)
def test_wilson_intervals(successes, total, interval):
    found = wilson(successes, total)
    assert found.value == successes / total and (found.low, found.high) == pytest.approx(interval, abs=1e-3)
    assert wilson(0, 0) is None
