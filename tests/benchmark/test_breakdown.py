"""Regions, lesions and losses of made-up rows whose answers are known."""

import pytest

from moediff.benchmark.breakdown import lesion_sums, losses, part_means


def test_regions_are_averaged_over_scans_that_have_them(known_rows):
    found = {(entry["part"], entry["method"]): entry for entry in part_means(known_rows)}
    assert set(found) == {("cortex", m) for m in ("cubic", "zero-fill", "tv", "ours")}
    assert found["cortex", "ours"] == {
        "recipe": "thick5",
        "part": "cortex",
        "method": "ours",
        "scans": ["a"],
        "psnr": 21.0,
        "ssim": 0.8,
        "gain_psnr": 2.0,
    }


def test_regions_without_both_baselines_have_no_gain(known_rows):
    found = part_means([r for r in known_rows if r["method"] != "cubic"])
    assert found and all(entry["gain_psnr"] is None for entry in found)


def test_lesions_are_summed_over_scans(known_rows):
    ours = next(entry for entry in lesion_sums(known_rows) if entry["method"] == "ours")
    assert (ours["count"], ours["lost"], ours["invented"], ours["scans"]) == (8, 3, 2, ["a", "b"])
    assert ours["volume_pred_ml"] == 3.0 and ours["contrast_kept"] == pytest.approx(0.6)


def test_several_seeds_count_as_their_mean(known_rows):
    """The same rows again with another seed, better by 4 dB in all methods: gains stay, PSNR rises by 2."""

    def again(row: dict) -> dict:
        parts = row["parts"] and {name: values | {"psnr": values["psnr"] + 4} for name, values in row["parts"].items()}
        return row | {"seed": 1, "parts": parts}

    both = [*known_rows, *map(again, known_rows)]
    for one, two in zip(part_means(known_rows), part_means(both), strict=True):
        assert two == one | {"psnr": one["psnr"] + 2}
    assert lesion_sums(both) == lesion_sums(known_rows)


def test_losses_name_the_best_other_method_and_in_how_many_persons_it_wins(known_rows):
    found = {entry["metric"]: entry for entry in losses(known_rows, "ours")}
    assert set(found) == {"hf_ratio", "psnr cortex"}  # tv wins PSNR in person a, who alone has regions, not in the mean
    assert (found["hf_ratio"]["method"], found["hf_ratio"]["worse_in"], found["hf_ratio"]["cases"]) == ("tv", 2, 2)
    against = {entry["metric"]: entry for entry in losses(known_rows, "tv")}
    assert set(against) == {"psnr", "ssim"}
    worse = [r | {"lesions": r["lesions"] | {"lost": 3}} if r["method"] == "ours" else r for r in known_rows]
    found = {entry["metric"]: entry for entry in losses(worse, "ours")}
    assert (found["lesions_lost"]["ours"], found["lesions_lost"]["other"]) == (3.0, 1.5)
    assert losses([r | {"parts": None, "lesions": None} for r in known_rows], "ours")[0]["metric"] == "hf_ratio"
    assert (against["psnr"]["method"], against["psnr"]["worse_in"]) == ("ours", 1)
    assert (against["psnr"]["ours"], against["psnr"]["other"]) == (27.25, 28.0)


def test_a_method_that_failed_everywhere_loses_to_nobody(known_rows):
    assert (
        losses(
            [r | {"metrics": {}, "parts": None, "lesions": None} if r["method"] == "ours" else r for r in known_rows],
            "ours",
        )
        == []
    )
