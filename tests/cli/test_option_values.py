"""What every option does: its value reaches the part that acts on it. No work is done."""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from moediff.cli import benchmark, bids, evaluate
from moediff.cli.cohort_options import runner_options
from moediff.cli.enhance import enhance_options
from moediff.cli.main import build_parser
from moediff.core.volume import Volume
from moediff.io.scans import save

TESTS = Path(__file__).resolve().parents[1]


def parsed(*words: str) -> argparse.Namespace:
    args = build_parser().parse_args(words)
    args.words = list(words)
    return args


class Reached(Exception):
    """The part that would do the work was called with these words."""

    def __init__(self, words: tuple[object, ...], named: dict[str, object]) -> None:
        super().__init__()
        self.words, self.named = words, named


@pytest.fixture
def reached(monkeypatch, tmp_path) -> Callable[..., Reached]:
    """`reached(place, *words)` calls a command up to the function named `place` -> what that was called with."""
    monkeypatch.chdir(tmp_path)
    dataset = tmp_path / "bids"
    for path in (tmp_path / "scan.nii", dataset / "sub-01/anat/sub-01_T1w.nii"):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = torch.rand((12, 12, 10), generator=torch.Generator().manual_seed(0))
        save(Volume(data, torch.diag(torch.tensor([8.0, 8, 8, 1], dtype=torch.float64))), path)
    (dataset / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}))
    (tmp_path / "list.txt").write_text("scan.nii\n")
    (tmp_path / "filter.json").write_text(json.dumps({"t1w": {"acquisition": "mprage"}}))

    def call(place: str, *words: str) -> Reached:
        def stop(*given: object, **named: object) -> None:
            raise Reached(given, named)

        monkeypatch.setattr(place, stop)
        args = parsed(*words)
        with pytest.raises(Reached) as caught:
            args.call(args)
        return caught.value

    return call


def get(whole: object, field: str) -> object:
    return functools.reduce(getattr, field.split("."), whole)


ENHANCE = ["enhance", "scan.nii"]
BIDS = ["bids", "bids", "out", "participant"]
BATCH = ["batch", "scans", "-o", "out"]
RUN_IN = functools.partial(runner_options, folder=Path("logs"))
BUILT = [  # command, words of an option, what is built from them, its field, the value
    (ENHANCE, ["--sampler", "heun"], enhance_options, "sampler", "heun"),
    (ENHANCE, ["--steps", "7"], enhance_options, "steps", 7),
    (ENHANCE, ["--samples", "3"], enhance_options, "samples", 3),
    (ENHANCE, ["--seed", "5"], enhance_options, "seed", 5),
    (ENHANCE, ["--mode", "detail"], enhance_options, "mode", "detail"),
    (ENHANCE, ["--tta", "2"], enhance_options, "tta", 2),
    (ENHANCE, ["--no-data-consistency"], enhance_options, "data_consistency", False),
    (ENHANCE, ["--trust-intensities"], enhance_options, "trust_intensities", True),
    (ENHANCE, ["--correct-slice-intensity"], enhance_options, "correct_slice_intensity", True),
    (ENHANCE, ["--no-align"], enhance_options, "align", False),
    (ENHANCE, ["--slice-thickness", "3"], enhance_options, "slice_thickness", 3.0),
    (ENHANCE, ["--profile", "voxel-sizes"], enhance_options, "estimate_sampling", False),
    (BIDS, ["--participant-label", "01", "02"], bids._selection, "participants", ("01", "02")),
    (BIDS, ["--session-label", "pre"], bids._selection, "sessions", ("pre",)),
    (BIDS, ["--session_label", "pre"], bids._selection, "sessions", ("pre",)),
    (BIDS, ["--suffix", "FLAIR"], bids._selection, "suffixes", ("FLAIR",)),
    *(
        (command, words, RUN_IN, field, value)
        for command in (BIDS, BATCH)
        for words, field, value in (
            (["--runner", "slurm"], "runner", "slurm"),
            (["--nprocs", "3"], "processes", 3),
            (["--nthreads", "2"], "threads", 2),
            (["--mem-mb", "900"], "memory_mb", 900),
            (["--retries", "5"], "retries", 5),
            (["--stop-on-first-crash"], "stop_on_first_failure", True),
            (["--quiet"], "quiet", True),
            (["--partition", "long"], "queue.partition", "long"),
            (["--account", "lab"], "queue.account", "lab"),
            (["--walltime", "01:00:00"], "queue.walltime", "01:00:00"),
            (["--job-line", "-N 1"], "queue.directives", ("-N 1",)),
            (["--job-setup", "module load x", "--job-setup", "cd y"], "queue.setup", ("module load x", "cd y")),
            (["--interface", "ib0"], "queue.interface", "ib0"),
        )
    ),
    (["evaluate", "--pairs", "a.csv", "--metrics", "psnr"], ["--tissues"], evaluate._options, "tissues", True),
    (["evaluate", "--pairs", "a.csv"], ["--regions"], evaluate._options, "regions", True),
    (["benchmark", "-o", "out"], ["--flops"], benchmark._settings, "flops", True),
    (["benchmark", "-o", "out"], ["--timeout", "9"], benchmark._settings, "limit_s", 9.0),
    (["benchmark", "-o", "out"], ["--threads", "3"], benchmark._settings, "threads", 3),
    (["benchmark", "-o", "out"], ["--no-intensity-fit"], benchmark._settings, "judging.fit", False),
]


@pytest.mark.parametrize(
    ("command", "words", "build", "field", "value"),
    BUILT,
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_an_option_sets_what_is_built_from_it(command, words, build, field, value):
    assert get(build(parsed(*command, *words)), field) == value
    assert get(build(parsed(*command)), field) != value


def test_filters_of_a_file_are_taken(reached):
    args = parsed(*BIDS, "--bids-filter-file", "filter.json")
    assert len(bids._selection(args).filters) == 1 and bids._selection(parsed(*BIDS)).filters == ()


def test_seeds_of_a_benchmark(reached):
    words = ["benchmark", "-o", "out", "--scans", "scan.nii", "--recipes", "thick5"]
    assert [case.seed for case in benchmark._cases(parsed(*words, "--seeds", "4", "6"))] == [4, 6]


OF_A_PAGE = [["--report-size", "small"], ["--report-size", "full"]]


@pytest.mark.parametrize("words", OF_A_PAGE, ids=lambda words: words[1])
def test_the_size_of_a_page(reached, monkeypatch, words):
    from moediff.report.embed import SIZES

    (request, *_) = reached("moediff.inference.run.enhance_to", *ENHANCE, "--report", "a.html", *words).words
    assert request.report_size == words[1]
    monkeypatch.setattr("moediff.report.data.from_files", lambda files: files)
    page = reached("moediff.report.page.write_page", "report", "scan.nii", *words)
    assert page.named["size"] == SIZES[words[1]]


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("moediff.cli.batch.run_cohort", ["batch", "--list", "list.txt", "-o", "out"]),
        ("moediff.cli.bids.run_cohort", [*BIDS, "--skip-bids-validation", "-q"]),
    ],
    ids=["batch", "bids"],
)
def test_what_every_scan_of_many_is_given(reached, place, command):
    words = ["--report-size", "full", "--sampler", "heun", "--no-data-consistency", "--viewer", "--redo"]
    cohort, _ = reached(place, *command, *words).words
    (task,) = cohort.tasks
    assert task.spec.source.name in ("scan.nii", "sub-01_T1w.nii")
    assert (task.spec.viewer_size, task.spec.redo, task.spec.placement.viewer) == ("full", True, True)
    assert (task.spec.options.sampler, task.spec.options.data_consistency) == ("heun", False)


def test_a_slice_of_training(reached, monkeypatch):
    monkeypatch.setattr("moediff.cli.train._recipe", lambda args: None)
    _, options = reached("moediff.training.engine.run_recipe", "train", "a.toml", "--slice", "30", "--resume").words
    assert (options.slice_minutes, options.resume) == (30.0, True)


def test_what_a_study_is_made_from_and_shows(reached, monkeypatch):
    words = ["study", "create", "new", "--results", "a=x", "--readers", "anna", "--reference", "r.nii", "--no-ties"]
    words += ["--show", "reference", "--plane", "coronal"]
    _, others = reached("moediff.study.cases.cases_from_options", *words).words
    assert others["reference"] == [Path("r.nii")]
    monkeypatch.setattr("moediff.study.cases.cases_from_options", lambda *_: [])
    *_, options, _ = reached("moediff.study.create.create_study", *words).words
    assert (options.context, options.design.ties, options.render.plane) == (("reference",), False, "coronal")


@pytest.fixture
def study(monkeypatch) -> None:
    """A study that nobody has to make, without answers."""
    store = SimpleNamespace(unfinished=dict, answers=list)
    for name in ("records.read_study", "records.read_key", "analyse.unblinded"):
        monkeypatch.setattr(f"moediff.study.{name}", lambda *_: None)
    monkeypatch.setattr("moediff.study.answers.AnswerStore", lambda *_: nullcontext(store))


def test_how_a_study_is_analysed(reached, study):
    words = ["study", "analyse", "s", "--fixed-readers", "--tolerance-mm", "5", "--seed", "9"]
    *_, options = reached("moediff.study.analyse.analyse", *words).words
    assert (options.readers, options.tolerance_mm, options.seed) == ("fixed", 5.0, 9)


def test_where_a_study_is_served(reached, study, monkeypatch):
    words = ["study", "serve", "s", "--host", "0.0.0.0", "--port", "99", "--public-name", "https://study.org"]
    assert reached("moediff.study.server.bind", *words).words == ("0.0.0.0", 99)
    listening = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 99))
    monkeypatch.setattr("moediff.study.server.bind", lambda *_: nullcontext(listening))
    assert reached("moediff.cli.study._public_address", *words).words == ("https://study.org", 99)


def test_what_a_plan_expects(reached, monkeypatch):
    words = ["study", "plan", "--power", "0.9", "--reader-sd", "0.4", "--case-sd", "0.5", "-q"]
    assumptions, readers, cases, _ = reached("moediff.study.plan.plan_sizes", *words).words
    assert (assumptions.reader_sd, assumptions.case_sd, readers, cases) == (0.4, 0.5, [3, 5, 8], [10, 20, 40])
    monkeypatch.setattr("moediff.study.plan.plan_sizes", lambda *_: [])
    assert reached("moediff.study.plan.smallest", *words).words == ([], 0.9)


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    """The names of every option of every command that the help shows."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options_of(command)
        elif action.option_strings and action.help != argparse.SUPPRESS:
            yield tuple(action.option_strings)


def test_every_option_is_given_in_some_test():
    given = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", "\n".join(path.read_text() for path in TESTS.rglob("*.py"))))
    assert [names for names in options_of(build_parser()) if given.isdisjoint(names)] == []
