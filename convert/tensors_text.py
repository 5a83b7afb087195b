"""Text tensors: those of the language models and drafters, and their rotary factors."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import numpy as np

from gemma4_gguf.convert.config import ModelConfig
from gemma4_gguf.convert.safetensors import SourceTensor
from gemma4_gguf.convert.tensor_names import TEXT, TEXT_LAYER
from gemma4_gguf.convert.tensor_specs import MappedTensor, Spec, specs, stacked
from gemma4_gguf.errors import TensorError

TABLE, PLE_TABLE = "text.embed_tokens.weight", "text.embed_tokens_per_layer.weight"
# Frequencies are divided by these factors; so large a one stops the rotation.
_NO_ROTATION = 1e30


def text_specs(config: ModelConfig, available: Container[str]) -> Iterator[Spec]:
    """The tensors of the model file, without the generated ones.

    Args:
        config: of the checkpoint.
        available: canonical names the checkpoint has; it decides whether the experts are fused or separate.
    """
    text = config.text
    sizes = {
        "one": 1,
        "vocab": text.vocab,
        "hidden": text.hidden,
        "ple": text.ple,
        "all_ple": text.ple * text.n_layers,
        "backbone": config.backbone or 0,
        "backbones": 2 * (config.backbone or 0),
        "experts": text.experts.count if text.experts else 0,
        "expert_inner": text.experts.intermediate if text.experts else 0,
        "gate_up": 2 * text.experts.intermediate if text.experts else 0,
    }

    def whole(when: str) -> bool | None:
        # A head of its own is rare; llama.cpp takes it as it stands, but not with a drafter.
        if when == "head":
            return False if config.assistant else None
        return bool(text.ple) if when == "ple" else config.assistant

    yield from specs(TEXT, sizes, whole)
    for layer in range(text.n_layers):
        yield from _layer_specs(config, layer, sizes, available)


def check_tables(available: Mapping[str, SourceTensor], config: ModelConfig) -> str | None:
    """Compares the rows of the embedding tables with each other and with config.json.

    Args:
        available: stored tensors by canonical name.
        config: of the checkpoint.

    Returns:
        A note if config.json is wrong about a table that fits; else None.

    Raises:
        TensorError: a vocabulary was resized in one place and not in another.
    """
    text = config.text
    for name in (TABLE, PLE_TABLE):
        table = available.get(name)
        if table is not None and len(table.shape) == 2 and table.shape[0] != text.vocab:
            raise TensorError(
                f"{table.path.name}: {table.name} has {table.shape[0]} rows, but config.json says vocab_size "
                f"{text.vocab}. A vocabulary was resized in one place alone: embed_tokens, "
                "embed_tokens_per_layer, vocab_size and the tokenizer must agree. Resize the others as well "
                "(transformers' resize_token_embeddings), or go back to the model's own."
            )
    if text.ple and text.ple_vocab != text.vocab:
        return (
            f"config.json says vocab_size_per_layer_input {text.ple_vocab}, but the table has {text.vocab} "
            "rows, as many as vocab_size."
        )
    return None


def _layer_specs(
    config: ModelConfig, layer: int, common: dict[str, int], available: Container[str]
) -> Iterator[Spec]:
    text = config.text
    head = text.layer_head_dim(layer)
    sizes = common | {
        "head": head,
        "queries": text.n_heads * head,
        "keys": text.kv_heads[layer] * head,
        "inner": text.layer_intermediate(layer),
    }
    source, target = f"text.layers.{layer}.", f"blk.{layer}."
    separate = f"{source}experts.0.down_proj.weight" in available
    # Layers that reuse a cache need no keys and values, but published checkpoints still carry theirs.
    keys = True if text.has_own_cache(layer) else False if config.assistant else None

    def present(when: str) -> bool | None:
        if when == "keys":
            return keys
        if when == "values":
            return False if text.k_is_v and not text.sliding[layer] else keys
        if when == "ple":
            return bool(text.ple)
        return text.experts is not None and not (when == "fused" and separate)

    yield from specs(TEXT_LAYER, sizes, present, source=source, target=target)
    if text.experts and separate:
        yield from _expert_specs(text.experts.count, sizes, source + "experts.", target)


def _expert_specs(count: int, sizes: dict[str, int], source: str, target: str) -> Iterator[Spec]:
    """One matrix per expert, put together as the fused tensors are: gate above up."""
    inner, hidden = sizes["expert_inner"], sizes["hidden"]
    gate_up = tuple(f"{source}{e}.{kind}_proj.weight" for e in range(count) for kind in ("gate", "up"))
    down = tuple(f"{source}{e}.down_proj.weight" for e in range(count))
    yield Spec(target + "ffn_gate_up_exps.weight", gate_up, (inner, hidden), build=stacked(pairs=True))
    yield Spec(target + "ffn_down_exps.weight", down, (hidden, inner), build=stacked())


def rope_factors(config: ModelConfig) -> MappedTensor:
    """What the full-attention layers divide their rotary frequencies by: 1 for the rotated pairs of a head.

    Gemma 4 rotates the first pairs and leaves the others alone; llama.cpp rotates all, so the others get a
    factor that stops them. Shape [full_head_dim / 2], float32.
    """
    head, share = config.text.full_head_dim, config.text.partial_rotary
    factors = np.full(head // 2, _NO_ROTATION, dtype=np.float32)
    factors[: int(head * share / 2)] = 1.0
    rows = factors.reshape(1, -1)
    return MappedTensor(
        "rope_freqs.weight", (head // 2,), "F32", lambda start, stop: rows[start:stop], (), forced_type="F32"
    )
