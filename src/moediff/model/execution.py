"""Work that does not wait for each other: on a GPU each piece in a stream of its own, elsewhere one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def side_by_side(works: Sequence[Callable[[], Tensor]], device: torch.device) -> Iterator[Tensor]:
    """The result of every work, in order; take all of them before anything that the works read is let go.

    On a GPU all are begun before the first result is waited for. What they read is ready when they begin, and what they
    return is ready for the stream that asked. Memory is safe without more: a stream's memory is used again by that
    stream alone, and it waits for the asking one before it begins anew.

    Args:
        works: none may wait for the device, or those behind it begin late.
        device: where they run.
    """
    if device.type != "cuda" or len(works) < 2:
        for work in works:
            yield work()
        return
    here, found = torch.cuda.current_stream(device), []
    streams = [stream_of(str(device), number) for number in range(len(works))]
    for stream, work in zip(streams, works, strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            found.append(work())
    for stream, result in zip(streams, found, strict=True):
        here.wait_stream(stream)
        yield result


@lru_cache(maxsize=64)
def stream_of(device: str, number: int) -> torch.cuda.Stream:
    """The stream for the n-th of several works."""
    return torch.cuda.Stream(torch.device(device))
