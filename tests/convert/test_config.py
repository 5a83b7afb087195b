"""config.json: nothing is guessed, both spellings say the same, and what llama.cpp cannot run is refused."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_config import MEMBERS, member_config

from gemma4_gguf.convert import config as config_module
from gemma4_gguf.convert import config_towers
from gemma4_gguf.convert.config import ARCHITECTURES, ModelConfig, parse_config
from gemma4_gguf.errors import ConfigError


def words(text: str) -> set[str]:
    return set(text.split())


TEXT_KEYS = words(
    """attention_k_eq_v final_logit_softcapping head_dim hidden_size intermediate_size layer_types
    max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads num_kv_shared_layers
    per_layer_config rms_norm_eps rope_parameters sliding_window use_bidirectional_attention
    use_double_wide_mlp vocab_size"""
)
PLE_KEYS = {"hidden_size_per_layer_input", "enable_moe_block"}
VISION_KEYS = words(
    """head_dim hidden_size intermediate_size num_attention_heads num_hidden_layers patch_size
    pooling_kernel_size position_embedding_size rms_norm_eps standardize use_clipped_linears"""
)
AUDIO_KEYS = words(
    """conv_kernel_size hidden_size num_attention_heads num_hidden_layers output_proj_dims rms_norm_eps
    subsampling_conv_channels use_clipped_linears"""
)
MOE_KEYS = {"num_experts", "top_k_experts", "moe_intermediate_size"}
UNIFIED_VISION_KEYS = {"mm_embed_dim", "mm_posemb_size", "patch_size", "pooling_kernel_size", "rms_norm_eps"}
# Section → keys without which nothing can be converted.
NEEDED: dict[str, dict[str, set[str]]] = {
    "e2b": {
        "": {"architectures", "text_config"},
        "text_config": TEXT_KEYS | PLE_KEYS | {"vocab_size_per_layer_input"},
        "vision_config": VISION_KEYS,
        "audio_config": AUDIO_KEYS,
    },
    "26b": {"text_config": TEXT_KEYS | PLE_KEYS | MOE_KEYS},
    "12b": {
        "text_config": TEXT_KEYS,
        "vision_config": UNIFIED_VISION_KEYS,
        "audio_config": {"audio_embed_dim", "rms_norm_eps"},
    },
    "assistant": {
        "": {"architectures", "backbone_hidden_size", "text_config"},
        "text_config": (TEXT_KEYS - {"num_kv_shared_layers"}) | PLE_KEYS,
    },
}
# Without it a member is blind or deaf, and that is no error.
SENSES = ("vision_config", "audio_config")


@pytest.mark.parametrize("member", NEEDED)
def test_a_missing_key_is_named_with_its_file(member: str) -> None:
    whole = member_config(member)
    parsed = parse_config(whole)
    for section, needed in NEEDED[member].items():
        named = set()
        for key in list(whole[section] if section else whole):
            config = copy.deepcopy(whole)
            del (config[section] if section else config)[key]
            try:
                # Any other key is not read at all, or stands for a value llama.cpp has built in.
                assert parse_config(config, "dir/config.json") == parsed or key in SENSES
            except ConfigError as error:
                where = f"{section}.{key}" if section else key
                # Either spelling of the head size will do; the message names both.
                where = where.replace("per_layer_config", "global_head_dim")
                assert str(error).startswith(f"dir/config.json: {where}") or key == "architectures"
                named.add(key)
        assert named == needed


def test_config_classes_have_no_defaults() -> None:
    for module in (config_module, config_towers):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        annotated = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for node in node.body]
        assert [
            node for node in annotated if isinstance(node, ast.AnnAssign) and node.value is not None
        ] == []
    assert is_dataclass(ModelConfig) and len(fields(ModelConfig)) == 6


@pytest.mark.parametrize("member", MEMBERS)
def test_both_spellings_say_the_same(member: str) -> None:
    per_layer = parse_config(member_config(member, spelling="per_layer_config"))
    assert parse_config(member_config(member, spelling="global")) == per_layer


def test_equal_head_sizes_need_no_override() -> None:
    text = parse_config(member_config("same_head_dim")).text
    assert text.head_dim == text.full_head_dim == 32


def test_every_layer_may_be_spelled_out() -> None:
    config = member_config("26b")
    text = config["text_config"]
    layers = text["per_layer_config"]
    for index, kind in enumerate(text["layer_types"]):
        if kind == "sliding_attention":
            layers[str(index).zfill(2)] = {"head_dim": 32, "num_key_value_heads": 2, "intermediate_size": 128}
    assert parse_config(config) == parse_config(member_config("26b"))


def test_keys_of_mechanisms_that_are_not_there_say_nothing() -> None:
    """As the published 12B carries them."""
    config = member_config("12b", spelling="global")
    config["text_config"] |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 262144}
    config["text_config"] |= {"enable_moe_block": False, "moe_intermediate_size": None, "num_experts": None}
    config["vision_config"]["num_soft_tokens"] = 280
    config["audio_config"]["audio_samples_per_token"] = 640
    assert parse_config(config) == parse_config(member_config("12b"))


def test_global_kv_heads_count_only_where_keys_are_values() -> None:
    config = member_config("31b", spelling="global")
    assert set(parse_config(config).text.kv_heads) == {1, 2}
    config["text_config"]["attention_k_eq_v"] = False
    assert set(parse_config(config).text.kv_heads) == {2}


def test_a_drafter_shares_all_its_caches() -> None:
    config = member_config("assistant")
    for value in (0, None, 4):
        config["text_config"]["num_kv_shared_layers"] = value
        assert parse_config(config).text.n_kv_shared == 4


def test_members_are_told_apart() -> None:
    kinds = {member: parse_config(member_config(member)) for member in MEMBERS}
    assert {m for m, c in kinds.items() if c.unified} == {"12b", "assistant_unified"}
    assert {m for m, c in kinds.items() if c.assistant} == {"assistant", "assistant_unified"}
    assert {m for m, c in kinds.items() if c.audio} == {"e2b", "e4b", "12b"}
    assert {m for m, c in kinds.items() if not c.vision} == {"assistant", "assistant_unified", "e2b_text"}
    assert {m for m, c in kinds.items() if c.text.image_attention == "bidirectional"} == {
        "26b",
        "31b",
        "12b",
        "assistant_unified",
    }
    assert {c.architecture for c in kinds.values()} == set(ARCHITECTURES)
    e2b = kinds["e2b"].text
    assert [e2b.layer_intermediate(layer) for layer in range(6)] == [256, 256, 256, 512, 512, 512]


def text(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["text_config"].update(changes)


def vision(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["vision_config"].update(changes)


def audio(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["audio_config"].update(changes)


SLIDING, FULL = "sliding_attention", "full_attention"

REFUSED: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("e2b", lambda c: c.update(architectures=["Gemma3ForCausalLM"]), r"'Gemma3ForCausalLM'\. Only Gemma 4"),
    ("e2b", lambda c: c.update(architectures=None), r"for None\. Only Gemma 4"),
    ("e2b", lambda c: c.update(text_config=[]), r"text_config is \[\]; expected an object"),
    ("e2b", text(hidden_size="256"), r"hidden_size is '256'; expected an integer from 1 to 2,147,483,647"),
    ("e2b", text(hidden_size=0), r"hidden_size is 0"),
    ("e2b", text(hidden_size=True), r"hidden_size is True"),
    ("e2b", text(rms_norm_eps=0), r"rms_norm_eps is 0; expected a positive number"),
    ("e2b", text(use_double_wide_mlp=None), r"use_double_wide_mlp is None; expected true or false"),
    ("e2b", text(hidden_activation="relu"), r"hidden_activation is 'relu'; expected 'gelu"),
    ("e2b", text(attention_bias=True), r"attention_bias is True; expected False"),
    ("e2b", text(num_attention_heads=3, num_key_value_heads=2), r"is 3; expected a multiple"),
    ("e2b", text(layer_types=[SLIDING] * 6), r"layer_types .* expected at least one"),
    ("e2b", text(layer_types=[FULL] * 6), r"layer_types .* expected at least one sliding layer"),
    ("e2b", text(layer_types=[FULL]), r"layer_types .* expected 6 times"),
    ("e2b", text(layer_types=["linear_attention"] * 6), r"layer_types .* expected 6 times"),
    ("e2b", text(use_bidirectional_attention="all"), r"use_bidirectional_attention is 'all'"),
    ("e2b", text(per_layer_config={"6": {"head_dim": 64}}), r"per_layer_config\.6: expected layer numbers"),
    ("e2b", text(per_layer_config={"2": {"head_dim": 64}}), r"full-attention layers differ .* \(layer 5\)"),
    ("e2b", text(per_layer_config={"1": {"rms_norm_eps": 1.0}}), r"per_layer_config\.1\.rms_norm_eps is 1"),
    ("e2b", text(per_layer_config=None), r"global_head_dim is missing, and so is per_layer_config"),
    ("e2b", text(num_kv_shared_layers=2), r"num_kv_shared_layers is 2; expected layers 2 and 3"),
    ("e2b", text(num_kv_shared_layers=4), r"num_kv_shared_layers is 4; expected layers 0 and 1"),
    ("e2b", text(num_kv_shared_layers=5), r"num_kv_shared_layers is 5; expected at most 4"),
    ("26b", text(top_k_experts=5), r"top_k_experts is 5; expected at most num_experts \(4\)"),
    ("26b", text(num_experts=None), r"num_experts is None"),
    ("assistant", text(num_kv_shared_layers=2), r"num_kv_shared_layers is 2; expected 4"),
    ("assistant", text(use_double_wide_mlp=True), r"a drafter has no"),
    ("assistant", lambda c: c.update(backbone_hidden_size=64), r"backbone_hidden_size is 64; expected"),
    ("e2b", lambda c: c["text_config"]["rope_parameters"]["full_attention"].update(rope_type="yarn"),
     r"rope_parameters\.full_attention\.rope_type is 'yarn'"),
    ("e2b", lambda c: c["text_config"]["rope_parameters"]["full_attention"].update(partial_rotary_factor=2),
     r"partial_rotary_factor"),
    ("e2b", vision(num_key_value_heads=1), r"vision_config\.num_key_value_heads is 1; expected 3"),
    ("e2b", vision(head_dim=16), r"vision_config\.head_dim is 16; expected hidden_size"),
    ("e2b", vision(rope_parameters={"rope_theta": 10.0}), r"rope_parameters\.rope_theta is 10"),
    ("e2b", audio(attention_chunk_size=16), r"audio_config\.attention_chunk_size is 16; expected 12"),
    ("e2b", audio(subsampling_conv_channels=[128]), r"subsampling_conv_channels is \[128\]; expected two"),
    ("12b", audio(audio_embed_dim=320), r"audio_config\.audio_embed_dim is 320; expected 640"),
    ("12b", vision(model_patch_size=32), r"model_patch_size is 32; expected 48"),
]  # fmt: skip


@pytest.mark.parametrize(("member", "change", "message"), REFUSED, ids=[f"{m} {r}" for m, _, r in REFUSED])
def test_impossible_values_are_refused(
    member: str, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    config = copy.deepcopy(member_config(member))
    change(config)
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(config, "dir/config.json")
    assert str(caught.value).startswith("dir/config.json")


def test_a_layout_that_llama_cpp_can_share_passes() -> None:
    config = member_config("e2b", overrides={"layer_types": [SLIDING, FULL, FULL, FULL, FULL, FULL]})
    config["text_config"]["per_layer_config"] = {str(layer): {"head_dim": 64} for layer in range(1, 6)}
    assert parse_config(config).text.n_kv_shared == 3


@pytest.mark.parametrize("given", [None, [1], "config.json", 3])
def test_what_is_no_object_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="expected an object"):
        parse_config(given)
