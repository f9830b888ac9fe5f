"""Execution of the layers: slabs, chunks and CUDA streams, which bound memory and save time but change no number.

Layers hand their mathematics to these functions. With gradients everything is computed whole, because backward needs
it all; at inference in parts, written over the input where that is no longer needed.

Axes: B batch, x y z lattice of cells or tokens, C channels, N sequences, H heads, T tokens, D width,
R rows (cells), E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLAB_BYTES = {"cpu": 2**24}  # of one tensor of a slab; a CPU's caches hold it from one layer to the next
SLAB_BYTES_ELSEWHERE = 2**28
SCORE_BYTES = 2**24  # of attention scores at a time
CHUNK_SEQUENCES = 256  # of a transformer layer at a time
CHUNK_ROWS = 8192  # of one matrix product on a CPU: activations stay in cache


def slabs(h_BxyzC: Tensor, multiple: int = 1) -> Iterator[slice]:
    """Parts of the first lattice axis to work on one at a time, a multiple of `multiple` long; with gradients, one."""
    length = h_BxyzC.shape[1]
    most = SLAB_BYTES.get(h_BxyzC.device.type, SLAB_BYTES_ELSEWHERE)
    planes = most * length // max(h_BxyzC.numel() * h_BxyzC.element_size(), 1) // multiple * multiple
    step = length if torch.is_grad_enabled() else max(planes, multiple)
    for start in range(0, length, max(step, 1)):
        yield slice(start, min(start + step, length))


def map_slabs(work: Callable[[slice], Tensor], h_BxyzC: Tensor, multiple: int = 1) -> Tensor:
    """`work` of every slab, put together along the first lattice axis; as many planes as a slab, or a fixed share.

    Each piece is written into the whole at once: pieces that wait for the last one pin the memory that lies before
    them, and a large scan's peak doubles.
    """
    first, *more = slabs(h_BxyzC, multiple)
    part = work(first)
    if not more:
        return part
    planes, per = part.shape[1], first.stop
    whole = part.new_empty(part.shape[0], h_BxyzC.shape[1] * planes // per, *part.shape[2:])
    for slab in (first, *more):
        part = part if slab is first else work(slab)
        whole[:, slab.start * planes // per : slab.stop * planes // per] = part
    return whole


def add_finer(h_BxyzC: Tensor, refine: Callable[[Tensor], Tensor], coarse_BxyzD: Tensor, factor: int = 2) -> Tensor:
    """h plus a lattice of sites `factor` times as large, refined; at inference slab by slab, written over h."""
    if torch.is_grad_enabled():
        return refine(coarse_BxyzD).add_(h_BxyzC)
    for slab in slabs(h_BxyzC, factor):
        h_BxyzC[:, slab].add_(refine(coarse_BxyzD[:, slab.start // factor : slab.stop // factor]))
    return h_BxyzC


class Branch(Protocol):
    """The residual branch of a block."""

    def __call__(self, h_BxyzC: Tensor, planes: slice, *, padded: bool) -> Tensor:
        """The branch for these planes: of all of h with zeros beyond its ends, or of h without its halo."""


def add_branch(h_BxyzC: Tensor, branch: Branch, halo: int) -> Tensor:
    """h + branch(h); at inference written over h slab by slab, each read with `halo` planes more on either side."""
    if torch.is_grad_enabled():
        return branch(h_BxyzC, slice(None), padded=True).add_(h_BxyzC)
    behind = edge = torch.zeros_like(h_BxyzC[:, :halo])
    for slab in slabs(h_BxyzC, halo):
        own, ahead = h_BxyzC[:, slab], h_BxyzC[:, slab.stop : slab.stop + halo]
        read = torch.cat([behind, own, ahead if ahead.shape[1] else edge], 1)
        behind = own[:, -halo:].clone()
        own.add_(branch(read, slab, padded=False))
    return h_BxyzC


def attended(q_NHTD: Tensor, k_NHTD: Tensor, v_NHTD: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; `bias` is added to the scores.

    On a CPU in float32 whatever the input's type: torch's bfloat16 gradient of it takes seven times as long there.
    """
    if q_NHTD.device.type == "cpu" and q_NHTD.dtype != torch.float32:
        with torch.autocast("cpu", enabled=False):
            return attended(q_NHTD.float(), k_NHTD.float(), v_NHTD.float(), bias).to(q_NHTD.dtype)
    return F.scaled_dot_product_attention(q_NHTD, k_NHTD, v_NHTD, attn_mask=None if bias is None else bias.to(q_NHTD))


def attended_in_parts(q_NHTD: Tensor, k_NHTD: Tensor, v_NHTD: Tensor, bias: Callable[[slice], Tensor]) -> Tensor:
    """Attention of some of the queries at a time, so that their scores against all keys fit into a bound."""
    n, h, length, _ = q_NHTD.shape
    if torch.is_grad_enabled():
        return attended(q_NHTD, k_NHTD, v_NHTD, bias(slice(0, length)))
    mixed = torch.empty_like(q_NHTD)
    step = max(SCORE_BYTES // (n * h * length * q_NHTD.element_size()), 1)
    for start in range(0, length, step):
        part = slice(start, min(start + step, length))
        mixed[:, :, part] = attended(q_NHTD[:, :, part], k_NHTD, v_NHTD, bias(part))
    return mixed


def with_first_token(t_NTD: Tensor, first_ND: Tensor) -> Tensor:
    """Sequences whose first token is another; at inference written over t."""
    if torch.is_grad_enabled():
        return torch.cat([first_ND[:, None], t_NTD[:, 1:]], 1)
    t_NTD[:, 0] = first_ND
    return t_NTD


def map_sequences(layer: Callable[[Tensor], Tensor], t_NTD: Tensor) -> Tensor:
    """`layer` of some of the sequences at a time; at inference written over t."""
    if torch.is_grad_enabled():
        return layer(t_NTD)
    for part in t_NTD.split(CHUNK_SEQUENCES):
        part.copy_(layer(part))
    return t_NTD


def rows_of_experts(weight_RE: Tensor) -> list[Tensor]:
    """For every expert the rows that need it; a GPU is waited for before any expert begins, not between them."""
    expert_N, row_N = weight_RE.T.nonzero().unbind(1)
    rows_an_expert = torch.bincount(expert_N, minlength=weight_RE.shape[1]).tolist()
    return list(row_N.split(rows_an_expert))


def map_rows(work: Callable[[Tensor], Tensor], row_R: Tensor) -> Tensor:
    """`work` of some of the row numbers at a time; with gradients each part would cost a full-size zero tensor."""
    whole = torch.is_grad_enabled() or row_R.is_cuda
    results = [work(part) for part in ((row_R,) if whole else row_R.split(CHUNK_ROWS))]
    return results[0] if len(results) == 1 else torch.cat(results)


def side_by_side(works: Sequence[Callable[[], Tensor]], device: torch.device) -> Iterator[Tensor]:
    """The result of every work, in order; take all of them before anything that the works read is released.

    On a GPU each runs in a stream of its own, and all begin before the first result is waited for. What they read is
    ready when they begin, and what they return is ready for the calling stream. Memory is safe without more: a stream's
    memory is used again by that stream alone, and it waits for the calling one before it begins anew.

    Args:
        works: none may wait for the device, or those behind it begin late.
        device: where they run.
    """
    if device.type != "cuda" or len(works) < 2:
        for work in works:
            yield work()
        return
    here, results = torch.cuda.current_stream(device), []
    streams = [stream_of(str(device), number) for number in range(len(works))]
    for stream, work in zip(streams, works, strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results.append(work())
    for stream, result in zip(streams, results, strict=True):
        here.wait_stream(stream)
        yield result


@lru_cache(maxsize=64)
def stream_of(device: str, number: int) -> torch.cuda.Stream:
    """The stream for the n-th of several works."""
    return torch.cuda.Stream(torch.device(device))


def compile_blocks(network: nn.Module, kind: type[nn.Module], backend: str = "inductor") -> None:
    """Compile every block of a kind; those of one shape share what is compiled."""
    for module in network.modules():
        if isinstance(module, kind):
            module.compile(dynamic=False, fullgraph=True, backend=backend)
