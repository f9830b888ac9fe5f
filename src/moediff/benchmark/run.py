"""Run of a benchmark: every method on every case, one process and one row each; finished rows are not run again.

A row is stored as OUTDIR/rows/KEY.json. Its key is a digest of everything the numbers depend on: method, weights or
command, scan file, recipe, seed, metrics, threads, device and versions. Rows of failures are tried again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from moediff._version import __version__
from moediff.benchmark.cases import AcquiredCase, Case, region_names
from moediff.benchmark.methods import Method
from moediff.benchmark.process_meter import Measured, run_measured
from moediff.benchmark.records import BenchmarkRow, row_from
from moediff.benchmark.worker import Job, Spent
from moediff.core.errors import CannotCreate, DataError, MoeDiffError, OutputFailed, printable
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import NEEDS_WEIGHTS, EvaluateOptions, evaluate
from moediff.evaluation.lesions import RULE as LESION_RULE
from moediff.evaluation.records import json_text
from moediff.io.atomic import write_text
from moediff.io.lock import output_lock
from moediff.io.scans import load, save
from moediff.model.bundle import sha256_of

KEY_VERSION = 1  # of the digest that names rows
ROWS, PICTURES, WORK = "rows", "pictures", "work"
BUSY = "another benchmark is writing here: wait for it, or name another folder"
WORKER = ("-P", "-m", "moediff.benchmark.worker")  # -P: no module is taken from the current folder
LINE = 300  # characters of a failing program's last line that a row holds

Draw = Callable[[BenchmarkRow, Case, dict[str, Volume], Path], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How every method is run and judged.

    Args:
        threads: CPU threads of every method; commands find them in OMP_NUM_THREADS.
        device: for bundles, as `Enhancer` takes it.
        limit_s: a method is stopped after this many seconds.
        flops: count operations of our own methods too, each in a second process.
        judging: which metrics, and whether intensities are fitted first.
    """

    threads: int = field(default_factory=torch.get_num_threads)
    device: str = "cpu"
    limit_s: float = 3600.0
    flops: bool = False
    judging: EvaluateOptions = field(default_factory=lambda: EvaluateOptions(resample=True))


@lru_cache(maxsize=256)
def _sha256(path: Path) -> str:
    return sha256_of(path)


def key_of(method: Method, case: Case, settings: Settings) -> str:
    """The digest that names a row."""
    depends = {
        "schema": KEY_VERSION,
        "method": asdict(method.identity),
        "scan": [case.scan.name, case.scan.path.name, _sha256(case.scan.path)],
        "lesions": None if case.scan.lesions is None else [LESION_RULE, _sha256(case.scan.lesions)],
        **({} if case.scan.input is None else {"input": _sha256(case.scan.input)}),
        "recipe": case.recipe.to_json(),
        "seed": case.seed,
        "judging": asdict(settings.judging),
        "run": [settings.threads, settings.device, settings.flops],
        "versions": [__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def run_benchmark(
    methods: Sequence[Method],
    cases: Sequence[Case],
    settings: Settings,
    out: Path,
    *,
    draw: Draw | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[BenchmarkRow]:
    """Rows of all cases and methods in order; what OUT holds already is taken from there.

    Args:
        out: folder for rows and pictures; created when absent.
        draw: draws a picture of a finished row: row, case, scans by title (the truth last), file to write.
        progress: called with a line per row.

    Raises:
        CannotCreate, OutputFailed: the folder cannot be used.
        TryAgain: another run holds it.
        InputMissing, DataError: a scan cannot be read or degraded.
    """
    rows = []
    with _locked(out):
        total = len(cases) * len(methods)
        for case in cases:
            acquired: AcquiredCase | None = None
            for method in methods:
                row = _finished(out, key_of(method, case, settings))
                if row is None:
                    acquired = acquired or case.acquire_annotated()
                    row = _measure(method, acquired, settings, out, draw)
                row = replace(row, in_means=case.scan.in_means)  # not part of the key: a choice of who reads
                rows.append(row)
                progress(f"{len(rows)}/{total} {printable(case.name)} {printable(method.name)}: {_outcome(row)}")
    return rows


def _outcome(row: BenchmarkRow) -> str:
    """For a progress line."""
    if row.error:
        return row.error
    psnr = row.metrics.get("psnr")
    return ("" if psnr is None else f"{psnr:.2f} dB, ") + f"{row.seconds:.1f} s, {row.peak_mib:.0f} MiB"


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock, with an empty work folder that is removed afterwards."""
    try:
        if out.is_dir() and not (out / ROWS).is_dir() and any(out.iterdir()):
            raise CannotCreate(f"{printable(out)}: this folder holds other things; name a new, empty or earlier one")
        (out / ROWS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreate(
            f"{printable(out)}: cannot be used as a folder ({error.strerror}); choose another"
        ) from error
    with output_lock([out / ROWS], busy=BUSY):
        shutil.rmtree(out / WORK, ignore_errors=True)  # of a run that was killed
        try:
            (out / WORK).mkdir()
        except OSError as error:
            raise CannotCreate(f"{printable(out)}: cannot be written to ({error.strerror}); choose another") from error
        try:
            yield
        finally:
            shutil.rmtree(out / WORK, ignore_errors=True)


def _finished(out: Path, key: str) -> BenchmarkRow | None:
    try:
        row = row_from(json.loads((out / ROWS / f"{key}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, AttributeError, DataError):  # altered by someone: measured again
        return None
    except OSError as error:
        raise OutputFailed(
            f"{printable(out)}: an earlier row cannot be read ({error.strerror}); check the disk"
        ) from error
    return None if row.key != key or row.error else row


def _measure(method: Method, acquired: AcquiredCase, settings: Settings, out: Path, draw: Draw | None) -> BenchmarkRow:
    """Run, judge, draw, and last write the row."""
    case = acquired.case
    row = BenchmarkRow(
        key=key_of(method, case, settings),
        method=method.name,
        kind=method.kind,
        identity=method.identity,
        scan=case.scan.name,
        scan_sha256=_sha256(case.scan.path),
        recipe=case.recipe.name,
        seed=case.seed,
        input_shape=acquired.low.shape,
        output_shape=acquired.truth.shape,
    )
    try:
        pred, cost = _run(method, acquired, settings, out / WORK)
        row = replace(row, **vars(cost))
        row = _judged(row, pred, acquired, settings)
        scans = {"input": acquired.low, "result": pred, "truth": acquired.truth}
        row = _drawn(draw, row, case, scans, out / PICTURES)
    except (CannotCreate, OutputFailed):
        raise  # our own folder: the next row would fail as well
    except MoeDiffError as error:
        row = replace(row, error=str(error))
    text = json_text(asdict(row))
    write_text(text, out / ROWS / f"{row.key}.json", overwrite=True)
    return row_from(json.loads(text))  # as a later run will read it


def _judged(row: BenchmarkRow, pred: Volume, acquired: AcquiredCase, settings: Settings) -> BenchmarkRow:
    """The row with the quality of a result."""
    record = evaluate(pred, acquired.truth, settings.judging, measured=acquired.low, annotations=acquired.annotations)
    unknown = {what: why for what, why in record.not_computed.items() if why != NEEDS_WEIGHTS}
    return replace(
        row,
        metrics=record.metrics,
        data_consistency=record.data_consistency,
        regions=None if record.regions is None else region_names(record.regions),
        lesions=record.lesions,
        not_computed=acquired.missing | unknown,
        fit=record.fit,
        mask=record.mask,
        data_range=record.data_range,
        warnings=record.warnings,
    )


def _drawn(draw: Draw | None, row: BenchmarkRow, case: Case, scans: dict[str, Volume], folder: Path) -> BenchmarkRow:
    """Draw a picture of a judged row; one that cannot be drawn costs a warning, not the row."""
    if draw is None:
        return row
    try:
        folder.mkdir(exist_ok=True)
        draw(row, case, scans, folder / f"{row.key}.png")
    except DataError as error:
        return replace(row, warnings=(*row.warnings, f"no picture: {error}"))
    return row


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time, operations and memory of a method, as rows name them."""

    seconds: float
    cpu_s: float
    peak_mib: float
    compute_s: float | None = None
    gflop: float | None = None


def _run(method: Method, acquired: AcquiredCase, settings: Settings, work: Path) -> tuple[Volume, Cost]:
    """The method's result, and its cost.

    Raises:
        DataError: the method failed, took too long, or wrote nothing that can be read; says which.
    """
    source, target = work / "input.nii.gz", work / "output.nii.gz"
    target.unlink(missing_ok=True)
    save(acquired.low, source, overwrite=True)
    spent = Spent()
    if method.kind == "command":
        measured, _ = _start(method.words(source, target), settings, work)
    else:
        job = Job(
            source=source,
            target=target,
            grid=acquired.truth.grid,
            seed=acquired.case.seed,
            threads=settings.threads,
            device=settings.device,
        )
        gflop = None
        if settings.flops:
            gflop = _work(method, replace(job, count=True), settings, work)[1].gflop
            target.unlink(missing_ok=True)
        measured, spent = _work(method, job, settings, work)
        spent = replace(spent, gflop=gflop)
    if not target.is_file():
        raise DataError("it ended well but wrote no file at {output}; expected a NIfTI scan (.nii.gz)")
    times = {"seconds": measured.seconds, "cpu_s": measured.cpu_s, "peak_mib": measured.peak_mib}
    try:
        return load(target).volume, Cost(**times, **vars(spent))
    except MoeDiffError as error:
        raise DataError(f"what it wrote cannot be read: {str(error).replace(str(work), '')}") from error


def _work(method: Method, job: Job, settings: Settings, work: Path) -> tuple[Measured, Spent]:
    """One of our own methods in its process: its cost, and what the worker printed about itself."""
    file = work / "job.json"
    write_text(job.as_json(method), file, overwrite=True)
    measured, last = _start([sys.executable, *WORKER, str(file)], settings, work)
    try:
        return measured, Spent(**json.loads(last))
    except (ValueError, TypeError) as error:
        raise DataError(f"it ended well but its last line was {last!r}; expected its times") from error


def _start(command: Sequence[str], settings: Settings, work: Path) -> tuple[Measured, str]:
    """Run a command to its good end; its cost, and its last line.

    Raises:
        DataError: it ended otherwise.
    """
    log, env = work / "log.txt", {"OMP_NUM_THREADS": str(settings.threads)}
    measured = run_measured(command, limit_s=settings.limit_s, log=log, env=env)
    last = _last_line(log, work)
    if fault := _fault(measured, settings.limit_s, last):
        raise DataError(fault)
    return measured, last


def _last_line(log: Path, work: Path) -> str:
    """A program's last line, without our paths."""
    try:
        text = log.read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace(f"{work}/", "").splitlines() if line.strip()]
    return printable(lines[-1])[:LINE] if lines else ""


def _fault(measured: Measured, limit_s: float, last: str) -> str:
    """Why there is no result, or ""."""
    if measured.fault:
        return f"it did not start ({measured.fault}); check the command"
    if measured.timed_out:
        return f"it was stopped after {limit_s:g} s; allow more with --timeout"
    if measured.exit_code:
        how = f"exit code {measured.exit_code}" if measured.exit_code > 0 else f"signal {-measured.exit_code}"
        return f"it failed with {how}: {last or 'it printed nothing'}"
    return ""
