"""Alignment of several scans of one phantom head with known motion."""

import pytest
import torch
from torch.testing import assert_close

from moediff.core.geometry import crop
from moediff.core.volume import Volume
from moediff.registration import align as align_module
from moediff.registration.agreement import Agreement
from moediff.registration.align import align, compare
from moediff.registration.motion import MotionLeft
from moediff.registration.mutual_information import blurred, common_blur_mm, register, require_registration
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm
from several_scans import acquired, lopsided, other_contrast, stacks_of

pytest.importorskip("SimpleITK")


def error_mm(found: Rigid, true: Rigid, volume: Volume) -> float:
    return (found.inverse @ true).displacement_mm(grid_centre_mm(volume.grid))


@pytest.fixture(scope="module")
def coarse(make_phantom):
    """Three planes on voxels of 2 mm, a quarter as many: whether a scan fits is seen on them too."""
    return stacks_of(lopsided(make_phantom((60, 68, 58), (2.0, 2.0, 2.0))))


@pytest.fixture(scope="module")
def aligned(stacks):
    return align(stacks.scans)


def test_motion_is_found_to_a_fraction_of_a_voxel(stacks, aligned):
    assert all(a.misfit is None for a in aligned)
    for found, true in zip(aligned, stacks.transforms, strict=True):
        assert error_mm(found.transform, true, stacks.truth) < 0.3


@pytest.mark.fault(42)
@pytest.mark.parametrize(("place", "level"), [((1, 1, 1), 1e9), ((1, 1, 1), 1e25), ((24, 28, 7), 1e6)])
def test_an_outlier_does_not_count_in_what_is_registered(still_stacks, place, level):
    scan = still_stacks.scans[0]
    spoiled = scan.with_data(scan.data_XYZ.index_put([torch.tensor(index) for index in place], torch.tensor(level)))
    width = common_blur_mm(scan)
    assert_close(blurred(spoiled, width).data_XYZ, blurred(scan, width).data_XYZ, atol=20, rtol=0)  # of 1000
    one = compare([scan, spoiled])[1]
    assert one.gain == pytest.approx(1, rel=1e-3)
    assert one.agreement.motion.mismatch < 0.02 and one.agreement.motion.left.displacement_mm((0, 0, 0)) < 0.05


def test_a_placed_scan_has_the_intensities_of_the_first(stacks):
    brighter = stacks.scans[1].with_data(stacks.scans[1].data_XYZ * 3)
    _, second = align([stacks.scans[0], brighter])
    assert second.gain == pytest.approx(3, rel=0.03)
    placed = second.matched(brighter)
    assert float(placed.data_XYZ.mean() / stacks.scans[1].data_XYZ.mean()) == pytest.approx(1, rel=0.03)


def test_the_odd_one_is_named_wherever_it_stands(coarse):
    first, second, third = coarse.scans
    mirrored = second.with_data(second.data_XYZ.flip(0))
    misfits = [one.misfit for one in align([mirrored, first, third])]
    assert "mirror image fits" in (misfits[0] or "") and misfits[1:] == [None, None]


def test_the_order_of_scans_changes_no_placement(stacks, aligned):
    order = (2, 0, 1)
    again = align([stacks.scans[index] for index in order])
    for index, one in zip(order, again, strict=True):
        back = one.transform @ again[1].transform.inverse  # again[1] is the scan that came first before
        assert float((back.matrix - aligned[index].transform.matrix).abs().max()) < 1e-9
        assert one.rank == aligned[index].rank


def test_headers_far_apart_are_bridged(stacks):
    away = Rigid.of((0, 0, 0), (300, -40, 25))
    moved = Volume(stacks.scans[1].data_XYZ, away.matrix @ stacks.scans[1].affine)
    _, second = align([stacks.scans[0], moved])
    assert second.misfit is None
    assert error_mm(second.transform, away @ stacks.transforms[1], stacks.truth) < 0.3


def test_what_is_no_scan_of_this_head_does_not_fit(coarse, make_phantom):
    first, second = coarse.scans[0], coarse.scans[1]
    mirrored = second.with_data(second.data_XYZ.flip(0))
    other = acquired(make_phantom((60, 68, 58), (2.3, 1.7, 2.0)), 0)  # of other proportions
    misfits = [align([first, scan])[1].misfit for scan in (mirrored, other_contrast(second), other, second)]
    assert "mirror image fits" in (misfits[0] or "")
    assert "differs from the other scans" in (misfits[1] or "")
    assert misfits[2] is not None and misfits[3] is None


def test_trusted_headers_that_are_wrong_are_noticed(stacks, coarse):
    assert align(coarse.scans[:2], register_them=False)[1].misfit is not None
    first, second = stacks.scans[0], stacks.scans[1]
    placed = stacks.transforms[1].placed_volume(second)
    assert align([first, placed], register_them=False)[1].misfit is None
    slightly = Volume(placed.data_XYZ, Rigid.of((0, 0, 0), (0.8, 0, 0)).matrix @ placed.affine)
    assert "is uncertain, " in (align([first, slightly], register_them=False)[1].misfit or "")


def test_tiny_intensities_agree_as_usual_ones(still_stacks):
    first, second = still_stacks.scans[0], still_stacks.scans[2]
    usual, tiny = (
        compare([scan.with_data(scan.data_XYZ * factor) for scan in (first, second)])[1] for factor in (1, 1e-15)
    )
    assert tiny.gain == pytest.approx(usual.gain, rel=1e-3)
    assert tiny.agreement.motion.mismatch == pytest.approx(usual.agreement.motion.mismatch, rel=0.01)


@pytest.mark.parametrize(
    ("left_mm", "apart_mm", "uncertain_mm", "words"),
    [
        (0.35, 1.8, 0.0, "it could still be moved by 0.35 mm (0.3 are allowed): wait"),
        (0.2, 3.0, 0.0, "two ways to register it are apart by 3.00 mm (2 are allowed): wait"),
        (0.0, 1.8, 1.5, "its predicted error is 1.50 mm (1 are allowed): wait"),
        (0.2, 1.8, 0.9, None),
    ],
)
def test_the_limit_that_was_passed_is_named(still_stacks, monkeypatch, left_mm, apart_mm, uncertain_mm, words):
    scan = still_stacks.scans[0]
    motion = MotionLeft(Rigid.of((0, 0, 0), (left_mm, 0, 0)), uncertain_mm, 0.1)
    monkeypatch.setattr(align_module, "agreement", lambda *_: Agreement(1.0, 1.0, scan, motion))
    other = Rigid.of((0, 0, 0), (0, apart_mm, 0))
    misfit = align_module._judged(scan, scan, IDENTITY, other, 2.0, "wait").misfit
    assert misfit == (words and f"its place is uncertain, {words}")


def test_without_overlap_the_share_is_named(stacks):
    away = torch.eye(4, dtype=torch.float64)
    away[0, 3] = 500
    elsewhere = Volume(stacks.scans[1].data_XYZ, away @ stacks.scans[1].affine)
    assert "the two share 0% of the head" in (align([stacks.scans[0], elsewhere], register_them=False)[1].misfit or "")


def test_a_slab_and_a_whole_head_share_little_whichever_comes_first(stacks):
    """Of two, nobody can say which one lacks something: the slab is not the reference, but it is what is judged."""
    whole = stacks.scans[0]
    slab = crop(whole, (0, 0, 0), (8, *whole.shape[1:]))
    for pair in ((slab, whole), (whole, slab)):
        assert "the two share " in (align(pair, register_them=False)[1].misfit or "")


def test_a_pair_is_registered_the_same_every_time(still_stacks):
    """SimpleITK divides its sums among threads, of which other libraries' users may have allowed many."""
    import SimpleITK

    width = common_blur_mm(*still_stacks.scans[:2])
    first, second = (blurred(scan, width) for scan in still_stacks.scans[:2])
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(4)
    try:
        results = [register(first, second).matrix for _ in range(4)]
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert all(torch.equal(results[0], again) for again in results[1:])


def test_last_digits_do_not_choose_the_reference():
    """Of planes of one box; a file that is saved again may differ by them."""

    def plane(axis: int, brighter: float = 0.0) -> Volume:
        shape, size = [24, 24, 24], [4.0, 4.0, 4.0, 1.0]
        shape[axis], size[axis] = 8, 12.0
        return Volume(torch.full(shape, 100.0 + brighter), torch.diag(torch.tensor(size, dtype=torch.float64)))

    for changed in range(3):
        for brighter in (0.0, 1e-4, 2e-4, 3e-4):
            planes = [plane(axis, brighter if axis == changed else 0.0) for axis in range(3)]
            assert sorted(range(3), key=lambda axis: align_module._content_key(planes[axis])) == [2, 1, 0]


def test_parallel_slices_are_registered_too(make_phantom):
    both = stacks_of(make_phantom((92, 104, 88), (1.3, 1.3, 1.3)), axes=(2, 2), factor=2.5)
    _, second = align(both.scans)
    assert second.misfit is None and error_mm(second.transform, both.transforms[1], both.truth) < 0.3


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    from moediff.core import extras
    from moediff.core.errors import ConfigError

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"moediff-sr\[align\]"):
        require_registration()
    assert align_module.WORST_LEFT_MM == 0.3  # what documentation promises


def test_trusting_headers_needs_no_library_for_registration(stacks, monkeypatch):
    def absent(*_):
        raise AssertionError("nothing is registered")

    monkeypatch.setattr(align_module, "register", absent)
    monkeypatch.setattr(align_module, "SUSPECT_MISMATCH", (0.0, 9.0))  # a mirror image is tried for any scan
    mirrored = stacks.scans[0].with_data(stacks.scans[0].data_XYZ.flip(0))
    assert "mirror image fits" in (align([stacks.scans[0], mirrored], register_them=False)[1].misfit or "")
