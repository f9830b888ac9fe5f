"""Works side by side: in order, and each stream of a GPU waits for what it reads and is waited for."""

from __future__ import annotations

from functools import partial

import torch

from moediff.core.config import rng_for
from moediff.model.execution import side_by_side
from pretend_gpu import Stream, pretended


def test_on_a_cpu_a_work_begins_when_its_result_is_taken():
    begun: list[int] = []

    def work(number: int) -> torch.Tensor:
        begun.append(number)
        return torch.tensor(number)

    results = side_by_side([partial(work, number) for number in range(3)], torch.device("cpu"))
    assert int(next(results)) == 0 and begun == [0]
    assert [int(result) for result in results] == [1, 2]


def test_on_a_gpu_all_begin_before_the_first_is_waited_for():
    begun: list[int] = []
    with pretended():
        device = torch.device("cuda:0")
        here = torch.cuda.current_stream(device)

        def work(number: int) -> torch.Tensor:
            begun.append(number)
            return torch.full((), number, device=device)

        results = side_by_side([partial(work, number) for number in range(3)], device)
        assert float(next(results)) == 0 and begun == [0, 1, 2]
        _, *own = Stream.made
        assert [stream.waited for stream in own] == [[here]] * 3 and here.waited == own[:1]
        assert [float(result) for result in results] == [1, 2] and here.waited == own
        assert next(iter(side_by_side([partial(work, 7)], device))).cpu() == 7 and len(Stream.made) == 4


def test_experts_that_no_cell_asks_for_get_no_stream(make_denoiser):
    denoiser = make_denoiser(awake=True)
    feature = torch.randn(1, 4, 4, 4, 8, generator=rng_for(0))
    embedding, weight = torch.randn(1, 16, generator=rng_for(1)), torch.zeros(1, 4, 4, 4, 4)
    weight[:, :2, ..., 1], weight[:, 1:, ..., 3] = 0.4, 0.6
    with torch.no_grad():
        plain = denoiser.experts.combine(feature, embedding, weight)
        with pretended() as gpu:
            there = denoiser.experts.to("cuda")
            result = there.combine(feature.to("cuda"), embedding.to("cuda"), weight.to("cuda")).cpu()
            assert len(Stream.made) == 1 + 2
    assert torch.equal(result, plain)
    assert all("execution.py" in line for line in gpu.waits if " model/" in line)
    assert sum(count for line, count in gpu.waits.items() if " model/" in line) == 2  # rows, and how many
