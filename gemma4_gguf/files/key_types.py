"""Types of GGUF keys: those that llama.cpp asks for, exactly as it asks.

Its reader of projectors ends the process on a number of another type or width; that of models throws, which
would be told as a lack of memory. Keys that it does not read are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemma4_gguf.files.gguf_reader import Metadata
from gemma4_gguf.files.metadata_view import MetadataView

_U32, _F32, _BOOL, _TEXT = ("UINT32",), ("FLOAT32",), ("BOOL",), ("STRING",)
_PER_LAYER = ("UINT32", "[INT32]", "[UINT32]")  # one number, or one for each layer
_GENERAL = {
    "general.alignment": _U32,
    "general.architecture": _TEXT,
    "general.name": _TEXT,
    "general.description": _TEXT,
    "general.file_type": _U32,
    "general.quantization_version": _U32,
}
_TOKEN_IDS = (
    *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "prefix", "suffix", "middle"),
    *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
)
# llama-model.cpp (load_hparams), models/gemma4.cpp, llama-vocab.cpp, llama-model-loader.cpp
MODEL_KEYS: Mapping[str, tuple[str, ...]] = {
    **_GENERAL,
    "split.count": ("UINT16",),
    **{
        f"gemma4.{key}": _U32
        for key in (
            *("context_length", "embedding_length", "embedding_length_out", "block_count", "pooling_type"),
            *("attention.sliding_window", "attention.shared_kv_layers", "embedding_length_per_layer_input"),
            *("attention.key_length", "attention.key_length_swa", "rope.scaling.original_context_length"),
            *("attention.value_length", "attention.value_length_swa", "nextn_predict_layers"),
            *("rope.dimension_count", "rope.dimension_count_swa", "vocab_size"),
            *("expert_count", "expert_group_count", "expert_group_used_count"),
        )
    },
    **{
        f"gemma4.{key}": _F32
        for key in (
            *("attention.layer_norm_rms_epsilon", "final_logit_softcapping", "rope.freq_base"),
            *("rope.freq_base_swa", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"),
            *("rope.scaling.alpha", "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor"),
            *("rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
        )
    },
    **{
        f"gemma4.{key}": _PER_LAYER
        for key in (
            *("feed_forward_length", "expert_feed_forward_length", "expert_used_count"),
            *("attention.head_count", "attention.head_count_kv"),
        )
    },
    "gemma4.attention.sliding_window_pattern": ("[BOOL]", "[INT32]", "[UINT32]"),
    "gemma4.attention.causal": _BOOL,
    "gemma4.rope.scaling.finetuned": _BOOL,
    "gemma4.rope.scaling.type": _TEXT,
    **{f"tokenizer.ggml.{key}": _TEXT for key in ("model", "pre")},
    **{f"tokenizer.ggml.{name}_token_id": _U32 for name in _TOKEN_IDS},
    **{
        f"tokenizer.ggml.{key}": _BOOL
        for key in (
            *("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix"),
            *("remove_extra_whitespaces", "normalizer.lowercase", "normalizer.strip_accents"),
        )
    },
    "tokenizer.ggml.token_type_count": _U32,
    "tokenizer.ggml.suppress_tokens": ("[INT32]",),
}
# clip.cpp
PROJECTOR_KEYS: Mapping[str, tuple[str, ...]] = {
    **_GENERAL,
    **{f"clip.{key}": _TEXT for key in ("projector_type", "vision.projector_type", "audio.projector_type")},
    **{f"clip.has_{key}_encoder": _BOOL for key in ("vision", "audio", "gen_audio")},
    **{f"clip.{key}": _BOOL for key in ("use_gelu", "use_silu")},
    **{
        f"clip.{tower}.{key}": _U32
        for tower in ("vision", "audio")
        for key in (
            *("embedding_length", "feed_forward_length", "block_count", "projection_dim"),
            *("attention.head_count", "attention.head_count_kv", "attention.head_dim"),
        )
    },
    **{f"clip.{tower}.attention.layer_norm_epsilon": _F32 for tower in ("vision", "audio")},
    **{f"clip.{tower}.feature_layer": ("[INT32]",) for tower in ("vision", "audio")},
    **{f"clip.vision.{key}": _U32 for key in ("image_size", "patch_size", "projector.scale_factor")},
    **{f"clip.vision.{key}": ("[FLOAT32]",) for key in ("image_mean", "image_std")},
    "clip.vision.mm_patch_merge_type": _TEXT,
    "clip.vision.image_grid_pinpoints": ("[INT32]",),
    "clip.audio.num_mel_bins": _U32,
    "clip.minicpmv_version": ("INT32",),
    "clip.minicpmv_query_num": _U32,
}


def check_types(metadata: Metadata, view: MetadataView, types: Mapping[str, tuple[str, ...]]) -> None:
    """Checks the types of all keys that are there.

    Args:
        metadata: of the file.
        view: of the same, for messages.
        types: key to the types it may have.

    Raises:
        GGUFError: a key is of another type.
    """
    for key, allowed in types.items():
        if key in metadata and metadata.type_name(key) not in allowed:
            raise view.error(key, " or ".join(allowed), found=f"is of type {metadata.type_name(key)}")
