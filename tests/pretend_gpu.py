"""A GPU that is not there: tensors that say "cuda:0", refuse to meet CPU tensors as a GPU's do, and compute on the CPU.

It shows what a machine without a GPU cannot show otherwise: that nothing meets across devices, and where a GPU would be
waited for. It says nothing about kernels, speed, streams or memory.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import moediff
from moediff.model.execution import stream_of

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
OURS = Path(moediff.__file__).parent
aten = torch.ops.aten

# What takes tensors of two devices: copies, and indices on the CPU into a tensor on the GPU (not the other way round).
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}


class OnGpu(torch.Tensor):
    """A tensor of the GPU: to torch's C++ on "meta", whose kernels never run, as the modes below take every call."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
            requires_grad=held.requires_grad,
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def record_stream(self, stream: Any) -> None:
        """Memory is never used again here."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called after the GPU was gone: the result was left there")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


def _is_gpu(name: Any) -> bool:
    return name is not None and torch.device(name).type in ("cuda", "meta")  # C++ makes "meta" of it


class Operations(TorchDispatchMode):
    """Every operation: refuses what a GPU refuses, counts what waits for it, works on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        goal, there = kwargs.get("device"), any(isinstance(tensor, OnGpu) for tensor in tensors)
        if there:
            _refuse(func, args, tensors)
            if _waits(func, args, goal):
                self.waits[f"{func} {_line_of_ours()}"] += 1
        if goal is not None:
            there, kwargs["device"] = _is_gpu(goal), CPU
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func._schema.name.endswith("_") and not func._schema.name.endswith("__"):
            return None if out is None else args[0]  # in place
        return tree_map(lambda x: OnGpu(x) if isinstance(x, torch.Tensor) and there else x, out)


def _refuse(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    if func in COPIES or (func in INDEXED and isinstance(args[0], OnGpu)):
        return
    if any(tensor.dim() and not isinstance(tensor, OnGpu) for tensor in tensors):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, found cuda:0 and cpu")


def _waits(func: Any, args: Any, goal: Any) -> bool:
    if func is aten._to_copy.default:
        return goal is not None and not _is_gpu(goal)
    if func is aten.copy_.default:
        return isinstance(args[1], OnGpu) and not isinstance(args[0], OnGpu)
    masks = func in INDEXED and any(getattr(index, "dtype", None) is torch.bool for index in args[1])
    return masks or func in WAITS


def _line_of_ours() -> str:
    for place in reversed(traceback.extract_stack()):
        if place.filename.startswith(str(OURS)):
            return f"{Path(place.filename).relative_to(OURS)}:{place.lineno}"
    return "elsewhere"


class Calls(TorchFunctionMode):
    """Calls that torch answers before any operation, which a build without CUDA cannot."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor") and _is_gpu(kwargs.get("device")):
            return OnGpu(func(*args, **{**kwargs, "device": CPU}))
        if name == "new_tensor" and isinstance(args[0], OnGpu):
            return OnGpu(args[0].held.new_tensor(*args[1:], **kwargs))
        if name == "to" and isinstance(args[0], torch.Tensor):
            given = [*args[1:], *kwargs.values()]
            like = [tensor for tensor in given if isinstance(tensor, torch.Tensor)]
            goals = [x for x in given if isinstance(x, str | torch.device)] + [tensor.device for tensor in like]
            if goals and _is_gpu(goals[0]):
                dtypes = [x for x in given if isinstance(x, torch.dtype)] + [tensor.dtype for tensor in like]
                return _sent(args[0], dtypes[0] if dtypes else args[0].dtype)
        if name == "tolist" and isinstance(args[0], OnGpu):
            return args[0].cpu().tolist()
        if name == "numpy" and isinstance(args[0], OnGpu):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return func(*args, **kwargs)


def _sent(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(tensor, OnGpu):
        return tensor if tensor.dtype == dtype else tensor.type(dtype)
    return OnGpu(tensor.detach().to(dtype).clone())


class Stream:
    """A queue of the GPU; remembers whom it waited for."""

    made: list[Stream]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.waited: list[Stream] = []
        type(self).made.append(self)

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)

    def synchronize(self) -> None:
        """Nothing is ever pending."""


@contextmanager
def pretended() -> Iterator[Operations]:
    """Within it torch has one GPU; gives what was waited for. No result may stay on the GPU."""
    plain = torch.Generator

    class Generator(plain):  # type: ignore[misc, valid-type]
        def __new__(cls, device: Any = "cpu") -> Any:
            return plain.__new__(cls, "cpu")

    Stream.made = []
    default = Stream()
    instead = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda *_: None,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "none",
        "mem_get_info": lambda *_: (80 * 2**30, 80 * 2**30),
        "is_bf16_supported": lambda *_: True,
        "Stream": Stream,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda *_: default,
    }
    operations = Operations()
    with ExitStack() as stack:
        for name, value in instead.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", value))
        stack.enter_context(mock.patch("torch.Generator", Generator))
        stack.callback(stream_of.cache_clear)
        stack.enter_context(operations)
        stack.enter_context(Calls())
        yield operations
