"""GGUF inspection: which member a file is, how large, how it attends, what it needs in memory.

Reads the header only. Cache sizes follow llama.cpp's windowed cache (src/llama-kv-cache-iswa.cpp).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from gguf.constants import LlamaFileType

from gemma4_gguf.files.chat_template import describe_template
from gemma4_gguf.files.file_report import Attention, FileReport, Memory, Projector, TensorGroup
from gemma4_gguf.files.gguf_reader import (
    DRAFTER_ARCHITECTURE,
    GGUFFile,
    TensorInfo,
    open_gguf,
    require_gemma4,
)
from gemma4_gguf.files.metadata_view import MAX_LAYERS, MetadataView
from gemma4_gguf.files.quant_types import MODEL_TYPES, QUANT_TYPES, RECIPE_KEY

_CELLS = 256  # llama.cpp rounds both caches up to this many positions
_F16_BYTES = 2
# Layers, per-layer embeddings, experts, and the range of parameters in billions.
_MEMBERS = (
    ("E2B", 35, True, False, 3, 6),
    ("E4B", 42, True, False, 6, 10),
    ("12B", 48, False, False, 10, 14),
    ("26B-A4B", 30, False, True, 22, 29),
    ("31B", 60, False, False, 28, 35),
)
_DRAFTED = {1536: "E2B", 2560: "E4B", 3840: "12B", 2816: "26B-A4B", 5376: "31B"}
_GROUPS = (
    (r"per_layer_token_embd\.", "per-layer embeddings"),
    (r"(token_embd|output)\.weight", "token embeddings"),
    (r".*_norm(\.|_\d\.)|.*(norm|scale|rope_freqs|_min|_max|bias)", "norms and scales"),
    (r"a\.", "audio tower"),
    (r"v\.", "vision tower"),
    (r"mm\.|nextn\.", "projections"),
    (r"(blk\.\d+\.(inp_gate|proj)|per_layer_model_proj)\.", "per-layer projections"),
    (r"blk\.\d+\.ffn_\w+_exps\.", "experts"),
    (r"blk\.\d+\.ffn_gate_inp", "router"),
    (r"blk\.\d+\.attn_", "attention"),
    (r"blk\.\d+\.ffn_", "feed-forward"),
)


def inspect_file(path: str | Path, n_ctx: int = 8192, *, n_batch: int = 512) -> FileReport:
    """Reports on a Gemma 4 model, drafter or projector.

    Args:
        path: GGUF file.
        n_ctx: tokens of context to reckon memory for, at least 1.
        n_batch: tokens decoded at once, which the windowed cache must hold on top of the window.

    Returns:
        The report.

    Raises:
        GGUFError: the file is damaged or no Gemma 4.
    """
    file = open_gguf(path)
    kind = require_gemma4(file)
    weights = [info for name, info in file.tensors.items() if not name.startswith("rope_freqs")]
    n_parameters = sum(info.n_elements for info in weights)
    n_bytes = sum(info.n_bytes for info in weights)
    common: dict[str, Any] = {
        "path": file.path,
        "n_bytes": file.n_bytes,
        "name": str(file.metadata.get("general.name", "")),
        "quantization": _quantization(file),
        "n_parameters": n_parameters,
        "bits_per_weight": round(8 * n_bytes / max(n_parameters, 1), 3),
        "types": _by_type(weights),
        "groups": _groups(weights),
    }
    if kind == "projector":
        return FileReport(
            kind=kind, member=None, n_effective=n_parameters, projector=_projector(file), **common
        )
    return _model_report(file, n_parameters, n_ctx, n_batch, common)


def _model_report(
    file: GGUFFile, n_parameters: int, n_ctx: int, n_batch: int, common: dict[str, Any]
) -> FileReport:
    keys = MetadataView(file.metadata, file.path).section(file.architecture)
    attention = _attention(keys)
    n_experts = keys.first_layer("expert_count", default=0)
    n_used = keys.first_layer("expert_used_count", default=0)
    suppressed = file.metadata.get("tokenizer.ggml.suppress_tokens")
    drafter = file.architecture == DRAFTER_ARCHITECTURE
    if drafter:
        member = _DRAFTED.get(keys.first_layer("embedding_length_out", default=0), "custom")
    else:
        member = _member(keys, attention, n_parameters)
    return FileReport(
        kind="drafter" if drafter else "model",
        member=member,
        n_effective=_effective(file, n_parameters, n_experts, n_used),
        context_length=keys.first_layer("context_length"),
        width=keys.first_layer("embedding_length"),
        n_vocab=_n_vocab(file),
        attention=attention,
        n_experts=n_experts,
        n_experts_used=n_used,
        suppress_tokens=tuple(suppressed) if isinstance(suppressed, list) else (),
        template=describe_template(str(file.metadata.get("tokenizer.chat_template", ""))),
        memory=_memory(file, attention, n_ctx, n_batch),
        **common,
    )


def _attention(keys: MetadataView) -> Attention:
    n_layers = keys.integer("block_count", minimum=0, maximum=MAX_LAYERS)
    sliding = keys.flags("attention.sliding_window_pattern", n_layers, exact=False)
    n_heads = keys.first_layer("attention.head_count")
    kv_heads = keys.per_layer("attention.head_count_kv", n_layers, minimum=0, default=n_heads, exact=False)
    full = [heads for heads, is_sliding in zip(kv_heads, sliding, strict=False) if not is_sliding]
    windowed = [heads for heads, is_sliding in zip(kv_heads, sliding, strict=False) if is_sliding]
    return Attention(
        n_sliding=sum(sliding),
        n_full=n_layers - sum(sliding),
        window=keys.first_layer("attention.sliding_window"),
        pattern="".join("s" if is_sliding else "f" for is_sliding in sliding),
        n_shared_kv=keys.first_layer("attention.shared_kv_layers", default=0),
        n_heads=n_heads,
        n_kv_heads_sliding=windowed[0] if windowed else 0,
        n_kv_heads_full=full[0] if full else 0,
        head_dim_sliding=keys.first_layer("attention.key_length_swa"),
        head_dim_full=keys.first_layer("attention.key_length"),
    )


def _member(keys: MetadataView, attention: Attention, n_parameters: int) -> str:
    n_layers = attention.n_sliding + attention.n_full
    has_ple = keys.first_layer("embedding_length_per_layer_input", default=0) > 0
    has_experts = keys.first_layer("expert_count", default=0) > 0
    for name, layers, ple, experts, least, most in _MEMBERS:
        if (n_layers, has_ple, has_experts) == (layers, ple, experts) and least <= n_parameters / 1e9 <= most:
            return name
    return "custom"


def _effective(file: GGUFFile, n_parameters: int, n_experts: int, n_used: int) -> int:
    tables = [
        info.n_elements for name, info in file.tensors.items() if name.startswith("per_layer_token_embd")
    ]
    experts = sum(info.n_elements for name, info in file.tensors.items() if name.endswith("_exps.weight"))
    unused = experts * (n_experts - n_used) // n_experts if n_experts else 0
    return n_parameters - sum(tables) - unused


def _memory(file: GGUFFile, attention: Attention, n_ctx: int, n_batch: int) -> Memory:
    own = attention.pattern[: len(attention.pattern) - attention.n_shared_kv]
    cells_full = math.ceil(n_ctx / _CELLS) * _CELLS
    cells_sliding = math.ceil(min(cells_full, attention.window + n_batch) / _CELLS) * _CELLS
    per_layer_sliding = 2 * attention.n_kv_heads_sliding * attention.head_dim_sliding * _F16_BYTES
    per_layer_full = 2 * attention.n_kv_heads_full * attention.head_dim_full * _F16_BYTES
    sliding = own.count("s") * cells_sliding * per_layer_sliding
    full = own.count("f") * cells_full * per_layer_full
    weights = sum(info.n_bytes for info in file.tensors.values())
    table = file.tensors.get("per_layer_token_embd.weight")
    return Memory(n_ctx, weights, table.n_bytes if table else 0, sliding, full, weights + sliding + full)


def _projector(file: GGUFFile) -> Projector:
    metadata = file.metadata
    default = metadata.get("clip.projector_type")
    found: dict[str, str | None] = {}
    for sense in ("vision", "audio"):
        has = bool(metadata.get(f"clip.has_{sense}_encoder", False))
        found[sense] = metadata.get(f"clip.{sense}.projector_type", default) if has else None
    widths = [metadata.get(f"clip.{sense}.projection_dim") for sense in ("vision", "audio")]
    width = next((width for width in widths if isinstance(width, int)), 0)
    return Projector(found["vision"], found["audio"], width)


def _quantization(file: GGUFFile) -> str:
    recipe = file.metadata.get(RECIPE_KEY)
    if recipe in MODEL_TYPES:
        return str(recipe)
    number = file.metadata.get("general.file_type")
    if not isinstance(number, int):
        return "unknown"
    for quant in QUANT_TYPES.values():
        if quant.file_type == number:
            return quant.name
    try:
        return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return "unknown"


def _n_vocab(file: GGUFFile) -> int:
    key = "tokenizer.ggml.tokens"
    return file.metadata.length(key) if key in file.metadata else 0


def _groups(tensors: list[TensorInfo]) -> tuple[TensorGroup, ...]:
    members: dict[str, list[TensorInfo]] = {}
    for info in tensors:
        name = next((group for pattern, group in _GROUPS if re.match(pattern, info.name)), "other")
        members.setdefault(name, []).append(info)
    groups = [
        TensorGroup(
            name=name,
            n_tensors=len(infos),
            n_parameters=sum(info.n_elements for info in infos),
            n_bytes=sum(info.n_bytes for info in infos),
            types=_by_type(infos),
        )
        for name, infos in members.items()
    ]
    return tuple(sorted(groups, key=lambda group: -group.n_bytes))


def _by_type(tensors: list[TensorInfo]) -> dict[str, int]:
    n_bytes: dict[str, int] = {}
    for info in tensors:
        n_bytes[info.type] = n_bytes.get(info.type, 0) + info.n_bytes
    return dict(sorted(n_bytes.items(), key=lambda item: -item[1]))
