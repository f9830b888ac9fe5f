"""How this process treats freed memory and threads, and how it knows that no memory is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt, and values: whole volumes go back to the system when freed, a layer's slabs are kept.
ALLOCATOR = {"M_MMAP_THRESHOLD": (-3, 2**25), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}

# What torch says on a CPU, where it has no error of its own; what the loader of libraries says; what the system says.
NONE_LEFT = ("can't allocate memory", "out of memory", "failed to map segment", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of an accelerator."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError | OSError)
        and any(words in str(error).lower() for words in NONE_LEFT)
    )


@contextmanager
def single_thread() -> Iterator[None]:
    """Work whose steps take less than a millisecond, on one thread.

    Threads that meet after every short step gain little on an idle machine; on a busy one they wait for each other,
    spinning: five to ten times the processor time was measured.
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
