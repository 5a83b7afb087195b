"""Names and shapes of every tensor of a Gemma 4 checkpoint, from its config, under the names of the hub."""

from __future__ import annotations

from typing import Any

Shape = tuple[int, ...]


def tensor_shapes(config: dict[str, Any], *, shared_kv_weights: bool = False) -> dict[str, Shape]:
    """Name to shape, for the whole checkpoint.

    Args:
        config: as tiny_config.member_config gives it.
        shared_kv_weights: list the K and V weights of layers that never use them as well.
    """
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


def _text_shapes(text: dict[str, Any], shared_kv_weights: bool) -> dict[str, Shape]:
    hidden, n_layers, ple = (
        text["hidden_size"],
        text["num_hidden_layers"],
        text.get("hidden_size_per_layer_input"),
    )
    shapes: dict[str, Shape] = {
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


def _attention_shapes(text: dict[str, Any], layer: int, shared_kv_weights: bool) -> dict[str, Shape]:
    hidden, full = text["hidden_size"], text["layer_types"][layer] == "full_attention"
    own = dict(text.get("per_layer_config", {}).get(str(layer), {}))
    if full and text.get("global_head_dim"):
        own["head_dim"] = text["global_head_dim"]
    if full and text.get("num_global_key_value_heads"):
        own["num_key_value_heads"] = text["num_global_key_value_heads"]
    head_dim = own.get("head_dim", text["head_dim"])
    q_size = text["num_attention_heads"] * head_dim
    kv_size = own.get("num_key_value_heads", text["num_key_value_heads"]) * head_dim
    shapes: dict[str, Shape] = {
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


def _feed_forward_shapes(text: dict[str, Any], layer: int) -> dict[str, Shape]:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    if text["use_double_wide_mlp"] and layer >= text["num_hidden_layers"] - text["num_kv_shared_layers"]:
        inner *= 2
    shapes: dict[str, Shape] = {
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


def _clippable(name: str, shape: tuple[int, int], clipped: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.linear.weight": shape}
    if clipped:
        shapes |= {f"{name}.{end}": () for end in ("input_min", "input_max", "output_min", "output_max")}
    return shapes


def _vision_shapes(vision: dict[str, Any]) -> dict[str, Shape]:
    hidden, inner, clipped = vision["hidden_size"], vision["intermediate_size"], vision["use_clipped_linears"]
    q_size = vision["num_attention_heads"] * vision["head_dim"]
    kv_size = vision["num_key_value_heads"] * vision["head_dim"]
    shapes: dict[str, Shape] = {
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


def _audio_shapes(audio: dict[str, Any]) -> dict[str, Shape]:
    hidden, clipped = audio["hidden_size"], audio["use_clipped_linears"]
    first, second = audio["subsampling_conv_channels"]
    shapes: dict[str, Shape] = {
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


def _unified_shapes(config: dict[str, Any], hidden: int) -> dict[str, Shape]:
    vision, audio = config["vision_config"], config["audio_config"]
    width, patch = vision["mm_embed_dim"], (vision["patch_size"] * vision["pooling_kernel_size"]) ** 2 * 3
    shapes: dict[str, Shape] = {
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
