"""Quantization rules: which type every tensor of a file gets.

Two sets of rules meet here, both followed byte for byte as of llama.cpp 0c1e57098: those of its converter
(F32, F16, BF16, Q8_0; conversion/base.py, prepare_tensors) and those of its quantizer (all other types;
src/llama-quant.cpp). A quantized file is what the quantizer would make of the converter's BF16 file. One
type, Q4_COMPACT, is our own: the quantizer's rules say which tensors it may touch, `quant_compact` says how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4_gguf.convert.ggml_encoder import block_size, is_quantized
from gemma4_gguf.convert.quant_compact import compact_type
from gemma4_gguf.convert.tensor_names import ForcedType
from gemma4_gguf.errors import QuantTypeError
from gemma4_gguf.files.gguf_header import Field
from gemma4_gguf.files.metadata_view import MetadataView
from gemma4_gguf.files.quant_types import COMPACT, QUANT_TYPES, RECIPE_KEY, QuantType


@dataclass(frozen=True)
class TensorType:
    """A tensor as the quantizer sees it: name, numpy shape and its type in the file to be quantized."""

    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class ModelShape:
    """What the rules ask of a model.

    Args:
        n_layers: blocks; 0 for a projector.
        n_experts: experts per layer; 0 without any.
        n_heads_per_kv: query heads that share one key/value head in the first layer.
    """

    n_layers: int = 0
    n_experts: int = 0
    n_heads_per_kv: int = 1


# The converter's rules


def converter_type(row_length: int, forced: ForcedType | None, quant: QuantType) -> str:
    """Type that upstream's converter gives a tensor.

    Args:
        row_length: numbers per row.
        forced: what the mapping insists on, or None.
        quant: F32, F16, BF16 or Q8_0.

    Returns:
        A ggml type name.
    """
    if forced == "F16_OR_F32":
        return "F16" if quant.name == "F16" else "F32"
    wanted = forced or quant.base
    return "F16" if row_length % block_size(wanted) else wanted


# The quantizer's rules

_NEVER_QUANTIZED = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|altup|laurel|per_layer_model_proj|\.position_embd|\.rel_pos"
    r"|\.patch_embd|\.patch_merger|^position_embd\.weight$|^token_types\.weight$"
    # Upstream aborts on any file with these; as F16, which their odd rows would get, mtmd cannot run them.
    r"|^a\.conv[12]d\.|^a\.blk\.\d+\.conv_dw\."
)
_TOKEN_TABLES = ("token_embd.weight", "per_layer_token_embd.weight")
_ROLES = (
    ("attn_qkv.weight", "v"),
    ("attn_kv_b.weight", "v"),
    ("attn_v.weight", "v"),
    ("attn_k.weight", "k"),
    ("attn_output.weight", "attn_output"),
    ("ffn_down", "ffn_down"),
)
# A type whose block does not divide the row length is replaced by a neighbour with blocks of 32.
_SMALLER_BLOCKS = {
    "IQ4_XS": "IQ4_NL",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_EIGHT_EXPERTS_OUTPUT = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS")


def model_shape(metadata: Mapping[str, Any], file: str | Path) -> ModelShape:
    """Reads what the rules ask of a model from its metadata; a projector has none of it.

    Args:
        metadata: entries by key.
        file: path or name of the file, for messages.

    Returns:
        The shape.

    Raises:
        GGUFError: an entry cannot be used.
    """
    view = MetadataView(metadata, file)
    keys = view.section(view.text("general.architecture", default=""))
    heads = keys.first_layer("attention.head_count", default=1)
    kv_heads = keys.first_layer("attention.head_count_kv", default=heads)
    return ModelShape(
        n_layers=keys.first_layer("block_count", default=0),
        n_experts=keys.first_layer("expert_count", default=0),
        n_heads_per_kv=heads // kv_heads if kv_heads else 0,
    )


def recipe_fields(quant: QuantType) -> list[Field]:
    """Metadata that names a mix of our own; nothing for llama.cpp's types."""
    return [] if quant.name in QUANT_TYPES else [Field(RECIPE_KEY, quant.name, "STRING")]


def quantizer_order(names: Iterable[str]) -> list[str]:
    """Order in which the quantizer writes tensors: those of no block, then block by block, by name."""

    def key(name: str) -> tuple[int, bytes]:
        block = re.match(r"blk\.(\d+)", name)
        return (int(block[1]) if block else -1, name.encode())

    return sorted(names, key=key)


def quantizer_types(tensors: Iterable[TensorType], model: ModelShape, quant: QuantType) -> dict[str, str]:
    """Types that llama.cpp's quantizer, or a mix of our own, gives the tensors of a file.

    Args:
        tensors: all of them, in any order.
        model: what the rules ask of the model.
        quant: the type asked for.

    Returns:
        ggml type by name, in the order of the quantized file.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    choice = _Choice(model, quant, by_name)
    return {name: choice.type_of(by_name[name]) for name in quantizer_order(by_name)}


class _Choice:
    """The quantizer's walk over the tensors: some rules depend on how many of a kind came before."""

    def __init__(self, model: ModelShape, quant: QuantType, names: Iterable[str]) -> None:
        self._model = model
        self._quant = quant
        roles = [_role(name) for name in names]
        self._n_v = roles.count("v")
        self._tied = "output" not in roles
        self._seen = {"v": 0, "ffn_down": 0}
        self._rules: dict[str, Callable[[TensorType], str]] = {
            "output": self._output,
            "table": self._output if self._tied else self._base,
            "v": self._v,
            "k": self._k,
            "ffn_down": self._ffn_down,
            "attn_output": self._attn_output,
        }

    def type_of(self, tensor: TensorType) -> str:
        if not _may_quantize(tensor):
            return tensor.type
        if not is_quantized(self._quant.base):
            return self._quant.base
        if self._quant is COMPACT:
            return _fit(compact_type(tensor.name, self._model.n_layers), tensor.shape[-1])
        role = _role(tensor.name)
        wanted = self._rules.get(role, self._base)(tensor)
        if role in self._seen:
            self._seen[role] += 1
        return _fit(wanted, tensor.shape[-1])

    def _base(self, tensor: TensorType) -> str:
        return self._quant.base

    def _output(self, tensor: TensorType) -> str:
        base = self._quant.base
        if tensor.shape[-1] % block_size(base) or base == "Q8_0":
            return "Q8_0"
        return "Q6_K"

    def _v(self, tensor: TensorType) -> str:
        if self._model.n_experts == 8:
            return "Q8_0"
        name, i = self._quant.name, self._seen["v"]
        grouped = self._model.n_heads_per_kv >= 4
        if name == "Q2_K":
            return "Q4_K" if grouped else "Q3_K"
        if name == "Q3_K_M":
            return "Q5_K" if i < 2 else "Q4_K"
        if name in ("IQ4_NL", "IQ4_XS") and grouped:
            return "Q5_K"
        if name in ("Q4_K_M", "Q5_K_M") and _gets_more_bits(i, self._n_v):
            return "Q6_K"
        if name == "Q4_K_S" and i < 4:
            return "Q5_K"
        return self._quant.base

    def _k(self, tensor: TensorType) -> str:
        return "Q8_0" if self._model.n_experts == 8 else self._quant.base

    def _ffn_down(self, tensor: TensorType) -> str:
        name, n = self._quant.name, self._model.n_layers
        i = self._seen["ffn_down"]
        if self._model.n_experts > 1:
            i = _block_index(tensor.name, n)
        if name == "Q2_K":
            return "Q3_K"
        if name == "Q3_K_M":
            return "Q5_K" if i < n // 16 else "Q4_K"
        if name in ("Q4_K_M", "Q5_K_M") and _gets_more_bits(i, n):
            return "Q6_K"
        if name in ("IQ4_NL", "IQ4_XS", "Q4_K_S") and i < n // 8:
            return "Q5_K"
        return self._quant.base

    def _attn_output(self, tensor: TensorType) -> str:
        name = self._quant.name
        if self._model.n_experts == 8:
            return "Q5_K" if name in _EIGHT_EXPERTS_OUTPUT else self._quant.base
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(name, self._quant.base)


def _role(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in _TOKEN_TABLES:
        return "table"
    return next((role for part, role in _ROLES if part in name), "other")


def _may_quantize(tensor: TensorType) -> bool:
    n_dims = len(ggml_shape(tensor.shape))
    # Upstream loses all but the first kernel of a 4-D convolution and then aborts: those stay as they are.
    if not 2 <= n_dims <= 3:
        return False
    return tensor.name.endswith("weight") and not _NEVER_QUANTIZED.search(tensor.name)


def ggml_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A numpy shape without the leading ones that ggml does not count as dimensions."""
    start = 0
    while start < len(shape) - 1 and shape[start] == 1:
        start += 1
    return shape[start:]


def _gets_more_bits(i: int, n: int) -> bool:
    """The first and the last eighth of n, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _block_index(name: str, n_layers: int) -> int:
    match = re.match(r"blk\.(\d+)", name)
    if match is None or int(match[1]) >= n_layers:
        raise QuantTypeError(f"Tensor {name!r} belongs to none of the model's {n_layers} blocks.")
    return int(match[1])


def _fit(wanted: str, row_length: int) -> str:
    if row_length % block_size(wanted) == 0:
        return wanted
    smaller = _SMALLER_BLOCKS.get(wanted, wanted)
    return "F16" if row_length % block_size(smaller) else smaller
