"""Preparing the next batches while the network trains on this one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from moediff.training.dataset import Batch, PatchSource


class Ahead:
    """Batches by step, drawn ahead in threads; what a step gets depends on its number alone.

    Args:
        source: where examples come from.
        size: examples of a batch.
        workers: threads, also the number of batches kept ready; 0 draws each batch when it is asked for, which is
            faster where the network itself trains on the CPU.
    """

    def __init__(self, source: PatchSource, size: int, workers: int) -> None:
        self.source, self.size, self.workers = source, size, workers
        self.pool = ThreadPoolExecutor(max(workers, 1))
        self.waiting: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *exc: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """The examples of this step; the following ones are started."""
        if not self.workers:
            return self.source.batch(step, self.size)
        for ahead in range(step, step + self.workers + 1):
            if ahead not in self.waiting:
                self.waiting[ahead] = self.pool.submit(self.source.batch, ahead, self.size)
        return self.waiting.pop(step).result()
