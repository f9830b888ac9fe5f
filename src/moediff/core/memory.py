"""Memory and threads of this process: the allocator, one thread for short steps, and out-of-memory errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Parameters of glibc's mallopt and their values: volumes (above 32 MiB) go back to the system when freed, while freed
# slabs of layers are kept and reused. Afterwards: what glibc's own rule allows at most, twice the other threshold.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
VOLUME_BYTES, KEEP_ALL_BYTES, KEEP_LITTLE_BYTES = 2**25, 2**31 - 1, 2**26

# Messages of torch on a CPU, where it has no error class for this, of the loader of libraries and of the system.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "failed to map segment", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of an accelerator."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError | OSError)
        and any(words in str(error).lower() for words in OUT_OF_MEMORY)
    )


@contextmanager
def single_thread() -> Iterator[None]:
    """Run work whose steps take less than a millisecond on one thread.

    Threads that synchronise after every short step gain little on an idle machine; on a busy one they wait for each
    other, spinning: five to ten times the processor time was measured.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Allocator:
    """How many now ask glibc to keep freed blocks; a program asks once and for good, a library for a while."""

    asking: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def change(self, by: int) -> None:
        """One more or one less that asks; the first and the last change the allocator."""
        with self.lock:
            before, self.asking = self.asking, self.asking + by
            if bool(before) != bool(self.asking):
                _set_allocator(keep=self.asking > 0)


_ALLOCATOR = _Allocator()


def _set_allocator(*, keep: bool) -> None:
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(MMAP_THRESHOLD, VOLUME_BYTES)
        libc.mallopt(TRIM_THRESHOLD, KEEP_ALL_BYTES if keep else KEEP_LITTLE_BYTES)
        if not keep:
            libc.malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: slower, not wrong


def tune_allocator() -> None:
    """Let glibc keep freed blocks until the process ends: giving them back after every layer costs time (5-10 %)."""
    _ALLOCATOR.change(+1)


@contextmanager
def reused_memory() -> Iterator[None]:
    """Let glibc keep freed blocks meanwhile, and give them back to the system at the end: for use as a library."""
    _ALLOCATOR.change(+1)
    try:
        yield
    finally:
        _ALLOCATOR.change(-1)
