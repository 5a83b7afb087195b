"""Tiny Gemma 4 checkpoints in Hugging Face layout, built from a seed with numpy alone.

One call writes the directory a user would have downloaded: config, weights, tokenizer, processor. Every
member of the family is there, a few megabytes each, and between them every mechanism of the family. The
numbers come from integer arithmetic, so the same seed gives the same bytes on every machine and recorded
references stay valid.

The random weights are well conditioned (query and key norms near 0.35, linear layers N(0, 1/fan_in)):
attention is not scaled by 1/sqrt(d) in Gemma 4, and with norms near 1 a random model amplifies rounding
until nothing can be compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from tiny_config import AUDIO_FEATURES, MEMBERS, PROCESSOR, TOKENIZER, member_config, token_ids
from tiny_shapes import tensor_shapes

__all__ = ["MEMBERS", "checkpoint_digest", "member_config", "token_ids", "weights", "write_checkpoint"]

NUMPY_TYPES = {"F32": np.float32, "F16": np.float16}


def write_checkpoint(
    member: str,
    directory: str | Path,
    *,
    seed: int = 0,
    dtype: str = "BF16",
    shards: int = 1,
    spelling: str = "per_layer_config",
    names: str = "hub",
    lm_head: bool = False,
    chat: bool = True,
    chat_template: str | None = None,
    experts: str = "fused",
    shared_kv_weights: bool = False,
    overrides: dict[str, Any] | None = None,
) -> Path:
    """Write one checkpoint directory.

    Args:
        member: one of MEMBERS.
        directory: created if absent.
        seed: of the weights.
        dtype: "BF16", "F16" or "F32", the type of every floating-point tensor.
        shards: 1 writes model.safetensors, more write model-0000i-of-0000n.safetensors with an index.
        spelling: where the sizes of the full-attention layers stand: "per_layer_config" (transformers 5.2x)
            or "global" (global_head_dim and num_global_key_value_heads).
        names: "hub" as published; "nested" with `.linear.` inside every linear layer of the text model and of
            the projections (what some fine-tuning tools save); "flat" without the `.linear.` of the towers.
        lm_head: store the tied output head as well.
        chat: an instruction-tuned checkpoint (sampling defaults, end-of-turn in the eos list) or a base one.
        chat_template: text of chat_template.jinja; None writes none.
        experts: "fused" 3-D tensors, or "separate" matrices per expert.
        shared_kv_weights: keep the unused K and V weights of the layers that reuse another layer's cache.
        overrides: keys put over those of text_config.

    Returns:
        The directory.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = member_config(member, spelling=spelling, overrides=overrides)
    tensors = weights(
        config, seed=seed, experts=experts, shared_kv_weights=shared_kv_weights, lm_head=lm_head
    )
    config["dtype"] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype]
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", _generation_config(config, chat))
    (directory / "tokenizer.json").write_bytes((TOKENIZER / "tokenizer.json").read_bytes())
    settings = json.loads((TOKENIZER / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write_json(
        directory / "tokenizer_config.json", settings | {"mask_token": "<mask>"}
    )  # as published ones do
    if "vision_config" in config:
        processor = dict(PROCESSOR)
        if config.get("audio_config"):
            processor["feature_extractor"] = AUDIO_FEATURES[config["model_type"]]
        _write_json(directory / "processor_config.json", processor)
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    stored = {_spell(name, names): _encode(values, dtype) for name, values in tensors.items()}
    _write_weights(directory, stored, shards)
    return directory


def checkpoint_digest(directory: str | Path) -> str:
    """SHA-256 over all files of a checkpoint: what a recorded reference was recorded from."""
    digest = hashlib.sha256()
    for path in sorted(Path(directory).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def weights(
    config: dict[str, Any],
    *,
    seed: int = 0,
    experts: str = "fused",
    shared_kv_weights: bool = False,
    lm_head: bool = False,
) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint by hub name: float64 (int64 for index tables), not yet rounded."""
    shapes = tensor_shapes(config, shared_kv_weights=shared_kv_weights)
    tensors = {name: _draw(name, shape, seed) for name, shape in shapes.items()}
    if experts == "separate":
        tensors = dict(_split_experts(tensors))
    if lm_head:
        embed = next(name for name in tensors if name.endswith("embed_tokens.weight"))
        tensors["lm_head.weight"] = tensors[embed]
    return tensors


# Values

# First match wins: pattern of the name, mean, standard deviation (None: 1/sqrt of the row length).
VALUES: tuple[tuple[str, float, float | None], ...] = (
    (r"(self_attn\.)(q|k)_norm\.weight$", 0.35, 0.05),
    (r"layer_scalar$", 0.75, 0.08),
    (r"router\.scale$", 1.0, 0.1),
    (r"per_expert_scale$", 1.0, 0.1),
    (r"per_dim_scale$", 0.0, 0.3),
    (r"(input|output)_max$", 2.5, 0.3),
    (r"(input|output)_min$", -2.5, 0.3),
    (r"std_bias$", 0.0, 0.2),
    (r"std_scale$", 0.3, 0.03),
    (r"position_embedding_table$|pos_embedding$", 0.0, 0.3),
    (r"\.bias$", 0.0, 0.1),
    (r"model\.norm\.weight$|language_model\.norm\.weight$", 4.0, 0.2),
    (r"(norm|norm_1|norm_2|norm_out|norm_pre_attn|norm_post_attn|patch_ln\d)\.weight$", 1.0, 0.1),
    (r"", 0.0, None),
)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.RandomState([seed, zlib.crc32(name.encode())])
    if name.endswith("token_ordering"):
        return rng.permutation(shape[0]).astype(np.int64)
    n = int(np.prod(shape, dtype=np.int64))
    # Four 16-bit integers added up: close to a normal, and no libm that could differ in the last bit.
    total = np.frombuffer(rng.bytes(8 * n), dtype="<u2").reshape(n, 4).sum(axis=1, dtype=np.int64)
    unit = (total - 2 * 65535) / (65536.0 / np.sqrt(3.0))
    mean, deviation = next((m, d) for pattern, m, d in VALUES if re.search(pattern, name))
    if deviation is None:
        # A convolution sees all inputs of its window; fused experts are matrices behind their first index.
        fan_in = int(np.prod(shape[1:])) if "conv" in name and len(shape) > 2 else shape[-1]
        deviation = 1.0 / np.sqrt(float(fan_in))
    return (mean + deviation * unit).reshape(shape)


def _split_experts(tensors: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    split: list[tuple[str, np.ndarray]] = []
    for name, values in tensors.items():
        base = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            inner = values.shape[1] // 2
            for index, expert in enumerate(values):
                split.append((f"{base}.{index}.gate_proj.weight", expert[:inner]))
                split.append((f"{base}.{index}.up_proj.weight", expert[inner:]))
        elif name.endswith("experts.down_proj"):
            split += [(f"{base}.{index}.down_proj.weight", expert) for index, expert in enumerate(values)]
        else:
            split.append((name, values))
    return split


def _spell(name: str, names: str) -> str:
    if names == "flat":
        return name.replace(".linear.weight", ".weight")
    if names == "nested" and re.search(r"_proj(ection)?\.weight$", name) and "experts" not in name:
        return re.sub(r"\.weight$", ".linear.weight", name)
    return name


# Files


def _encode(values: np.ndarray, dtype: str) -> tuple[str, np.ndarray]:
    if values.dtype == np.int64:
        return "I64", values
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        half, one, shift = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)  # typed: numpy 1 would go to int64
        return "BF16", ((bits + half + ((bits >> shift) & one)) >> shift).astype("<u2")
    return dtype, values.astype(NUMPY_TYPES[dtype])


def _write_weights(directory: Path, tensors: dict[str, tuple[str, np.ndarray]], shards: int) -> None:
    names = sorted(tensors)
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return
    index: dict[str, str] = {}
    for shard in range(shards):
        path = directory / f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        write_safetensors(path, part)
        index |= dict.fromkeys(part, path.name)
    total = sum(values.nbytes for _, values in tensors.values())
    _write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))},
    )


def write_safetensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """Write one safetensors file: name to (stored type, array whose bytes are stored)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(tensors):
        kind, values = tensors[name]
        header[name] = {
            "dtype": kind,
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name][1]).tobytes())


def _generation_config(config: dict[str, Any], chat: bool) -> dict[str, Any]:
    ids = token_ids()
    generation: dict[str, Any] = {"bos_token_id": ids["<bos>"], "pad_token_id": ids["<pad>"]}
    if not chat:
        return generation | {"eos_token_id": ids["<eos>"]}
    generation["eos_token_id"] = [ids["<eos>"], ids["<turn|>"], ids["<|tool_response>"]]
    generation |= {"do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95}
    if config["model_type"] == "gemma4_unified":
        generation["suppress_tokens"] = [ids["<|image|>"], ids["<|audio|>"], ids["<|video|>"]]
    return generation


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
