"""Every method on every case, one process each, one row each; what is done already is not done again.

A row is kept as OUTDIR/rows/KEY.json. Its key is a digest of everything the numbers depend on: method, weights or
command, scan file, recipe, seed, metrics, threads, device and versions. Rows of failures are tried again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from moediff._version import __version__
from moediff.benchmark.cases import Case, Made, region_names
from moediff.benchmark.methods import Method
from moediff.benchmark.process_meter import Measured, run_measured
from moediff.benchmark.worker import Job
from moediff.core.errors import CannotCreate, DataError, MoeDiffError, OutputFailed, TryAgain, printable
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import EvaluateOptions, evaluate
from moediff.evaluation.lesions import RULE as LESION_RULE
from moediff.evaluation.pairs import as_json
from moediff.io.atomic import write_text
from moediff.io.scans import load, save
from moediff.model.bundle import sha256_of

SCHEMA = 1
ROWS, PICTURES, WORK, LOCK = "rows", "pictures", "work", ".lock"
WORKER = ("-P", "-m", "moediff.benchmark.worker")  # -P: no module is taken from the current folder
LINE = 300  # characters of a failing program's last words that a row keeps

Row = dict[str, Any]
Draw = Callable[[Row, Case, dict[str, Volume], Path], None]


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
        "schema": SCHEMA,
        "method": method.identity,
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
    tell: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Rows of all cases and methods in order; what OUT holds already is taken from there.

    Args:
        out: folder for rows and pictures; made when absent.
        draw: draws a picture of a finished row: row, case, scans by title (the truth last), file to write.
        tell: called with a line per row.

    Raises:
        CannotCreate, OutputFailed: the folder cannot be used.
        TryAgain: another run holds it.
        InputMissing, DataError: a scan cannot be read or degraded.
    """
    rows = []
    with _held(out):
        total = len(cases) * len(methods)
        for case in cases:
            made: list[Made] = []
            for method in methods:
                row = _finished(out, key_of(method, case, settings))
                if row is None:
                    made = made or [case.make_drawn()]
                    row = _measure(method, case, made[0], settings, out, draw)
                row |= {"counts": case.scan.counts}  # not part of the key: a choice of who reads
                rows.append(row)
                tell(f"{len(rows)}/{total} {printable(case.name)} {printable(method.name)}: {_said(row)}")
    return rows


def _said(row: Row) -> str:
    if row["error"]:
        return str(row["error"])
    psnr = row["metrics"].get("psnr")
    return ("" if psnr is None else f"{float(psnr):.2f} dB, ") + f"{row['seconds']:.1f} s, {row['peak_mib']:.0f} MiB"


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The folder for us alone, with an empty place to work in that is gone afterwards."""
    try:
        if out.is_dir() and not (out / ROWS).is_dir() and any(out.iterdir()):
            raise CannotCreate(f"{printable(out)}: this folder holds other things; name a new, empty or earlier one")
        (out / ROWS).mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("w")
    except OSError as error:
        raise CannotCreate(
            f"{printable(out)}: cannot be used as a folder ({error.strerror}); choose another"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
        except BlockingIOError as error:
            raise TryAgain(
                f"{printable(out)}: another benchmark is writing here; wait, or name another folder"
            ) from error
        shutil.rmtree(out / WORK, ignore_errors=True)  # of a run that was killed
        try:
            (out / WORK).mkdir()
        except OSError as error:
            raise CannotCreate(f"{printable(out)}: cannot be written to ({error.strerror}); choose another") from error
        try:
            yield
        finally:
            shutil.rmtree(out / WORK, ignore_errors=True)


def _finished(out: Path, key: str) -> Row | None:
    try:
        row = json.loads((out / ROWS / f"{key}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a row that is not JSON was altered by someone: measured again
        return None
    except OSError as error:
        raise OutputFailed(
            f"{printable(out)}: an earlier row cannot be read ({error.strerror}); check the disk"
        ) from error
    return None if not isinstance(row, dict) or row.get("key") != key or row.get("error") else row


def _measure(method: Method, case: Case, made: Made, settings: Settings, out: Path, draw: Draw | None) -> Row:
    """Run, judge, draw, and last write the row."""
    key = key_of(method, case, settings)
    row: Row = {
        "schema": SCHEMA,
        "key": key,
        "method": method.name,
        "kind": method.kind,
        "identity": method.identity,
        "scan": case.scan.name,
        "scan_sha256": _sha256(case.scan.path),
        "recipe": case.recipe.name,
        "seed": case.seed,
        "input_shape": list(made.low.shape),
        "output_shape": list(made.truth.shape),
        "metrics": {},
        "consistency": None,
        "parts": None,
        "lesions": None,
        "not_computed": {},
        "fit": None,
        "warnings": [],
        "seconds": None,
        "cpu_s": None,
        "compute_s": None,
        "gflop": None,
        "peak_mib": None,
        "error": "",
    }
    try:
        pred, spent = _run(method, case, made, settings, out / WORK)
        row |= spent
        row |= _judged(pred, made, settings)
        _draw(draw, row, case, {"input": made.low, "result": pred, "truth": made.truth}, out / PICTURES)
    except (CannotCreate, OutputFailed):
        raise  # our own folder: the next row would fail as well
    except MoeDiffError as error:
        row |= {"metrics": {}, "error": str(error)}
    text = as_json(row)
    write_text(text, out / ROWS / f"{key}.json", overwrite=True)
    return dict(json.loads(text))  # as a later run will read it


def _judged(pred: Volume, made: Made, settings: Settings) -> Row:
    """What a row says of a result's quality."""
    record = evaluate(pred, made.truth, settings.judging, measured=made.low, drawn=made.drawn)
    kept = ("metrics", "consistency", "lesions", "fit", "warnings", "data_range", "mask")
    parts = None if record["parts"] is None else region_names(record["parts"])
    return {name: record[name] for name in kept} | {"parts": parts, "not_computed": made.missing}


def _draw(draw: Draw | None, row: Row, case: Case, scans: dict[str, Volume], folder: Path) -> None:
    """A picture of a judged row; one that cannot be drawn costs a warning, not the row."""
    if draw is None:
        return
    try:
        folder.mkdir(exist_ok=True)
        draw(row, case, scans, folder / f"{row['key']}.png")
    except DataError as error:
        row["warnings"] = [*row["warnings"], f"no picture: {error}"]


def _run(method: Method, case: Case, made: Made, settings: Settings, work: Path) -> tuple[Volume, Row]:
    """The method's result, and what it took.

    Raises:
        DataError: the method failed, took too long, or wrote nothing that can be read; says which.
    """
    source, target = work / "input.nii.gz", work / "output.nii.gz"
    target.unlink(missing_ok=True)
    save(made.low, source, overwrite=True)
    spent: Row = {}
    if method.kind == "command":
        measured, _ = _start(method.words(source, target), settings, work)
    else:
        job = Job(
            source=source,
            target=target,
            grid=made.truth.grid,
            seed=case.seed,
            threads=settings.threads,
            device=settings.device,
        )
        if settings.flops:
            spent |= _work(method, replace(job, count=True), settings, work)[1]
            target.unlink(missing_ok=True)
        measured, told = _work(method, job, settings, work)
        spent |= told
    spent |= {"seconds": measured.seconds, "cpu_s": measured.cpu_s, "peak_mib": measured.peak_mib}
    if not target.is_file():
        raise DataError("it ended well but wrote no file at {output}; expected a NIfTI scan (.nii.gz)")
    try:
        return load(target).volume, spent
    except MoeDiffError as error:
        raise DataError(f"what it wrote cannot be read: {str(error).replace(str(work), '')}") from error


def _work(method: Method, job: Job, settings: Settings, work: Path) -> tuple[Measured, Row]:
    """One of our own methods in its process; what it took, and what it said of itself."""
    file = work / "job.json"
    write_text(job.as_json(method), file, overwrite=True)
    measured, last = _start([sys.executable, *WORKER, str(file)], settings, work)
    try:
        return measured, dict(json.loads(last))
    except ValueError as error:
        raise DataError(f"it ended well but its last words were {last!r}; expected its times") from error


def _start(command: Sequence[str], settings: Settings, work: Path) -> tuple[Measured, str]:
    """Run a command to its good end; what it took, and its last line.

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
    """A program's last words, without our paths."""
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
        return f"it failed with {how}: {last or 'it said nothing'}"
    return ""
