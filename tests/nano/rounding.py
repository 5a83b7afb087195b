"""Training with the rounding of Q4_K in the forward pass, so that the quantized model is the trained one.

The matrices of the text layers are replaced by what four bits in blocks of 32 keep of them, the gradient is
taken there, and the full weights come back before the update (a straight-through estimate). Embeddings stay:
they are written with six bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

BLOCK = 32
LEVELS = 15.0


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """A matrix as Q4_K keeps it, but for the rounding of its block scales.

    Args:
        weight: ``[rows, columns]``, columns a multiple of 32.

    Returns:
        The same shape and dtype; every block of 32 holds at most 16 values, evenly spaced, zero within reach.
    """
    blocks = weight.reshape(-1, BLOCK)
    low = blocks.amin(dim=1, keepdim=True).clamp(max=0.0)
    high = blocks.amax(dim=1, keepdim=True).clamp(min=0.0)
    scale = ((high - low) / LEVELS).clamp(min=1e-12)
    return (torch.round((blocks - low) / scale) * scale + low).reshape(weight.shape)


def quantized_later(model: Any) -> list[torch.nn.Parameter]:
    """The matrices that Q4_K_M stores in blocks of 256: linears of the text layers with such rows."""
    return [
        weight
        for name, weight in model.named_parameters()
        if "language_model.layers." in name and weight.ndim == 2 and weight.shape[1] % 256 == 0
    ]


@contextlib.contextmanager
def rounded_weights(weights: list[torch.nn.Parameter]) -> Iterator[None]:
    """Rounds the weights for a forward and backward pass and puts them back."""
    with torch.no_grad():
        kept = [weight.clone() for weight in weights]
        for weight in weights:
            weight.copy_(rounded(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, full in zip(weights, kept, strict=True):
                weight.copy_(full)
