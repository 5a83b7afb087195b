"""Tensor names: those of checkpoints, whoever saved them, and those of GGUF files.

Published names are `model.language_model.layers.0.…`; older and fine-tuning tools write other prefixes, put a
`.linear.` or `.base_layer.` before the last part, or add `.weight` to bare parameters. All of them map to one
canonical name. The tables below are the names of llama.cpp (gguf-py/gguf/tensor_mapping.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gemma4_gguf.convert.json_section import shown
from gemma4_gguf.convert.safetensors import SourceTensor
from gemma4_gguf.errors import TensorError

# "F16_OR_F32" is F16 in a file of type F16 and F32 in every other file: the patch embedding of a projector.
ForcedType = Literal["F32", "F16_OR_F32"]


@dataclass(frozen=True)
class Row:
    """One line of a name table.

    Args:
        source: canonical name; {i} stands for the layer.
        target: GGUF name.
        sizes: each dimension of the source, in words that the `tensors_…` modules turn into numbers.
        when: a word for the circumstances in which the tensor exists; "" means always.
        forced: type the file must hold, if the name and the number of dimensions do not decide it.
    """

    source: str
    target: str
    sizes: tuple[str, ...]
    when: str = ""
    forced: ForcedType | None = None


# Canonical names. The first prefix that fits is taken away and replaced.

_ADAPTED = "base_model.model."
# Parts that wrappers of torch put anywhere into a name: compiled, distributed, checkpointed.
_WRAPPERS = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# What peft stores beside the weights of a model that was not merged.
_ADAPTER = re.compile(
    r"\.(lora_\w+|ia3_l|modules_to_save|original_module|trainable_tokens_\w+|hada_\w+)(\.|$)"
)
_PREFIXES = (
    ("model.language_model.lm_head.", "lm_head."),
    ("language_model.lm_head.", "lm_head."),
    ("model.lm_head.", "lm_head."),
    ("lm_head.", "lm_head."),
    ("model.language_model.model.", "text."),
    ("model.language_model.", "text."),
    ("language_model.model.", "text."),
    ("language_model.", "text."),
    ("model.vision_tower.", "vision."),
    ("vision_tower.", "vision."),
    ("model.vision_embedder.", "vision_embedder."),
    ("vision_embedder.", "vision_embedder."),
    ("model.audio_tower.", "audio."),
    ("audio_tower.", "audio."),
    ("model.embed_vision.", "embed_vision."),
    ("embed_vision.", "embed_vision."),
    ("model.embed_audio.", "embed_audio."),
    ("embed_audio.", "embed_audio."),
    ("pre_projection.", "pre_projection."),
    ("post_projection.", "post_projection."),
    ("masked_embedding.", "masked_embedding."),
    ("model.", "text."),
)
# Parts that some tools put between a layer and its `weight` or clamp.
_INSERTED = ("linear", "base_layer")
# Parameters without a module of their own: `.weight` after them is somebody's addition.
_BARE = (
    "layer_scalar",
    "experts.gate_up_proj",
    "experts.down_proj",
    "router.scale",
    "router.per_expert_scale",
    "per_dim_scale",
    "position_embedding_table",
    "pos_embedding",
    "std_bias",
    "std_scale",
)


def canonical(name: str) -> str:
    """The one name of a stored tensor, such as "text.layers.0.self_attn.q_proj.weight".

    A name that fits no prefix comes back as it is, and no table knows it.
    """
    parts = name.split(".")
    if not _WRAPPERS.isdisjoint(parts):
        name = ".".join(part for part in parts if part not in _WRAPPERS)
    while name.startswith(_ADAPTED):
        name = name.removeprefix(_ADAPTED)
    for prefix, short in _PREFIXES:
        if name.startswith(prefix):
            name = short + name.removeprefix(prefix)
            break
    *path, last = name.split(".")
    while len(path) > 1 and path[-1] in _INSERTED:
        path.pop()
    module = ".".join(path)
    if last == "weight" and module.endswith(_BARE):
        return module
    return f"{module}.{last}" if module else last


def by_canonical_name(tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint under their canonical names, in the same order.

    Raises:
        TensorError: two stored names mean the same tensor, or an adapter was not merged.
    """
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        if _ADAPTER.search(name):
            raise TensorError(
                f"{tensor.path.name}: {shown(name)} belongs to a LoRA adapter. "
                "Merge it first (peft: merge_and_unload)."
            )
        other = found.setdefault(canonical(name), tensor)
        if other is not tensor:
            raise TensorError(
                f"{shown(other.name)} and {shown(name)} are two names of one tensor. "
                "Save the checkpoint again."
            )
    return found


# Tables

TEXT = (
    Row("text.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
    Row("text.norm.weight", "output_norm.weight", ("hidden",)),
    Row("lm_head.weight", "output.weight", ("vocab", "hidden"), "head"),
    Row("text.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", ("vocab", "all_ple"), "ple"),
    Row(
        "text.per_layer_model_projection.weight", "per_layer_model_proj.weight", ("all_ple", "hidden"), "ple"
    ),
    Row("text.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", ("ple",), "ple"),
    Row("pre_projection.weight", "nextn.pre_projection.weight", ("hidden", "backbones"), "assistant"),
    Row("post_projection.weight", "nextn.post_projection.weight", ("backbone", "hidden"), "assistant"),
)

# After "text.layers.{i}." and "blk.{i}.".
TEXT_LAYER = (
    Row("input_layernorm.weight", "attn_norm.weight", ("hidden",)),
    Row("self_attn.q_proj.weight", "attn_q.weight", ("queries", "hidden")),
    Row("self_attn.k_proj.weight", "attn_k.weight", ("keys", "hidden"), "keys"),
    Row("self_attn.v_proj.weight", "attn_v.weight", ("keys", "hidden"), "values"),
    Row("self_attn.o_proj.weight", "attn_output.weight", ("hidden", "queries")),
    Row("self_attn.q_norm.weight", "attn_q_norm.weight", ("head",)),
    Row("self_attn.k_norm.weight", "attn_k_norm.weight", ("head",), "keys"),
    Row("post_attention_layernorm.weight", "post_attention_norm.weight", ("hidden",)),
    Row("pre_feedforward_layernorm.weight", "ffn_norm.weight", ("hidden",)),
    Row("mlp.gate_proj.weight", "ffn_gate.weight", ("inner", "hidden")),
    Row("mlp.up_proj.weight", "ffn_up.weight", ("inner", "hidden")),
    Row("mlp.down_proj.weight", "ffn_down.weight", ("hidden", "inner")),
    Row("post_feedforward_layernorm.weight", "post_ffw_norm.weight", ("hidden",)),
    Row("layer_scalar", "layer_output_scale.weight", ("one",)),
    Row("per_layer_input_gate.weight", "inp_gate.weight", ("ple", "hidden"), "ple"),
    Row("per_layer_projection.weight", "proj.weight", ("hidden", "ple"), "ple"),
    Row("post_per_layer_input_norm.weight", "post_norm.weight", ("hidden",), "ple"),
    Row("router.proj.weight", "ffn_gate_inp.weight", ("experts", "hidden"), "moe", "F32"),
    Row("router.scale", "ffn_gate_inp.scale", ("hidden",), "moe"),
    Row("router.per_expert_scale", "ffn_down_exps.scale", ("experts",), "moe"),
    Row("experts.gate_up_proj", "ffn_gate_up_exps.weight", ("experts", "gate_up", "hidden"), "fused"),
    Row("experts.down_proj", "ffn_down_exps.weight", ("experts", "hidden", "expert_inner"), "fused"),
    Row("post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", ("hidden",), "moe"),
    Row("post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", ("hidden",), "moe"),
    Row("pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", ("hidden",), "moe"),
)

VISION = (
    Row(
        "vision.patch_embedder.input_proj.weight",
        "v.patch_embd.weight",
        ("hidden", "pixels"),
        "",
        "F16_OR_F32",
    ),
    Row(
        "vision.patch_embedder.position_embedding_table",
        "v.position_embd.weight",
        ("axes", "positions", "hidden"),
        "",
        "F32",
    ),
    Row("vision.std_bias", "v.std_bias", ("hidden",), "standardize"),
    Row("vision.std_scale", "v.std_scale", ("hidden",), "standardize"),
    Row("embed_vision.embedding_projection.weight", "mm.input_projection.weight", ("model", "hidden")),
)

# After "vision.encoder.layers.{i}." and "v.blk.{i}.". "clipped" rows have four clamps beside their weight.
VISION_LAYER = (
    Row("input_layernorm.weight", "ln1.weight", ("hidden",)),
    Row("self_attn.q_proj.weight", "attn_q.weight", ("hidden", "hidden"), "clipped"),
    Row("self_attn.k_proj.weight", "attn_k.weight", ("hidden", "hidden"), "clipped"),
    Row("self_attn.v_proj.weight", "attn_v.weight", ("hidden", "hidden"), "clipped"),
    Row("self_attn.o_proj.weight", "attn_out.weight", ("hidden", "hidden"), "clipped"),
    Row("self_attn.q_norm.weight", "attn_q_norm.weight", ("head",)),
    Row("self_attn.k_norm.weight", "attn_k_norm.weight", ("head",)),
    Row("post_attention_layernorm.weight", "attn_post_norm.weight", ("hidden",)),
    Row("pre_feedforward_layernorm.weight", "ln2.weight", ("hidden",)),
    Row("mlp.gate_proj.weight", "ffn_gate.weight", ("inner", "hidden"), "clipped"),
    Row("mlp.up_proj.weight", "ffn_up.weight", ("inner", "hidden"), "clipped"),
    Row("mlp.down_proj.weight", "ffn_down.weight", ("hidden", "inner"), "clipped"),
    Row("post_feedforward_layernorm.weight", "ffn_post_norm.weight", ("hidden",)),
)

UNIFIED_VISION = (
    Row("vision_embedder.patch_ln1.weight", "v.patch_norm.1.weight", ("pixels",)),
    Row("vision_embedder.patch_ln1.bias", "v.patch_norm.1.bias", ("pixels",)),
    Row("vision_embedder.patch_dense.weight", "v.patch_embd.weight", ("hidden", "pixels"), "", "F16_OR_F32"),
    Row("vision_embedder.patch_dense.bias", "v.patch_embd.bias", ("hidden",)),
    Row("vision_embedder.patch_ln2.weight", "v.patch_norm.2.weight", ("hidden",)),
    Row("vision_embedder.patch_ln2.bias", "v.patch_norm.2.bias", ("hidden",)),
    Row(
        "vision_embedder.pos_embedding", "v.position_embd.weight", ("positions", "axes", "hidden"), "", "F32"
    ),
    Row("vision_embedder.pos_norm.weight", "v.patch_norm.3.weight", ("hidden",)),
    Row("vision_embedder.pos_norm.bias", "v.patch_norm.3.bias", ("hidden",)),
    Row("embed_vision.embedding_projection.weight", "mm.input_projection.weight", ("model", "hidden")),
)

_SUBSAMPLE = "audio.subsample_conv_projection."
AUDIO = (
    Row(
        _SUBSAMPLE + "layer0.conv.weight", "a.conv1d.0.weight", ("first", "one", "three", "three"), "", "F32"
    ),
    Row(_SUBSAMPLE + "layer0.norm.weight", "a.conv1d.0.norm.weight", ("first",)),
    Row(
        _SUBSAMPLE + "layer1.conv.weight",
        "a.conv1d.1.weight",
        ("second", "first", "three", "three"),
        "",
        "F32",
    ),
    Row(_SUBSAMPLE + "layer1.norm.weight", "a.conv1d.1.norm.weight", ("second",)),
    Row(
        _SUBSAMPLE + "input_proj_linear.weight",
        "a.input_projection.weight",
        ("hidden", "subsampled"),
        "",
        "F32",
    ),
    Row("audio.output_proj.weight", "a.pre_encode.out.weight", ("output", "hidden")),
    Row("audio.output_proj.bias", "a.pre_encode.out.bias", ("output",)),
    Row("embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", ("model", "output")),
)

# After "audio.layers.{i}." and "a.blk.{i}.".
AUDIO_LAYER = (
    Row("feed_forward1.pre_layer_norm.weight", "ffn_norm.weight", ("hidden",)),
    Row("feed_forward1.ffw_layer_1.weight", "ffn_up.weight", ("inner", "hidden"), "clipped"),
    Row("feed_forward1.ffw_layer_2.weight", "ffn_down.weight", ("hidden", "inner"), "clipped"),
    Row("feed_forward1.post_layer_norm.weight", "ffn_post_norm.weight", ("hidden",)),
    Row("norm_pre_attn.weight", "attn_pre_norm.weight", ("hidden",)),
    Row("self_attn.q_proj.weight", "attn_q.weight", ("hidden", "hidden"), "clipped"),
    Row("self_attn.k_proj.weight", "attn_k.weight", ("hidden", "hidden"), "clipped"),
    Row("self_attn.v_proj.weight", "attn_v.weight", ("hidden", "hidden"), "clipped"),
    Row("self_attn.relative_k_proj.weight", "attn_k_rel.weight", ("hidden", "hidden")),
    Row("self_attn.per_dim_scale", "per_dim_scale.weight", ("head",)),
    Row("self_attn.post.weight", "attn_out.weight", ("hidden", "hidden"), "clipped"),
    Row("norm_post_attn.weight", "attn_post_norm.weight", ("hidden",)),
    # llama.cpp's converter swaps the names of the two norms of this module; its loader swaps them back.
    Row("lconv1d.pre_layer_norm.weight", "conv_norm.weight", ("hidden",)),
    Row("lconv1d.linear_start.weight", "conv_pw1.weight", ("double", "hidden"), "clipped"),
    Row("lconv1d.depthwise_conv1d.weight", "conv_dw.weight", ("hidden", "one", "kernel"), "", "F32"),
    Row("lconv1d.conv_norm.weight", "norm_conv.weight", ("hidden",)),
    Row("lconv1d.linear_end.weight", "conv_pw2.weight", ("hidden", "hidden"), "clipped"),
    Row("feed_forward2.pre_layer_norm.weight", "ffn_norm_1.weight", ("hidden",)),
    Row("feed_forward2.ffw_layer_1.weight", "ffn_up_1.weight", ("inner", "hidden"), "clipped"),
    Row("feed_forward2.ffw_layer_2.weight", "ffn_down_1.weight", ("hidden", "inner"), "clipped"),
    Row("feed_forward2.post_layer_norm.weight", "ffn_post_norm_1.weight", ("hidden",)),
    Row("norm_out.weight", "ln2.weight", ("hidden",)),
)

UNIFIED_AUDIO = (
    Row("embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", ("model", "frame")),
)

CLAMPS = ("input_min", "input_max", "output_min", "output_max")
