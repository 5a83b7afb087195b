"""Model file checks: made before llama.cpp opens a file, which ends the whole process on some.

The header is read strictly (`gemma4_gguf.files.gguf_reader`); the rules here are those of llama.cpp's loader
(llama-model.cpp, llama-vocab.cpp and models/gemma4.cpp in llama-cpp-python 0.3.36): each stands for an
assertion or an unchecked read there. What comes out also tells the session how to treat the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gemma4_gguf.errors import GGUFError
from gemma4_gguf.files.gguf_reader import (
    DRAFTER_ARCHITECTURE,
    MODEL_ARCHITECTURE,
    GGUFFile,
    Metadata,
    Stamp,
    open_gguf,
    require_gemma4,
)
from gemma4_gguf.files.key_types import MODEL_KEYS, check_types
from gemma4_gguf.files.metadata_view import MAX_LAYERS, MetadataView
from gemma4_gguf.files.model_tensors import Layers, check_tensors
from gemma4_gguf.special_tokens import NEVER_WRITTEN, TURN_CLOSE, TURN_OPEN

IMAGE_ATTENTION_KEY = "general.gemma4.image_attention"

_TOKENIZER = "gemma4"  # another one splits text wrongly
_MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
# Times the sequences of a context it stays within 32 bits; published ones have 512 or 1024.
_MAX_WINDOW = 2**20
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED_TYPE, _BYTE_TYPE = 2, 3, 4, 5, 6  # enum llama_token_type
_UNUSED = re.compile(r"<unused\d+>")
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_VOCABULARY_ARRAYS = {
    "tokens": "[STRING]",
    "token_type": "[INT32]",
    "merges": "[STRING]",
    "scores": "[FLOAT32]",
}
# GGUF key of general.sampling → field of SamplingOptions
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}


@dataclass(frozen=True)
class ModelFacts:
    """What a session needs to know about a model file.

    Args:
        path: the file.
        name: general.name, or the file's.
        n_layer: transformer blocks.
        n_embd: width of an embedding.
        n_vocab: tokens in the vocabulary.
        n_ctx_train: tokens the model was trained to hold.
        n_swa: tokens a sliding-window layer sees.
        n_cached: numbers that one token leaves in the caches of the layers without a window.
        ple_width: width of the per-layer embeddings, 0 without them.
        bidirectional_images: soft tokens of one picture see each other (12B, 26B, 31B).
        chat_template: Jinja text in the file, None without one.
        sampling: fields of SamplingOptions that the file sets.
        special_tokens: text to id of the control tokens and of those the file shows on purpose.
        banned_tokens: ids never to draw: reserved ones, those of media, those the file suppresses.
        n_bytes: size of the file.
        stamp: tells whether the file was changed since.
        tensor_spans: offset and size of each tensor in it, in bytes.
    """

    path: Path
    name: str
    n_layer: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_swa: int
    n_cached: int
    ple_width: int
    bidirectional_images: bool
    chat_template: str | None
    sampling: Mapping[str, float]
    special_tokens: Mapping[str, int]
    banned_tokens: tuple[int, ...]
    n_bytes: int
    stamp: Stamp
    tensor_spans: tuple[tuple[int, int], ...]

    @property
    def family_size(self) -> Literal["small", "large"]:
        """The template family: "small" for members with per-layer embeddings (E2B, E4B), else "large"."""
        return "small" if self.ple_width else "large"


def check_model(path: str | Path) -> ModelFacts:
    """Checks that llama.cpp can open a model file and answer from it.

    Args:
        path: a GGUF file.

    Returns:
        Its facts.

    Raises:
        GGUFError: it is damaged, of another family, a drafter or a projector, or would end the process.
    """
    file = open_gguf(path)
    kind = require_gemma4(file)
    if kind == "projector":
        raise GGUFError(
            f"{file.path} is a projector, not a model. Open the model file and pass this one as projector=."
        )
    if file.architecture == DRAFTER_ARCHITECTURE:
        raise GGUFError(
            f"{file.path} is a drafter ({DRAFTER_ARCHITECTURE}): it reads the cache of its big model and "
            "cannot answer by itself. Open the model it belongs to."
        )
    view = MetadataView(file.metadata, file.path)
    file.require_aligned()
    keys = view.section(MODEL_ARCHITECTURE)
    n_layer = keys.integer("block_count", minimum=2, maximum=MAX_LAYERS)
    _check_attention(keys, n_layer)
    _check_experts(keys, n_layer)
    n_vocab = _check_vocabulary(file, view)
    check_types(file.metadata, view, MODEL_KEYS)
    _check_unusual(keys)
    ple_width = keys.integer("embedding_length_per_layer_input", minimum=0)
    layers = _layers(keys, n_layer, n_vocab)
    check_tensors(file.tensors, view, layers)
    metadata = file.metadata
    template = metadata.get("tokenizer.chat_template")
    return ModelFacts(
        path=file.path,
        name=str(metadata.get("general.name", file.path.stem)),
        n_layer=n_layer,
        n_embd=keys.integer("embedding_length"),
        n_vocab=n_vocab,
        n_ctx_train=keys.integer("context_length"),
        n_swa=keys.integer("attention.sliding_window", maximum=_MAX_WINDOW),
        n_cached=layers.n_cached,
        ple_width=ple_width,
        bidirectional_images=_bidirectional(view, ple_width),
        chat_template=template if isinstance(template, str) and template else None,
        sampling=dict(_sampling_defaults(metadata)),
        special_tokens=_special_tokens(metadata),
        banned_tokens=_banned_tokens(metadata, n_vocab),
        n_bytes=file.n_bytes,
        stamp=file.stamp,
        tensor_spans=tuple((info.offset, info.n_bytes) for info in file.tensors.values()),
    )


def _check_attention(keys: MetadataView, n_layer: int) -> None:
    pattern = keys.flags("attention.sliding_window_pattern", n_layer)
    if not any(pattern):
        raise keys.error("attention.sliding_window_pattern", "at least one layer with a sliding window")
    keys.number("attention.layer_norm_rms_epsilon", below=1.0)
    for suffix in ("", "_swa"):
        if keys.number(f"rope.freq_base{suffix}", default=1.0) == 0:
            raise keys.error(f"rope.freq_base{suffix}", "a number above 0")
    keys.integer("attention.sliding_window", maximum=_MAX_WINDOW)
    heads = keys.per_layer("attention.head_count", n_layer)
    kv_heads = keys.per_layer("attention.head_count_kv", n_layer)
    for layer, (n, n_kv) in enumerate(zip(heads, kv_heads, strict=True)):
        if n % n_kv:
            raise keys.error(
                "attention.head_count_kv",
                f"a divisor of layer {layer}'s {n} heads",
                found=f"gives it {n_kv} key/value heads",
            )
    n_rotated = None
    for suffix in ("", "_swa"):
        length = keys.integer(f"attention.key_length{suffix}")
        if keys.integer(f"attention.value_length{suffix}") != length:
            raise keys.error(f"attention.value_length{suffix}", f"{length}, the length of the keys")
        key = f"rope.dimension_count{suffix}"
        n_rotated = keys.integer(key, default=length if n_rotated is None else n_rotated)
        if n_rotated % 2 or not 2 <= n_rotated <= length:
            found = None if key in keys else f"is missing, so that it counts as {n_rotated}"
            raise keys.error(key, f"an even number from 2 to {length}", found=found)
    _check_shared_layers(keys, pattern)


def _check_shared_layers(keys: MetadataView, pattern: list[bool]) -> None:
    """Layers that share a cache take it from the last two of their own: a sliding one, then a full one."""
    key, n_layer = "attention.shared_kv_layers", len(pattern)
    n_own = n_layer - keys.integer(key, minimum=0, default=0)
    if n_own < 2:
        raise keys.error(key, f"at most {n_layer - 2}, so that two layers have a cache of their own")
    shared = pattern[n_own:]
    if (any(shared) and not pattern[n_own - 2]) or (not all(shared) and pattern[n_own - 1]):
        kinds = ", ".join("sliding" if sliding else "full" for sliding in pattern[n_own - 2 : n_own])
        raise keys.error(
            key,
            "a sliding and a full one",
            found=f"lets {len(shared)} layers share the cache of layers {n_own - 2} and {n_own - 1}: {kinds}",
        )


def _check_experts(keys: MetadataView, n_layer: int) -> None:
    n_experts = keys.integer("expert_count", minimum=0, maximum=_MAX_EXPERTS, default=0)
    used = keys.per_layer("expert_used_count", n_layer, minimum=0, maximum=n_experts, default=0)
    if n_experts and not max(used):
        raise keys.error("expert_used_count", f"1 to {n_experts} experts for a token")


def _check_unusual(keys: MetadataView) -> None:
    """What no Gemma 4 has: llama.cpp asserts some of it, and computes something else for the rest."""
    keys.number("final_logit_softcapping", default=0.0)
    keys.text("rope.scaling.type", one_of=_ROPE_SCALING, default="none")
    for name in ("scaling.factor", "scale_linear", "scaling.attn_factor", "scaling.alpha"):
        keys.number(f"rope.{name}", default=1.0)
    if not keys.flag("attention.causal", default=True):
        raise keys.error("attention.causal", "true")
    for name in ("expert_group_count", "expert_group_used_count", "nextn_predict_layers", "pooling_type"):
        keys.integer(name, minimum=0, maximum=0, default=0)
    width = keys.integer("embedding_length")
    keys.integer("embedding_length_out", minimum=width, maximum=width, default=width)


def _layers(keys: MetadataView, n_layer: int, n_vocab: int) -> Layers:
    sliding = keys.flags("attention.sliding_window_pattern", n_layer)
    dims = {True: keys.integer("attention.key_length_swa"), False: keys.integer("attention.key_length")}
    n_experts = keys.integer("expert_count", minimum=0, default=0)
    experts = keys.per_layer("expert_feed_forward_length", n_layer, minimum=0, default=0)
    if len(set(experts)) > 1:
        raise keys.error("expert_feed_forward_length", "the same width for all layers")
    return Layers(
        n_embd=keys.integer("embedding_length"),
        n_vocab=n_vocab,
        ple_width=keys.integer("embedding_length_per_layer_input", minimum=0),
        sliding=sliding,
        n_own=n_layer - keys.integer("attention.shared_kv_layers", minimum=0, default=0),
        heads=keys.per_layer("attention.head_count", n_layer),
        kv_heads=keys.per_layer("attention.head_count_kv", n_layer),
        head_dims=[dims[is_sliding] for is_sliding in sliding],
        inner=keys.per_layer("feed_forward_length", n_layer),
        n_experts=n_experts,
        expert_inner=experts[0],
    )


def _check_vocabulary(file: GGUFFile, view: MetadataView) -> int:
    vocabulary = view.section("tokenizer.ggml")
    vocabulary.text("model", one_of=(_TOKENIZER,))
    _check_vocabulary_arrays(file.metadata, vocabulary)
    tokens, types = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.token_type"]
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        n_twice = len(tokens) - len(ids)
        raise vocabulary.error("tokens", "each token once", found=f"has {n_twice} tokens that occur twice")
    _check_token_texts(tokens, types, vocabulary)
    for key in ("bos_token_id", "eos_token_id"):
        vocabulary.integer(key, minimum=0, maximum=len(tokens) - 1)
    for marker in (TURN_OPEN, TURN_CLOSE):
        if marker not in ids or types[ids[marker]] not in (_CONTROL, _USER_DEFINED):
            raise vocabulary.error(
                "token_type",
                "one, so that the model sees where turns begin and end",
                found=f"says that {marker} is no control token",
            )
    return len(tokens)


def _check_token_texts(tokens: list[str], types: list[int], vocabulary: MetadataView) -> None:
    """llama.cpp ends a text at its first zero, names an empty one itself, and reads the number of a byte."""
    empty = f"[EMPTY_{tokens.index('')}]" if "" in tokens else None
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if "\0" in text or text == empty:
            found = f"has {text!r} at {i}, which llama.cpp takes for another token"
            raise vocabulary.error("tokens", "texts without zeros, each once", found=found)
        if kind == _BYTE_TYPE and not _BYTE.fullmatch(text):
            found = f"says that {text!r} is a byte"
            raise vocabulary.error("token_type", "bytes that are written <0xHH>", found=found)


def _check_vocabulary_arrays(metadata: Metadata, vocabulary: MetadataView) -> None:
    """llama.cpp indexes token types and scores without looking at their length."""
    n_vocab = None
    for name, item in _VOCABULARY_ARRAYS.items():
        key = f"tokenizer.ggml.{name}"
        if name == "scores" and key not in metadata:
            continue
        if key not in metadata:
            raise vocabulary.error(name, item)
        if metadata.type_name(key) != item:
            raise vocabulary.error(name, item, found=f"is {metadata.type_name(key)}")
        n_items = metadata.length(key)
        if name == "tokens":
            n_vocab = n_items
        elif name != "merges" and n_items != n_vocab:
            raise vocabulary.error(name, f"{n_vocab}, one per token", found=f"has {n_items} items")


def _bidirectional(view: MetadataView, ple_width: int) -> bool:
    """Only members with per-layer embeddings read pictures causally; our converter also writes it down."""
    guessed = "causal" if ple_width else "bidirectional"
    said = view.text(IMAGE_ATTENTION_KEY, one_of=("causal", "bidirectional"), default=guessed)
    return said == "bidirectional"


def _sampling_defaults(metadata: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, field in _SAMPLING.items():
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # 32-bit floats such as 0.95 come back as 0.949999988079071.
            yield field, value if isinstance(value, int) else round(value, 6)


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, int]:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    shown = (_UNKNOWN, _CONTROL, _USER_DEFINED)
    return {text: i for i, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind in shown}


def _banned_tokens(metadata: Mapping[str, Any], n_vocab: int) -> tuple[int, ...]:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    suppressed = metadata.get("tokenizer.ggml.suppress_tokens")
    named = suppressed if isinstance(suppressed, list) else ()
    banned = {i for i in named if isinstance(i, int) and 0 <= i < n_vocab}
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if (
            kind == _UNUSED_TYPE
            or text in NEVER_WRITTEN
            or (text.startswith("<unu") and _UNUSED.fullmatch(text))
        ):
            banned.add(i)
    return tuple(sorted(banned))
