"""Summary of a report in words and numbers; a field that the sidecar lacks is left out, never guessed.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moediff.report.data import ReportScans
from moediff.report.regions import Expert, Region, experts, regions
from moediff.report.sanitise import number, one_line
from moediff.report.several_scans import ScanRow, scan_rows
from moediff.report.truth import fit_to_truth, score_fitted

MODES = {"faithful": "faithful (the posterior mean, one network evaluation)", "detail": "detail (one plausible sample)"}
NOTHING_DONE = "Only interpolation: the target grid is no finer than the scan, so the network did not run."
COMBINED = "A gate chose denoisers (experts) for each place of the scan, and the result is their weighted sum."
CORRECTED = {
    True: "The result was then corrected where it contradicted the measured scan.",
    False: "It was not corrected where it contradicts the measured scan.",
}
WITHIN, SMALL = 1.5, 0.01  # of the noise, of the intensity range: a disagreement up to either says nothing
TESTED = "Re-acquiring the result (simulated, on the input's voxels)"
NOT_TESTED = "This tests what the input can show; it does not mean that finer details are right."
MANY = 100  # times the noise; beyond it the number says no more than that there is hardly any noise


@dataclass(frozen=True)
class Score:
    """Agreement of a scan with the truth: PSNR in dB, SSIM; higher is better."""

    name: str
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Summary:
    """Sentences, rows of (what, value) and tables, each in plain words.

    Args:
        story: what was done, in a sentence or two.
        verdict: whether the result agrees with the measurement; empty where that is not known.
        done, numbers: rows.
        experts, regions, scores: tables; empty where not known.
        warnings: the sidecar's, and doubts about the truth.
        scans: a table, where several scans became one.
    """

    story: str
    verdict: str
    done: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[str, str], ...]
    experts: tuple[Expert, ...]
    regions: tuple[Region, ...]
    scores: tuple[Score, ...]
    warnings: tuple[str, ...]
    scans: tuple[ScanRow, ...] = ()


def _triple(value: object, unit: str) -> str:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return ""
    numbers = [number(v) for v in value]
    return "" if None in numbers else " x ".join(f"{n:.4g}" for n in numbers) + unit


def _grid(record: Mapping[str, Any], which: str) -> str:
    grid = _section(record, which)
    parts = (_triple(grid.get("shape"), " voxels"), _triple(grid.get("spacing_mm"), " mm"))
    return " of ".join(part for part in parts if part)


def _seconds(record: Mapping[str, Any]) -> str:
    timings = record.get("timings")
    seconds = [number(s) for s in timings.values()] if isinstance(timings, dict) else []
    return f"{sum(s or 0.0 for s in seconds):.1f} s" if seconds else ""


def _story(record: Mapping[str, Any]) -> str:
    sentences = [NOTHING_DONE if record.get("pass_through") is True else COMBINED]
    before, after = (_triple(_section(record, which).get("spacing_mm"), " mm") for which in ("input", "output"))
    sentences += [f"Voxels of {before} became voxels of {after}."] if before and after and before != after else []
    seconds = _seconds(record)
    corrected = _section(record, "settings").get("data_consistency")
    if isinstance(corrected, bool) and sentences[0] is COMBINED:
        sentences += [CORRECTED[corrected]]
    sentences += [f"It took {seconds}."] if seconds else []
    return " ".join(sentences)


def _done(scans: ReportScans) -> list[tuple[str, str]]:
    record = scans.record
    settings, weights = _section(record, "settings"), _section(record, "weights")
    uncertainty = _section(record, "uncertainty").get("description")
    warnings = record.get("warnings")
    rows = [
        ("Scan", scans.name),
        ("Input grid", _grid(record, "input")),
        ("Enhanced grid", _grid(record, "output")),
        ("Mode", MODES.get(str(settings.get("mode")), settings.get("mode", ""))),
        ("Model", weights.get("name", "")),
        ("Fine-tuned on", _learned(record)),
        ("Guide", _guide(record)),
        ("Checksum of the model (sha256)", weights.get("sha256", "")),
        ("Network evaluations", settings.get("steps", "")),
        ("Flips averaged (test-time augmentation)", settings.get("tta", "")),
        ("Samples", settings.get("samples", "")),
        ("Seed", settings.get("seed", "")),
        ("Corrected towards the measurement", _yes_or_no(settings.get("data_consistency"))),
        ("Every other slice (interleaved acquisition)", _slice_intensity(record)),
        ("Uncertainty", uncertainty if isinstance(uncertainty, str) else ""),
        ("Warnings", "none" if warnings == [] else ""),  # others stand at the top
        ("Time", _seconds(record)),
        ("Device", settings.get("device", "")),
        ("Precision of the network", settings.get("dtype", "")),
        ("Software", record.get("software", "")),
    ]
    return [(what, one_line(value)) for what, value in rows if value != ""]


def _yes_or_no(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else ""


def _section(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = record.get(name)
    return section if isinstance(section, dict) else {}


def _slice_intensity(record: Mapping[str, Any]) -> str:
    intensity = _section(record, "slice_intensity")
    share = number(intensity.get("difference"))
    if share is None or not intensity.get("noticeable"):
        return ""
    return f"{share:.1%} brighter than those between, {'corrected' if intensity.get('corrected') else 'not corrected'}"


def _learned(record: Mapping[str, Any]) -> str:
    adapted = _section(_section(record, "weights"), "adapted")
    scans, share = number(adapted.get("scans")), number(adapted.get("share"))
    if scans is None or share is None:
        return ""
    return f"{scans:.0f} thick-slice scan{'' if scans == 1 else 's'}, {share:.0%} of the way"


def _guide(record: Mapping[str, Any]) -> str:
    """A sharp scan of another contrast, and what came of it."""
    guide = _section(record, "guide")
    agreement, change = number(guide.get("agreement")), number(guide.get("change_over_range"))
    if agreement is None or change is None:
        return ""
    name = one_line(guide.get("name", ""))
    if guide.get("not_used"):
        return f"{name}, not used: {one_line(guide['not_used'])}"
    return f"{name}, edges agree by {agreement:.2f}, changed the scan by {100 * change:.2f} % of its range"


def _agreement(record: Mapping[str, Any]) -> tuple[float | None, float | None]:
    consistency = _section(record, "data_consistency")
    return number(consistency.get("rms_over_range")), number(consistency.get("noise_over_range"))


def _numbers(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    gap, noise = _agreement(record)
    named = {"Disagreement with the measured scan": gap, "Noise in the measured scan": noise}
    return [(what, f"{100 * v:.2f} % of its intensity range") for what, v in named.items() if v is not None]


def _verdict(record: Mapping[str, Any]) -> str:
    gap, noise = _agreement(record)
    if gap is None or noise is None:
        return ""
    if gap <= max(WITHIN * noise, SMALL):
        return f"{TESTED} differs from the input by no more than its noise. {NOT_TESTED}"
    times = f"{gap / noise:.1f}" if gap < MANY * noise else f"more than {MANY}"
    return (
        f"{TESTED} differs from the input by {times} times its noise. Look at the map of disagreement before using it. "
        f"{NOT_TESTED}"
    )


def _scores(scans: ReportScans) -> list[Score]:
    """Each scan at its best, as `moediff evaluate` judges it."""
    if scans.truth is None:
        return []
    fits = {"enhanced": (scans.enhanced, scans.truth_fit[0])}
    if scans.interpolated is not None:
        fit, _ = fit_to_truth(scans.interpolated, scans.truth, scans.truth_seen_XYZ)
        fits["interpolated"] = scans.interpolated, fit
    rows = []
    for name, (volume, fit) in fits.items():
        scores = score_fitted(volume, fit, scans.truth, scans.truth_seen_XYZ)
        rows.append(Score(name, scores.psnr, scores.ssim))
    return rows


def summarise(scans: ReportScans) -> Summary:
    """All that a page says.

    Raises:
        DataError, GeometryError: the truth cannot be compared with the result.
    """
    warnings = scans.record.get("warnings")
    warning_texts = [one_line(w) for w in warnings] if isinstance(warnings, list) else []
    warning_texts += [f"truth: {note}" for note in scans.truth_fit[1]]
    return Summary(
        _story(scans.record),
        _verdict(scans.record),
        tuple(_done(scans)),
        tuple(_numbers(scans.record)),
        tuple(experts(scans)),
        tuple(regions(scans)),
        tuple(_scores(scans)),
        tuple(warning_texts),
        scan_rows(scans.record),
    )
