"""Memory and threads of this process: the allocator, one thread for short steps, and out-of-memory errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt, and values: volumes go back to the system when freed, a layer's slabs are reused.
ALLOCATOR = {"M_MMAP_THRESHOLD": (-3, 2**25), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}

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


def tune_allocator() -> None:
    """Let glibc keep freed blocks: giving tensors back to the system after every layer doubles the run time."""
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        for number, value in ALLOCATOR.values():
            libc.mallopt(number, value)
    except (OSError, AttributeError):
        return  # another C library: slower, not wrong
