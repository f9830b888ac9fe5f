"""What frequencies a prediction holds: power beyond half of Nyquist, and distance between radial spectra.

Frequencies are in units of each axis's Nyquist frequency, so rho = 1 is the finest detail the reference's voxels can
hold and shells are ellipsoids where voxels are. The mask is tapered before the transform, lest its rim fill the
spectrum, and the mean inside it removed.

Axes: X Y Z voxels, K shells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.resample import apply_axes
from moediff.core.windows import gaussian_matrix
from moediff.evaluation.metrics.fidelity import check_pair

HIGH_FROM = 0.5  # of Nyquist; detail finer than twice the reference's voxels
TAPER_SIGMA_VOX = 2.0
TAPER_REACH_VOX = 6
MIN_SHELLS = 4
LEAST_EXPONENT = -120  # float32's smallest normal number is 2 ** -126


def taper(mask_XYZ: Tensor) -> Tensor:
    """Weights that rise smoothly from 0 at the mask's rim to 1 inside; the mask itself where it is too thin."""
    matrices = [gaussian_matrix(n, TAPER_SIGMA_VOX, TAPER_REACH_VOX) for n in mask_XYZ.shape]
    weight = (2 * apply_axes(mask_XYZ.float(), matrices) - 1).clamp(0, 1) * mask_XYZ
    return weight if float(weight.max()) > 0.1 else mask_XYZ.float()


def radius(shape: torch.Size) -> Tensor:
    """rho of every coefficient of a real 3-D transform, in units of Nyquist."""
    x, y = (torch.fft.fftfreq(n) * 2 for n in shape[:2])
    z = torch.fft.rfftfreq(shape[2]) * 2
    return torch.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)


def _scaled(*scans: Tensor) -> list[Tensor]:
    """Scans over a common power of two, so that their powers neither overflow nor vanish; ratios stay as they are."""
    largest = max(abs(float(end)) for scan in scans for end in torch.aminmax(scan))
    scale = 2.0 ** max(math.frexp(largest)[1], LEAST_EXPONENT)
    return [scan / scale for scan in scans]


def _power(data_XYZ: Tensor, weight_XYZ: Tensor) -> Tensor:
    """Squared magnitude of a real 3-D transform, both half-spaces counted."""
    mean = float((data_XYZ * weight_XYZ).sum(dtype=torch.float64) / weight_XYZ.sum(dtype=torch.float64))
    spectrum = torch.fft.rfftn((data_XYZ.float() - mean) * weight_XYZ)
    power = spectrum.real.square() + spectrum.imag.square()
    last = power.shape[2] - (1 if data_XYZ.shape[2] % 2 == 0 else 0)
    power[..., 1:last] *= 2  # rfftn stores one of each conjugate pair
    return power


def high_frequency_ratio(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor) -> float:
    """Power of the prediction over power of the truth, beyond half of Nyquist; 0.., 1 is right.

    Below 1 detail is missing (blur), above 1 there is more of it than in truth (noise, ringing, invention). The radial
    power spectrum as a measure of resolution: van der Schaaf & van Hateren 1996, Vision Research 36.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a truth without any such detail.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    weight, high = taper(mask_XYZ), radius(truth_XYZ.shape) >= HIGH_FROM
    pred, truth = (float(_power(t, weight)[high].sum(dtype=torch.float64)) for t in _scaled(pred_XYZ, truth_XYZ))
    if truth <= 0:
        raise DataError("the reference has no power beyond half of Nyquist; expected a scan with detail")
    return pred / truth


def _shells(power: Tensor, index: Tensor, shells: int) -> Tensor:
    return torch.zeros(shells + 1, dtype=torch.float64).index_add_(0, index, power.flatten().double())[:shells]


def radial_spectral_distance(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor) -> float:
    """Root mean square, over radial shells up to Nyquist, of the difference between two power spectra in dB.

    0.., lower is better: the log-spectral distance (Gray & Markel 1976) of radially averaged spectra.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a volume without power in some shell.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    weight, shells = taper(mask_XYZ), max(MIN_SHELLS, min(truth_XYZ.shape) // 2)
    index = (radius(truth_XYZ.shape) * shells).long().clamp_max(shells).flatten()
    index[0] = shells  # the mean is no detail; it joins what lies beyond Nyquist in the bin that is dropped
    pred_K, truth_K = (_shells(_power(t, weight), index, shells) for t in _scaled(pred_XYZ, truth_XYZ))
    used = torch.bincount(index, minlength=shells + 1)[:shells] > 0
    floor = 1e-12 * float(truth_K.max())
    if floor <= 0:
        raise DataError("the reference is constant inside the mask; expected a scan with contrast")
    gap_db = 10 * torch.log10(pred_K[used].clamp_min(floor) / truth_K[used].clamp_min(floor))
    return math.sqrt(float(gap_db.square().mean()))
