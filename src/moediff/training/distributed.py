"""Several processes training one network: each takes its share of every batch, gradients are averaged.

Two processes of one thread are faster than one of two: drawing patches and the optimiser do not thread well.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, spawn

from moediff.core.errors import MoeDiffError
from moediff.core.memory import tune_allocator
from moediff.core.signals import restart_reminder, stop_reminder

PATIENCE_S = 120  # for all members that were sent a signal: a step, and saving


@dataclass(frozen=True)
class Member:
    """This process among those that train one network.

    Args:
        device: that it computes on.
        rank: its number from 0; the first one logs and saves.
        processes: how many there are.
    """

    device: torch.device
    rank: int = 0
    processes: int = 1


def join_group(device: torch.device) -> Member:
    """Join the processes that `run_together`, or a launcher such as torchrun, started; without any, train alone.

    Args:
        device: what the configuration asks for; on CUDA each process takes the GPU of its local rank.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        return Member(device)
    on_cuda = device.type == "cuda"
    if on_cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if on_cuda else "gloo")
    return Member(device, rank, processes)


def run_together(work: Callable[[], None], processes: int, threads: int | None = None) -> None:
    """Run `work` in that many processes of this machine, which find each other through torch.distributed.

    Args:
        work: picklable; called in every process.
        processes: at least 1; 1 runs it here.
        threads: CPU threads that they share, at least one each; None shares all cores.

    Raises:
        MoeDiffError: as `work` raised it in the first process that failed; the others are stopped.
    """
    if processes == 1:
        if threads is not None:
            torch.set_num_threads(threads)
        work()
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failures = get_context("spawn").SimpleQueue()
    logging.getLogger("torch.multiprocessing.spawn").setLevel(
        logging.ERROR
    )  # else it reports each process that it stops, and why not
    try:
        size = (processes, threads_each(processes, threads))
        _wait_for(spawn(_member, args=(work, size, port, failures), nprocs=processes, join=False))
    except (ProcessExitedException, ProcessRaisedException):
        if failures.empty():
            raise
        raise failures.get() from None


def threads_each(processes: int, threads: int | None = None) -> int:
    """CPU threads of each of several processes that share a number of them; None shares all cores."""
    return max(1, (threads or os.cpu_count() or 1) // processes)


def _wait_for(members: ProcessContext) -> None:
    """To the end; when this process is stopped, the members are stopped too and get time to save."""
    try:
        while not members.join():
            pass
    except (KeyboardInterrupt, SystemExit):
        _stop(members.processes)
        raise


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Let members save and end. None works on after it, since the lock of the run's folder may end then.

    A second signal ends the waiting, and a member that takes too long is killed: what it saves is whole or not there.
    """
    stop_reminder()  # else the first signal would be raised again within the waiting
    try:
        for process in processes:
            process.terminate()
        until = time.monotonic() + PATIENCE_S
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        restart_reminder()


def _member(
    rank: int, work: Callable[[], None], size: tuple[int, int], port: int, failures: SimpleQueue[MoeDiffError]
) -> None:
    """One process of the team; `size` is how many there are and how many threads each has."""
    processes, threads = size
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({key: str(value) for key, value in variables.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    tune_allocator()
    # torch sends SIGINT when the parent dies; started in a shell's background, a process would ignore it and train on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # nobody hangs up while another still listens
            torch.distributed.destroy_process_group()
    except MoeDiffError as error:
        failures.put(error)
        raise SystemExit(error.exit_code) from error


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of every gradient over the processes; one message for all.

    A parameter without a gradient counts as zero, and stays without one where no process has any: an optimiser that
    makes gradients orthogonal would else step as far for an expert that no cell used.
    """
    if not torch.distributed.is_initialized():
        return
    owners = [p for p in parameters if p.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in owners]
    present = parts[0].new_tensor([float(p.grad is not None) for p in owners])
    flat: Tensor = torch.cat([*(part.flatten() for part in parts), present])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    *means, present = flat.split([*(p.numel() for p in owners), len(owners)])
    for parameter, mean, some in zip(owners, means, present.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter) if some else None


def agreed(value: float) -> float:
    """Mean of a number over the processes, so that all of them decide alike; NaN where one of them has none."""
    if not torch.distributed.is_initialized():
        return value
    mean = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(mean)
    return float(mean) / torch.distributed.get_world_size()


def agreed_means(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of every number over the processes that have it; NaN where none has."""
    if not torch.distributed.is_initialized():
        return dict(values)
    own = torch.tensor(list(values.values()), dtype=torch.float64)
    sums = torch.stack([own.nan_to_num(0.0), own.isfinite().double()])
    torch.distributed.all_reduce(sums)
    return dict(zip(values, (sums[0] / sums[1]).tolist(), strict=True))
