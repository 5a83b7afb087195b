"""The bounds of the clamped linears, taken from what a trained tower sees.

Gemma 4's vision and audio linears carry four bounds each. Training runs with none; at the end each gets the
widest value seen on some batches, times two, so that they change nothing on such input and are finite, as in
the real checkpoints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

ROOM = 2.0


@torch.no_grad()
def set_clamps(model: Any, batches: list[dict[str, np.ndarray]]) -> int:
    """Sets input and output bounds of every clamped linear in place.

    Args:
        model: a ``Gemma4ForConditionalGeneration`` in float32 on the CPU.
        batches: of :meth:`nano.batch.Encoder.collate`, with pictures and sounds.

    Returns:
        How many linears got bounds.
    """
    widest: dict[Any, list[float]] = {}

    def watch(module: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        before, after = float(arguments[0].abs().max()), float(output.abs().max())
        seen = widest.setdefault(module, [0.0, 0.0])
        widest[module] = [max(seen[0], before), max(seen[1], after)]

    clamped = [module for module in model.modules() if hasattr(module, "input_min")]
    for module in clamped:
        for bound, sign in (("input_min", -1), ("input_max", 1), ("output_min", -1), ("output_max", 1)):
            getattr(module, bound).fill_(sign * float("inf"))
    hooks = [module.register_forward_hook(watch) for module in clamped]
    model.eval()
    for batch in batches:
        inputs = {name: torch.from_numpy(value) for name, value in batch.items() if name != "labels"}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].float() / 255.0
        model.model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    for module, (before, after) in widest.items():
        module.input_min.fill_(-ROOM * before)
        module.input_max.fill_(ROOM * before)
        module.output_min.fill_(-ROOM * after)
        module.output_max.fill_(ROOM * after)
    return len(widest)
