"""What is refused before llama.cpp sees it: files that would end the process, projectors of other models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from altered import altered

from gemma4_gguf.errors import GGUFError, PairingError
from gemma4_gguf.files.gguf_reader import open_gguf
from gemma4_gguf.files.model_file import check_model
from gemma4_gguf.files.pairing import check_pair, find_projector
from gemma4_gguf.files.projector_file import check_projector

Converted = Callable[..., dict[str, Path]]
WORDS = [f"t{i}" for i in range(998)]
PLAIN: dict[str, Any] = {"tokenizer.ggml.token_type": [1] * 1000}


def test_facts_of_a_causal_member(converted: Converted) -> None:
    facts = check_model(converted("e2b")["model"])
    assert (facts.n_layer, facts.n_embd, facts.n_swa, facts.ple_width) == (6, 256, 32, 32)
    assert facts.n_vocab == 1000 and facts.n_ctx_train == 4096
    assert not facts.bidirectional_images and facts.family_size == "small"
    assert facts.special_tokens["<|turn>"] == 5 and "the" not in facts.special_tokens
    banned = {text for text, i in facts.special_tokens.items() if i in facts.banned_tokens}
    assert {"<pad>", "<bos>", "<|image|>", "<audio|>", "<|video|>"} <= banned
    assert not banned & {"<turn|>", "<eos>", "<|channel>", "<channel|>", "<|tool_call>", '<|"|>'}


@pytest.mark.parametrize("member", ["26b", "31b", "12b"])
def test_facts_of_bidirectional_members(member: str, converted: Converted) -> None:
    facts = check_model(converted(member)["model"])
    assert facts.bidirectional_images and facts.family_size == "large" and facts.ple_width == 0


def test_what_a_file_says_wins_over_what_its_shape_suggests(converted: Converted, tmp_path: Path) -> None:
    model = converted("31b")["model"]
    changed = altered(model, tmp_path / "m.gguf", {"general.gemma4.image_attention": "causal"})
    assert not check_model(changed).bidirectional_images
    silent = altered(model, tmp_path / "n.gguf", {"general.gemma4.image_attention": None})
    assert check_model(silent).bidirectional_images
    wrong = altered(model, tmp_path / "o.gguf", {"general.gemma4.image_attention": "sideways"})
    with pytest.raises(GGUFError, match="sideways"):
        check_model(wrong)


def test_sampling_and_suppressed_tokens_are_read(converted: Converted, tmp_path: Path) -> None:
    changes = {
        "general.sampling.temp": 0.7,
        "general.sampling.top_k": 40,
        "general.sampling.top_p": 0.95,
        "tokenizer.ggml.suppress_tokens": [300, 301, 5000],
    }
    facts = check_model(altered(converted("e2b")["model"], tmp_path / "m.gguf", changes))
    assert {"temperature": 0.7, "top_k": 40, "top_p": 0.95}.items() <= dict(facts.sampling).items()
    assert {300, 301} <= set(facts.banned_tokens) and 5000 not in facts.banned_tokens


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"general.architecture": "llama"}, "llama"),
        ({"general.architecture": "gemma4-assistant"}, "drafter"),
        (
            {"gemma4.block_count": None},
            r"gemma4\.block_count is missing; expected a whole number from 2 to 512",
        ),
        ({"gemma4.block_count": 0}, "block_count is 0"),
        ({"gemma4.block_count": 7}, "pattern has 6 items; expected .* each of 7 layers"),
        ({"gemma4.block_count": 9999}, "9999"),
        ({"gemma4.block_count": "six"}, "'six'"),
        ({"gemma4.embedding_length": 255}, "token_embd"),
        (
            {"gemma4.attention.sliding_window_pattern": [False] * 6},
            "pattern is .*; expected at least one layer with a sliding window",
        ),
        (
            {"gemma4.attention.sliding_window_pattern": [True] * 5},
            "has 5 items; expected .* each of 6 layers",
        ),
        ({"gemma4.attention.sliding_window": 0}, "sliding_window is 0"),
        ({"gemma4.attention.shared_kv_layers": 4}, "share the cache"),
        ({"gemma4.attention.shared_kv_layers": 5}, "cache of their own"),
        ({"gemma4.attention.head_count_kv": 3}, "3 key/value heads"),
        ({"gemma4.attention.head_count": [4, 4]}, "has 2 items; expected .* each of 6 layers"),
        ({"gemma4.attention.value_length": 32}, "value_length is 32; expected 64"),
        ({"gemma4.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon is nan"),
        ({"gemma4.attention.layer_norm_rms_epsilon": -1.0}, r"epsilon is -1\.0"),
        ({"gemma4.rope.dimension_count": 4096}, "4096"),
        ({"gemma4.rope.dimension_count_swa": 31}, "dimension_count_swa is 31"),
        (
            {"gemma4.rope.dimension_count_swa": None},
            "dimension_count_swa is missing, so that it counts as 64",
        ),
        (
            {"gemma4.expert_count": 4, "gemma4.expert_used_count": 5},
            "expert_used_count is 5; expected a whole number from 0 to 4",
        ),
        (
            {"gemma4.expert_count": 4, "gemma4.expert_used_count": 0},
            "expert_used_count is 0; expected 1 to 4 experts",
        ),
        ({"gemma4.expert_count": "x"}, "expert_count is 'x'"),
        ({"tokenizer.ggml.model": "llama"}, r"tokenizer\.ggml\.model is 'llama'; expected 'gemma4'"),
        ({"tokenizer.ggml.token_type": [1] * 999}, "999 items"),
        ({"tokenizer.ggml.token_type": [1] * 1000}, "no control token"),
        ({"tokenizer.ggml.token_type": ["1"] * 1000}, "INT32"),
        ({"tokenizer.ggml.scores": [0.0] * 10}, "10 items"),
        ({"tokenizer.ggml.merges": None}, r"tokenizer\.ggml\.merges is missing; expected \[STRING\]"),
        (
            {"tokenizer.ggml.bos_token_id": None},
            "bos_token_id is missing; expected a whole number from 0 to 999",
        ),
        ({"tokenizer.ggml.eos_token_id": 1000}, "eos_token_id is 1000"),
        ({"tokenizer.ggml.eos_token_id": "x"}, "eos_token_id is 'x'"),
        ({"tokenizer.ggml.tokens": ["twice"] * 1000}, "999 tokens that occur twice"),
        ({"general.alignment": 8}, "is said to start"),
        ({"general.alignment": 32.0}, "alignment"),
        ({"general.name": 5}, "name is of type UINT32; expected STRING"),
        ({"gemma4.context_length": 4096.0}, "context_length is of type FLOAT32; expected UINT32"),
        ({"gemma4.attention.sliding_window": 2**31 - 1}, "sliding_window is 2147483647"),
        ({"gemma4.attention.head_count": 0}, "head_count is 0"),
        ({"gemma4.attention.head_count": 8}, r"attn_q\.weight has shape"),
        ({"gemma4.attention.causal": False}, "causal is False"),
        ({"gemma4.attention.causal": 1}, "causal is of type UINT32; expected BOOL"),
        ({"gemma4.feed_forward_length": [256] * 5}, "feed_forward_length has 5 items"),
        ({"gemma4.feed_forward_length": [256] * 6}, r"blk\.3\.ffn_gate\.weight has shape"),
        ({"gemma4.feed_forward_length": ["x"] * 6}, r"feed_forward_length is of type \[STRING\]"),
        ({"gemma4.rope.freq_base": 0.0}, "freq_base is 0.0"),
        ({"gemma4.rope.freq_base": -1.0}, "freq_base is -1.0"),
        ({"gemma4.rope.freq_base_swa": float("nan")}, "freq_base_swa is nan"),
        ({"gemma4.rope.scaling.type": "spiral"}, "'spiral'; expected 'none'"),
        ({"gemma4.rope.scaling.factor": float("inf")}, "factor is inf"),
        ({"gemma4.final_logit_softcapping": float("nan")}, "softcapping is nan"),
        ({"gemma4.expert_group_count": 2}, "expert_group_count is 2"),
        ({"gemma4.nextn_predict_layers": 1}, "nextn_predict_layers is 1"),
        ({"gemma4.embedding_length_out": 128}, "embedding_length_out is 128"),
        ({"tokenizer.ggml.padding_token_id": "0"}, "padding_token_id is of type STRING"),
        ({"tokenizer.ggml.add_bos_token": 1}, "add_bos_token is of type UINT32"),
        ({"tokenizer.ggml.suppress_tokens": [1.0]}, r"suppress_tokens is of type \[FLOAT32\]"),
        (PLAIN | {"tokenizer.ggml.tokens": [*WORDS, "a\0", "b"]}, "without zeros"),
        (PLAIN | {"tokenizer.ggml.tokens": [*WORDS, "", "[EMPTY_998]"]}, "without zeros"),
        ({"tokenizer.ggml.token_type": [6] * 1000}, "is a byte"),
    ],
)
def test_bad_models(changes: dict[str, Any], match: str, converted: Converted, tmp_path: Path) -> None:
    bad = altered(converted("e2b")["model"], tmp_path / "bad.gguf", changes)
    with pytest.raises(GGUFError, match=match) as caught:
        check_model(bad)
    assert "bad.gguf" in str(caught.value)


def test_an_unchanged_copy_is_taken(converted: Converted, tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    model = converted("e2b")["model"]
    copy = altered(model, tmp_path / "copy.gguf", {})
    assert copy.read_bytes() == model.read_bytes()
    assert check_model(copy).n_layer == 6


def test_damaged_files(converted: Converted, tmp_path: Path) -> None:
    data = converted("e2b")["model"].read_bytes()
    cases = {"cut": data[:-100], "head": data[:5000], "empty": b"", "text": b"hello, this is no model"}
    for name, content in cases.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(GGUFError, match=f"{name}.gguf"):
            check_model(path)
    with pytest.raises(GGUFError, match="does not exist"):
        check_model(tmp_path / "missing.gguf")


def test_models_and_projectors_are_told_apart(converted: Converted) -> None:
    files = converted("e2b")
    with pytest.raises(GGUFError, match="projector="):
        check_model(files["projector"])
    with pytest.raises(GGUFError, match="is a model"):
        check_projector(files["model"])


def test_a_drafter_cannot_answer(converted: Converted) -> None:
    with pytest.raises(GGUFError, match=r"drafter.*big model"):
        check_model(converted("assistant")["model"])


# Projectors


def test_projectors_say_what_they_can_do(converted: Converted) -> None:
    both = check_projector(converted("e2b")["projector"])
    assert both.has_vision and both.has_audio and both.types == ("gemma4v", "gemma4a") and both.width == 256
    eyes = check_projector(converted("26b")["projector"])
    assert eyes.has_vision and not eyes.has_audio and eyes.types == ("gemma4v",)
    assert check_projector(converted("12b")["projector"]).types == ("gemma4uv", "gemma4ua")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clip.vision.projector_type": "gemma3"}, "gemma3"),
        ({"clip.vision.projection_dim": None}, "projection_dim is missing"),
        ({"clip.vision.projection_dim": 999}, r"audio\.projection_dim is 256; expected 999"),
        (
            {"clip.has_vision_encoder": None, "clip.has_audio_encoder": None},
            "has_vision_encoder is missing; expected true",
        ),
    ],
)
def test_bad_projectors(changes: dict[str, Any], match: str, converted: Converted, tmp_path: Path) -> None:
    bad = altered(converted("e2b")["projector"], tmp_path / "mmproj-bad.gguf", changes)
    with pytest.raises(GGUFError, match=match):
        check_projector(bad)


def test_pairs(converted: Converted) -> None:
    own = check_model(converted("e2b")["model"])
    check_pair(own, check_projector(converted("e2b")["projector"]))
    with pytest.raises(PairingError, match=r"width 320.*takes 256"):
        check_pair(own, check_projector(converted("31b")["projector"]))


def test_a_projector_of_the_12b_is_not_for_the_e_series(converted: Converted, tmp_path: Path) -> None:
    widths = {"clip.vision.projection_dim": 256, "clip.audio.projection_dim": 256}
    wide = altered(converted("12b")["projector"], tmp_path / "mmproj-wide.gguf", widths)
    with pytest.raises(PairingError, match="12B"):
        check_pair(check_model(converted("e2b")["model"]), check_projector(wide))


def folder_with(folder: Path, files: dict[str, Path]) -> Path:
    for name, source in files.items():
        shutil.copy(source, folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], None),
        (["mmproj-gemma-4-E2B-it-BF16.gguf"], "mmproj-gemma-4-E2B-it-BF16.gguf"),
        (["gemma-4-E2B-it.mmproj-F16.gguf"], "gemma-4-E2B-it.mmproj-F16.gguf"),
        (["mmproj-BF16.gguf"], "mmproj-BF16.gguf"),
        (
            ["mmproj-gemma-4-E2B-it-F16.gguf", "mmproj-gemma-4-E2B-it-BF16.gguf"],
            "mmproj-gemma-4-E2B-it-BF16.gguf",
        ),
        (["mmproj-F16.gguf", "mmproj-BF16.gguf", "mmproj-F32.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-other-F32.gguf", "mmproj-gemma-4-E2B-it-Q8_0.gguf"], "mmproj-gemma-4-E2B-it-Q8_0.gguf"),
    ],
)
def test_the_projector_beside_a_model(
    names: list[str], expected: str | None, converted: Converted, tmp_path: Path
) -> None:
    files = converted("e2b")
    folder_with(
        tmp_path, {"gemma-4-E2B-it-Q4_K_M.gguf": files["model"]} | dict.fromkeys(names, files["projector"])
    )
    found, _ = find_projector(check_model(tmp_path / "gemma-4-E2B-it-Q4_K_M.gguf"))
    assert (found.path.name if found else None) == expected


def test_the_one_that_fits_is_taken_from_several(converted: Converted, tmp_path: Path) -> None:
    model, own, other = (
        converted("e2b")["model"],
        converted("e2b")["projector"],
        converted("31b")["projector"],
    )
    folder_with(tmp_path, {"m-Q8_0.gguf": model, "mmproj-a.gguf": other, "mmproj-b.gguf": own})
    found, _ = find_projector(check_model(tmp_path / "m-Q8_0.gguf"))
    assert found is not None and found.path.name == "mmproj-b.gguf"
    shutil.copy(own, tmp_path / "mmproj-c.gguf")
    found, why = find_projector(check_model(tmp_path / "m-Q8_0.gguf"))
    assert found is None and "mmproj-b.gguf, mmproj-c.gguf" in why and "projector=" in why


def test_two_models_in_one_directory_have_their_own(converted: Converted, tmp_path: Path) -> None:
    for member, name in (("e2b", "one"), ("31b", "two")):
        files = converted(member)
        pair = {f"{name}-Q8_0.gguf": files["model"], f"MMPROJ-{member}-x.GGUF": files["projector"]}
        folder_with(tmp_path, pair)
    folder_with(tmp_path, {"three.gguf": converted("12b")["model"]})
    for model, projector in (("one-Q8_0", "MMPROJ-e2b-x.GGUF"), ("two-Q8_0", "MMPROJ-31b-x.GGUF")):
        found, why = find_projector(check_model(tmp_path / f"{model}.gguf"))
        assert found is not None and (found.path.name, why) == (projector, "")
    found, why = find_projector(check_model(tmp_path / "three.gguf"))
    assert found is None and "width" in why, "text works without one"


def test_what_does_not_fit_or_is_damaged_leaves_text(converted: Converted, tmp_path: Path) -> None:
    folder_with(
        tmp_path, {"m.gguf": converted("e2b")["model"], "mmproj-x.gguf": converted("31b")["projector"]}
    )
    found, why = find_projector(check_model(tmp_path / "m.gguf"))
    assert found is None and "mmproj-x.gguf" in why and "projector=None" in why
    (tmp_path / "mmproj-x.gguf").write_bytes(b"GGUF")
    found, why = find_projector(check_model(tmp_path / "m.gguf"))
    assert found is None and "mmproj-x.gguf is cut off" in why


def test_copies_keep_the_tensors(converted: Converted, tmp_path: Path) -> None:
    """The helper that alters files moves the data; it must still lie where the header says."""
    model = converted("e2b")["model"]
    copy = altered(model, tmp_path / "m.gguf", {"general.name": "a much longer name " * 50})
    one, other = open_gguf(model), open_gguf(copy)
    name = "token_embd.weight"
    (a, b) = (path.read_bytes()[f.tensors[name].offset :][:64] for path, f in ((model, one), (copy, other)))
    assert a == b and one.data_offset != other.data_offset
