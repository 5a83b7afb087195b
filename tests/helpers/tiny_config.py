"""Configurations of the tiny checkpoints: the keys of the published ones, tiny numbers.

Widths that are multiples of 256 (e2b, 26b) take K-quants; the others (160, 320, 128) and inner sizes such as
96 and 224 make a quantizer fall back. Sliding windows are 32 tokens, so a prompt of 90 tokens leaves them
behind. Wherever layers share a cache, the last layers with their own are a sliding layer followed by a full
one: llama.cpp aborts otherwise.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

TOKENIZER = Path(__file__).resolve().parents[1] / "data/tokenizer"

MEMBERS = (
    "e2b",
    "e4b",
    "26b",
    "31b",
    "12b",
    "assistant",
    "assistant_unified",
    "e2b_text",
    "same_head_dim",
)

PROCESSOR: dict[str, Any] = {
    "processor_class": "Gemma4Processor",
    "image_seq_length": 280,
    "audio_seq_length": 750,
    "image_processor": {
        "image_processor_type": "Gemma4ImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": False,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "max_soft_tokens": 280,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
    },
}

AUDIO_FEATURES: dict[str, dict[str, Any]] = {
    "gemma4": {
        "feature_extractor_type": "Gemma4AudioFeatureExtractor",
        "feature_size": 128,
        "sampling_rate": 16000,
        "padding_value": 0.0,
    },
    "gemma4_unified": {
        "feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor",
        "feature_size": 640,
        "sampling_rate": 16000,
        "padding_value": 0.0,
    },
}

ROPE = {
    "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}

# Layer sizes of one text model. "full" is what the full-attention layers have of their own.
TEXT: dict[str, dict[str, Any]] = {
    "e2b": {
        "hidden_size": 256,
        "intermediate_size": 256,
        "pattern": "ssfssf",
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "full": {"head_dim": 64},
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 32,
    },
    "e4b": {
        "hidden_size": 160,
        "intermediate_size": 224,
        "pattern": "sssfsssf",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "full": {"head_dim": 64},
        "num_kv_shared_layers": 4,
        "hidden_size_per_layer_input": 32,
    },
    "26b": {
        "hidden_size": 256,
        "intermediate_size": 128,
        "pattern": "ssfssf",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "full": {"head_dim": 64, "num_key_value_heads": 1},
        "attention_k_eq_v": True,
        "use_bidirectional_attention": "vision",
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 96,
    },
    "31b": {
        "hidden_size": 320,
        "intermediate_size": 320,
        "pattern": "ssfssf",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "full": {"head_dim": 64, "num_key_value_heads": 1},
        "attention_k_eq_v": True,
        "use_bidirectional_attention": "vision",
    },
    "12b": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "pattern": "ssfssf",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "full": {"head_dim": 64, "num_key_value_heads": 1},
        "attention_k_eq_v": True,
        "use_bidirectional_attention": "vision",
    },
    "assistant": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "pattern": "sssf",
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "full": {"head_dim": 64},
        "num_kv_shared_layers": 4,
    },
}
TEXT["e2b_text"] = TEXT["e2b"] | {"hidden_size": 128, "intermediate_size": 160, "pattern": "ssssfsssf"}
TEXT["e2b_text"]["num_kv_shared_layers"] = 4
TEXT["same_head_dim"] = TEXT["e2b"] | {"full": {}, "use_double_wide_mlp": False}
TEXT["same_head_dim"] |= {"hidden_size": 192, "num_kv_shared_layers": 0, "pattern": "ssfsf"}
TEXT["assistant_unified"] = TEXT["assistant"] | {
    "num_key_value_heads": 2,
    "full": {"head_dim": 64, "num_key_value_heads": 1},
    "attention_k_eq_v": True,
    "use_bidirectional_attention": "vision",
}


@cache
def token_ids() -> dict[str, int]:
    """Text of each token of the shared tokenizer to its id."""
    vocab: dict[str, int] = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))["model"][
        "vocab"
    ]
    return vocab


def member_config(
    member: str, *, spelling: str = "per_layer_config", overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """config.json of a member, as in write_checkpoint."""
    unified = member in ("12b", "assistant_unified")
    family = "gemma4_unified" if unified else "gemma4"
    text = _text_config(member, family, spelling) | (overrides or {})
    shared = {"tie_word_embeddings": True, "transformers_version": "5.23.0"}
    if member == "e2b_text":
        return text | shared | {"architectures": ["Gemma4ForCausalLM"]}
    if member.startswith("assistant"):
        return shared | {
            "architectures": [f"Gemma4{'Unified' if unified else ''}AssistantForCausalLM"],
            "model_type": f"{family}_assistant",
            "backbone_hidden_size": TEXT["12b" if unified else "e2b"]["hidden_size"],
            "centroid_intermediate_top_k": 4,
            "num_centroids": 20,
            "use_ordered_embeddings": not unified,
            "text_config": text,
        }
    ids = token_ids()
    return shared | {
        "architectures": [
            "Gemma4UnifiedForConditionalGeneration" if unified else "Gemma4ForConditionalGeneration"
        ],
        "model_type": family,
        "audio_config": _audio_config(member),
        "vision_config": _vision_config(member),
        "text_config": text,
        "initializer_range": 0.02,
        "image_token_id": ids["<|image|>"],
        "boi_token_id": ids["<|image>"],
        "eoi_token_id": ids["<image|>"],
        "audio_token_id": ids["<|audio|>"],
        "boa_token_id": ids["<|audio>"],
        "eoa_token_index": ids["<audio|>"],
        "video_token_id": ids["<|video|>"],
    }


def _text_config(member: str, family: str, spelling: str) -> dict[str, Any]:
    own = dict(TEXT[member])
    pattern, full = own.pop("pattern"), own.pop("full")
    types = ["full_attention" if letter == "f" else "sliding_attention" for letter in pattern]
    config = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_k_eq_v": False,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": None if member.startswith("assistant") else 30.0,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
        "layer_types": types,
        "max_position_embeddings": 4096,
        "model_type": f"{family}_text",
        "num_hidden_layers": len(types),
        "num_kv_shared_layers": 0,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_parameters": ROPE,
        "sliding_window": 32,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": None,
        "use_cache": True,
        "use_double_wide_mlp": False,
        "vocab_size": len(token_ids()),
    }
    if family == "gemma4" or spelling == "global":
        # transformers drops these keys when it saves the unified members; the published files have them.
        config |= {
            "enable_moe_block": False,
            "hidden_size_per_layer_input": 0,
            "moe_intermediate_size": None,
            "num_experts": None,
            "top_k_experts": None,
            "vocab_size_per_layer_input": 0 if member.startswith("assistant") else len(token_ids()),
        }
    if spelling == "global":
        config["global_head_dim"] = full.get("head_dim", 32)
        config["num_global_key_value_heads"] = full.get("num_key_value_heads")
    else:
        config["per_layer_config"] = {
            str(i): dict(full) for i, kind in enumerate(types) if full and kind == "full_attention"
        }
    return config | own


def _vision_config(member: str) -> dict[str, Any]:
    if member == "12b":
        return {
            "initializer_range": 0.02,
            "mm_embed_dim": TEXT["12b"]["hidden_size"],
            "mm_posemb_size": 128,
            "model_patch_size": 48,
            "model_type": "gemma4_unified_vision",
            "output_proj_dims": TEXT["12b"]["hidden_size"],
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "rms_norm_eps": 1e-06,
        }
    effective = member in ("e2b", "e4b", "same_head_dim")
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 96,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "max_position_embeddings": 131072,
        "model_type": "gemma4_vision",
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 3,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 256,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 100.0, "rope_type": "axial"},
        "standardize": not effective,
        "use_clipped_linears": effective,
    }


def _audio_config(member: str) -> dict[str, Any] | None:
    if member == "12b":
        return {
            "audio_embed_dim": 640,
            "initializer_range": 0.02,
            "model_type": "gemma4_unified_audio",
            "rms_norm_eps": 1e-06,
        }
    if member not in ("e2b", "e4b"):
        return None
    return {
        "attention_chunk_size": 12,
        "attention_context_left": 13,
        "attention_context_right": 0,
        "attention_invalid_logits_value": -1000000000.0,
        "attention_logit_cap": 50.0,
        "conv_kernel_size": 5,
        "gradient_clipping": 10000000000.0,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "model_type": "gemma4_audio",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "output_proj_dims": 80,
        "residual_weight": 0.5,
        "rms_norm_eps": 1e-06,
        "subsampling_conv_channels": [128, 32],
        "use_clipped_linears": True,
    }
