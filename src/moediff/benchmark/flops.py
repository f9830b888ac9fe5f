"""Floating-point operations of everything that runs inside a `with`: matrix products, convolutions and attention.

A multiplication and an addition are two. Skipped work is not counted: experts that a gate does not choose, tiles
without foreground.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def attention_operations(q_BHTD: Sequence[int], k_BHSD: Sequence[int], *_: object, **__: object) -> int:
    """Scores and the weighted sum, of the shapes of queries and keys."""
    batch, attention_heads, queries, width = q_BHTD
    return 4 * batch * attention_heads * queries * k_BHSD[2] * width


def counting() -> FlopCounterMode:
    """A context that counts for `get_total_flops()`. It slows small operations down, so do not measure time inside."""
    from torch.utils.flop_counter import FlopCounterMode  # seconds to import

    # torch counts attention on CUDA devices only
    return FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations},
    )
