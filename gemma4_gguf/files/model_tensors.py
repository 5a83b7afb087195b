"""Model tensors: names, shapes and types as llama.cpp's graph of a Gemma 4 takes them.

It creates tensors by what the metadata says (models/gemma4.cpp in llama-cpp-python 0.3.36), and its kernels
end the process on types they lack: norms and scales are multiplied as F32, matrices must have a dot product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gemma4_gguf.files.gguf_reader import TensorInfo
from gemma4_gguf.files.metadata_view import MetadataView

# Types with a dot product and a row reader on the CPU (ggml-cpu.c, ops.cpp).
MATRIX_TYPES = frozenset(
    (
        *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0"),
        *("Q1_0", "Q2_0"),
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"),
        *("IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    )
)
_VECTOR_TYPES = frozenset(("F32",))


@dataclass(frozen=True)
class Layers:
    """Sizes of the layers of a model; lists have one number for each.

    Args:
        n_embd: width of an embedding.
        n_vocab: tokens in the vocabulary.
        ple_width: width of the per-layer embeddings, 0 without them.
        sliding: layers with a sliding window.
        n_own: layers with a cache of their own, the first ones.
        heads: attention heads.
        kv_heads: key/value heads.
        head_dims: width of a head.
        inner: width of the feed-forward matrices.
        n_experts: experts of a layer that has any, 0 without.
        expert_inner: width of an expert.
    """

    n_embd: int
    n_vocab: int
    ple_width: int
    sliding: list[bool]
    n_own: int
    heads: list[int]
    kv_heads: list[int]
    head_dims: list[int]
    inner: list[int]
    n_experts: int
    expert_inner: int

    @property
    def n_cached(self) -> int:
        """Numbers that one token leaves in the caches of the layers without a window."""
        own = list(zip(self.sliding, self.kv_heads, self.head_dims, strict=True))[: self.n_own]
        return sum(2 * heads * dim for sliding, heads, dim in own if not sliding)


@dataclass(frozen=True)
class _Wanted:
    name: str
    shape: tuple[int, ...]
    required: bool = True


def check_tensors(tensors: Mapping[str, TensorInfo], view: MetadataView, layers: Layers) -> None:
    """Checks every tensor that llama.cpp will ask for.

    Args:
        tensors: of the file.
        view: of its metadata, for messages.
        layers: what the metadata says.

    Raises:
        GGUFError: one is missing, or of a shape or type that the graph cannot take.
    """
    for wanted in _wanted(tensors, layers):
        tensor = tensors.get(wanted.name)
        if tensor is None:
            if wanted.required:
                raise view.error(wanted.name, f"shape {list(wanted.shape)}", found="is missing")
            continue
        if tensor.shape != wanted.shape:
            found = f"has shape {list(tensor.shape)}"
            raise view.error(wanted.name, f"shape {list(wanted.shape)}", found=found)
        check_type(tensor, view, _VECTOR_TYPES if len(wanted.shape) == 1 else MATRIX_TYPES)
    for tensor in tensors.values():  # of NVFP4: scales beside the matrices
        if tensor.name.endswith((".scale", ".input_scale", ".bias")):
            check_type(tensor, view, _VECTOR_TYPES)


def check_type(tensor: TensorInfo, view: MetadataView, types: frozenset[str]) -> None:
    """Checks the type of one tensor.

    Args:
        tensor: any.
        view: of the metadata, for messages.
        types: that it may have.

    Raises:
        GGUFError: it has another one.
    """
    if tensor.type not in types:
        known = "F32" if len(types) == 1 else ", ".join(sorted(types))
        raise view.error(tensor.name, known, found=f"is {tensor.type}")


def _wanted(tensors: Mapping[str, TensorInfo], layers: Layers) -> Iterator[_Wanted]:
    width, n_layer, ple = layers.n_embd, len(layers.sliding), layers.ple_width
    yield _Wanted("token_embd.weight", (layers.n_vocab, width))
    yield _Wanted("output.weight", (layers.n_vocab, width), required=False)
    yield _Wanted("output_norm.weight", (width,))
    if ple:
        yield _Wanted("per_layer_token_embd.weight", (layers.n_vocab, ple * n_layer))
        yield _Wanted("per_layer_model_proj.weight", (ple * n_layer, width))
        yield _Wanted("per_layer_proj_norm.weight", (ple,))
    full = [dim for dim, sliding in zip(layers.head_dims, layers.sliding, strict=True) if not sliding]
    if full:
        yield _Wanted("rope_freqs.weight", (full[0] // 2,))
    for i in range(n_layer):
        for wanted in (*_attention(tensors, layers, i), *_feed_forward(tensors, layers, i)):
            yield _Wanted(f"blk.{i}.{wanted.name}", wanted.shape, wanted.required)


def _attention(tensors: Mapping[str, TensorInfo], layers: Layers, i: int) -> Iterator[_Wanted]:
    width, dim, own = layers.n_embd, layers.head_dims[i], i < layers.n_own
    q, kv = layers.heads[i] * dim, layers.kv_heads[i] * dim
    yield _Wanted("attn_norm.weight", (width,))
    if f"blk.{i}.attn_qkv.weight" in tensors:
        yield _Wanted("attn_qkv.weight", (q + 2 * kv, width))
    else:
        yield _Wanted("attn_q.weight", (q, width))
        yield _Wanted("attn_k.weight", (kv, width), required=own)
        yield _Wanted("attn_v.weight", (kv, width), required=False)  # keys are values where it is missing
    yield _Wanted("attn_output.weight", (width, q))
    yield _Wanted("attn_q_norm.weight", (dim,))
    yield _Wanted("attn_k_norm.weight", (dim,), required=own)
    yield _Wanted("post_attention_norm.weight", (width,))
    yield _Wanted("layer_output_scale.weight", (1,), required=False)


def _feed_forward(tensors: Mapping[str, TensorInfo], layers: Layers, i: int) -> Iterator[_Wanted]:
    width, inner, ple, n = layers.n_embd, layers.inner[i], layers.ple_width, layers.n_experts
    for name in ("ffn_norm", "post_ffw_norm"):
        yield _Wanted(f"{name}.weight", (width,))
    for name in ("ffn_gate", "ffn_up"):
        yield _Wanted(f"{name}.weight", (inner, width))
    yield _Wanted("ffn_down.weight", (width, inner))
    if ple:
        yield _Wanted("inp_gate.weight", (ple, width))
        yield _Wanted("proj.weight", (width, ple))
        yield _Wanted("post_norm.weight", (width,))
    yield _Wanted("ffn_gate_inp.weight", (n, width), required=False)
    if f"blk.{i}.ffn_gate_inp.weight" not in tensors:
        return
    yield _Wanted("ffn_gate_inp.scale", (width,))
    for name in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
        yield _Wanted(f"{name}.weight", (width,))
    if f"blk.{i}.ffn_gate_up_exps.weight" in tensors:
        yield _Wanted("ffn_gate_up_exps.weight", (n, 2 * layers.expert_inner, width))
    else:
        yield _Wanted("ffn_gate_exps.weight", (n, layers.expert_inner, width))
        yield _Wanted("ffn_up_exps.weight", (n, layers.expert_inner, width))
    yield _Wanted("ffn_down_exps.weight", (n, width, layers.expert_inner))
    yield _Wanted("ffn_down_exps.scale", (n,), required=False)
