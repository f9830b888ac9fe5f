"""Feed mutated files to the readers: every one must be read right or refused with one of our errors.

    python tests/fuzzer.py --seconds 600 --seed 1
    python tests/fuzzer.py --files 1000 --seed 1

Guided by coverage: an input that reaches a new line of moediff/io becomes a parent of others. Prints figures as
JSON and ends with 1 where something was found; the offending file is then kept in --keep.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "io"))

import numpy as np
import torch
from dicom_maker import enhanced, slices
from nifti_maker import head_voxels, nifti_bytes

from moediff.core.errors import MoeDiffError
from moediff.io.scans import load

HANG_S = 10  # of processor time, which other work on the machine does not prolong
ROOM_BYTES = 512 << 20  # beyond what is mapped after imports; the seeds are a few kilobytes
MAX_PARENTS = 400
READERS = str(Path(sys.modules["moediff.io.scans"].__file__ or "").parent)
NUMBERS = (0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, float("inf"), float("-inf"), float("nan"), 352.0, 1e-45)


class Hang(Exception):
    """Reading took longer than HANG_S."""


@dataclass(frozen=True)
class Seed:
    """A valid file: its unpacked content, where its voxels begin in it, and the other file of a pair."""

    name: str
    raw: bytes
    start: int
    dtype: str
    packed: bool = False
    beside: tuple[str, bytes] | None = None
    expect: Callable[[np.ndarray], np.ndarray] = lambda stored: stored


@dataclass
class Tally:
    """Figures of a run."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    lines: set[tuple[str, int]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"crashes": 0, "hangs": 0, "silently wrong": 0})


def saved(dataset: Any) -> bytes:
    """A DICOM data set as a file's bytes."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _rescaled(stored: np.ndarray) -> np.ndarray:
    """As dicom_maker's multi-frame file says: frames in reverse, 12 bits stored, slope 2, intercept 3."""
    return 2 * (stored[::-1] % 4096) + 3.0


def seeds() -> list[Seed]:
    """One small sound file of every kind."""
    import nibabel as nib

    voxels_XYZ = head_voxels()
    single, floating = nifti_bytes(), nifti_bytes(head_voxels(">f4"))
    extended = nifti_bytes(extension=struct.pack("<ii", 32, 6) + b"comment".ljust(24, b"\0"))
    mgh = nib.MGHImage(head_voxels(">i2"), np.diag([5.0, 5, 5, 1])).to_bytes()[: 284 + voxels_XYZ.nbytes]
    pair, voxels = nifti_bytes(voxels_XYZ, magic=b"ni1", vox_offset=0.0)[:348] + bytes(4), voxels_XYZ.tobytes(order="F")
    whole = enhanced()
    dicom = saved(whole)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number, one in enumerate(slices()):
            packed.writestr(f"{number}.dcm", saved(one))
    return [
        Seed("scan.nii", single, 352, "<i2"),
        Seed("scan.nii.gz", single, 352, "<i2", packed=True),
        Seed("scan.nii.gz", floating, 352, ">f4", packed=True),
        Seed("scan.nii", extended, 384, "<i2"),
        Seed("scan.mgz", mgh, 284, ">i2", packed=True),
        Seed("scan.mgh", mgh, 284, ">i2"),
        Seed("head.hdr", pair, len(pair), "<i2", beside=("head.img", voxels)),
        Seed("voxels.img", voxels, 0, "<i2", beside=("voxels.hdr", pair)),
        Seed("voxels.img.gz", voxels, 0, "<i2", packed=True, beside=("voxels.hdr.gz", gzip.compress(pair))),
        Seed("scan.dcm", dicom, dicom.index(whole.PixelData), "<u2", expect=_rescaled),
        Seed("scan.zip", archive.getvalue(), len(archive.getvalue()), "u1"),
    ]


def mutate(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    """One to four changes; most of them in the first kilobyte, where headers are."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(min(len(data), rng.choice((60, 400, 400, 1000, 10**9)))) if data else 0
        rng.choice(CHANGES)(data, at, rng, other)
    return bytes(data)


def _flip(data: bytearray, at: int, rng: random.Random, other: bytes) -> None:
    if data:
        data[at] ^= 1 << rng.randrange(8)


def _number(data: bytearray, at: int, rng: random.Random, other: bytes) -> None:
    form = rng.choice("<>") + rng.choice("hHiIqf")
    value = rng.choice(FLOATS if form[1] == "f" else NUMBERS)
    raw = struct.pack(form, value) if form[1] == "f" else (int(value) & (2**64 - 1)).to_bytes(8, "little")
    raw = raw[: struct.calcsize(form)]
    data[at : at + len(raw)] = raw if form[0] == "<" or form[1] == "f" else raw[::-1]


def _cut(data: bytearray, at: int, rng: random.Random, other: bytes) -> None:
    del data[at : at + rng.choice((1, 2, 8, 100, 10**9))]


def _repeat(data: bytearray, at: int, rng: random.Random, other: bytes) -> None:
    data[at:at] = data[at : at + rng.choice((1, 4, 64, 1000))] * rng.choice((1, 3))


def _splice(data: bytearray, at: int, rng: random.Random, other: bytes) -> None:
    size = rng.choice((4, 32, 348))
    data[at : at + size] = other[at : at + size]


def _noise(data: bytearray, at: int, rng: random.Random, other: bytes) -> None:
    size = rng.choice((1, 2, 4, 16))
    data[at : at + size] = rng.randbytes(size)


CHANGES = (_flip, _flip, _number, _number, _number, _cut, _repeat, _splice, _noise)


def unpack(packed: bytes) -> bytes:
    """All gzip members; raises zlib.error where a checksum fails."""
    raw = b""
    while packed.startswith(b"\x1f\x8b\x08"):
        engine = zlib.decompressobj(31)
        raw += engine.decompress(packed)
        if not engine.eof:
            raise zlib.error("cut off")
        packed = engine.unused_data
    return raw


def expected(content: bytes, seed: Seed) -> np.ndarray | None:
    """The voxels an untouched header promises; None where the header differs or only a header is left."""
    raw = unpack(content) if seed.packed else content
    if raw[: seed.start] != seed.raw[: seed.start] or seed.start == len(seed.raw):
        return None
    size = len(seed.raw) - seed.start
    stored = np.frombuffer(raw[seed.start : seed.start + size], seed.dtype)
    shape = (12, 14, 16) if seed.name != "scan.dcm" else (9, 10, 12)
    return seed.expect(stored.reshape(shape).astype(np.float32)).T


def tracer(lines: set[tuple[str, int]]) -> Callable[..., Any]:
    """Notes every line of the readers that runs."""

    def trace_line(frame: FrameType, event: str, arg: object) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace_line

    def trace_call(frame: FrameType, event: str, arg: object) -> Any:
        return trace_line(frame, event, arg) if frame.f_code.co_filename.startswith(READERS) else None

    return trace_call


def judge(path: Path, content: bytes, seed: Seed) -> tuple[str, str]:
    """(accepted, refused or a kind of fault, what happened)."""
    try:
        loaded = load(path)
    except MoeDiffError as error:
        message = str(error)
        return ("refused", "") if message.startswith(str(path)) and "\n" not in message else ("crashes", message)
    except Hang:
        return "hangs", traceback.format_exc()
    except BaseException:
        return "crashes", traceback.format_exc()
    data = loaded.stored.data_XYZ.numpy()
    if not (np.isfinite(data).all() and np.isfinite(loaded.stored.affine.numpy()).all()):
        return "silently wrong", "not finite"
    try:
        right = expected(content, seed)
    except (zlib.error, ValueError) as error:
        return "silently wrong", f"read although {error}"
    finite = np.isfinite(right) if right is not None else None
    if right is not None and (right.shape != data.shape or not np.array_equal(data[finite], right[finite])):
        return "silently wrong", "other voxels"
    return "accepted", ""


def put(folder: Path, seed: Seed, content: bytes) -> Path:
    """The changed file on disk, with the one that belongs to it."""
    if seed.beside is not None:
        (folder / seed.beside[0]).write_bytes(seed.beside[1])
    (folder / seed.name).write_bytes(content)
    return folder / seed.name


def fuzz(seconds: float, files: float, seed: int, keep: Path | None, folder: Path) -> Tally:
    """Mutate until the time is over or so many files were read."""
    rng, tally = random.Random(seed), Tally()
    every = seeds()
    parents = [(one, one.raw) for one in every]
    end = time.monotonic() + seconds
    while tally.inputs < files and time.monotonic() < end:
        origin, raw = rng.choice(parents) if tally.inputs % 2 else rng.choice([(one, one.raw) for one in every])
        content = changed = mutate(raw, rng, rng.choice(parents)[1])
        if origin.packed:
            content = gzip.compress(changed, 1, mtime=0)
            content = mutate(content, rng, content) if rng.random() < 0.4 else content
        path = put(folder, origin, content)
        lines: set[tuple[str, int]] = set()
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        sys.settrace(tracer(lines))
        try:
            verdict, message = judge(path, content, origin)
        finally:
            sys.settrace(None)
            signal.setitimer(signal.ITIMER_PROF, 0)
        _note(tally, verdict, message, keep, path)
        if lines - tally.lines and len(parents) < MAX_PARENTS:
            parents.append((origin, changed))
        tally.lines |= lines
    return tally


def _note(tally: Tally, verdict: str, message: str, keep: Path | None, path: Path) -> None:
    tally.inputs += 1
    if verdict in ("accepted", "refused"):
        setattr(tally, verdict, getattr(tally, verdict) + 1)
        return
    tally.counts[verdict] += 1
    tally.faults.append(f"{verdict}: {message}")
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{tally.inputs}-{path.name}").write_bytes(path.read_bytes())


def hang(number: int, frame: FrameType | None) -> None:
    raise Hang


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--seconds", type=float, default=math.inf, help="stop after this time")
    limit.add_argument("--files", type=int, default=math.inf, help="stop after so many mutated files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, hang)
    for _ in range(2):  # twice, so that lazy imports and caches are in place before memory is limited
        with tempfile.TemporaryDirectory() as folder:
            for one in seeds():
                content = gzip.compress(one.raw) if one.packed else one.raw
                assert judge(put(Path(folder), one, content), content, one)[0] == "accepted", one.name
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM_BYTES, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        tally = fuzz(args.seconds, args.files, args.seed, args.keep, Path(folder))
    figures = {"inputs": tally.inputs, "accepted": tally.accepted, "refused": tally.refused, "lines": len(tally.lines)}
    print(json.dumps(figures | tally.counts | {"faults": tally.faults[:5]}, indent=1))
    return 1 if tally.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
