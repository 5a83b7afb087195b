"""tokenizer.json against what llama.cpp does: parts that amount to the same, and parts that are refused.

The judge is the tokenizers library: the ids in a message are its ids.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gemma4_gguf.convert.tokenizer_check import EXAMPLES, Bpe, check_tokenizer
from gemma4_gguf.errors import CheckpointError

NANO = Path(__file__).resolve().parents[2] / "gemma4_gguf" / "nano" / "tokenizer.json"
PUBLISHED: dict[str, Any] = json.loads(NANO.read_text("utf-8"))
for _pair in (["1", "2"], ["'", "s"]):  # some merges that parts for digits and punctuation would part
    PUBLISHED["model"]["vocab"]["".join(_pair)] = len(PUBLISHED["model"]["vocab"])
    PUBLISHED["model"]["merges"].append(_pair)
SPECIAL = {"bos": 2, "eos": 1}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
# A rewrite of transformers for other families, which reached the file of a Gemma 4 (llama.cpp issue 23252).
MISTRAL = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def bpe(tokenizer: dict[str, Any]) -> Bpe:
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return Bpe(ids, {tuple(merge): rank for rank, merge in enumerate(tokenizer["model"]["merges"])})


def changed(**values: Any) -> dict[str, Any]:
    """The nano's tokenizer with other parts; `model` is merged into its own."""
    tokenizer = copy.deepcopy(PUBLISHED)
    tokenizer["model"] |= values.pop("model", {})
    return tokenizer | values


def check(tokenizer: dict[str, Any]) -> list[str]:
    return check_tokenizer(tokenizer, bpe(tokenizer), SPECIAL, "tokenizer.json")


def split(behavior: str = "Isolated", *, invert: bool = False, **pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(key: str, *steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


SAME: dict[str, dict[str, Any]] = {
    "as it is": {},
    "published": {"pre_tokenizer": split("MergedWithPrevious", String=" ")},
    "no pre-tokenizer": {"pre_tokenizer": None},
    "sequences": {
        "normalizer": sequence("normalizers", sequence("normalizers", SPACES)),
        "pre_tokenizer": sequence("pretokenizers", split(String=" "), split(Regex="\n+")),
    },
    "regex for a space": {"normalizer": SPACES | {"pattern": {"Regex": " "}}},
    "Metaspace that neither cuts nor adds": {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "never",
            "split": False,
        },
    },
    "bos template": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        }
    },
    "truncation, which transformers sets anew": {
        "truncation": {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    },
}


@pytest.mark.parametrize("values", SAME.values(), ids=SAME)
def test_parts_that_amount_to_the_same_pass_without_a_word(values: dict[str, Any]) -> None:
    tokenizer = changed(**values)
    assert check(tokenizer) == []
    own, published = (Tokenizer.from_str(json.dumps(one)) for one in (tokenizer, PUBLISHED))
    for text in EXAMPLES:
        theirs = published.encode(text, add_special_tokens=False).ids
        assert own.encode(text, add_special_tokens=False).ids == theirs == bpe(PUBLISHED).encode(cut(text))


def cut(text: str) -> list[str]:
    return re.findall(r"[^\n]+|\n+", text.replace(" ", "\u2581"))


doubling = {"type": "Replace", "pattern": {"String": "o"}, "content": "oo"}
OTHER: dict[str, dict[str, Any]] = {
    name: {"normalizer": sequence("normalizers", step, SPACES)}
    for name, step in {
        "NFC": {"type": "NFC"},
        "NFD": {"type": "NFD"},
        "NFKC": {"type": "NFKC"},
        "Lowercase": {"type": "Lowercase"},
        "Prepend": {"type": "Prepend", "prepend": "\u2581"},
        "Strip": {"type": "Strip", "strip_left": True, "strip_right": False},
        "StripAccents": sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}),
        "Replace": {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    }.items()
} | {
    name: {"pre_tokenizer": step}
    for name, step in {
        "Digits": {"type": "Digits", "individual_digits": True},
        "Punctuation": {"type": "Punctuation", "behavior": "Isolated"},
        "Whitespace": {"type": "Whitespace"},
        "ByteLevel": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "bytes alone": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "WhitespaceSplit": {"type": "WhitespaceSplit"},
        "Metaspace": {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "always",
            "split": True,
        },
        "Mistral": sequence("pretokenizers", split(Regex=MISTRAL), split("MergedWithPrevious", String=" ")),
        "letters": split(Regex=r"\p{L}+"),
        "not letters": split("Removed", invert=True, Regex=r"[\p{L}\p{N}\s]+"),
        "behind": split("MergedWithNext", Regex=r"[aeiou]"),
        "before": split("MergedWithPrevious", Regex=r"[aeiou]"),
        "runs": split("Contiguous", Regex=r"[aeiou]"),
    }.items()
}
OTHER["no normalizer"] = {"normalizer": None}


@pytest.mark.parametrize("values", OTHER.values(), ids=OTHER)
def test_other_ids_are_refused_with_an_example_and_both_lists(values: dict[str, Any]) -> None:
    tokenizer = changed(**values)
    with pytest.raises(CheckpointError, match=r"Take the tokenizer\.json of the model") as caught:
        check(tokenizer)
    found = re.search(
        r"\. (['\"].*['\"]) is (\[.*\]) here and would be (\[.*\]) in llama\.cpp\.", str(caught.value)
    )
    assert found, caught.value
    text, here, there = (eval(group) for group in found.groups())
    assert here != there
    own, published = (Tokenizer.from_str(json.dumps(one)) for one in (tokenizer, PUBLISHED))
    assert own.encode(text, add_special_tokens=False).ids == here
    assert published.encode(text, add_special_tokens=False).ids == there


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "normalizer is Precompiled"),
        ({"pre_tokenizer": {"type": "UnicodeScripts"}}, "pre_tokenizer is UnicodeScripts"),
        ({"pre_tokenizer": split(Regex="(?<name")}, "pre_tokenizer is Split"),
        ({"pre_tokenizer": split(Regex="(")}, "pre_tokenizer is Split"),
        ({"pre_tokenizer": split("Sideways", Regex="a")}, "pre_tokenizer is Split"),
        ({"pre_tokenizer": split("", String="\u2581") | {"behavior": []}}, "pre_tokenizer is Split"),
        ({"pre_tokenizer": ["Split"]}, "unknown way"),
        ({"normalizer": {"type": 5}}, "unknown way"),
        ({"normalizer": sequence("normalizers", *[SPACES] * 65)}, "unknown way"),
        (
            {"normalizer": functools.reduce(lambda x, _: sequence("normalizers", x), range(200), SPACES)},
            "unknown",
        ),
        ({"pre_tokenizer": split(Regex="(.+)+x")}, "pre_tokenizer is Split"),
        ({"pre_tokenizer": split(Regex="(?:a|a|.)*x")}, "pre_tokenizer is Split"),
        ({"pre_tokenizer": split(Regex=".*" * 40 + "x")}, "pre_tokenizer is Split"),
        ({"pre_tokenizer": split(Regex=".*[|]?" * 40 + "x")}, "pre_tokenizer is Split"),
        ({"normalizer": sequence("normalizers", *[doubling] * 16)}, "normalizer is Replace"),
        ({"model": {"continuing_subword_prefix": "##"}}, "continuing_subword_prefix is ##"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix is </w>"),
        ({"post_processor": {"type": "RobertaProcessing", "cls": ["<eos>", 1], "sep": ["<eos>", 1]}}, "puts"),
        ({"post_processor": {"type": "Sideways"}}, "post_processor is Sideways"),
    ],
)
def test_parts_that_nobody_knows_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        check(changed(**values))


def test_long_tokens_take_no_time() -> None:
    tokenizer = changed(model={"ignore_merges": True})
    long = "a\n" * 200_000
    tokenizer["model"]["vocab"][long] = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["merges"].append([long[:1], long[1:]])
    tokenizer["added_tokens"].append({"content": long, "id": 9, "lstrip": True})
    with pytest.raises(CheckpointError, match="has lstrip"):
        check(tokenizer)
    del tokenizer["added_tokens"][-1]
    assert len(check(tokenizer)) == 1


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_flags_of_added_tokens_are_refused(flag: str) -> None:
    tokenizer = copy.deepcopy(PUBLISHED)
    tokenizer["added_tokens"][5] |= {flag: True}
    with pytest.raises(CheckpointError, match=f"has {flag}") as caught:
        check(tokenizer)
    text, here, there = (
        eval(group)
        for group in re.findall(r"('.*') is (\[.*\]) here and would be (\[.*\]) in", str(caught.value))[0]
    )
    own, published = (Tokenizer.from_str(json.dumps(one)) for one in (tokenizer, PUBLISHED))
    assert own.encode(text, add_special_tokens=False).ids == here
    assert published.encode(text, add_special_tokens=False).ids == there


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"model": {"dropout": 0.1}}, "dropout"),
        ({"decoder": {"type": "ByteLevel"}}, "decoder is ByteLevel"),
        ({"decoder": 5}, "decoder is unknown"),
        (
            {"decoder": sequence("decoders", SPACES | {"content": "_"}, {"type": "ByteFallback"})},
            "decoder is Replace",
        ),
        ({"pre_tokenizer": split(Regex="zzz[0-9]")}, "10 example texts gave the same ids"),
        ({"normalizer": sequence("normalizers", SPACES, SPACES)}, "10 example texts gave the same ids"),
    ],
)
def test_parts_that_seem_to_make_no_difference_are_noted(values: dict[str, Any], note: str) -> None:
    (found,) = check(changed(**values))
    assert note in found or note.replace("10", "11") in found


def test_merges_that_are_looked_up_whole_are_tried_on_the_tokens() -> None:
    tokenizer = changed(model={"ignore_merges": True})
    assert "ignore_merges" in check(tokenizer)[0]  # every token of this one can be merged
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    with pytest.raises(CheckpointError, match="ignore_merges is true"):
        check(tokenizer)


def test_tokens_across_line_breaks_and_missing_bytes_are_noted() -> None:
    tokenizer = copy.deepcopy(PUBLISHED)
    vocab = tokenizer["model"]["vocab"]
    vocab["a\n"] = len(vocab)
    del vocab["<0x41>"]
    tokenizer["model"]["merges"].append(["a", "\n"])
    notes = check(tokenizer)
    assert len(notes) == 2
    assert "no token <0x41> (1 bytes are missing)" in notes[0]
    assert r"'a\n' is one token that crosses a line break" in notes[1]
