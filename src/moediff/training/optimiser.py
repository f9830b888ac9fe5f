"""Muon for weight matrices and convolutions, AdamW's rule for everything else.

Muon (Jordan et al. 2024) orthogonalises the momentum of every matrix, so that all directions of a layer learn at the
same pace; updates are scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982), so both share one learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz iteration, Jordan 2024


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end within about 0.7..1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """One optimiser for the whole network.

    Args:
        parameters: named parameters; those with two or more axes of at least 8 are treated as matrices.
        lr, momentum, betas, weight_decay: as usual; `momentum` is Muon's, `betas` AdamW's.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if is_matrix(parameter):
                    update = self._matrix_update(parameter, group["momentum"])
                else:
                    update = self._adam_update(parameter, group["betas"])
                parameter.add_(update, alpha=-group["lr"])

    def _matrix_update(self, parameter: Tensor, momentum: float) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(state["momentum"], momentum).flatten(1)  # Nesterov
        scale = 0.2 * max(ahead.shape) ** 0.5
        return (orthogonalise(ahead) * scale).view_as(parameter)

    def _adam_update(self, parameter: Tensor, betas: tuple[float, float]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "step" not in state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - betas[0])
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - betas[1])
        mean = state["exp_avg"] / (1 - betas[0] ** float(state["step"]))
        power = state["exp_avg_sq"] / (1 - betas[1] ** float(state["step"]))
        return mean / (power.sqrt() + 1e-8)


def is_matrix(parameter: Tensor) -> bool:
    """Weights of linear layers and convolutions; biases, norms, scalars and narrow heads are not."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 8
