"""Muon for weight matrices and convolutions, AdamW's rule for everything else.

Muon (Jordan et al. 2024) orthogonalises the momentum of every matrix, so that all directions of a layer learn at the
same pace; updates are scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982), so both share one learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz iteration, Jordan 2024


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end within about 0.7..1.2.

    Args:
        matrix: [..., rows, columns]; matrices of one shape are worked on together.
        steps: of the iteration.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """One optimiser for the whole network, in few large operations: a GPU would wait for hundreds of small ones.

    Args:
        parameters: those with two or more axes of at least 8 are treated as matrices.
        lr, momentum, betas, weight_decay: as usual; `momentum` is Muon's, `betas` AdamW's.
        half: orthogonalise in bfloat16, as Jordan does: half of the time where the device has instructions for it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        half: bool = False,
    ) -> None:
        self.dtype = torch.bfloat16 if half else torch.float32
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            for same in _by_shape(parameter for parameter in moving if is_matrix(parameter)):
                _descend(same, self._matrix_updates(same, group["momentum"]), group["lr"])
            if others := [parameter for parameter in moving if not is_matrix(parameter)]:
                _descend(others, self._adam_updates(others, group["betas"]), group["lr"])

    def _states(self, parameters: list[nn.Parameter], name: str) -> list[Tensor]:
        """One moment of each, zero at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def _matrix_updates(self, parameters: list[nn.Parameter], momentum: float) -> list[Tensor]:
        """Of parameters of one shape."""
        gradients = _gradients(parameters)
        moments = self._states(parameters, "momentum")
        torch._foreach_lerp_(moments, gradients, 1 - momentum)
        ahead = torch.stack(torch._foreach_lerp(gradients, moments, momentum)).flatten(2)  # Nesterov
        scale = 0.2 * max(ahead.shape[1:]) ** 0.5
        updates = orthogonalise(ahead.to(self.dtype)).float() * scale
        return list(updates.view(len(parameters), *parameters[0].shape))

    def _adam_updates(self, parameters: list[nn.Parameter], betas: tuple[float, float]) -> list[Tensor]:
        gradients = _gradients(parameters)
        for parameter in parameters:  # the count stays on the CPU, so reading it waits for nothing
            self.state[parameter]["step"] = self.state[parameter].get("step", torch.tensor(0.0)) + 1
        means, powers = self._states(parameters, "exp_avg"), self._states(parameters, "exp_avg_sq")
        torch._foreach_lerp_(means, gradients, 1 - betas[0])
        squares = torch._foreach_mul(gradients, tuple(gradients))  # a list would be taken for numbers
        torch._foreach_lerp_(powers, squares, 1 - betas[1])
        steps = [float(self.state[parameter]["step"]) for parameter in parameters]
        scale = torch._foreach_sqrt(torch._foreach_div(powers, [1 - betas[1] ** step for step in steps]))
        torch._foreach_add_(scale, 1e-8)
        return list(torch._foreach_div(torch._foreach_div(means, [1 - betas[0] ** step for step in steps]), scale))


def _descend(parameters: Sequence[Tensor], updates: list[Tensor], rate: float) -> None:
    torch._foreach_add_(tuple(parameters), updates, alpha=-rate)


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _by_shape(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters of one shape side by side."""
    groups: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.shape, []).append(parameter)
    return list(groups.values())


def is_matrix(parameter: Tensor) -> bool:
    """Weights of linear layers and convolutions; biases, norms, scalars and narrow heads are not."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 8
