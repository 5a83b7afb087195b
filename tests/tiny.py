"""Tiny Gemma 4 checkpoints in Hugging Face layout, built from a seed with numpy alone.

One call writes the directory a user would have downloaded: config, weights, tokenizer, processor. Every member of the
family is there, a few megabytes each, and between them every mechanism of the family. The numbers come from integer
arithmetic only, so the same seed gives the same bytes on every machine and recorded references stay valid.

The random weights are well conditioned (query and key norms near 0.35, linear layers N(0, 1/fan_in)): attention is not
scaled by 1/sqrt(d) in Gemma 4, and with norms near 1 a random model amplifies rounding until nothing can be compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from tiny_config import AUDIO_FEATURES, MEMBERS, NANO, PROCESSOR, member_config, token_ids

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
        spelling: where the sizes of the full-attention layers stand: "per_layer_config" (transformers 5.2x) or
            "global" (global_head_dim and num_global_key_value_heads).
        names: "hub" as published; "nested" with `.linear.` inside every linear layer of the text model and the
            projections (what some fine-tuning tools save); "flat" without the `.linear.` of the towers.
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
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((NANO / name).read_bytes())
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
    """SHA-256 over config, tokenizer and weights: what a recorded reference was recorded from."""
    digest = hashlib.sha256()
    for path in sorted(Path(directory).iterdir()):
        if path.name in ("config.json", "tokenizer.json") or path.suffix == ".safetensors":
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
    """All tensors of a checkpoint by hub name: float64 (int64 for index tables), before rounding to the stored type."""
    shapes = _tensor_shapes(config, shared_kv_weights)
    tensors = {name: _draw(name, shape, seed) for name, shape in shapes.items()}
    if experts == "separate":
        tensors = dict(_split_experts(tensors))
    if lm_head:
        embed = next(name for name in tensors if name.endswith("embed_tokens.weight"))
        tensors["lm_head.weight"] = tensors[embed]
    return tensors


# Shapes, by the names of the published checkpoints


def _tensor_shapes(config: dict[str, Any], shared_kv_weights: bool) -> dict[str, tuple[int, ...]]:
    text = config.get("text_config", config)
    wrapped = "vision_config" in config
    prefix = "model.language_model." if wrapped else "model."
    shapes = {prefix + name: shape for name, shape in _text_shapes(text, shared_kv_weights).items()}
    hidden = text["hidden_size"]
    if config["model_type"] == "gemma4_unified":
        shapes.update(_unified_shapes(config, hidden))
    elif wrapped:
        vision = config["vision_config"]
        shapes.update({"model.vision_tower." + k: v for k, v in _vision_shapes(vision).items()})
        shapes["model.embed_vision.embedding_projection.weight"] = (hidden, vision["hidden_size"])
        if audio := config.get("audio_config"):
            shapes.update({"model.audio_tower." + k: v for k, v in _audio_shapes(audio).items()})
            shapes["model.embed_audio.embedding_projection.weight"] = (hidden, audio["output_proj_dims"])
    elif "backbone_hidden_size" in config:
        backbone = config["backbone_hidden_size"]
        shapes["pre_projection.weight"] = (hidden, 2 * backbone)
        shapes["post_projection.weight"] = (backbone, hidden)
        if config["use_ordered_embeddings"]:
            shapes["masked_embedding.centroids.weight"] = (config["num_centroids"], hidden)
            shapes["masked_embedding.token_ordering"] = (text["vocab_size"],)
    return shapes


def _text_shapes(text: dict[str, Any], shared_kv_weights: bool) -> dict[str, tuple[int, ...]]:
    hidden, n_layers, ple = (
        text["hidden_size"],
        text["num_hidden_layers"],
        text.get("hidden_size_per_layer_input"),
    )
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (text["vocab_size"], hidden),
        "norm.weight": (hidden,),
    }
    if ple:
        shapes["embed_tokens_per_layer.weight"] = (text["vocab_size_per_layer_input"], n_layers * ple)
        shapes["per_layer_model_projection.weight"] = (n_layers * ple, hidden)
        shapes["per_layer_projection_norm.weight"] = (ple,)
    for layer in range(n_layers):
        block = _attention_shapes(text, layer, shared_kv_weights) | _feed_forward_shapes(text, layer)
        if ple:
            block["per_layer_input_gate.weight"] = (ple, hidden)
            block["per_layer_projection.weight"] = (hidden, ple)
            block["post_per_layer_input_norm.weight"] = (hidden,)
        block["layer_scalar"] = (1,)
        shapes.update({f"layers.{layer}.{name}": shape for name, shape in block.items()})
    return shapes


def _attention_shapes(
    text: dict[str, Any], layer: int, shared_kv_weights: bool
) -> dict[str, tuple[int, ...]]:
    hidden, full = text["hidden_size"], text["layer_types"][layer] == "full_attention"
    own = dict(text.get("per_layer_config", {}).get(str(layer), {}))
    if full and text.get("global_head_dim"):
        own["head_dim"] = text["global_head_dim"]
    if full and text.get("num_global_key_value_heads"):
        own["num_key_value_heads"] = text["num_global_key_value_heads"]
    head_dim = own.get("head_dim", text["head_dim"])
    q_size = text["num_attention_heads"] * head_dim
    kv_size = own.get("num_key_value_heads", text["num_key_value_heads"]) * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (q_size, hidden),
        "self_attn.o_proj.weight": (hidden, q_size),
        "self_attn.q_norm.weight": (head_dim,),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if shared_kv_weights or layer < text["num_hidden_layers"] - text["num_kv_shared_layers"]:
        shapes["self_attn.k_proj.weight"] = (kv_size, hidden)
        shapes["self_attn.k_norm.weight"] = (head_dim,)
        if not (full and text["attention_k_eq_v"]):
            shapes["self_attn.v_proj.weight"] = (kv_size, hidden)
    return shapes


def _feed_forward_shapes(text: dict[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    if text["use_double_wide_mlp"] and layer >= text["num_hidden_layers"] - text["num_kv_shared_layers"]:
        inner *= 2
    shapes: dict[str, tuple[int, ...]] = {
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "pre_feedforward_layernorm.weight": (hidden,),
        "post_feedforward_layernorm.weight": (hidden,),
    }
    if text.get("enable_moe_block"):
        n_experts, expert_inner = text["num_experts"], text["moe_intermediate_size"]
        shapes |= {
            "router.scale": (hidden,),
            "router.per_expert_scale": (n_experts,),
            "router.proj.weight": (n_experts, hidden),
            "experts.gate_up_proj": (n_experts, 2 * expert_inner, hidden),
            "experts.down_proj": (n_experts, hidden, expert_inner),
            "post_feedforward_layernorm_1.weight": (hidden,),
            "post_feedforward_layernorm_2.weight": (hidden,),
            "pre_feedforward_layernorm_2.weight": (hidden,),
        }
    return shapes


def _clippable(name: str, shape: tuple[int, int], clipped: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.linear.weight": shape}
    if clipped:
        shapes |= {f"{name}.{end}": () for end in ("input_min", "input_max", "output_min", "output_max")}
    return shapes


def _vision_shapes(vision: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, clipped = vision["hidden_size"], vision["intermediate_size"], vision["use_clipped_linears"]
    q_size = vision["num_attention_heads"] * vision["head_dim"]
    kv_size = vision["num_key_value_heads"] * vision["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedder.input_proj.weight": (hidden, 3 * vision["patch_size"] ** 2),
        "patch_embedder.position_embedding_table": (2, vision["position_embedding_size"], hidden),
    }
    if vision["standardize"]:
        shapes |= {"std_bias": (hidden,), "std_scale": (hidden,)}
    for layer in range(vision["num_hidden_layers"]):
        at = f"encoder.layers.{layer}."
        for name, shape in {
            "self_attn.q_proj": (q_size, hidden),
            "self_attn.k_proj": (kv_size, hidden),
            "self_attn.v_proj": (kv_size, hidden),
            "self_attn.o_proj": (hidden, q_size),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }.items():
            shapes.update(_clippable(at + name, shape, clipped))
        shapes |= {f"{at}self_attn.{norm}.weight": (vision["head_dim"],) for norm in ("q_norm", "k_norm")}
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            shapes[f"{at}{norm}_layernorm.weight"] = (hidden,)
    return shapes


def _audio_shapes(audio: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, clipped = audio["hidden_size"], audio["use_clipped_linears"]
    first, second = audio["subsampling_conv_channels"]
    shapes: dict[str, tuple[int, ...]] = {
        "subsample_conv_projection.layer0.conv.weight": (first, 1, 3, 3),
        "subsample_conv_projection.layer0.norm.weight": (first,),
        "subsample_conv_projection.layer1.conv.weight": (second, first, 3, 3),
        "subsample_conv_projection.layer1.norm.weight": (second,),
        "subsample_conv_projection.input_proj_linear.weight": (hidden, first // 4 * second),
        "output_proj.weight": (audio["output_proj_dims"], hidden),
        "output_proj.bias": (audio["output_proj_dims"],),
    }
    for layer in range(audio["num_hidden_layers"]):
        at = f"layers.{layer}."
        linears = {f"self_attn.{name}": (hidden, hidden) for name in ("q_proj", "k_proj", "v_proj", "post")}
        linears |= {"lconv1d.linear_start": (2 * hidden, hidden), "lconv1d.linear_end": (hidden, hidden)}
        for half in ("feed_forward1", "feed_forward2"):
            linears |= {
                f"{half}.ffw_layer_1": (4 * hidden, hidden),
                f"{half}.ffw_layer_2": (hidden, 4 * hidden),
            }
            shapes |= {f"{at}{half}.{norm}_layer_norm.weight": (hidden,) for norm in ("pre", "post")}
        for name, shape in linears.items():
            shapes.update(_clippable(at + name, shape, clipped))
        shapes[at + "self_attn.per_dim_scale"] = (hidden // audio["num_attention_heads"],)
        shapes[at + "self_attn.relative_k_proj.weight"] = (hidden, hidden)
        shapes[at + "lconv1d.depthwise_conv1d.weight"] = (hidden, 1, audio["conv_kernel_size"])
        for norm in (
            "lconv1d.pre_layer_norm",
            "lconv1d.conv_norm",
            "norm_pre_attn",
            "norm_post_attn",
            "norm_out",
        ):
            shapes[f"{at}{norm}.weight"] = (hidden,)
    return shapes


def _unified_shapes(config: dict[str, Any], hidden: int) -> dict[str, tuple[int, ...]]:
    vision, audio = config["vision_config"], config["audio_config"]
    width, patch = vision["mm_embed_dim"], (vision["patch_size"] * vision["pooling_kernel_size"]) ** 2 * 3
    shapes: dict[str, tuple[int, ...]] = {
        "patch_dense.weight": (width, patch),
        "patch_dense.bias": (width,),
        "pos_embedding": (vision["mm_posemb_size"], 2, width),
    }
    for norm, size in (("patch_ln1", patch), ("patch_ln2", width), ("pos_norm", width)):
        shapes |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    shapes = {"model.vision_embedder." + name: shape for name, shape in shapes.items()}
    shapes["model.embed_vision.embedding_projection.weight"] = (hidden, width)
    shapes["model.embed_audio.embedding_projection.weight"] = (hidden, audio["audio_embed_dim"])
    return shapes


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
    # Four 16-bit integers added up: near enough to a normal, and free of any libm that could differ in the last bit.
    total = np.frombuffer(rng.bytes(8 * n), dtype="<u2").reshape(n, 4).sum(axis=1, dtype=np.int64)
    unit = (total - 2 * 65535) / (65536.0 / np.sqrt(3.0))
    mean, deviation = next((m, d) for pattern, m, d in VALUES if re.search(pattern, name))
    if deviation is None:
        # A convolution sees all inputs of its window; the fused experts are matrices behind their first index.
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
        rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return "BF16", rounded.astype("<u2")
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
