"""Files of an analysis: JSON, CSV tables, a page with plots, and a methods paragraph ready to paste."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from moediff._version import RESEARCH_ONLY
from moediff.core.extras import require_modules
from moediff.io.atomic import write_text
from moediff.report.charts import Plot, intervals
from moediff.study.analyse import Analysis, Judgement, to_record
from moediff.study.strengths import Estimate, Strengths

LEAST_WIDTH = 1e-9  # of an interval
PAGE, METHODS_TEXT = "analysis.html", "methods.txt"


def publish(analysis: Analysis, judged: Sequence[Judgement], folder: Path) -> list[Path]:
    """Write everything into a folder; returns the files, the page first.

    Raises:
        CannotCreate, OutputFailed: a file cannot be written.
        ConfigError: jinja2 is not installed.
    """
    texts = {
        PAGE: page(analysis),
        METHODS_TEXT: methods_paragraph(analysis) + "\n",
        "analysis.json": json.dumps(to_record(analysis), indent=1) + "\n",
        "answers.csv": answers_table(judged),
    }
    if analysis.choices is not None and analysis.choices.strengths is not None:
        texts["strengths.csv"] = strengths_table(analysis.methods, analysis.choices.strengths)
    if analysis.choices is not None:
        texts["preferences.csv"] = preferences_table(analysis)
    for name, text in texts.items():
        write_text(text, folder / name)
    return [folder / name for name in texts]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def answers_table(judged: Sequence[Judgement]) -> str:
    """Every answer, unblinded, training too."""
    header = [
        "reader",
        "trial",
        "session",
        "task",
        "kind",
        "case",
        "left_or_only",
        "right",
        "answer",
        "seconds",
        "at",
        "of",
    ]
    rows: list[Sequence[object]] = [header]
    for one in judged:
        right = one.methods[1] if len(one.methods) > 1 else ""
        answer = json.dumps(one.value) if one.preferred is None else one.preferred or "no difference"
        position = [one.reader, one.trial, one.session, one.task, one.kind, one.case, one.methods[0], right]
        rows.append([*position, answer, one.seconds, one.answered_at, "" if one.of is None else one.of])
    return _csv(rows)


def strengths_table(methods: Sequence[str], strengths: Strengths) -> str:
    """Log-strengths and all differences, with intervals."""
    rows: list[Sequence[object]] = [["method", "against", "log_strength", "low", "high"]]
    for i, method in enumerate(methods):
        rows.append([method, "mean of all", *_numbers(strengths.log_strength[i])])
        for j, other in enumerate(methods):
            if i != j:
                rows.append([method, other, *_numbers(strengths.difference[i][j])])
    return _csv(rows)


def preferences_table(analysis: Analysis) -> str:
    """Counts and rates of every pair."""
    assert analysis.choices is not None
    header = ["first", "second", "first_preferred", "no_difference", "second_preferred", "rate", "low", "high"]
    rows: list[Sequence[object]] = [header]
    for one in analysis.choices.preferences:
        tallies = [one.first_preferred, one.no_difference, one.second_preferred]
        rows.append([one.first, one.second, *tallies, *_numbers(one.rate)])
    return _csv(rows)


def _numbers(one: Estimate) -> list[float]:
    return [round(number, 5) for number in (one.value, one.low, one.high)]


def methods_paragraph(analysis: Analysis) -> str:
    """What was done, for the methods section of a paper."""
    readers, training = len(analysis.readers), analysis.training_cases
    window = "locked" if analysis.window == "locked" else "readers could change it for all images together"
    text = [
        f"{readers} reader{'s' * (readers > 1)} compared {len(analysis.methods)} methods on {analysis.cases} cases "
        f"({training} further case{'s' * (training != 1)} served for training), blinded to method and case, on "
        f"{analysis.plane} slices in one intensity window for all methods ({window}).",
    ]
    if analysis.context:
        verb = "scans were" if len(analysis.context) > 1 else "scan was"
        text.append(f"The {' and the '.join(analysis.context)} {verb} shown beside the results.")
    if analysis.choices is not None:
        text.append(_choice_sentences(analysis))
    if analysis.scores:
        names = ", ".join(scale.name for scale in analysis.scores)
        text.append(
            f"Every image was also scored from 1 to 5 for {names}; agreement is given as Krippendorff's ordinal alpha "
            "and as ICC(2,1) (Shrout and Fleiss 1979)."
        )
    if analysis.search is not None:
        section = analysis.search
        text.append(
            f"Readers marked lesions and rated their confidence from 1 to 5; a mark at most "
            f"{section.tolerance_mm:g} mm from an outline hit it. The figure of merit is the area under "
            f"the {section.kind} curve (Chakraborty and Berbaum 2004), over "
            f"{section.lesions} lesions in {section.cases} cases."
        )
    opened = "" if analysis.finished else ", and opened before all readers had finished"
    text.append(
        f"Order and sides were drawn at random for each reader, with balanced sides; repeated trials came at least "
        f"{analysis.least_gap} trials later. The key was fixed by its sha256 ({analysis.key_sha256[:16]}…) before "
        f"reading{opened}. MoEDiff-SR {analysis.software}."
    )
    return " ".join(text)


def _choice_sentences(analysis: Analysis) -> str:
    assert analysis.choices is not None
    section = analysis.choices
    ties = ", with ties allowed," if analysis.ties else ""
    return (
        f"In a forced choice{ties} each reader saw every pair of methods of every case ({section.answers} answers). "
        f"{_strength_sentence(analysis)}Preference rates have Wilson intervals, and agreement is given as "
        "Krippendorff's alpha and as the ICC(2,1) of the share of comparisons that an image won."
    )


def _strength_sentence(analysis: Analysis) -> str:
    """With a space at its end; empty for a single case."""
    if analysis.choices is None or analysis.choices.strengths is None:
        return ""
    model = "Davidson's extension of the Bradley-Terry model" if analysis.ties else "the Bradley-Terry model"
    scope = "readers and cases" if analysis.choices.strengths.readers == "random" else "cases, for these readers"
    return f"Log-strengths were estimated with {model}; 95 % intervals come from a bootstrap over {scope}. "


def page(analysis: Analysis) -> str:
    """The page: one file that loads nothing.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    require_modules("jinja2", extra="study")
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("moediff.study"), PackageLoader("moediff.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(
        environment.get_template("analysis.html").render(
            analysis=analysis,
            notice=RESEARCH_ONLY,
            methods_text=methods_paragraph(analysis),
            strengths=_strength_plot(analysis),
            merits=_merit_plot(analysis),
            share=_share,
            all_agree=_all_agree,
            signed=_signed,
        )
    )


def _strength_plot(analysis: Analysis) -> Plot | None:
    if analysis.choices is None or analysis.choices.strengths is None:
        return None
    return _plot(analysis.methods, analysis.choices.strengths.log_strength, "log-strength (0 is the mean of all)")


def _merit_plot(analysis: Analysis) -> Plot | None:
    if analysis.search is None or not analysis.search.has_intervals:
        return None
    return _plot(analysis.methods, analysis.search.figure_of_merit, f"{analysis.search.kind} figure of merit")


def _plot(methods: Sequence[str], estimates: Sequence[Estimate], axis: str) -> Plot:
    ranked = sorted(zip(methods, estimates, strict=True), key=lambda pair: -pair[1].value)
    return intervals({method: (one.value, one.low, one.high) for method, one in ranked}, axis)


def _all_agree(estimates: Sequence[Estimate]) -> bool:
    """Whether no bootstrap sample differed from another."""
    return all(one.high - one.low < LEAST_WIDTH for one in estimates)


def _share(one: Estimate | None) -> str:
    """A share with its interval, in per cent."""
    return "-" if one is None else f"{one.value:.0%} ({one.low:.0%} to {one.high:.0%})"


def _signed(one: Estimate) -> str:
    return f"{one.value:+.2f} ({one.low:+.2f} to {one.high:+.2f})"
