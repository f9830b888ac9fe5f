"""Numbers that pages repeat: each is taken from one table that a command wrote, and checked wherever it stands.

    python scripts/published_numbers.py            write docs/numbers.json, and every reference in the pages
    python scripts/published_numbers.py --list     print all names and values

A reference is a number followed by a comment that names it, `+2.44<!-- gain.thick5.psnr -->`; readers do not see the
comment. The number keeps its decimals and its sign, so `+2.4<!-- gain.thick5.psnr -->` is written as +2.4. The tables
are in docs/benchmarks.md and docs/measured.md (between their marks nothing is typed by hand) and in
benchmarks/results/*.json; the embedded weights, the list of their training scans and limits in the code are read too.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from safetensors import safe_open

from moediff.anatomy.regions import REGIONS
from moediff.benchmark.aggregate import means, with_gains
from moediff.benchmark.records import read_results
from moediff.io.label_check import SATURATED
from moediff.model.bundle import sha256_of
from moediff.report.embed import SIZES
from moediff.training.self_supervised import THICKEST, THINNEST

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "embedded.json"
NUMBERS = ROOT / "docs" / "numbers.json"
NUMBER = r"[+-]?\d+(?:\.\d+)?"
REFERENCE = re.compile(rf"(?P<number>{NUMBER})(?P<comment><!-- (?P<name>[a-z][\w.-]*) -->)")
WEIGHTS = ROOT / "src" / "moediff" / "bundles" / "default" / "model.safetensors"
RECIPES = ("thick5", "low1.5", "iso2", "thick3", "mixed", "low-field", "iso1.5", "inplane2")
FOCUS = "faithful"
WITH_SKULL = "seg3d_T1w"  # the one head of the five that was not stripped


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table in a page.

    Args:
        page: file in docs/.
        section: heading above the table.
        row: first cells of its row, which the row begins with.
        column: heading of its column.
        part: which number of the cell, where it holds several.
    """

    page: str
    section: str
    row: tuple[str, ...]
    column: str
    part: int = 0

    def read(self) -> float:
        """The value; ValueError where the page has no such cell, or the rows that match disagree."""
        for table in _page_tables(self.page, self.section):
            rows = [row for row in table[1:] if tuple(row[: len(self.row)]) == self.row]
            if rows and self.column in table[0]:
                numbers = re.findall(NUMBER, rows[0][table[0].index(self.column)])
                return float(numbers[self.part])
        raise ValueError(f"docs/{self.page}, {self.section!r}: no row {self.row} with a column {self.column!r}")


def _page_tables(page: str, section: str) -> Iterator[list[list[str]]]:
    """Tables below a heading, as rows of cells without emphasis."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(section)}\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)
    if match is None:
        raise ValueError(f"docs/{page} has no section {section!r}")
    for lines in re.findall(r"(?:^ *\|.*\n)+", match[2], re.M):
        rows = [[cell.strip(" *`") for cell in line.strip(" |").split("|")] for line in lines.splitlines()]
        yield [row for row in rows if set("".join(row)) - set("-: ")]


def _benchmark(section: str, column: str, *row: str) -> float:
    return Cell(page="benchmarks.md", section=section, row=row, column=column).read()


def _measured(section: str, column: str, *row: str, part: int = 0) -> float:
    return Cell(page="measured.md", section=section, row=row, column=column, part=part).read()


def _gains() -> Iterator[tuple[str, float]]:
    """From the published results: mean, least and greatest gain of every recipe, and how many persons there are."""
    rows = [row for row in with_gains(read_results(RESULTS).rows) if row.method == FOCUS]
    yield "persons", len({row.scan for row in rows})
    for mean in means(rows):
        own = [row for row in rows if row.recipe == mean.recipe]
        psnr = [row.gain_psnr for row in own if row.gain_psnr is not None]
        yield f"gain.{mean.recipe}.psnr", statistics.fmean(psnr)
        yield f"gain.{mean.recipe}.least", min(psnr)
        yield f"gain.{mean.recipe}.most", max(psnr)
        with_skull = (row.gain_psnr for row in own if row.scan == WITH_SKULL)
        yield f"gain.{mean.recipe}.with-skull", next(gain for gain in with_skull if gain is not None)
        yield f"gain.{mean.recipe}.ssim", statistics.fmean(r.gain_ssim for r in own if r.gain_ssim is not None)


def _comparisons() -> Iterator[tuple[str, float]]:
    """From the benchmark's page: other methods, lesions, time."""
    for recipe in RECIPES:
        yield f"over-tv.{recipe}", _benchmark("Paired differences", "PSNR (dB)", recipe, "tv")
        yield f"detail.{recipe}.change", -_benchmark("Paired differences", "PSNR (dB)", recipe, "detail")
        for method in ("zero-fill", "cubic", "detail", FOCUS):
            for short, column in (("missed", "false negatives"), ("false", "false positives")):
                yield f"lesions.{recipe}.{method}.{short}", _benchmark("Lesions", column, recipe, method)
    yield "lesions.count", _benchmark("Lesions", "lesions", "thick5", FOCUS)
    for method in (FOCUS, "detail", "tv", "cubic"):
        yield f"time.{method}.s", _benchmark("Quality against time", "time (s)", method)
        yield f"time.{method}.mib", _benchmark("Quality against time", "peak (MiB)", method)


def _others() -> Iterator[tuple[str, float]]:
    """From the page of everything else that was measured."""
    for recipe in ("thick5", "low1.5", "iso2"):
        yield f"interval.{recipe}.inside", 100 * _measured("Uncertainty", "inside the 90 % interval", "mean", recipe)
        yield f"interval.{recipe}.rank", _measured("Uncertainty", "Spearman", "mean", recipe)
        yield f"interval.{recipe}.local-mean", _measured("Uncertainty", "Spearman of its local mean", "mean", recipe)
        for method in ("cubic", FOCUS):
            own = method if method == "cubic" else f"embedded {method}"
            yield f"contrast.{recipe}.{method}", _measured("Synthetic lesions", "contrast recovery", recipe, own)
        yield f"routing.{recipe}", _measured("Cost of routing", f"{recipe}, dB against dense", "top 2")
    for recipe in ("thick5", "low1.5"):
        table = _page_tables("measured.md", "Samplers of `detail`")
        samplers = next(islice(table, 0 if recipe == "thick5" else 1, None))
        for mode, plan in (("detail", "dpm++2m 3"), (FOCUS, FOCUS)):
            chosen = next(line for line in samplers if line[0] == plan)
            for column in ("band", "fine"):
                yield f"{mode}.{recipe}.{column}", 100 * float(chosen[samplers[0].index(column)])
    yield from _experts()
    cases = [f"{scan} {recipe}" for scan in ("fsf_T1w", "M2307_T2w") for recipe in ("thick5", "low1.5")]
    section = "Robustness: changes that should not matter"
    moved = [_measured(section, case, "mirrored left to right", part=1) for case in cases]
    yield from (("mirrored.moved.least", min(moved)), ("mirrored.moved.most", max(moved)))
    scans = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")
    column = "inside the 90 % interval"
    inside = [
        _measured("Uncertainty", column, scan, recipe) for scan in scans for recipe in ("thick5", "low1.5", "iso2")
    ]
    yield from (("interval.least", 100 * min(inside)), ("interval.most", 100 * max(inside)))
    yield "routing.time", _measured("Cost of routing", "time over one expert's", "top 2")
    yield "routing.dense-time", _measured("Cost of routing", "time over one expert's", "dense")
    yield "adapt.thick5.psnr", _measured("Self-supervised fine-tuning", "gain, dB", "mean", "thick5")
    changes = [_adapted(scan) for scan in scans]
    yield from (("adapt.thick5.least", min(changes)), ("adapt.thick5.most", max(changes)))
    right = []
    for contrast in ("T1w", "T2w", "FLAIR"):
        for field in ("brain only", "whole head"):
            row = f"{contrast}, {field}"
            name = f"gate.{contrast.lower()}.{field.split()[0 if 'brain' in field else 1]}"
            section = "The gate in any contrast, with skull and without"
            yield f"{name}.auc", _measured(section, "macro (worst)", row)
            right.append(100 * _measured(section, "accuracy", row))
            yield f"{name}.right", right[-1]
    yield from (("gate.right.least", min(right)), ("gate.right.most", max(right)))


def _experts() -> Iterator[tuple[str, float]]:
    """By how much, in percent of the error, each expert alone is better in its own region than the next best one."""
    margins = []
    for region in REGIONS:
        error = {expert: _measured("Gate and experts", expert, region) for expert in REGIONS}
        own = error.pop(region)
        margins.append(100 * (min(error.values()) - own))
        yield f"expert.{region.replace(' ', '-')}.margin", margins[-1]
    yield from (("expert.margin.least", min(margins)), ("expert.margin.most", max(margins)))


def _several() -> Iterator[tuple[str, float]]:
    """From the page of everything else that was measured: several scans of one head."""
    section, short = "Several scans of one head", {"3 planes 5 mm": "planes5", "3 planes 3 mm": "planes3"}
    short |= {"2 planes 5 mm": "two-planes5", "2 parallel 5 mm": "parallel5", "3 planes 64 mT": "low-field"}
    for design, name in short.items():
        for key, part in (("gain", 0), ("least", 1)):
            yield f"several.{name}.{key}", _measured(section, "gain (least)", design, part=part)
            over = _measured(section, "over least squares (least)", design, part=part)
            yield f"several.{name}.squares.{key}", over
        yield f"several.{name}.inside", 100 * _measured(section, "in 90 %", design)
    for part, key in enumerate(("alone", "together")):
        column = "false-positive lesions alone; together"
        yield f"several.low-field.invented.{key}", _measured(section, column, "3 planes 64 mT", part=part)
    for key, column in (("motions", "motions"), ("below", "below 0.3 mm"), ("worst", "worst, mm")):
        yield f"several.registration.{key}", _measured("Registration of several scans", column, "all")
    yield "several.cost", _measured("Time and memory of several scans", "times one", "seg3d_T1w")


def _facts() -> Iterator[tuple[str, float]]:
    """From the embedded bundle, the list of what it learned from, and limits in the code."""
    tensors = safe_open(WEIGHTS, framework="numpy")
    yield "weights.megabytes", WEIGHTS.stat().st_size / 1e6
    sizes = [math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys()]  # noqa: SIM118
    yield "weights.million-parameters", sum(sizes) / 1e6
    with (ROOT / "data" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scans = [row["person"] for row in rows if row["role"] == "train"]
    unsure = [person for person in scans if person.endswith("?")]  # may be the same person, or not
    known = set(scans) - set(unsure)
    yield from (("learned.scans", len(scans)), ("learned.persons", len(known) + len(unsure)))
    yield "learned.persons.least", len(known) + len(set(unsure))
    yield "learned.label-maps", sum(row["role"] == "labels" for row in rows)
    yield "learned.contrast-agent", sum(row["path"].endswith("_T1c.nii.gz") for row in rows if row["role"] == "train")
    yield from (("adapt.thinnest", THINNEST), ("adapt.thickest", THICKEST), ("mask.saturated", 100 * SATURATED))
    yield from ((f"report.{name}.megabytes", size.most_bytes / 1e6) for name, size in SIZES.items())
    study = json.loads((RESULTS.parent / "reader_study.json").read_text(encoding="utf-8"))
    for row in study["strengths"]:
        for key in ("put_in", "found", "low", "high"):
            yield f"reader-study.{row['method']}.{key.replace('_', '-')}", row[key]
    yield "reader-study.studies", study["simulated"]["studies"]
    yield "reader-study.bias", study["simulated"]["largest_bias"]
    yield "reader-study.coverage", 100 * study["simulated"]["coverage"]


def _guide() -> Iterator[tuple[str, float]]:
    """From the benchmark of a sharp scan as guide: persons whom no weights saw.

    ValueError where it is of other weights than the embedded ones.
    """
    stored = json.loads((RESULTS.parent / "guide.json").read_text(encoding="utf-8"))
    if stored["bundle"] != sha256_of(WEIGHTS):
        raise ValueError("benchmarks/results/guide.json is of other weights: run benchmarks/guide.py once more")
    own = [row for row in stored["rows"] if not row["training"]]
    gains = [row["gain_db"] for row in own]
    yield "guide.pairs", len(own)
    yield from (("guide.gain.mean", statistics.fmean(gains)), ("guide.gain.least", min(gains)))
    yield "guide.gain.most", max(gains)
    yield "guide.lesions", sum(row["lesions"] for row in own)
    yield "guide.kept.plain", 100 * statistics.fmean(row["kept_plain"] for row in own)
    yield "guide.kept", 100 * statistics.fmean(row["kept"] for row in own)
    yield "guide.kept.worst", 100 * max(-row["worst_change"] for row in own)
    yield "guide.moved", max(abs(row["place_mm"] - row["place_plain_mm"]) for row in own)
    yield "guide.ghost.mean", 100 * statistics.fmean(row["ghost"] for row in own)
    yield "guide.ghost.worst", 100 * max(row["worst_ghost"] for row in own)
    yield "guide.off", max(row["off_mm"] for row in own)


def _adapted(scan: str) -> float:
    """Gain with fine-tuning minus gain without, dB."""
    before, after = (_measured("Self-supervised fine-tuning", "gain, dB", scan, part=part) for part in (0, 1))
    return after - before


def published() -> dict[str, float]:
    """Every name and its value, rounded to what the tables hold."""
    numbers = (
        dict(_gains()) | dict(_comparisons()) | dict(_others()) | dict(_several()) | dict(_guide()) | dict(_facts())
    )
    return {name: round(value, 4) for name, value in sorted(numbers.items())}


def written(number: str, value: float) -> str:
    """A value as a number is written: with its decimals, and a sign where it has one."""
    decimals = len(number.partition(".")[2])
    sign = "+" if number[0] in "+-" else ""
    return f"{value:{sign}.{decimals}f}"


def filled(text: str, numbers: Mapping[str, float]) -> str:
    """A page with every reference as the numbers say; ValueError for a name that is unknown."""

    def fill(match: re.Match[str]) -> str:
        if match["name"] not in numbers:
            raise ValueError(f"{match[0]!r}: no such number; `python scripts/published_numbers.py --list` prints all")
        return written(match["number"], numbers[match["name"]]) + match["comment"]

    return REFERENCE.sub(fill, text)


def pages() -> list[Path]:
    """Pages that may hold references."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Write numbers.json and all references."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print names and values, and write nothing")
    args = parser.parse_args()
    numbers = published()
    if args.list:
        print("\n".join(f"{name} {value:g}" for name, value in numbers.items()))
        return
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8"), numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
