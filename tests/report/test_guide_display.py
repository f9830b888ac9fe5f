"""The guide on a report page: seen in the window of the scan, whatever its intensities."""

import pytest

from moediff.core.statistics import quantile
from moediff.report.display import as_bright


@pytest.mark.parametrize("factor", [0.03, 40.0])
def test_a_guide_is_as_bright_as_the_scan(phantom, factor):
    shown = as_bright(phantom.with_data(phantom.data_XYZ * factor), phantom)
    assert quantile(shown.data_XYZ, 0.999) == pytest.approx(quantile(phantom.data_XYZ, 0.999), rel=1e-4)


def test_an_empty_guide_stays_as_it_is(phantom):
    assert as_bright(phantom.with_data(phantom.data_XYZ * 0), phantom).data_XYZ.abs().max() == 0
