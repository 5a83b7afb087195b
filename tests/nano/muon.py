"""Muon with matrices of one shape handled together; torch's own takes them one by one, three times as slowly.

Same rule as ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``; a reference test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz in bfloat16: ``[n, rows, columns]`` with rows <= columns, singular values near one."""
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(N_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for the matrices of the layers.

    Args:
        parameters: matrices.
        lr: rate, comparable with AdamW's.
        weight_decay: decoupled.
        momentum: 0 to 1.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for weight in group["params"]:
                low, high = sorted(weight.shape)
                by_shape.setdefault((low, high), []).append(weight)
            for weights in by_shape.values():
                self._update(weights, group)

    def _update(self, weights: list[torch.nn.Parameter], group: dict[str, float]) -> None:
        wanted = []
        for weight in weights:
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            step = weight.grad.lerp(state["momentum"], group["momentum"])  # Nesterov
            wanted.append(step if step.shape[0] <= step.shape[1] else step.T)
        turned = orthogonal(torch.stack(wanted))
        rate = group["lr"] * 0.2 * max(weights[0].shape) ** 0.5
        for weight, step in zip(weights, turned, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(step if weight.shape[0] <= weight.shape[1] else step.T, alpha=-rate)
