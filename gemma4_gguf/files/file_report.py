"""Inspection report: what a GGUF file holds and needs, as values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of one purpose.

    Args:
        name: such as "attention" or "per-layer embeddings".
        n_tensors: how many.
        n_parameters: numbers in them.
        n_bytes: size.
        types: bytes by ggml type, largest first.
    """

    name: str
    n_tensors: int
    n_parameters: int
    n_bytes: int
    types: dict[str, int]


@dataclass(frozen=True)
class Attention:
    """How the layers attend.

    Args:
        n_sliding: layers that see a window.
        n_full: layers that see everything.
        window: tokens of that window.
        pattern: one letter per layer, "s" or "f".
        n_shared_kv: last layers that use the keys and values of earlier ones.
        n_heads: query heads.
        n_kv_heads_sliding: key/value heads of a layer with a window.
        n_kv_heads_full: the same without.
        head_dim_sliding: numbers per head with a window.
        head_dim_full: the same without.
    """

    n_sliding: int
    n_full: int
    window: int
    pattern: str
    n_shared_kv: int
    n_heads: int
    n_kv_heads_sliding: int
    n_kv_heads_full: int
    head_dim_sliding: int
    head_dim_full: int


@dataclass(frozen=True)
class Memory:
    """Bytes needed at one context length, with the cache in f16.

    Args:
        n_ctx: tokens of context.
        weights_bytes: tensors of the file.
        on_demand_bytes: share of them that is a table of which only the rows of tokens in use are read.
        cache_sliding_bytes: keys and values of the layers with a window.
        cache_full_bytes: the same of the layers without.
        total_bytes: weights and cache; buffers for computing come on top.
    """

    n_ctx: int
    weights_bytes: int
    on_demand_bytes: int
    cache_sliding_bytes: int
    cache_full_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Template:
    """The chat template in the file.

    Args:
        family: "large" (12B, 26B, 31B), "small" (E2B, E4B), "other" (no Gemma 4 template) or "none".
        outdated: an early Gemma 4 template, which llama.cpp has to work around.
        warning: what to say of one that cannot be Gemma 4's, else None.
    """

    family: Literal["large", "small", "other", "none"]
    outdated: bool
    warning: str | None = None


@dataclass(frozen=True)
class Projector:
    """What a projector adds to a model.

    Args:
        vision: projector type for pictures, None if it has no eyes.
        audio: projector type for sound, None if it has no ears.
        width: numbers per embedding; the model's must be the same.
    """

    vision: str | None
    audio: str | None
    width: int


@dataclass(frozen=True)
class FileReport:
    """Everything `inspect_file` finds. Fields that do not apply to the kind of file are None.

    Args:
        path: the file.
        n_bytes: its size.
        kind: "model", "drafter" or "projector".
        name: general.name.
        member: E2B, E4B, 12B, 26B-A4B or 31B; "custom" for other sizes; None for a projector. Of a drafter,
            the member it drafts for.
        quantization: type the file was written as, such as "Q4_K_M".
        n_parameters: all of them.
        n_effective: without the per-layer embeddings (E2B, E4B), or those used per token (26B-A4B).
        bits_per_weight: of the whole file.
        types: bytes by ggml type, largest first.
        groups: tensors by purpose, largest first.
        context_length: tokens the model was made for.
        width: numbers per token embedding.
        n_vocab: tokens known.
        attention: how the layers attend.
        n_experts: experts per layer, 0 without.
        n_experts_used: of them per token.
        suppress_tokens: ids that must never be drawn.
        template: the chat template.
        memory: what it needs.
        projector: what a projector adds.
    """

    path: Path
    n_bytes: int
    kind: Literal["model", "drafter", "projector"]
    name: str
    member: str | None
    quantization: str
    n_parameters: int
    n_effective: int
    bits_per_weight: float
    types: dict[str, int]
    groups: tuple[TensorGroup, ...]
    context_length: int | None = None
    width: int | None = None
    n_vocab: int | None = None
    attention: Attention | None = None
    n_experts: int | None = None
    n_experts_used: int | None = None
    suppress_tokens: tuple[int, ...] | None = None
    template: Template | None = None
    memory: Memory | None = None
    projector: Projector | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values for JSON.

        Returns:
            Nested dicts and tuples.
        """
        return dataclasses.asdict(self) | {"path": str(self.path)}
