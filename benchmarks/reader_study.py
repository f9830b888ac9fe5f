"""A blinded reader study from scans to strengths, read to the end in Chromium by two scripted readers.

    python benchmarks/reader_study.py runs/study --json benchmarks/results/reader_study.json

Twelve cases of twelve persons: the middle (64^3 voxels) of the six scans of val/ and of six of train/, every second one
with thicker slices, the others with coarser voxels. The network has seen the six of train/, which matters to quality,
and nothing here judges that. Four methods: cubic, total variation, ours `faithful` and `detail`. The readers see the
study's own pages and press its keys. What they prefer is drawn from log-strengths that are put in, not from the images:
this shows that the tool finds what readers prefer, and says nothing about what people prefer. No human study was done.

Results that are there already are not computed again. Needs the extra [study], playwright and Chromium.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from common import parser_of

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import recipe_for
from moediff.benchmark.total_variation import super_resolve
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load, save
from moediff.study.analyse import Analysis, AnalysisOptions, analyse, unblinded
from moediff.study.answers import AnswerStore
from moediff.study.cases import cases_from_options
from moediff.study.create import StudyOptions, create_study
from moediff.study.design import DesignOptions
from moediff.study.links import new_link
from moediff.study.publish import publish
from moediff.study.records import INPUT, REFERENCE, Study, StudyKey
from moediff.study.render import RenderOptions
from moediff.study.server import StudyServer, bind
from moediff.study.simulate import SimulatedStudy, simulate_counts
from moediff.study.strengths import FIRST, SECOND, estimate, numpy_rng, probabilities

SCANS = {  # twelve persons
    "val": ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w", "trio_b17_T1w"),
    "train": ("M2208_T2w", "cstar_stroke_FLAIR", "forrest_T1w", "mrgd_T1c", "pysynthsr_FLAIR", "vsseg001_T1c"),
}
RECIPES = ("thick3", "iso2")  # in turns
TRUTH = {"cubic": -1.2, "tv": -0.4, "faithful": 0.9, "detail": 0.7}  # log-strengths that the readers have
LOG_TIES = -1.0
READERS = ("AB", "CD")
KEYS = {FIRST: "1", SECOND: "2"}  # any other outcome: no difference
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
WAIT_MS = 120_000
READY = "t => typeof view !== 'undefined' && view && view.trial === t && ready && !sending"


@dataclass(frozen=True)
class Coverage:
    """Many simulated studies of this size: largest mean error, and share of intervals that hold the truth."""

    studies: int
    largest_bias: float
    coverage: float


def result_of(method: str, low: Volume, truth: Volume, enhancer: Enhancer) -> Volume:
    """One image of a case."""
    if method in ("input", "reference"):
        return low if method == "input" else truth
    if method == "cubic":
        return resample(low, truth.grid)
    if method == "tv":
        return super_resolve(low, truth.grid)
    return enhancer(low, EnhanceOptions(like=truth.grid, mode=method)).volume


def make_results(folder: Path, data: Path, bundle: Path | None, side: int) -> None:
    """Inputs, references and every method's results, one file a case."""
    enhancer = Enhancer(bundle)
    scans = [(part, name) for part, names in SCANS.items() for name in names]
    for (part, name), recipe in zip(scans, cycle(RECIPES), strict=False):
        truth = centre_crop(load(data / part / f"{name}.nii.gz").volume, side)
        low = degrade(truth, recipe_for(recipe), rng_for(0, name, recipe))
        for method in ("input", "reference", *TRUTH):
            path = folder / method / f"{name.replace('_', f'-{recipe}_', 1)}.nii.gz"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                save(result_of(method, low, truth, enhancer), path)
                print(path, flush=True)


def make_study(folder: Path, results: Path) -> tuple[Study, StudyKey]:
    """The study, of choices alone, with input and reference beside each pair."""
    words = [f"{method}={results / method}" for method in TRUTH]
    cases = cases_from_options(words, {INPUT: [results / "input"], REFERENCE: [results / "reference"]})
    options = StudyOptions(
        readers=READERS, title="Demonstration", seed=7, design=DesignOptions(), render=RenderOptions(slices=16)
    )
    return create_study(folder, folder.with_name("study.key.json"), cases, options, lambda done, what: None)


@contextmanager
def served(folder: Path, store: AnswerStore) -> Iterator[str]:
    """The address of the running study."""
    import uvicorn

    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(StudyServer(folder, store).app(), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def pressed(key: StudyKey, reader: str, number: int, rng: np.random.Generator) -> str:
    """The key that a scripted reader presses."""
    left, right = key.readers[reader][number - 1].methods
    if left == right:
        return "0"
    odds = probabilities((TRUTH[left], TRUTH[right]), LOG_TIES)[0]
    return KEYS.get(int(rng.choice(3, p=odds)), "0")


def read(page: Any, study: Study, key: StudyKey, reader: str, pictures: Path) -> None:
    """One reader answers every trial; a picture is taken of the first, and of the end."""
    rng = numpy_rng(3, reader)
    page.click("text=Start")
    for trial in study.readers[reader]:
        page.wait_for_function("t => typeof view !== 'undefined' && view && view.trial === t", arg=trial.number)
        if page.evaluate("view.pause_days") is not None:
            page.click("text=Go on now")
        page.wait_for_function(READY, arg=trial.number)
        if trial.number == 1:
            page.screenshot(path=pictures / f"{reader}_first.png")
        page.keyboard.press(pressed(key, reader, trial.number, rng))
    page.wait_for_selector("text=Thank you")
    page.screenshot(path=pictures / f"{reader}_end.png")


def read_in_chromium(folder: Path, study: Study, key: StudyKey, store: AnswerStore) -> None:
    """Both readers, one after the other, each with the link of their own."""
    from playwright.sync_api import sync_playwright

    with served(folder, store) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        for reader in READERS:
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.set_default_timeout(WAIT_MS)
            page.goto(f"{address}/start/{new_link(store, reader)}")
            read(page, study, key, reader, folder.parent)
        browser.close()


def strengths_of(analysis: Analysis) -> list[dict[str, Any]]:
    """Log-strengths minus their mean: as put in, and as estimated with a 95 % interval (`low` to `high`)."""
    assert analysis.choices is not None and analysis.choices.strengths is not None
    middle = sum(TRUTH.values()) / len(TRUTH)
    pairs = zip(analysis.methods, analysis.choices.strengths.log_strength, strict=True)
    return [
        {"method": name, "put_in": TRUTH[name] - middle, "found": one.value, "low": one.low, "high": one.high}
        for name, one in pairs
    ]


def simulated(studies: int) -> Coverage:
    """Studies of two readers and twelve cases with the same strengths, drawn without a browser."""
    values = np.array([*TRUTH.values()]) - sum(TRUTH.values()) / len(TRUTH)
    setting = SimulatedStudy(log_strength=tuple(values), log_ties=LOG_TIES, readers=2, cases=12)
    errors, covered = [], []
    for seed in range(studies):
        choices = simulate_counts(setting, numpy_rng(seed, "demonstration"))
        strengths = estimate(choices, readers="fixed", draws=200, seed=seed).log_strength
        errors.append([one.value - value for one, value in zip(strengths, values, strict=True)])
        covered.append([one.low <= value <= one.high for one, value in zip(strengths, values, strict=True)])
    return Coverage(studies, float(np.abs(np.mean(errors, axis=0)).max()), float(np.mean(covered)))


def main(words: Sequence[str] | None = None) -> None:
    """Run it all and print the strengths that were estimated."""
    parser = parser_of(__doc__, side=64)
    parser.add_argument("folder", type=Path, help="where results, study and analysis go; results there are kept")
    parser.add_argument("--simulated", type=int, default=200, metavar="N", help="simulated studies")
    args = parser.parse_args(words)
    make_results(args.folder / "results", args.data, args.bundle, args.side)
    study, key = make_study(args.folder / "study", args.folder / "results")
    with AnswerStore(args.folder / "study", study) as store:
        read_in_chromium(args.folder / "study", study, key, store)
        left, answers = store.unfinished(), store.answers()
    assert not left, f"trials are left: {left}"
    judged = unblinded(study, key, answers)
    analysis = analyse(study, key, judged, AnalysisOptions(readers="fixed"))
    (args.folder / "analysis").mkdir()
    publish(analysis, judged, args.folder / "analysis")
    record = {
        "readers": len(READERS),
        "cases": analysis.cases,
        "side": args.side,
        "answers": len(answers),
        "strengths": strengths_of(analysis),
        "simulated": asdict(simulated(args.simulated)),
    }
    print(json.dumps(record, indent=1))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
