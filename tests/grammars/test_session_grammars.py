"""Schemas as a session follows them (llguidance) and as GBNF text: keywords, sizes, and what is refused."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import jsonschema
import llguidance
import pytest
from gbnf_tools import Judge, Writer
from keyword_schemas import KEYWORDS
from llama_judge import LlamaJudge, LlamaVocab

from gemma4_gguf import grammars
from gemma4_gguf.errors import GrammarError, SchemaError
from gemma4_gguf.grammars.gbnf_reader import parse_gbnf
from gemma4_gguf.grammars.gbnf_writer import to_gbnf
from gemma4_gguf.grammars.grammar import Grammar, Ref, Text, either, seq
from gemma4_gguf.grammars.lark_writer import to_lark
from gemma4_gguf.grammars.sources import schema_grammar

TOKENIZER = llguidance.LLTokenizer("byte")


class Follower:
    """llguidance on the grammar of a schema, byte by byte."""

    def __init__(self, schema: Any) -> None:
        self.text = to_lark(schema_grammar(schema))
        source = llguidance.LLMatcher.grammar_from_lark(self.text)
        self.matcher = llguidance.LLMatcher(TOKENIZER, source, log_level=0)
        assert not self.matcher.is_error(), self.matcher.get_error()

    def accepts(self, text: str) -> bool:
        self.matcher.reset()
        data = list(text.encode())
        return bool(self.matcher.try_consume_tokens(data) == len(data) and self.matcher.is_accepting())


def both(schema: Any, values: list[Any]) -> list[tuple[bool, bool]]:
    """Whether the session's grammar and the GBNF text take each value."""
    follower, judge = Follower(schema), Judge(grammars.from_schema(schema))
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    return [(follower.accepts(text), judge.accepts(text)) for text in texts]


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_mean_what_the_standard_says(name: str) -> None:
    schema, good, bad = KEYWORDS[name]
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert all(map(valid, good))
    assert both(schema, good) == [(True, True)] * len(good)
    assert both(schema, bad) == [(False, False)] * len(bad)
    writer = Writer(schema_grammar(schema), seed=3)
    for _ in range(3):
        text = writer.text()
        assert valid(json.loads(text)), text


@pytest.mark.parametrize("name", ["json", "byte", "url", "uri_template", "color", "int32", ""])
def test_formats_that_are_not_known_ask_for_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert both({"type": "string", "format": name}, ["", "x y"]) == [(True, True)] * 2
    assert repr(name) in caplog.text


PATTERNED = {"type": "string", "pattern": "^[A-Z][a-z]*( [A-Z]+)?$"}


@pytest.mark.parametrize("n", [10, 32, 100, 256, 257, 5_000, 100_000, 10**9])
@pytest.mark.parametrize("schema", [{"type": "string"}, PATTERNED, {"type": "string", "format": "email"}])
def test_texts_of_any_length(schema: dict[str, Any], n: int) -> None:
    schema = {**schema, "maxLength": n}
    start = time.process_time()
    follower = Follower(schema)
    text = grammars.from_schema(schema)
    assert time.process_time() - start < 5  # 0.1 s on an idle machine
    assert len(text) < 20_000 and len(follower.text) < 20_000
    if "format" not in schema and n <= 5_000:
        assert follower.accepts(f'"A{"a" * (n - 1)}"') and not follower.accepts(f'"A{"a" * n}"')
        assert not Judge(text).accepts(f'"A{"a" * n}"')
    if n == 10**9 and "pattern" not in schema and "format" not in schema:
        assert "# Narrower" in text


def deep(word: str, levels: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(levels):
        schema = {
            word: [schema] if word.endswith("Of") else {"a": schema} if word == "properties" else schema
        }
    return schema


@pytest.mark.parametrize("word", ["items", "properties", "anyOf", "allOf", "oneOf", "not", "contains", "if"])
@pytest.mark.parametrize("levels", [150, 1_000, 50_000])
def test_deep_nesting_is_expressed_or_refused_by_name(word: str, levels: int) -> None:
    try:
        Follower(deep(word, levels))
    except SchemaError as error:
        assert "deep" in str(error) or "not cannot" in str(error)
    else:
        assert levels == 150


@pytest.mark.parametrize("levels", [300, 100_000])
def test_deep_brackets_are_refused(levels: int) -> None:
    with pytest.raises(SchemaError, match="deep"):
        grammars.from_schema({"type": "string", "pattern": "(" * levels + "a" + ")" * levels})
    with pytest.raises(GrammarError, match="deep"):
        to_lark(parse_gbnf(f'root ::= {"(" * levels}"a"{")" * levels}'))


def twice(levels: int, word: str) -> dict[str, Any]:
    """A definition that uses the next one twice, and so on."""
    definitions: dict[str, Any] = {f"d{levels}": {"type": "integer"}}
    for i in range(levels):
        ref = {"$ref": f"#/$defs/d{i + 1}"}
        definitions[f"d{i}"] = {word: {"a": ref, "b": ref}} if word == "properties" else {word: [ref, ref]}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


MANY = {f"name_{i}": {"type": "string"} for i in range(400)}
BIG: dict[str, tuple[Any, int, list[Any], list[Any]]] = {
    "references": (twice(18, "properties"), 4_000, [{"a": {"b": {}}}], [{"c": {}}]),
    "references of allOf": (twice(18, "allOf"), 4_000, [1], ["a"]),
    "references of anyOf": (twice(18, "anyOf"), 4_000, [1], ["a"]),
    "patterns of allOf": (
        {"type": "string", "allOf": [{"anyOf": [{"pattern": f"{c}{i}"} for c in "abc"]} for i in range(6)]},
        10_000,
        ["a0b1c2a3b4c5"],
        ["a0b1c2a3b4c6"],
    ),
    "enum": ({"enum": [f"word {i}" for i in range(10_000)]}, 300_000, ["word 7", "word 9999"], ["word", ""]),
    "further members": (
        {"type": "object", "properties": MANY, "additionalProperties": True},
        80_000,
        [{"name_1": "", "name": 1}],
        [{"name_399": 1}],
    ),
    "counted members": (
        {"type": "object", "properties": MANY, "minProperties": 2, "maxProperties": 200},
        80_000,
        [{"name_1": "", "name_7": ""}],
        [{}, {"name_1": ""}],
    ),
    "elements": ({"type": "array", "items": {}, "minItems": 10, "maxItems": 10**6}, 3_000, [[1] * 10], [[1]]),
    "sets": (
        {"type": "array", "items": {"enum": list(range(300))}, "uniqueItems": True, "minItems": 1},
        80_000,
        [[1, 5, 299]],
        [[], [1, 1]],
    ),
}


@pytest.mark.parametrize("name", BIG)
def test_large_schemas_are_small_grammars(name: str) -> None:
    schema, size, good, bad = BIG[name]
    follower = Follower(schema)
    assert len(follower.text) < size
    assert all(follower.accepts(json.dumps(value)) for value in good)
    assert not any(follower.accepts(json.dumps(value)) for value in bad)
    assert len(grammars.from_schema(schema)) < 4 * size


@pytest.fixture(scope="module")
def vocab(converted: Any) -> Any:
    vocab = LlamaVocab(converted("e2b")["model"])
    yield vocab
    vocab.close()


def chain(n: int, link: str) -> Grammar:
    """Rules that begin with one another."""
    grammar = Grammar({"root": Ref("r0"), f"r{n}": Text("x")})
    for i in range(n):
        following = Ref(f"r{i + 1}")
        ways = {"one": following, "two": either(following, seq(following, Text("y")))}
        grammar.rules[f"r{i}"] = ways[link]
    return grammar


@pytest.mark.parametrize(("n", "link"), [(5_000, "one"), (20_000, "one"), (40, "two")])
def test_texts_that_llama_cpp_would_die_of_are_not_written(n: int, link: str) -> None:
    """Its check for left recursion goes down every way, and calls itself for each rule."""
    with pytest.raises(GrammarError, match="begin with one another"):
        to_gbnf(chain(n, link))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}},
        {"type": "object", "properties": MANY, "additionalProperties": True, "maxProperties": 3},
        deep("items", 190),
        {"enum": [f"word {i}" for i in range(2_000)]},
        {"type": "array", "prefixItems": [{"type": "integer"}] * 500},
    ],
)
def test_texts_of_large_schemas_are_loaded_by_llama_cpp(vocab: Any, schema: Any) -> None:
    judge = LlamaJudge(vocab, grammars.from_schema(schema))
    assert judge.sampler and not judge.accepts("x")
    judge.close()


def test_rules_in_a_row_are_refused_where_llguidance_would_die_of_them() -> None:
    rules = "".join(f'r{i} ::= "[" r{i + 1} "]"\n' for i in range(5_000))
    with pytest.raises(GrammarError, match="refer to one another"):
        to_lark(parse_gbnf(f'root ::= r0\n{rules}r5000 ::= "x" | "(" root ")"'))
