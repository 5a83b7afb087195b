"""GGUF models written by gguf's own writer, with the names and metadata of a Gemma 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_model(path: Path, kind: str = "BF16", *, seed: int = 0, **model: Any) -> Path:
    """A GGUF with the names and metadata of a Gemma 4, written by gguf's own writer."""
    arch, width, n_layers = model.get("architecture", "gemma4"), model["width"], model["n_layers"]
    heads, kv_heads = model.get("heads", (8, 1))
    writer = gguf.GGUFWriter(path, arch)
    writer.add_file_type(99)
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv([kv_heads] * n_layers)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_sliding_window(512)
    writer.add_sliding_window_pattern([i % 5 != 4 for i in range(n_layers)])
    writer.add_uint32(f"{arch}.embedding_length_per_layer_input", 32)
    writer.add_uint32(f"{arch}.attention.key_length_swa", 32)
    writer.add_uint32(f"{arch}.attention.value_length_swa", 32)
    if arch == "gemma4-assistant":
        writer.add_uint32(f"{arch}.embedding_length_out", width)
        writer.add_uint32(f"{arch}.nextn_predict_layers", n_layers)
    n_experts = model.get("n_experts", 0)
    if n_experts:
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(2)
    writer.add_quantization_version(2)
    writer.add_token_list(["<pad>", "▁a", "é"])
    rng = np.random.default_rng(seed)
    for name, shape in shapes(model, n_experts).items():
        values = rng.standard_normal(shape).astype(np.float32) * 0.05
        plain = len(shape) == 1 or "norm" in name or "ffn_gate_inp" in name
        stored = "F32" if plain or (values.shape[-1] % 32 and kind == "Q8_0") else kind
        quant = gguf.GGMLQuantizationType[stored]
        writer.add_tensor(name, gguf.quants.quantize(values, quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes(model: dict[str, Any], n_experts: int) -> dict[str, tuple[int, ...]]:
    width, n_layers = model["width"], model["n_layers"]
    found: dict[str, tuple[int, ...]] = {
        "rope_freqs.weight": (32,),
        "token_embd.weight": (3, width),
        "per_layer_token_embd.weight": (3, 2 * width),
        "per_layer_model_proj.weight": (2, width),
        "output_norm.weight": (width,),
    }
    if model.get("output"):
        found["output.weight"] = (3, width)
    # Out of order on purpose: the quantizer sorts, and block 10 comes after block 9.
    for layer in reversed(range(n_layers)):
        names = [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
            "inp_gate",
            "proj",
        ]
        if layer % 6 == 5 and model.get("no_v"):
            names.remove("attn_v")
        found |= {f"blk.{layer}.{name}.weight": (2, width) for name in names}
        found[f"blk.{layer}.attn_norm.weight"] = (width,)
        found[f"blk.{layer}.layer_output_scale.weight"] = (1,)
        if n_experts:
            found[f"blk.{layer}.ffn_gate_inp.weight"] = (n_experts, width)
            found[f"blk.{layer}.ffn_gate_up_exps.weight"] = (n_experts, 4, width)
            found[f"blk.{layer}.ffn_down_exps.weight"] = (n_experts, 2, width)
            found[f"blk.{layer}.ffn_down_exps.scale"] = (n_experts,)
    return found
