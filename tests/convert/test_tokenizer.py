"""The tokenizer and the metadata of a file: what llama.cpp's converter writes, and what goes beyond it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import make_e2b

from gemma4_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from gemma4_gguf.convert.plan import plan_model, plan_projector
from gemma4_gguf.convert.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    VISIBLE,
    read_vocabulary,
)
from gemma4_gguf.errors import CheckpointError, ConfigError
from gemma4_gguf.files.gguf_reader import open_gguf

VOCAB = os.environ.get("GEMMA4_GGUF_VOCAB", "")

TOKENS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<0x0A>": 4, "a": 5, "b": 6, "ab": 7, "<|image>": 8}
TOKENS |= {"<|channel>": 9, "<unused0>": 10}
BPE: dict[str, Any] = {"type": "BPE", "byte_fallback": True}
NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


def added(content: str, index: int, special: bool = True) -> dict[str, Any]:
    return {"id": index, "content": content, "special": special}


ADDED = [
    added("<pad>", 0),
    added("<eos>", 1),
    added("<bos>", 2),
    added("<|image>", 8),
    added("<|channel>", 9),
    added("<unused0>", 10, special=False),
]


@pytest.fixture
def directory(checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A private copy of the tiny e2b, to be changed."""
    return Path(shutil.copytree(checkpoint("e2b"), tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | values), encoding="utf-8")


def with_tokenizer(directory: Path, settings: dict[str, Any] | None = None, **values: Any) -> Checkpoint:
    """The checkpoint with a tokenizer of eleven tokens, changed by the values."""
    model = BPE | {"vocab": TOKENS, "merges": [["a", "b"]]}
    tokenizer = {"model": model, "added_tokens": ADDED, "normalizer": NORMALIZER} | values
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings or {}), encoding="utf-8")
    return open_checkpoint(directory)


def metadata(source: Checkpoint, *, projector: bool = False) -> dict[str, Any]:
    plan = plan_projector(source) if projector else plan_model(source)
    assert plan is not None
    return {field.key: field.value for field in plan.fields}


# Tokens


def test_types_of_tokens(directory: Path) -> None:
    vocabulary = read_vocabulary(with_tokenizer(directory), 11)
    assert vocabulary.tokens == tuple(TOKENS)
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert kinds["<0x0A>"] == BYTE
    assert kinds["<|image>"] == CONTROL, "special in tokenizer.json, though tokenizer_config.json is silent"
    assert kinds["<|channel>"] == USER_DEFINED, "special, but a reply is read from it"
    assert kinds["<unused0>"] == kinds["a"] == kinds["<unk>"] == NORMAL


def test_tokenizer_config_can_make_a_token_special(directory: Path) -> None:
    for settings in (
        {"unk_token": {"content": "<unk>"}},
        {"extra_special_tokens": ["<unk>"]},
        {"extra_special_tokens": {"odd_token": "<unk>"}},
        {"model_specific_special_tokens": {"odd_token": "<unk>"}},
        {"added_tokens_decoder": {"3": {"content": "<unk>", "special": True}}},
    ):
        assert read_vocabulary(with_tokenizer(directory, settings), 11).types[3] == CONTROL


def test_tokens_beyond_the_model_and_rows_beyond_the_tokens(directory: Path) -> None:
    more = [*ADDED, added("<new>", 11, special=False), added("<newer>", 12)]
    vocabulary = read_vocabulary(with_tokenizer(directory, added_tokens=more), 15)
    assert vocabulary.tokens[11:] == ("<new>", "<newer>", "[PAD13]", "[PAD14]")
    assert vocabulary.types[11:] == (USER_DEFINED, CONTROL, UNUSED, UNUSED)


def test_merges_in_both_spellings(directory: Path) -> None:
    model = BPE | {"vocab": TOKENS}
    for merges in ([["a", "b"], ["a", " c"]], ["a b", "a \u0120c"]):
        source = with_tokenizer(directory, model=model | {"merges": merges})
        assert read_vocabulary(source, 11).merges == ("a b", "a \u0120c")


def test_special_ids_come_from_the_tokenizer_first(directory: Path) -> None:
    change(directory / "config.json", eos_token_id=7, sep_token_id=6)
    settings = {"eos_token": "<eos>", "bos_token": {"content": "<bos>"}, "mask_token": "<mask>"}
    found = read_vocabulary(with_tokenizer(directory, settings), 11).special
    # The pad token stands in text_config only; a list of ends, or an id that is no row, names no token.
    assert dict(found) == {"bos": 2, "eos": 1, "sep": 6, "pad": 0}
    assert list(found) == ["bos", "eos", "sep", "pad"]
    change(directory / "config.json", eos_token_id=[1, 5], sep_token_id=11)
    found = read_vocabulary(with_tokenizer(directory), 11).special
    assert dict(found) == {"bos": 2, "pad": 0}


def test_what_is_put_around_a_text(directory: Path) -> None:
    def special(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    bos, eos = special("<bos>"), special("<eos>")
    template = {"type": "TemplateProcessing", "single": [bos, a], "pair": [bos, a, bos, b]}
    settings = {"bos_token": "<bos>", "eos_token": "<eos>", "add_eos_token": False}
    fields = metadata(with_tokenizer(directory, settings, post_processor=template))
    around = {key: value for key, value in fields.items() if key.startswith("tokenizer.ggml.add_")}
    assert around == {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_sep_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    template = {"type": "TemplateProcessing", "single": [a, eos], "pair": [a, eos, b, eos]}
    source = with_tokenizer(directory, settings, post_processor={"processors": [template]})
    assert dict(read_vocabulary(source, 11).add) == {"eos": True, "sep": False}
    # Whatever the files say, a text without <bos> is lost on the model.
    assert (
        metadata(with_tokenizer(directory, {"add_bos_token": False}))["tokenizer.ggml.add_bos_token"] is True
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"type": "Unigram"}}, "no BPE tokenizer"),
        ({"model": {"type": "BPE", "byte_fallback": False}}, "no BPE tokenizer"),
        ({"model": BPE}, "no vocabulary"),
        ({"model": BPE | {"vocab": {"a": 0, "b": 2}}, "added_tokens": []}, "the id 1"),
        ({"model": BPE | {"vocab": {}}, "added_tokens": []}, "the id 0"),
        ({"model": BPE | {"vocab": TOKENS, "merges": [["a"]]}}, "is no merge"),
        ({"added_tokens": [{"content": "x"}]}, "lacks content or id"),
        ({"added_tokens": [*ADDED, added("\ud800", 11)]}, "no valid Unicode"),
        ({"added_tokens": [*ADDED, *(added(f"<{i}>", i) for i in range(11, 1001))]}, "1001 tokens, .* 1000"),
    ],
)
def test_an_unusable_tokenizer_is_refused(directory: Path, values: dict[str, Any], message: str) -> None:
    source = with_tokenizer(directory, None, **values)
    with pytest.raises(CheckpointError, match=message):
        plan_model(source)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"11": {"content": "<mine>", "special": True}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"6": {"content": "a"}}}),
        ("added_tokens.json", {"<mine>": 11}),
        ("added_tokens.json", {"a": 6}),
    ],
)
def test_tokens_that_other_files_number_otherwise_are_refused(
    directory: Path, file: str, content: dict[str, Any]
) -> None:
    with_tokenizer(directory)
    change(directory / file, **content)
    with pytest.raises(CheckpointError, match=r"has the id (11|6) in .* and (none|5) here"):
        read_vocabulary(open_checkpoint(directory), 20)


def test_special_tokens_that_are_no_tokens_are_said(directory: Path) -> None:
    notes = read_vocabulary(with_tokenizer(directory, {"extra_special_tokens": ["<mine>", "a"]}), 11).notes
    assert any("names <mine> (1 in all)" in note for note in notes)


def test_no_tokenizer_at_all(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        plan_model(open_checkpoint(directory))


@pytest.mark.skipif(not VOCAB, reason="GEMMA4_GGUF_VOCAB names no file")
def test_the_real_vocabulary(directory: Path) -> None:
    """The file of llama.cpp was made from the published tokenizer, whose marked tokens are those it lists."""
    real = open_gguf(VOCAB).metadata
    tokens, types, merges = (
        list(real[f"tokenizer.ggml.{key}"]) for key in ("tokens", "token_type", "merges")
    )
    marked = [added(t, i) for i, (t, k) in enumerate(zip(tokens, types, strict=True)) if k in (3, 4)]
    model = BPE | {
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": [merge.split(" ") for merge in merges],
    }
    settings = {f"{kind}_token": f"<{kind}>" for kind in ("bos", "eos", "unk", "pad", "mask")}
    vocabulary = read_vocabulary(
        with_tokenizer(directory, settings, model=model, added_tokens=marked), 262144
    )
    # A diff of half a million texts would take pytest minutes to print.
    assert all(ours == theirs for ours, theirs in zip(vocabulary.tokens, tokens, strict=True))
    assert all(ours == theirs for ours, theirs in zip(vocabulary.types, types, strict=True))
    assert all(ours == theirs for ours, theirs in zip(vocabulary.merges, merges, strict=True))
    assert dict(vocabulary.special) == {"bos": 2, "eos": 1, "unk": 3, "pad": 0, "mask": 4}
    assert vocabulary.notes == ()
    assert {token for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED} == VISIBLE


@pytest.mark.skipif(not VOCAB, reason="GEMMA4_GGUF_VOCAB names no file")
def test_the_tokenizer_of_the_full_size_checkpoint(directory: Path) -> None:
    make_e2b.write_tokenizer(Path(VOCAB), directory)
    vocabulary = read_vocabulary(open_checkpoint(directory), 262144)
    assert len(vocabulary.tokens) == 262144 and vocabulary.notes == ()


# Templates


def test_templates_are_found_in_transformers_order(directory: Path) -> None:
    def found() -> Any:
        return metadata(open_checkpoint(directory))["tokenizer.chat_template"]

    change(directory / "tokenizer_config.json", chat_template="from settings")
    assert found() == "from settings"
    change(directory / "processor_config.json", chat_template="from the processor")
    assert found() == "from the processor"
    change(directory / "chat_template.json", chat_template="from json")
    assert found() == "from json"
    (directory / "chat_template.jinja").write_text("from jinja")
    assert found() == "from jinja"


@pytest.mark.parametrize("value", [5, ["text"], [{"name": "default"}], {"default": 5}, "a\0b", "\ud800"])
def test_a_template_that_is_no_text_is_refused(directory: Path, value: Any) -> None:
    change(directory / "tokenizer_config.json", chat_template=value)
    with pytest.raises(CheckpointError, match="chat_template"):
        plan_model(open_checkpoint(directory))


@pytest.mark.parametrize(
    "value",
    [
        [{"name": "default", "template": "main"}, {"name": "tool use", "template": "tools"}],
        {"default": "main", "tool use": "tools"},
    ],
)
def test_named_templates_in_every_spelling(directory: Path, value: Any) -> None:
    change(directory / "tokenizer_config.json", chat_template=value)
    fields = metadata(open_checkpoint(directory))
    assert fields["tokenizer.chat_template"] == "main"
    assert fields["tokenizer.chat_template.tool_use"] == "tools"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_no_byte_order_mark_reaches_the_template(directory: Path, file: str, encoding: str) -> None:
    path, template = directory / file, "{{ bos_token }}<|turn>é"
    if file.endswith(".json"):
        settings = json.loads(path.read_text()) if path.exists() else {}
        path.write_bytes(json.dumps(settings | {"chat_template": "\ufeff" + template}).encode(encoding))
    else:
        path.write_bytes(template.encode(encoding))
    assert metadata(open_checkpoint(directory))["tokenizer.chat_template"] == template


def test_every_json_file_may_begin_with_a_mark(checkpoint: Callable[..., Path], directory: Path) -> None:
    for path in directory.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (directory / "README.md").write_bytes("\ufeff---\nlicense: gemma\n---\n".encode())
    fields = metadata(open_checkpoint(directory, name="tiny-e2b"))
    assert fields.pop("general.license") == "gemma"
    assert fields == metadata(open_checkpoint(checkpoint("e2b")))


def test_a_default_template_may_come_from_a_later_place(directory: Path) -> None:
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "rag.jinja").write_text("rag")
    change(directory / "tokenizer_config.json", chat_template="main")
    fields = metadata(open_checkpoint(directory))
    assert (fields["tokenizer.chat_template"], fields["tokenizer.chat_template.rag"]) == ("main", "rag")


@pytest.mark.parametrize(
    ("template", "whose"),
    [
        ("{{ '<start_of_turn>user' }}", "Gemma 1 to 3"),
        ("<|im_start|>{{ messages[0].role }}", "ChatML"),
        ("[INST] {{ messages[0].content }} [/INST]", "Mistral's"),
        ("{{ messages[0].content }}", "an unknown family"),
        ("{{ '<|turn>' + messages[0].role }}", None),
    ],
)
def test_a_template_of_another_family_is_said(directory: Path, template: str, whose: str | None) -> None:
    (directory / "chat_template.jinja").write_text(template)
    notes = [note for note in plan_model(open_checkpoint(directory)).notes if "chat template" in note]
    assert [whose in note for note in notes] == ([True] if whose else [])


def test_named_templates(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("main")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool use.jinja").write_text("tools")
    fields = metadata(open_checkpoint(directory))
    assert fields["tokenizer.chat_template"] == "main"
    assert fields["tokenizer.chat_template.tool_use"] == "tools"
    assert fields["tokenizer.chat_templates"] == ["tool_use"]


def test_a_checkpoint_without_template_gets_that_of_its_size(checkpoint: Callable[..., Path]) -> None:
    templates = {}
    for member in ("e2b", "e4b", "26b", "31b", "12b", "assistant"):
        templates[member] = metadata(open_checkpoint(checkpoint(member))).get("tokenizer.chat_template")
    assert templates["assistant"] is None
    assert templates["e2b"] == templates["e4b"] != templates["26b"]
    assert templates["26b"] == templates["31b"] == templates["12b"]
    assert "<|turn>" in str(templates["e2b"]) and "<|turn>" in str(templates["26b"])


# Other metadata


def test_suppressed_tokens_of_the_12b(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    for member, expected in (("12b", [5, 7]), ("e2b", None)):
        copied = Path(shutil.copytree(checkpoint(member), tmp_path / member))
        change(copied / "generation_config.json", suppress_tokens=[5, 7])
        assert metadata(open_checkpoint(copied)).get("tokenizer.ggml.suppress_tokens") == expected
        change(copied / "generation_config.json", suppress_tokens="5")
    with pytest.raises(ConfigError, match="suppress_tokens is '5'"):
        plan_model(open_checkpoint(tmp_path / "12b"))


def test_sampling_defaults_and_ends(directory: Path) -> None:
    path = directory / "generation_config.json"
    path.write_text(
        json.dumps({"top_k": 64, "temperature": 1, "repetition_penalty": 1.1, "eos_token_id": [1, 6]})
    )
    fields = metadata(open_checkpoint(directory))
    assert {key: value for key, value in fields.items() if key.startswith("general.sampling.")} == {
        "general.sampling.top_k": 64,
        "general.sampling.temp": 1.0,
        "general.sampling.penalty_repeat": 1.1,
    }
    assert fields["general.gemma4.eos_token_ids"] == [1, 6]
    change(path, eos_token_id=1)
    assert metadata(open_checkpoint(directory))["general.gemma4.eos_token_ids"] == [1]
    change(path, top_k="many")
    with pytest.raises(ConfigError, match="top_k is 'many'; expected a number"):
        plan_model(open_checkpoint(directory))


def test_image_attention_is_said_aloud(checkpoint: Callable[..., Path]) -> None:
    for member, expected in (("e2b", "causal"), ("31b", "bidirectional"), ("12b", "bidirectional")):
        fields = metadata(open_checkpoint(checkpoint(member)))
        assert fields["general.gemma4.image_attention"] == expected


def test_no_softcap_is_said_aloud(directory: Path, checkpoint: Callable[..., Path]) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = None
    (directory / "config.json").write_text(json.dumps(config))
    # llama.cpp would bound the logits by 30 if the key were missing.
    assert metadata(open_checkpoint(directory))["gemma4.final_logit_softcapping"] == 0.0
    drafter = metadata(open_checkpoint(checkpoint("assistant")))
    assert not any("softcapping" in key for key in drafter)


def test_names_and_files(directory: Path) -> None:
    readme = "---\nlicense: gemma\ntags: [a]\nlanguage:\n- en\nbase_model: google/gemma-4-E2B\n---\n# Card\n"
    (directory / "README.md").write_text(readme)
    source = open_checkpoint(directory, name="some-org/gemma-4-E2B-it-v2")
    plan, fields = plan_model(source), metadata(source)
    assert plan.name == "gemma-4-E2B-it-v2"
    assert fields["general.name"] == "Gemma 4 E2B It v2"
    assert fields["general.organization"] == "Some Org"
    assert fields["general.license"] == "gemma"
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/google/gemma-4-E2B"
    assert fields["general.tags"] == ["a"] and fields["general.languages"] == ["en"]
    assert fields["general.size_label"] == "3.0M"
    odd = open_checkpoint(directory, name="org/gémma 4:x")
    assert plan_model(odd).name == "g-mma-4-x"
    (directory / "README.md").write_text("---\n: [\n---\n")
    assert "general.license" not in metadata(open_checkpoint(directory))


def test_the_projector_says_how_pictures_are_normalised(directory: Path) -> None:
    fields = metadata(open_checkpoint(directory), projector=True)
    np.testing.assert_array_equal(fields["clip.vision.image_std"], [1.0, 1.0, 1.0])
    assert "clip.vision.projector.scale_factor" not in fields
    (directory / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match="does not give image_mean"):
        plan_projector(open_checkpoint(directory))
    change(directory / "preprocessor_config.json", image_mean=[0, 0, 0], image_std=[1, 1, 1])
    config = json.loads((directory / "config.json").read_text())
    config["vision_config"]["pooling_kernel_size"] = 2
    (directory / "config.json").write_text(json.dumps(config))
    fields = metadata(open_checkpoint(directory), projector=True)
    assert fields["clip.vision.image_mean"] == [0.0, 0.0, 0.0]
    assert all(type(value) is float for value in fields["clip.vision.image_mean"])
    assert fields["clip.vision.projector.scale_factor"] == 2
