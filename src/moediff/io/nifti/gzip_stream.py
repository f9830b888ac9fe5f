"""Gzip streams: the bytes of a packed or plain file in order, every checksum verified, little unpacked at once.

zlib in gzip mode compares CRC and length at the end of each member; a member's end must be reached to be trusted.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from moediff.core.errors import DataError

CHUNK = 1 << 18  # compressed bytes read at once
PIECE = 1 << 20  # most bytes unpacked at once, so that a gzip bomb is cut off early
GZIP_MODE = 31  # zlib's wbits for a gzip header and trailer around the stream
GZIP_MAGIC = b"\x1f\x8b\x08"
GZIP_LEVEL = 1  # float32 noise: level 6 gains 4 % and takes 16 % longer
GZIP_THREADS = 2
GZIP_HEADER = GZIP_MAGIC + bytes(5) + b"\4\xff"  # no name, time 0, fastest, unknown system
LAST_BLOCK = b"\3\0"  # an empty deflate block that ends the stream
REMEDY = "copy or download the file again"


def _damage(error: zlib.error) -> DataError:
    if "data check" in str(error):
        fault = "the gzip checksum (CRC) does not match its data"
    elif "length check" in str(error):
        fault = "the length in the gzip trailer does not match its data"
    else:
        fault = f"the gzip stream is damaged ({error})"
    return DataError(f"{fault}: {REMEDY}")


def _member(file: BinaryIO, data: bytes) -> Generator[bytes, None, bytes]:
    """Unpack one gzip member that starts with `data`; returns the bytes read beyond its end."""
    engine = zlib.decompressobj(wbits=GZIP_MODE)
    while not engine.eof:
        data = data or file.read(CHUNK)
        try:
            piece = engine.decompress(data, PIECE)
        except zlib.error as error:
            raise _damage(error) from error
        if not data and not piece and not engine.eof:
            raise DataError(f"the gzip stream stops before its end, so the file was cut off: {REMEDY}")
        data = engine.unconsumed_tail
        if piece:
            yield piece
    return engine.unused_data


def gunzip(file: BinaryIO, notes: list[str]) -> Iterator[bytes]:
    """Unpacked pieces of all gzip members; bytes after the last one are ignored, with a warning.

    Raises:
        DataError: a member is cut off, damaged, or fails its checksum or length.
    """
    rest = file.read(CHUNK)
    while True:
        rest = yield from _member(file, rest)
        rest = rest or file.read(CHUNK)
        if len(rest) < len(GZIP_MAGIC):
            rest += file.read(CHUNK)
        if not rest.startswith(GZIP_MAGIC):
            break
    if rest:
        extra = len(rest) + os.fstat(file.fileno()).st_size - file.tell()
        notes.append(f"{extra} bytes after the end of the gzip stream were ignored")


def raw_pieces(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file that is not packed."""
    while piece := file.read(PIECE):
        yield piece


@dataclass(frozen=True)
class Piece:
    """Bytes to write, and the CRC-32 of all that was given so far, unpacked."""

    content: bytes
    checksum: int


def checked_pieces(pieces: Iterable[bytes]) -> Iterator[Piece]:
    """The same bytes with their checksum."""
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
        yield Piece(piece, checksum)


def gzipped_pieces(pieces: Iterable[bytes]) -> Iterator[Piece]:
    """One gzip member, its pieces packed side by side, each without looking back at the one before (as pigz does).

    Its time stamp is 0, so the same voxels give the same file.
    """
    checksum = size = 0
    yield Piece(GZIP_HEADER, checksum)
    with ThreadPoolExecutor(GZIP_THREADS) as pool:
        waiting: deque[tuple[Future[bytes], int]] = deque()
        for piece in pieces:
            checksum, size = zlib.crc32(piece, checksum), size + len(piece)
            waiting.append((pool.submit(_deflated, piece), checksum))
            if len(waiting) > GZIP_THREADS:
                packed, so_far = waiting.popleft()
                yield Piece(packed.result(), so_far)
        for packed, so_far in waiting:
            yield Piece(packed.result(), so_far)
    yield Piece(LAST_BLOCK + struct.pack("<II", checksum, size & 0xFFFFFFFF), checksum)


def _deflated(piece: bytes) -> bytes:
    """Packed up to the end of a byte, so that others can follow."""
    engine = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return engine.compress(piece) + engine.flush(zlib.Z_SYNC_FLUSH)


class Stream:
    """Read or skip bytes of an iterator of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def _next(self, most: int) -> memoryview:
        """Up to `most` bytes; empty only at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    def fill(self, target: memoryview) -> int:
        """Copy into `target` until it is full or the stream ends; returns the number of bytes copied."""
        done = 0
        while done < len(target) and (part := self._next(len(target) - done)):
            target[done : done + len(part)] = part
            done += len(part)
        return done

    def read(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end."""
        parts, missing = [], size
        while missing and (part := self._next(missing)):
            parts.append(bytes(part))
            missing -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Skip `size` bytes, or fewer at the end; returns how many there were."""
        done = 0
        while done < size and (part := self._next(size - done)):
            done += len(part)
        return done
