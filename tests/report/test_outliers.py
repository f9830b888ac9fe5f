"""What stands out: known z-scores, and no verdict where there are too few scans."""

import pytest

from moediff.report.cohort import LIMIT, robust_z


def test_one_far_value_is_found_and_does_not_hide_itself():
    z = robust_z([1.0, 2.0, 3.0, 4.0, 5.0, 100.0])
    assert z[5] == pytest.approx((100 - 3.5) / (1.4826 * 1.5))
    assert [abs(value) > LIMIT for value in z] == [False] * 5 + [True]


def test_equal_values_but_one():
    z = robust_z([2.0] * 9 + [3.0])
    assert z[0] == 0 and z[9] == pytest.approx(1 / (1.2533 * 0.1))


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 9.0, 1.0], [None] * 3), ([4.0] * 5 + [None], [0.0] * 5 + [None])]
)
def test_too_few_or_all_equal_say_nothing(values, expected):
    assert robust_z(values) == expected
