"""How this process treats freed memory."""

ALLOCATOR = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}  # mallopt parameters of glibc, and values


def keep_memory() -> None:
    """Let glibc keep freed blocks: giving big tensors back to the system after every layer doubles the run time."""
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        for number, value in ALLOCATOR.values():
            libc.mallopt(number, value)
    except (OSError, AttributeError):
        return  # another C library: slower, not wrong
