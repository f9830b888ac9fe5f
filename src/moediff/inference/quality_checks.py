"""Quality checks of an input: cheap signs of a scan that the model was not trained on.

Each sign is a sentence for the sidecar and the terminal; only a target grid without any head stops the run.
"""

from __future__ import annotations

from scipy.special import stdtr

from moediff.acquisition.interpolated import interpolated_axes
from moediff.acquisition.noise import has_noisy_air
from moediff.acquisition.normalisation import BRAIN_MEDIAN
from moediff.acquisition.operators import voxel_ratio
from moediff.acquisition.prepare import Prepared, bounds
from moediff.core.errors import DataError
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.inference.grid_plan import GridPlan
from moediff.inference.options import EnhanceOptions

HEAD_ML = (500.0, 9000.0)  # a stripped infant brain .. an adult head with neck, mask included
SPREAD = (0.08, 1.5)  # interquartile range of tissue over the brain's median
MAX_NOISE = 0.09  # of the scan's bright end; training went to 0.06
SIDES_MM = (75.0, 320.0)  # of the box around a head: a newborn's brain .. a head with its neck
OBLONG = 2.2  # longest over shortest side; a head with its neck has 1.4, a slab of slices more
BRIGHT_END = 0.999  # quantile
RATIO = (0.9, 7.0)
FACE_MM = 1.5  # voxels this small let a face be drawn from a scan
FACE_ML = 2050.0  # of tissue; the MNI152 brain has 1890 (2030 with noise of 12 %), whole heads 2120 and more
TISSUE = 0.2  # of the brain's median; what is darker in a mask is air around the head, and noise makes more of it
FACE = (
    "the scan seems to include the face, and sharper voxels make a person easier to recognise: "
    "deface the result before sharing it"
)

NOISY_AIR = (
    "air is as bright as tissue and full of noise, as in the UNI image of MP2RAGE: noise was read in the middle of the "
    "head, but the head's edges suffer; set air to 0 (mask it by the second inversion, INV2) or use the scanner's "
    "denoised UNI image"
)
AXIS_NAMES = ("right-left", "front-back", "top-bottom")
SUFFICIENT_SAMPLES = 16
INTERVAL_SD = 1.6449  # half width of a Gaussian's central 90 %
# Share of truths in the 90 % interval about the first of so many samples where samples and truth have one distribution
# (400,000 draws). It has no better limit than 0.755: a sample is further from the truth than the mean is.
COVERAGE_OF_A_SAMPLE = {2: 0.56, 3: 0.64, 4: 0.68, 6: 0.71, 8: 0.72, 12: 0.73, 16: 0.74}


def _odd_box(prepared: Prepared) -> str:
    """What is odd about the size and shape of the box around the head; empty if nothing is."""
    spacing = prepared.grid.spacing_mm
    sides = [(high - low) * size for low, high, size in zip(*bounds(prepared.mask_XYZ), spacing, strict=True)]
    if SIDES_MM[0] <= min(sides) and max(sides) <= min(SIDES_MM[1], OBLONG * min(sides)):
        return ""
    size = " x ".join(f"{side:.0f}" for side in sides)
    return f"the foreground measures {size} mm: not a whole head, or wrong voxel sizes in the header"


def _noise_warnings(prepared: Prepared) -> list[str]:
    data_XYZ = prepared.source.data_XYZ
    noise = prepared.noise / max(quantile(data_XYZ, BRIGHT_END), 1e-6)
    notes = [NOISY_AIR] if has_noisy_air(data_XYZ) else []
    if noise > MAX_NOISE:
        notes.append(f"noise of {noise:.0%} of the intensity range is above what the model was trained on (6 %)")
    return notes


def scan_warnings(prepared: Prepared) -> list[str]:
    """Warnings about a prepared scan: size, shape, contrast, noise, intensities, spacing ratio."""
    notes = []
    voxel_ml = 1e-3
    for size in prepared.grid.spacing_mm:
        voxel_ml *= size
    inside = prepared.mask_XYZ
    volume_ml = float(inside.sum()) * voxel_ml
    if not HEAD_ML[0] <= volume_ml <= HEAD_ML[1]:
        notes.append(
            f"the foreground fills {volume_ml:.0f} mL, a head fills {HEAD_ML[0]:.0f} to {HEAD_ML[1]:.0f}: "
            "not a whole brain, or wrong voxel sizes"
        )
    if odd := _odd_box(prepared):
        notes.append(odd)
    tissue = prepared.interpolated_XYZ[inside]
    tissue_ml = float((tissue > TISSUE * BRAIN_MEDIAN).sum()) * voxel_ml
    if FACE_ML < tissue_ml <= HEAD_ML[1] and max(prepared.grid.spacing_mm) <= FACE_MM:
        notes.append(FACE)
    tissue = tissue[tissue > 0.1]
    spread = (quantile(tissue, 0.75) - quantile(tissue, 0.25)) / BRAIN_MEDIAN if tissue.numel() else 0.0
    if not SPREAD[0] <= spread <= SPREAD[1]:
        notes.append(
            f"tissue contrast {spread:.2f} is outside {SPREAD[0]}..{SPREAD[1]} of brain MRI: "
            "the model was not trained on this"
        )
    notes += _noise_warnings(prepared)
    if float(prepared.source.data_XYZ.min()) * prepared.scaling.scale + prepared.scaling.offset < -100:
        notes.append("intensities reach below -100: computed tomography or a processed image, not a magnitude MR scan")
    ratios = [voxel_ratio(p) for p in prepared.positions]
    if max(ratios) > RATIO[1] or min(ratios) < RATIO[0]:
        notes.append(f"spacing ratios {[round(r, 2) for r in ratios]} leave the trained range {RATIO[0]}..{RATIO[1]}")
    if interpolated := interpolated_axes(prepared.source.data_XYZ):
        lines = " and ".join(AXIS_NAMES[axis] for axis in interpolated)
        notes.append(
            f"along {lines} the scan holds far less detail than its voxels could: it seems to have been interpolated "
            "or smoothed before; give the scan as it was acquired"
        )
    if min(prepared.source.shape) < 8:
        notes.append("fewer than 8 voxels along an axis")
    return notes


def slice_intensity_warnings(prepared: Prepared, *, requested: bool) -> list[str]:
    """A warning where slices alternate in brightness without a correction, or where the correction had no effect."""
    measured = prepared.slice_intensity
    if requested and measured is None:
        return [
            "--correct-slice-intensity changed nothing: it needs thick slices, and enough of them to see brightness "
            "alternate"
        ]
    if requested and measured is not None and not prepared.slices_corrected:
        return [
            f"--correct-slice-intensity changed nothing: slices alternate by {measured.difference:.1%}, "
            "no more than chance"
        ]
    if prepared.slices_corrected or measured is None or not measured.noticeable:
        return []
    return [
        f"every other slice is {measured.difference:.1%} brighter than those between, which shows as bands: "
        "--correct-slice-intensity takes it out"
    ]


def require_foreground(prepared: Prepared, plan: GridPlan) -> None:
    """Refuse a target grid that holds no part of the head.

    Raises:
        DataError: there is no foreground on it.
    """
    mask_XYZ = prepared.mask_XYZ
    if plan.working is not plan.target and bool(mask_XYZ.any()):
        mask = Volume(mask_XYZ.float(), prepared.grid.affine).to("cpu")
        mask_XYZ = plan.map_to_target(mask).data_XYZ > 0.5
    if not bool(mask_XYZ.any()):
        raise DataError(
            "the target grid (--like) holds no part of the head, only air, expected a grid over the head: "
            "register the two scans, or leave --like out"
        )


def best_coverage(options: EnhanceOptions) -> float:
    """Share of the truth in 90 % intervals from a few samples, if these were drawn from the true distribution."""
    if options.mode == "detail":
        return max(share for count, share in COVERAGE_OF_A_SAMPLE.items() if count <= options.samples)
    return float(2 * stdtr(options.samples - 1, INTERVAL_SD) - 1)


def sample_warnings(options: EnhanceOptions, *, one_of_several: bool = False) -> list[str]:
    """A warning where too few samples, or a single one as result, make the standard deviation too small.

    Args:
        options: of the enhancement.
        one_of_several: the standard deviation is that of a combination of scans.
    """
    if one_of_several or options.samples < 2 or (options.mode == "faithful" and options.samples >= SUFFICIENT_SAMPLES):
        return []
    remedies = [] if options.samples >= SUFFICIENT_SAMPLES else [f"give --samples {SUFFICIENT_SAMPLES} or more"]
    remedies.append("use the uncertainty that --mode faithful predicts without --samples, which is calibrated")
    return [
        f"the uncertainty is the standard deviation of {options.samples} samples and too small: its 90 % intervals "
        f"hold {best_coverage(options):.0%} of the truth at best; {', or '.join(remedies)}"
    ]
