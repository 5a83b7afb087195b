"""Quantized files equal, byte for byte, what llama.cpp's quantizer makes of the same BF16 file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_models import write_model
from llama_quantize import quantize, quantize_in_child

from gemma4_gguf.convert import convert_checkpoint, quantize_file
from gemma4_gguf.convert.quant_rules import ModelShape, TensorType, converter_type, quantizer_types
from gemma4_gguf.errors import GGUFError, OutputError, QuantTypeError, TensorError
from gemma4_gguf.files.gguf_reader import open_gguf
from gemma4_gguf.files.quant_types import PROJECTOR_QUANTS, QUANT_TYPES, quant_type

BLOCK_TYPES = tuple(name for name in QUANT_TYPES if name not in PROJECTOR_QUANTS)

Fixture = Callable[..., Any]

# Models of two-row tensors: every rule of the quantizer applies to them, and none takes time.
RULES: dict[str, dict[str, Any]] = {
    "35 layers, tied": {"n_layers": 35, "width": 256},
    "untied output": {"n_layers": 9, "width": 256, "output": True},
    "one head per key head": {"n_layers": 16, "width": 256, "heads": (4, 4)},
    "experts": {"n_layers": 20, "width": 256, "n_experts": 4},
    "eight experts": {"n_layers": 8, "width": 256, "n_experts": 8},
    "rows of 96": {"n_layers": 9, "width": 96},
    "rows of 40": {"n_layers": 3, "width": 40, "output": True},
    "some layers without V": {"n_layers": 17, "width": 512, "no_v": 3},
    "a drafter": {"n_layers": 4, "width": 256, "architecture": "gemma4-assistant"},
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("quant", QUANT_TYPES)
def test_every_rule_is_llama_cpps(tmp_path: Path, quant: str, rules: str) -> None:
    source = write_model(tmp_path / "model-BF16.gguf", **RULES[rules])
    quantize(source, tmp_path / "theirs.gguf", QUANT_TYPES[quant].file_type)
    ours = quantize_file(source, tmp_path / "ours.gguf", quant, threads=2)
    assert types_of(ours) == types_of(tmp_path / "theirs.gguf")
    assert ours.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "BF16", "Q2_K"])
def test_other_sources(tmp_path: Path, kind: str, quant: str) -> None:
    source = write_model(tmp_path / "model.gguf", kind, **RULES["experts"])
    quantize(source, tmp_path / "theirs.gguf", QUANT_TYPES[quant].file_type)
    ours = quantize_file(source, tmp_path / "ours.gguf", quant, threads=2)
    assert ours.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


@pytest.mark.parametrize("member", ["e2b", "e4b", "26b"])
@pytest.mark.parametrize("quant", BLOCK_TYPES)
def test_one_pass_equals_two_steps(
    checkpoint: Fixture, converted: Fixture, tmp_path: Path, member: str, quant: str
) -> None:
    bf16 = converted(member, "BF16", "BF16")["model"]
    quantize(bf16, tmp_path / "theirs.gguf", QUANT_TYPES[quant].file_type)
    ours = convert_checkpoint(checkpoint(member), tmp_path, quant, None, threads=2).model
    assert ours.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_other_weights_pass_through_bf16(checkpoint: Fixture, tmp_path: Path, dtype: str) -> None:
    source = checkpoint("e2b_text", dtype=dtype)
    bf16 = convert_checkpoint(source, tmp_path, "BF16", None).model
    quantize(bf16, tmp_path / "theirs.gguf", QUANT_TYPES["Q6_K"].file_type)
    ours = convert_checkpoint(source, tmp_path, "Q6_K", None).model
    assert ours.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
def test_projector_equals_llama_cpps(converted: Fixture, tmp_path: Path, quant: str) -> None:
    source = converted("31b", "BF16", "BF16")["projector"]
    assert quantize_in_child(source, tmp_path / "theirs.gguf", QUANT_TYPES[quant].file_type) == 0
    ours = quantize_file(source, tmp_path / "ours.gguf", quant)
    assert ours.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_audio_convolutions_are_kept(converted: Fixture, tmp_path: Path) -> None:
    """llama.cpp's quantizer aborts on these files; mtmd needs the kernels in F32."""
    source = converted("e2b", "BF16", "BF16")["projector"]
    ours = open_gguf(quantize_file(source, tmp_path, "Q4_0"))
    kept = {name: info.type for name, info in ours.tensors.items() if "conv1d" in name or "conv_dw" in name}
    assert kept
    assert set(kept.values()) == {"F32"}
    assert ours.tensors["a.blk.0.ffn_up.weight"].type == "Q4_0"
    assert ours.path.name == source.name.replace("BF16", "Q4_0")


@pytest.mark.parametrize(
    ("row_length", "forced", "quant", "expected"),
    [
        (64, None, "Q8_0", "Q8_0"),
        (40, None, "Q8_0", "F16"),
        (40, None, "BF16", "BF16"),
        (64, "F32", "Q8_0", "F32"),
        (64, "F16_OR_F32", "F16", "F16"),
        (64, "F16_OR_F32", "BF16", "F32"),
    ],
)
def test_converter_types(row_length: int, forced: Any, quant: str, expected: str) -> None:
    assert converter_type(row_length, forced, QUANT_TYPES[quant]) == expected


# The mix of our own


@pytest.mark.parametrize("rules", ["35 layers, tied", "untied output", "experts"])
def test_compact_mixes_what_llama_cpp_writes(tmp_path: Path, rules: str) -> None:
    """Every tensor is, byte for byte, what llama.cpp makes of it in some file of that type."""
    source = write_model(tmp_path / "model-BF16.gguf", **RULES[rules])
    ours = open_gguf(quantize_file(source, tmp_path, "q4_compact", threads=2))
    assert ours.path.name == "model-Q4_COMPACT.gguf"
    plain = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "Q6_K": "Q6_K", "Q8_0": "Q8_0"}
    theirs = {}
    for kind, quant in plain.items():
        path = tmp_path / f"theirs-{kind}.gguf"
        quantize(source, path, QUANT_TYPES[quant].file_type, pure=True)
        theirs[kind] = open_gguf(path)
    assert list(ours.tensors) == list(theirs["Q6_K"].tensors)
    for name, info in ours.tensors.items():
        same = theirs[info.type if info.type in plain else "Q6_K"].tensors[name]
        assert same.type == info.type, name
        assert data_of(ours.path, info) == data_of(theirs.get(info.type, theirs["Q6_K"]).path, same), name


def test_compact_types() -> None:
    blocks = {
        f"blk.{i}.{name}.weight": None
        for i in range(35)
        for name in ("attn_q", "attn_v", "ffn_gate", "ffn_down", "inp_gate", "proj", "attn_norm")
    }
    names = ["token_embd.weight", "per_layer_token_embd.weight", "per_layer_model_proj.weight", *blocks]
    tensors = [TensorType(name, (4, 256), "BF16") for name in names]
    types = quantizer_types(tensors, ModelShape(n_layers=35), quant_type("Q4_COMPACT"))
    assert types["token_embd.weight"] == "Q5_K" and types["per_layer_token_embd.weight"] == "Q4_K"
    assert types["per_layer_model_proj.weight"] == types["blk.3.attn_norm.weight"] == "BF16"
    assert types["blk.0.inp_gate.weight"] == types["blk.34.proj.weight"] == "Q8_0"
    assert (types["blk.9.attn_q.weight"], types["blk.9.attn_v.weight"]) == ("Q4_K", "Q6_K")
    assert {types[f"blk.{i}.ffn_gate.weight"] for i in range(35)} == {"Q3_K"}
    down = [types[f"blk.{i}.ffn_down.weight"] for i in range(35)]
    assert down == ["Q4_K"] * 4 + ["Q3_K"] * 26 + ["Q4_K"] * 5


def test_compact_is_named_smaller_and_answers(
    checkpoint: Fixture, converted: Fixture, tmp_path: Path
) -> None:
    from gemma4_gguf import Session
    from gemma4_gguf.files.inspect import inspect_file

    files = convert_checkpoint(checkpoint("e2b"), tmp_path, "Q4_COMPACT", "BF16")
    reference = converted("e2b", "Q4_K_M", "BF16")["model"]
    assert files.model.name == "tiny-e2b-Q4_COMPACT.gguf"
    assert inspect_file(files.model).quantization == "Q4_COMPACT"
    assert files.model.stat().st_size < reference.stat().st_size
    with Session(files.model, device="cpu", n_ctx=256, n_threads=1) as session:
        ends = {i: -1e9 for i in session.facts.special_tokens.values()}
        assert session.ask("Hello", max_tokens=3, logit_bias=ends).usage.completion_tokens == 3


def test_compact_converted_equals_compact_quantized(
    checkpoint: Fixture, converted: Fixture, tmp_path: Path
) -> None:
    ours = convert_checkpoint(checkpoint("e2b"), tmp_path, "Q4_COMPACT", None).model
    bf16 = converted("e2b", "BF16", "BF16")["model"]
    assert quantize_file(bf16, tmp_path / "two-steps.gguf", "Q4_COMPACT").read_bytes() == ours.read_bytes()


def test_unknown_types_list_the_known() -> None:
    with pytest.raises(QuantTypeError, match=r"'Q9'.*Q4_K_M"):
        quant_type("Q9")
    with pytest.raises(QuantTypeError, match=r"'Q4_K_M'.*expected one of BF16, F16, F32, Q8_0\."):
        quant_type("Q4_K_M", projector=True)
    assert quant_type("q4_k_m").name == "Q4_K_M"


def test_quantized_sources_are_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model-BF16.gguf", **RULES["rows of 96"])
    half = quantize_file(source, None, "Q5_0")
    assert half == tmp_path / "model-Q5_0.gguf"
    with pytest.raises(QuantTypeError, match="as Q5_0"):
        quantize_file(half, tmp_path / "again.gguf", "Q4_0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-BF16.gguf", "model-Q5_0.gguf"]


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model.gguf", **RULES["rows of 96"])
    before = source.read_bytes()
    with pytest.raises(OutputError, match="is the source itself"):
        quantize_file(source, source, "Q4_0", force=True)
    assert source.read_bytes() == before


def test_nan_in_a_gguf_is_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model.gguf", **RULES["rows of 96"])
    info = open_gguf(source).tensors["blk.7.ffn_up.weight"]
    data = bytearray(source.read_bytes())
    data[info.offset + 96 * 2 : info.offset + 96 * 2 + 2] = b"\xc0\x7f"  # first number of row 1
    source.write_bytes(data)
    with pytest.raises(TensorError, match=r"'blk\.7\.ffn_up\.weight' .* row 1 of 2"):
        quantize_file(source, tmp_path / "out.gguf", "Q4_0")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "clip"])
def test_other_architectures_are_refused(tmp_path: Path, architecture: str) -> None:
    source = write_model(tmp_path / "model.gguf", architecture=architecture, n_layers=1, width=32)
    with pytest.raises(GGUFError, match="expected a Gemma 4 model"):
        quantize_file(source, tmp_path / "out.gguf", "Q4_0")


def data_of(path: Path, info: Any) -> bytes:
    return path.read_bytes()[info.offset : info.offset + info.n_bytes]


def types_of(path: Path) -> dict[str, str]:
    return {name: info.type for name, info in open_gguf(path).tensors.items()}
