"""Measurements of the embedded weights beyond `make benchmark`, all by one command, as a page.

    python scripts/measure.py [--jobs 2] [--only experts limits] [--data DIR] [--page docs/measured.md]

Runs the scripts of benchmarks/, each on one thread and `--jobs` at a time (those that compare times: alone, at the
end), and stores what each printed in runs/measured, by the weights and settings it was measured with. A second run
continues where the first one stopped. The page holds the tables of the present weights, also those that it held
before, and marks the missing ones, so that no number of other weights can stand there.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from moediff.model.bundle import Bundle, load_bundle

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One section of the page.

    Args:
        name: of its file, and for `--only`.
        title: of the section.
        call: script of benchmarks/ and its options, but for --data.
        legend: how to read its tables.
        exclusive: nothing else may run at the same time, because it compares times.
    """

    name: str
    title: str
    call: str
    legend: str
    exclusive: bool = False


MEASUREMENTS = (
    Measurement(
        name="crops",
        title="Gain on crops",
        call="quality.py --side 96 --recipes thick3 thick5 mixed low1.5 iso1.5 iso2 inplane2 low-field",
        legend="Middle 96^3 voxels of held-out scans, gain over the better of cubic and zero-filled interpolation "
        "(PSNR in dB / SSIM), `faithful`. Whole heads: [benchmarks](benchmarks.md).",
    ),
    Measurement(
        name="experts",
        title="Gate and experts",
        call="experts.py",
        legend="How well the gate's weights separate regions (AUC), each expert's mean weight (load), how often the "
        "first expert stays the same, and each expert's RMSE, run alone, over that of all together; a row a "
        "region, its best expert bold.",
    ),
    Measurement(
        name="gate",
        title="The gate in any contrast, with skull and without",
        call="experts.py --gate-only",
        legend="Synthetic scans of label maps kept out of training, 5 mm slices: how well the gate's weights separate "
        "regions, means of four heads. Chance is 0.5.",
    ),
    Measurement(
        name="uncertainty",
        title="Uncertainty",
        call="uncertainty.py",
        legend="Middle 96^3 voxels: share of errors inside the predicted 90 % interval, rank correlation with absolute "
        "errors, and that of the true error's own mean over 5x5x5 voxels, as a yardstick. AUSE: of the RMSE, 0 is "
        "best. First held-out real scans, then synthetic ones of label maps kept out of training; after each, "
        "by region, those whose regions are known.",
    ),
    Measurement(
        name="robustness",
        title="Robustness: changes that should not matter",
        call="robustness.py",
        legend="Change of the gain over cubic / how far the result moves (root mean square of the change over that of "
        "what enhancing adds to cubic interpolation), both in percent.",
    ),
    Measurement(
        name="planted",
        title="Synthetic lesions",
        call="small_lesions.py",
        legend="Spheres added to sharp scans: share detected by size, weak / strong; contrast recovery; share of "
        "lesion-free places that look like one (0.05 is chance).",
    ),
    Measurement(
        name="limits",
        title="Data consistency, and scans with something wrong",
        call="limits.py",
        legend="Gap between the re-acquired result and the input, under every recipe; then the cases of "
        "[when something is wrong](cases.md).",
    ),
    Measurement(
        name="samplers",
        title="Samplers of `detail`",
        call="samplers.py --plot docs/images/perception.svg",
        legend="Solvers, numbers of evaluations and temperatures, against the posterior mean; `detail` is 2M with "
        "three evaluations at temperature 1.",
    ),
    Measurement(
        name="skull",
        title="The head with skull, by depth",
        call="quality.py --depth --scans seg3d_T1w",
        legend="One whole head; the last table gives, by depth under its surface, the gain (dB) and the share of the "
        "squared error: scalp and skull come first.",
    ),
    Measurement(
        name="learned",
        title="Training persons",
        call="quality.py --side 96 --folder train",
        legend="The same crops of training scans. Their contrasts and resolutions differ from those of the first "
        "section, so a gap is no measure of overfitting.",
    ),
    Measurement(
        name="registration",
        title="Registration of several scans",
        call="several.py registration --motions 100 --json benchmarks/results/several_registration.json",
        legend="Two scans of the middle 96^3 voxels of a held-out head, the second after a random motion of up to 5 "
        "degrees about every axis and 5 mm along it: RMS error over a ball of 80 mm, and whether a user is warned.",
    ),
    Measurement(
        name="several",
        title="Several scans of one head",
        call="several.py quality --side 64 --json benchmarks/results/several_quality.json",
        legend="Middle 64^3 voxels of held-out scans with 16 bright spheres, acquired several times with unknown "
        "motion of up to 5 degrees and 5 mm; PSNR in dB where all scans measured. Least squares has a tuned prior and "
        "knows the motion. 64 mT: 1.6 x 1.6 x 5 mm, 4 % noise, bias field, less contrast, on 96^3 voxels.",
    ),
    Measurement(
        name="several-cost",
        title="Time and memory of several scans",
        call="several_cost.py",
        legend="A whole head of 1 mm from three planes of 5 mm, and from the first of them: whole commands.",
        exclusive=True,
    ),
    Measurement(
        name="adapting",
        title="Self-supervised fine-tuning",
        call="adapting.py --recipes thick5",
        legend="`--adapt` on middle 128^3 voxels, 5 mm slices: before, with half of the change (the default), with all "
        "of it.",
    ),
    Measurement(
        name="sparse",
        title="Cost of routing",
        call="perf.py routing --threads 1",
        legend="Experts with too little weight at a place are skipped: loss in dB and time.",
        exclusive=True,
    ),
)


def words_of(measurement: Measurement) -> list[str]:
    """The script from the repository's root, with its options."""
    script, *options = measurement.call.split()
    return [f"benchmarks/{script}", *options]


def run(measurement: Measurement, store: Path, data: Path) -> int:
    """Measure, unless it was; what was printed counts only when the script ended well. Returns its exit code."""
    page = store / f"{measurement.name}.md"
    if page.is_file():
        return 0
    call = [sys.executable, *words_of(measurement), "--data", str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (store / f"{measurement.name}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            call, check=False, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    if done.returncode == 0:
        page.write_text(f"{done.stdout.strip()}\n", encoding="utf-8")
    print(f"{measurement.name}: {'done' if done.returncode == 0 else f'failed, see {log.name}'}", flush=True)
    return done.returncode


def measure(chosen: Sequence[Measurement], store: Path, data: Path, jobs: int) -> int:
    """Run all of them; the first exit code that is not 0."""
    store.mkdir(parents=True, exist_ok=True)
    parallel, serial = ([one for one in chosen if one.exclusive is exclusive] for exclusive in (False, True))
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(lambda one: run(one, store, data), parallel))
    codes += [run(one, store, data) for one in serial]
    return next((code for code in codes if code), 0)


def weights_line(bundle: Bundle) -> str:
    """What the page says about weights and their bundle's settings, which hold the calibration."""
    return f"Weights: sha256 `{bundle.sha256}`, settings `{bundle.settings_sha256[:12]}`."


def earlier_sections(page: Path, bundle: Bundle) -> dict[str, str]:
    """Tables that the page holds of the same weights, by the command that measured them."""
    if not page.is_file() or weights_line(bundle) not in (text := page.read_text(encoding="utf-8")):
        return {}
    sections = re.findall(r"^`python ([^`]+)`\n\n(.+?)(?=\n\n## |\Z)", text, re.M | re.S)
    return {command: section.strip() for command, section in sections}


def page_of(bundle: Bundle, store: Path, earlier: Mapping[str, str]) -> str:
    """The page, with a section for every measurement.

    Args:
        bundle: the weights.
        store: what was measured with them on this machine.
        earlier: from `earlier_sections`, for what was not.
    """
    lines = [
        "# Measured with the embedded weights",
        "",
        "Written by `make measure`, which runs every command below; nothing here is typed by hand. Held-out data "
        "of `val/` and label maps kept out of training, simulated degradations, seed 0, one thread of ",
        f"{platform.machine()}. Why it is designed so: [design](design.md). Research use only; not for diagnostic use.",
        "",
        weights_line(bundle),
    ]
    for one in MEASUREMENTS:
        file = store / f"{one.name}.md"
        command = " ".join(words_of(one))
        section = earlier.get(command, "**Not measured with these weights.**")
        section = file.read_text(encoding="utf-8").strip() if file.is_file() else section
        lines += ["", f"## {one.title}", "", one.legend, "", f"`python {command}`", "", section]
    return "\n".join(lines) + "\n"


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    names = [one.name for one in MEASUREMENTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="scripts at a time")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {names}")
    parser.add_argument(
        "--store", type=Path, default=ROOT / "runs" / "measured", help="folder of finished measurements"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measured.md")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write the page."""
    args = parsed(words)
    bundle = load_bundle()
    store = args.store / f"{bundle.sha256[:12]}-{bundle.settings_sha256[:12]}"
    chosen = [one for one in MEASUREMENTS if one.name in args.only]
    code = measure(chosen, store, args.data.resolve(), args.jobs)
    args.page.write_text(page_of(bundle, store, earlier_sections(args.page, bundle)), encoding="utf-8")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
