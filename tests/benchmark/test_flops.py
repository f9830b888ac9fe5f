"""Operations are those of the products that were run, attention on a CPU included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moediff.benchmark.flops import counting


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_attention_counts_scores_and_sums(masked):
    q, k = torch.rand(2, 3, 10, 8), torch.rand(2, 3, 12, 8)
    with counting() as counter:
        F.scaled_dot_product_attention(q, k, k, attn_mask=torch.zeros(2, 3, 10, 12) if masked else None)
    assert counter.get_total_flops() == 2 * (2 * 3) * (10 * 12 * 8) * 2


@torch.no_grad()
def test_products_and_convolutions_count_two_for_a_multiplication_and_an_addition():
    with counting() as counter:
        F.linear(torch.rand(2, 5, 7, 8), torch.rand(16, 8))
        F.conv3d(torch.rand(1, 4, 6, 6, 6), torch.rand(5, 4, 3, 3, 3), padding=1)
    assert counter.get_total_flops() == 2 * (70 * 8 * 16) + 2 * (216 * 4 * 5 * 27)


def test_nothing_run_is_nothing_counted():
    with counting() as counter:
        torch.rand(5).exp()
    assert counter.get_total_flops() == 0
