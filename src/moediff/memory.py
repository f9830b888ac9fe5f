"""How this process treats freed memory, and how it knows that none is left."""

ALLOCATOR = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}  # mallopt parameters of glibc, and values

NONE_LEFT = ("can't allocate memory", "out of memory")  # what torch says on a CPU, where it has no error of its own


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of an accelerator."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NONE_LEFT)
    )


def keep_memory() -> None:
    """Let glibc keep freed blocks: giving big tensors back to the system after every layer doubles the run time."""
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        for number, value in ALLOCATOR.values():
            libc.mallopt(number, value)
    except (OSError, AttributeError):
        return  # another C library: slower, not wrong
