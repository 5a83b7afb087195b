"""What is stored decides: quantized weights under any config, missing towers, left-overs of trainers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from gemma4_gguf.convert.plan import plan_model, plan_projector, stored_senses
from gemma4_gguf.convert.safetensors import SourceTensor
from gemma4_gguf.convert.stored_quantization import check_not_quantized
from gemma4_gguf.convert.tensor_names import canonical
from gemma4_gguf.errors import CheckpointError, TensorError

Q_PROJ = "model.language_model.layers.0.self_attn.q_proj"
EMBED = "model.language_model.embed_tokens.weight"


@pytest.fixture
def source(checkpoint: Callable[..., Path]) -> Checkpoint:
    """The tiny e2b, open."""
    return open_checkpoint(checkpoint("e2b"))


def stored(name: str, dtype: str = "BF16", shape: tuple[int, ...] = (2, 2)) -> SourceTensor:
    return SourceTensor(name, shape, dtype, Path("model.safetensors"), 0)


def having(source: Checkpoint, *more: SourceTensor) -> Checkpoint:
    return replace(source, tensors=dict(source.tensors) | {tensor.name: tensor for tensor in more})


def without(source: Checkpoint, *prefixes: str) -> Checkpoint:
    kept = {name: t for name, t in source.tensors.items() if not canonical(name).startswith(prefixes)}
    return replace(source, tensors=kept)


def config(source: Checkpoint, **values: Any) -> Checkpoint:
    """With other keys in text_config, or at the top for those that are not there."""
    text = dict(source.config["text_config"])
    inside = {key: value for key, value in values.items() if key in text}
    top = {key: value for key, value in values.items() if key not in text}
    return replace(source, config={**source.config, **top, "text_config": text | inside})


# Quantized weights

QUANTIZED: list[tuple[str, dict[str, str]]] = [
    ("bitsandbytes 8-bit", {f"{Q_PROJ}.weight": "I8", f"{Q_PROJ}.SCB": "F32"}),
    ("bitsandbytes 8-bit", {f"{Q_PROJ}.weight": "I8", f"{Q_PROJ}.weight_format": "U8"}),
    ("bitsandbytes 4-bit", {f"{Q_PROJ}.weight": "U8", f"{Q_PROJ}.weight.absmax": "F32"}),
    ("bitsandbytes 4-bit", {f"{Q_PROJ}.weight.quant_state.bitsandbytes__nf4": "U8"}),
    ("bitsandbytes 4-bit", {f"{Q_PROJ}.weight.nested_quant_map": "F32"}),
    ("GPTQ", {f"{Q_PROJ}.qweight": "I32", f"{Q_PROJ}.g_idx": "I32", f"{Q_PROJ}.scales": "F16"}),
    ("GPTQ or AWQ", {f"{Q_PROJ}.qweight": "I32", f"{Q_PROJ}.qzeros": "I32", f"{Q_PROJ}.scales": "F16"}),
    ("FP8", {f"{Q_PROJ}.weight": "F8_E4M3", f"{Q_PROJ}.weight_scale_inv": "F32"}),
    (
        "FP8",
        {f"{Q_PROJ}.weight": "F8_E4M3", f"{Q_PROJ}.weight_scale": "BF16", f"{Q_PROJ}.input_scale": "F32"},
    ),
    ("compressed-tensors", {f"{Q_PROJ}.weight_packed": "I32", f"{Q_PROJ}.weight_scale": "BF16"}),
    (
        "ModelOpt",
        {f"{Q_PROJ}.weight": "U8", f"{Q_PROJ}.weight_scale": "F8_E4M3", f"{Q_PROJ}.weight_scale_2": "F32"},
    ),
    ("MLX", {f"{Q_PROJ}.weight": "U32", f"{Q_PROJ}.scales": "BF16", f"{Q_PROJ}.biases": "BF16"}),
    ("torchao", {f"{Q_PROJ}._weight_qdata": "I8", f"{Q_PROJ}._weight_scale": "BF16"}),
    ("torchao", {f"{Q_PROJ}.weight:_data": "I8"}),
    ("quanto", {f"{Q_PROJ}.weight._data": "I8", f"{Q_PROJ}.weight._scale": "BF16"}),
    ("HQQ", {f"{Q_PROJ}.W_q": "U8"}),
    ("MXFP4", {"model.language_model.layers.0.experts.gate_up_proj_blocks": "U8"}),
    ("by an unknown method", {f"{Q_PROJ}.weight": "F8_E5M2"}),
    ("by an unknown method", {f"{Q_PROJ}.weight": "I8"}),
]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"quantization_config": {"quant_method": "other"}},
    {"text_config": {"quantization_config": {"bits": 4}}},
    {"quantization": {"group_size": 64, "bits": 4}},
    {"quantization_config": ["nonsense"], "text_config": 5},
]


@pytest.mark.parametrize(("method", "tensors"), QUANTIZED, ids=[" ".join(t)[-60:] for _, t in QUANTIZED])
def test_quantized_weights_are_refused_by_name_under_any_config(
    method: str, tensors: dict[str, str], tmp_path: Path
) -> None:
    found = {name: stored(name, dtype) for name, dtype in {EMBED: "BF16", **tensors}.items()}
    for settings in CONFIGS:
        with pytest.raises(CheckpointError, match="are quantized already") as caught:
            check_not_quantized(tmp_path, settings, found)
        assert method in str(caught.value) or method == "by an unknown method"
        assert "BF16, F16 or F32" in str(caught.value) or "dequantize" in str(caught.value)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("settings", CONFIGS)
def test_plain_weights_are_no_less_plain_for_what_config_says(
    settings: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    found = {EMBED: stored(EMBED, dtype), "masked_embedding.token_ordering": stored("t", "I64")}
    note = check_not_quantized(tmp_path, settings, found)
    assert (note is None) == (settings == {})
    (tmp_path / "hf_quant_config.json").write_text("{}")
    assert "stored as plain numbers" in str(check_not_quantized(tmp_path, settings, found))


@pytest.mark.parametrize("member", ["e2b", "12b", "26b", "31b", "assistant"])
def test_no_name_of_gemma_4_looks_quantized(checkpoint: Callable[..., Path], member: str) -> None:
    assert open_checkpoint(checkpoint(member)).notes == ()


def test_a_leftover_quantization_config_converts_to_the_same_bytes(
    checkpoint: Callable[..., Path], converted: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(checkpoint("e2b"), tmp_path / "tiny-e2b"))
    settings = json.loads((copied / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copied / "config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="stored as plain numbers"):
        made = convert_checkpoint(copied, tmp_path / "out", "F32", "F32")
    assert any("bitsandbytes" in note for note in made.notes)
    assert made.model.read_bytes() == converted("e2b")["model"].read_bytes()


# Towers


TOWERS = ("vision.", "embed_vision.", "audio.", "embed_audio.", "vision_embedder.")


@pytest.mark.parametrize("member", ["e2b", "12b", "26b"])
def test_a_text_model_needs_no_towers(checkpoint: Callable[..., Path], member: str) -> None:
    whole = open_checkpoint(checkpoint(member))
    bare = without(whole, *TOWERS)
    assert len(bare.tensors) < len(whole.tensors)
    assert plan_projector(bare) is None
    assert [t.name for t in plan_model(bare).tensors] == [t.name for t in plan_model(whole).tensors]
    _, notes = stored_senses(bare)
    assert len(notes) == (2 if whole.config.get("audio_config") else 1)
    # Nor a sound description of what is not there.
    for value in ({}, {"hidden_size": "?"}, 5, None):
        plan_model(replace(whole, config={**whole.config, "vision_config": value}))


@pytest.mark.parametrize(("kept", "lost"), [("vision", "audio"), ("audio", "vision")])
def test_one_sense_is_enough_for_a_projector(source: Checkpoint, kept: str, lost: str) -> None:
    plan = plan_projector(without(source, f"{lost}.", f"embed_{lost}."))
    assert plan is not None
    keys = {field.key for field in plan.fields}
    assert f"clip.has_{kept}_encoder" in keys and f"clip.has_{lost}_encoder" not in keys
    # Described no longer, but stored: left out.
    plan = plan_projector(replace(source, config={**source.config, f"{lost}_config": None}))
    assert plan is not None and not any(f.key == f"clip.has_{lost}_encoder" for f in plan.fields)


def test_half_a_tower_is_an_error_only_for_the_projector(source: Checkpoint) -> None:
    half = without(source, "vision.encoder.layers.1.")
    plan_model(half)
    with pytest.raises(TensorError, match="tensors are missing"):
        plan_projector(half)


def test_a_stripped_checkpoint_converts(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """As Unsloth and TRL save fine-tunes of the text part, with the whole config."""
    copied = Path(shutil.copytree(checkpoint("e2b"), tmp_path / "tuned"))
    whole = open_checkpoint(copied)
    tensors = {
        name: (t.dtype, t.read(0, t.n_rows).reshape(t.shape))
        for name, t in without(whole, *TOWERS).tensors.items()
    }
    tiny.write_safetensors(copied / "model.safetensors", tensors)
    (copied / "processor_config.json").unlink()
    with pytest.warns(UserWarning, match="no weights of it are stored"):
        made = convert_checkpoint(copied, tmp_path / "out", "Q8_0")
    assert made.projector is None and [path.name for path in made] == ["tuned-Q8_0.gguf"]
    assert sum("no weights of it are stored" in note for note in made.notes) == 2
    assert convert_checkpoint(copied, tmp_path / "out2", "Q8_0", None).model.is_file()


# Left-overs


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.{}",
        "module.{}",
        "module._orig_mod.{}",
        "base_model.model.{}",
        "_orig_mod.base_model.model.{}",
        "model._orig_mod.language_model.norm.weight",
        "model.language_model._fsdp_wrapped_module.norm.weight",
        "model.language_model.norm._checkpoint_wrapped_module.weight",
    ],
)
def test_wrappers_of_torch_are_taken_off(wrapped: str) -> None:
    name = "model.language_model.norm.weight"
    assert canonical(wrapped.format(name)) == canonical(name) == "text.norm.weight"


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.state.0.exp_avg",
        "optimizer.param_groups.lr",
        f"{Q_PROJ}.weight.exp_avg_sq",
        "v_head.summary.weight",
        "ema.decay",
        "model.language_model.layers.0.self_attn.rotary_emb.inv_freq",
    ],
)
def test_what_training_alone_needs_is_left_out(source: Checkpoint, name: str) -> None:
    plan = plan_model(having(source, stored(name, "F32")))
    assert name in plan.unused
    assert [t.name for t in plan.tensors] == [t.name for t in plan_model(source).tensors]
    assert any("training alone" in note for note in plan.notes) or "inv_freq" in name


@pytest.mark.parametrize(
    "name",
    [
        f"base_model.model.{Q_PROJ}.lora_A.default.weight",
        f"{Q_PROJ}.lora_B.weight",
        f"{Q_PROJ}.lora_magnitude_vector.default.weight",
        "model.language_model.embed_tokens.modules_to_save.default.weight",
        "model.language_model.embed_tokens.original_module.weight",
        "model.language_model.embed_tokens.trainable_tokens_delta.default",
    ],
)
def test_what_an_adapter_left_is_refused(source: Checkpoint, name: str) -> None:
    with pytest.raises(TensorError, match="belongs to a LoRA adapter"):
        plan_model(having(source, stored(name)))


def test_weights_nobody_knows_are_refused(source: Checkpoint) -> None:
    for name in ("model.language_model.layers.0.extra.weight", "score.weight", "model.other.weight"):
        with pytest.raises(TensorError, match="1 tensors are unknown"):
            plan_model(having(source, stored(name)))


@pytest.mark.parametrize("layers", [5, 7])
def test_another_number_of_layers_is_said(checkpoint: Callable[..., Path], layers: int) -> None:
    source = open_checkpoint(checkpoint("31b", spelling="global"))
    types = source.config["text_config"]["layer_types"]
    types = types[:1] * (layers - len(types)) + types[max(0, len(types) - layers) :]
    changed = config(source, num_hidden_layers=layers, layer_types=types)
    with pytest.raises(CheckpointError, match=rf"config\.json says {layers} layers, the weights have 6"):
        plan_model(changed)


@pytest.mark.parametrize(
    ("values", "table"),
    [
        ({"vocab_size": 1064, "vocab_size_per_layer_input": 1064}, None),
        ({"vocab_size": 1064}, None),
        ({}, "embed_tokens"),
        ({}, "embed_tokens_per_layer"),
        ({"vocab_size_per_layer_input": 990}, "embed_tokens_per_layer"),
    ],
)
def test_a_vocabulary_resized_in_one_place_says_which(
    source: Checkpoint, values: dict[str, int], table: str | None
) -> None:
    changed = config(source, **values)
    if table:
        name = f"model.language_model.{table}.weight"
        old = source.tensors[name]
        changed = having(changed, replace(old, shape=(990, *old.shape[1:])))
    with pytest.raises(TensorError, match=rf"{table or 'embed_tokens'}.* has (1000|990) rows, but .* 10"):
        plan_model(changed)


def test_tables_that_fit_each_other_are_believed(source: Checkpoint) -> None:
    """transformers' resize_token_embeddings leaves the old number in config.json."""
    plan = plan_model(config(source, vocab_size_per_layer_input=990))
    assert [t.name for t in plan.tensors] == [t.name for t in plan_model(source).tensors]
    assert any("vocab_size_per_layer_input 990" in note for note in plan.notes)
