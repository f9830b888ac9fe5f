"""Preparing the next batches while the network trains on this one."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from moediff.training.patches import Batch, PatchSource


class Prefetcher:
    """Batches by step, drawn ahead in threads; what a step gets depends on its number alone.

    Args:
        source: where examples come from.
        size: examples of a batch.
        workers: threads, also the number of batches kept ready; 0 draws each batch when it is asked for, which is
            faster where the network itself trains on the CPU.
        device: a CUDA device that the source works on: every thread then has a stream of its own, ahead of training's
            in priority, so small kernels of simulation slip in between the large ones of training.
    """

    def __init__(self, source: PatchSource, size: int, workers: int, device: torch.device | None = None) -> None:
        self.source, self.size, self.workers = source, size, workers
        self.device = device if device is not None and device.type == "cuda" else None
        self.pool = ThreadPoolExecutor(max(workers, 1))
        self.waiting: dict[int, Future[Batch]] = {}
        self.own = threading.local()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """The examples of this step; the following ones are started."""
        if not self.workers:
            return self.source.batch(step, self.size)
        for ahead in range(step, step + self.workers + 1):
            if ahead not in self.waiting:
                self.waiting[ahead] = self.pool.submit(self._drawn, ahead)
        batch = self.waiting.pop(step).result()
        if self.device is not None:
            for tensor in batch.tensors():
                if tensor.is_cuda:  # not to be reused by its thread while training still reads it
                    tensor.record_stream(torch.cuda.current_stream(self.device))
        return batch

    def _drawn(self, step: int) -> Batch:
        if self.device is None:
            return self.source.batch(step, self.size)
        if not hasattr(self.own, "stream"):
            self.own.stream = torch.cuda.Stream(self.device, priority=-1)
        with torch.cuda.stream(self.own.stream):
            batch = self.source.batch(step, self.size)
        self.own.stream.synchronize()  # this thread waits, training does not
        return batch
