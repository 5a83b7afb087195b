"""Looks at GGUF files before llama.cpp does, which ends the whole process on some it does not like.

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
from gemma4_gguf.files.gguf_reader import GGUFFile, open_gguf, require_gemma4

IMAGE_ATTENTION_KEY = "general.gemma4.image_attention"
CONVERT_AGAIN = "Convert the checkpoint again, or download another file."

_ARCH = "gemma4"
_DRAFTER = "gemma4-assistant"
_MAX_LAYERS, _MAX_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
_CONTROL, _USER_DEFINED, _UNUSED_TYPE = 3, 4, 5  # enum llama_token_type
_TURN_MARKERS = ("<|turn>", "<turn|>")
# A model never has a reason to write these, and a grammar or a media span breaks when it does.
_MODALITIES = ("image", "audio")
_NEVER_WRITTEN = frozenset(
    ["<pad>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<|think|>", "<|tool>", "<tool|>", "<|video|>"]
    + [form.format(kind) for kind in _MODALITIES for form in ("<|{}>", "<|{}|>", "<{}|>")]
)
_UNUSED = re.compile(r"<unused\d+>")
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
        ple_width: width of the per-layer embeddings, 0 without them.
        bidirectional_images: soft tokens of one picture see each other (12B, 26B, 31B).
        chat_template: Jinja text in the file, None without one.
        sampling: fields of SamplingOptions that the file sets.
        special_tokens: text to id of the control tokens and of those the file shows on purpose.
        banned_tokens: ids never to draw: reserved ones, those of media, those the file suppresses.
        n_bytes: size of the file.
        tensor_spans: offset and size of each tensor in it, in bytes.
    """

    path: Path
    name: str
    n_layer: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_swa: int
    ple_width: int
    bidirectional_images: bool
    chat_template: str | None
    sampling: Mapping[str, float]
    special_tokens: Mapping[str, int]
    banned_tokens: tuple[int, ...]
    n_bytes: int
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
    if file.architecture == _DRAFTER:
        raise GGUFError(
            f"{file.path} is a drafter (gemma4-assistant): it reads the cache of its big model and cannot "
            "answer by itself. Open the model it belongs to."
        )
    keys = _Keys(file)
    n_layer = keys.whole("block_count", at_least=2, at_most=_MAX_LAYERS)
    _check_attention(keys, n_layer)
    _check_experts(keys)
    n_vocab = _check_vocabulary(keys)
    ple_width = keys.whole("embedding_length_per_layer_input")
    metadata = file.metadata
    template = metadata.get("tokenizer.chat_template")
    return ModelFacts(
        path=file.path,
        name=str(metadata.get("general.name", file.path.stem)),
        n_layer=n_layer,
        n_embd=keys.whole("embedding_length", at_least=1),
        n_vocab=n_vocab,
        n_ctx_train=keys.whole("context_length", at_least=1),
        n_swa=keys.whole("attention.sliding_window", at_least=1),
        ple_width=ple_width,
        bidirectional_images=_bidirectional(file, ple_width),
        chat_template=template if isinstance(template, str) and template else None,
        sampling=dict(_sampling_defaults(metadata)),
        special_tokens=_special_tokens(metadata),
        banned_tokens=_banned_tokens(metadata, n_vocab),
        n_bytes=file.n_bytes,
        tensor_spans=tuple((info.offset, info.n_bytes) for info in file.tensors.values()),
    )


class _Keys:
    """Reads architecture keys and says what is wrong with them."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file

    def fail(self, what: str) -> GGUFError:
        return GGUFError(f"{self.file.path}: {what} llama.cpp would end the process on it. {CONVERT_AGAIN}")

    def get(self, key: str, default: Any = None) -> Any:
        full = f"{_ARCH}.{key}"
        if full not in self.file.metadata:
            if default is not None:
                return default
            raise GGUFError(f"{self.file.path} lacks {full}. {CONVERT_AGAIN}")
        return self.file.metadata[full]

    def whole(
        self, key: str, *, at_least: int = 0, at_most: int = 2**31 - 1, default: int | None = None
    ) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
            raise self.fail(f"{_ARCH}.{key} is {value!r}, expected {at_least} to {at_most}.")
        return value

    def per_layer(self, key: str, n_layer: int) -> list[int]:
        value = self.get(key)
        values = value if isinstance(value, list) else [value] * n_layer
        if len(values) != n_layer:
            raise self.fail(f"{_ARCH}.{key} has {len(values)} items for {n_layer} layers.")
        if any(not isinstance(item, int) or item < 1 for item in values):
            raise self.fail(f"{_ARCH}.{key} is {value!r}, expected positive whole numbers.")
        return values


def _check_attention(keys: _Keys, n_layer: int) -> None:
    pattern = keys.get("attention.sliding_window_pattern")
    if not isinstance(pattern, list) or len(pattern) != n_layer:
        raise keys.fail(f"attention.sliding_window_pattern is {pattern!r}, expected {n_layer} items.")
    if not any(pattern):
        raise keys.fail("no layer has a sliding window.")
    epsilon = keys.get("attention.layer_norm_rms_epsilon")
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:  # NaN is not either
        raise keys.fail(f"attention.layer_norm_rms_epsilon is {epsilon!r}, expected a small positive number.")
    heads = keys.per_layer("attention.head_count", n_layer)
    kv_heads = keys.per_layer("attention.head_count_kv", n_layer)
    for layer, (n, n_kv) in enumerate(zip(heads, kv_heads, strict=True)):
        if n % n_kv:
            raise keys.fail(
                f"layer {layer} has {n} heads over {n_kv} key/value heads, which does not divide."
            )
    rope = None
    for suffix in ("", "_swa"):
        key, value = (keys.whole(f"attention.{kind}_length{suffix}", at_least=1) for kind in ("key", "value"))
        if key != value:
            raise keys.fail(f"key and value lengths{suffix} differ: {key} and {value}.")
        rope = keys.whole(f"rope.dimension_count{suffix}", default=key if rope is None else rope)
        if rope % 2 or not 2 <= rope <= key:
            raise keys.fail(f"rope.dimension_count{suffix} is {rope}, expected an even number up to {key}.")
    _check_shared_layers(keys, pattern)


def _check_shared_layers(keys: _Keys, pattern: list[Any]) -> None:
    """Layers that share a cache take it from the last two of their own: a sliding one, then a full one."""
    n_layer = len(pattern)
    n_own = n_layer - keys.whole("attention.shared_kv_layers", at_most=n_layer, default=0)
    if n_own < 2:
        raise keys.fail(f"only {n_own} of {n_layer} layers have a cache of their own.")
    shared = pattern[n_own:]
    if (any(shared) and not pattern[n_own - 2]) or (not all(shared) and pattern[n_own - 1]):
        kinds = ", ".join("sliding" if sliding else "full" for sliding in pattern[n_own - 2 : n_own])
        raise keys.fail(
            f"the last {n_layer - n_own} layers share the cache of layers {n_own - 2} and {n_own - 1}, which "
            f"must be sliding and full but are {kinds}."
        )


def _check_experts(keys: _Keys) -> None:
    n_experts = keys.whole("expert_count", at_most=_MAX_EXPERTS, default=0)
    used = keys.get("expert_used_count", 0)
    counts = used if isinstance(used, list) else [used]
    if not all(isinstance(n, int) and 0 <= n <= n_experts for n in counts) or (n_experts and not max(counts)):
        raise keys.fail(f"{used!r} of {n_experts} experts are used.")


def _check_vocabulary(keys: _Keys) -> int:
    """llama.cpp indexes token types and scores without looking at their length."""
    metadata = keys.file.metadata
    kind = metadata.get("tokenizer.ggml.model")
    if kind != _ARCH:
        raise GGUFError(
            f"{keys.file.path} has a vocabulary of type {kind!r}; expected {_ARCH!r}: another "
            f"one splits text wrongly. {CONVERT_AGAIN}"
        )
    _check_vocabulary_arrays(keys)
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise keys.fail(f"{len(tokens) - len(ids)} tokens occur twice.")
    for key in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
        value = metadata.get(key)
        if not isinstance(value, int) or not 0 <= value < len(tokens):
            raise keys.fail(f"{key} is {value!r}, no token.")
    for marker in _TURN_MARKERS:
        if marker not in ids or types[ids[marker]] not in (_CONTROL, _USER_DEFINED):
            raise GGUFError(
                f"{keys.file.path}: {marker} is no control token, so the model would not see where "
                f"turns begin and end. {CONVERT_AGAIN}"
            )
    _check_embedding_rows(keys, len(tokens))
    return len(tokens)


def _check_vocabulary_arrays(keys: _Keys) -> None:
    metadata = keys.file.metadata
    n_vocab = None
    for name, item in _VOCABULARY_ARRAYS.items():
        key = f"tokenizer.ggml.{name}"
        if key not in metadata:
            if name == "scores":
                continue
            raise GGUFError(f"{keys.file.path} lacks {key}. {CONVERT_AGAIN}")
        if metadata.type_name(key) != item:
            raise keys.fail(f"{key} is {metadata.type_name(key)}, expected {item}.")
        if name == "tokens":
            n_vocab = metadata.length(key)
        elif name != "merges" and metadata.length(key) != n_vocab:
            raise keys.fail(f"{key} has {metadata.length(key)} items for {n_vocab} tokens.")


def _check_embedding_rows(keys: _Keys, n_vocab: int) -> None:
    embedding = keys.file.tensors.get("token_embd.weight")
    expected = (n_vocab, keys.whole("embedding_length", at_least=1))
    if embedding is None or embedding.shape != expected:
        found = "missing" if embedding is None else f"of shape {list(embedding.shape)}"
        raise GGUFError(
            f"{keys.file.path}: token_embd.weight is {found}; expected {list(expected)}. {CONVERT_AGAIN}"
        )


def _bidirectional(file: GGUFFile, ple_width: int) -> bool:
    """Only members with per-layer embeddings read pictures causally; our converter also writes it down."""
    said = file.metadata.get(IMAGE_ATTENTION_KEY)
    if said is None:
        return ple_width == 0
    if said not in ("causal", "bidirectional"):
        raise GGUFError(f"{file.path}: {IMAGE_ATTENTION_KEY} is {said!r}; expected causal or bidirectional.")
    return bool(said == "bidirectional")


def _sampling_defaults(metadata: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, field in _SAMPLING.items():
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # 32-bit floats such as 0.95 come back as 0.949999988079071.
            yield field, value if isinstance(value, int) else round(value, 6)


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, int]:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    shown = (_CONTROL, _USER_DEFINED)
    return {text: i for i, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind in shown}


def _banned_tokens(metadata: Mapping[str, Any], n_vocab: int) -> tuple[int, ...]:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    suppressed = metadata.get("tokenizer.ggml.suppress_tokens")
    named = suppressed if isinstance(suppressed, list) else ()
    banned = {i for i in named if isinstance(i, int) and 0 <= i < n_vocab}
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if (
            kind == _UNUSED_TYPE
            or text in _NEVER_WRITTEN
            or (text.startswith("<unu") and _UNUSED.fullmatch(text))
        ):
            banned.add(i)
    return tuple(sorted(banned))
