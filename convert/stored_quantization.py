"""Stored quantization: weights that were quantized before, told by how they are stored.

A config may say anything: quantization_config is left behind where weights were merged or dequantized, and
missing where somebody cleaned it. The names and types of the stored tensors decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemma4_gguf.convert.safetensors import SourceTensor
from gemma4_gguf.errors import CheckpointError

# What each method stores beside or instead of a weight; the first that fits names the method.
_MARKS = tuple(
    (method, re.compile(pattern))
    for method, pattern in (
        ("bitsandbytes 8-bit", r"\.(SCB|weight_format)$"),
        (
            "bitsandbytes 4-bit",
            r"\.((nested_)?(absmax|quant_map)|quant_state\.bitsandbytes__\w+)$",
        ),
        ("GPTQ", r"\.g_idx$"),
        ("GPTQ or AWQ", r"\.(qweight|qzeros)$"),
        ("ModelOpt", r"\.weight_scale_2$"),
        ("compressed-tensors", r"\.(weight_(packed|shape|zero_point|global_scale)|input_global_scale)$"),
        ("torchao", r"(_weight_|:_?)(qdata|data|scale|zero_point)$"),
        ("FP8", r"\.(weight_scale(_inv)?|input_scale(_ub)?|activation_scale)$"),
        ("MXFP4", r"_(blocks|scales)$"),
        ("HQQ", r"\.W_q$"),
        ("quanto", r"\.weight\._(data|scale)$"),
        ("AQLM", r"\.(codes|codebooks)$"),
        ("EETQ", r"\.weight_scales$"),
        ("MLX", r"\.scales$"),
    )
)
_ANY_MARK = re.compile("|".join(mark.pattern for _, mark in _MARKS))
_FLOATS = {"F32", "F16", "BF16", "F64"}
_TABLES = {"I64", "BOOL"}  # indices, such as a drafter's token ordering
_WAYS_OUT = {
    "bitsandbytes": "Load it with transformers, call model.dequantize() and save_pretrained, or merge the "
    "adapter into the 16-bit base model instead of the quantized one.",
    "MLX": "Convert the checkpoint it was made from, or undo it with mlx_lm.convert --dequantize.",
}
_WAY_OUT = "Convert the checkpoint in BF16, F16 or F32 that it was made from."


def check_not_quantized(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, SourceTensor]
) -> str | None:
    """Refuses quantized weights.

    Args:
        directory: for the message.
        config: config.json.
        tensors: by stored name.

    Returns:
        A note if the config calls plain weights quantized; else None.

    Raises:
        CheckpointError: the weights are stored quantized.
    """
    said = _said(directory, config)
    marked: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        method = None
        if _ANY_MARK.search(name):
            method = next(method for method, mark in _MARKS if mark.search(name))
        if method is None and tensor.dtype not in _FLOATS | _TABLES:
            method = ""  # packed by something that leaves no other trace
        if method is not None:
            marked.setdefault(method, []).append(name)
    if not marked:
        return said and (
            f"config.json calls the weights quantized ({said}), but they are stored as plain numbers and "
            "converted as such."
        )
    method = next((method for method, _ in _MARKS if method in marked), "")
    names = marked[method]
    called = method or said or "by an unknown method"
    way_out = next((text for word, text in _WAYS_OUT.items() if called.startswith(word)), _WAY_OUT)
    raise CheckpointError(
        f"{directory}: the weights are quantized already ({called}: {len(names)} tensors such as "
        f"{names[0]}, stored as {tensors[names[0]].dtype}). {way_out}"
    )


def _said(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The method that the configuration names; None if it names none."""
    text = config.get("text_config")
    for section in (config, text if isinstance(text, dict) else {}):
        for key, method in (("quantization_config", "unnamed"), ("quantization", "MLX")):
            settings = section.get(key)
            if settings:
                named = settings.get("quant_method") if isinstance(settings, dict) else None
                return named if isinstance(named, str) and named.isprintable() else method
    return "ModelOpt" if (directory / "hf_quant_config.json").is_file() else None
