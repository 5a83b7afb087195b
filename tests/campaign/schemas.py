"""Schemas, patterns and grammars changed at random: a grammar that both engines load, or a typed error."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

from keyword_schemas import KEYWORDS
from llama_judge import LlamaJudge, LlamaVocab

from gemma4_gguf import Session, grammars
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.engine.guided_sampler import token_table
from gemma4_gguf.structured_output import as_constraint, tool_constraint
from gemma4_gguf.types import Pattern

COUNT = 1500
NANO = Path(__file__).resolve().parents[2] / "gemma4_gguf" / "nano"
BASES = [schema for schema, _, _ in KEYWORDS.values()]
WORDS = (
    *("type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties"),
    *("propertyNames", "minProperties", "maxProperties", "items", "prefixItems", "contains", "minContains"),
    *("maxContains", "minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "allOf", "anyOf", "oneOf"),
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "$ref", "$id"),
    *("$defs", "definitions", "$anchor", "$dynamicRef", "unevaluatedProperties", "unevaluatedItems"),
    *("root", "nullable", "", "\0", "é", "\ud800", '<|"|>', "<turn|>", "a" * 5_000),
)
NUMBERS = (0, 1, -1, 3, 255, 256, 10**5, 10**9, 10**400, 0.5, 1e-300, 1e308, float("inf"), float("nan"), True)
TYPES = ("string", "integer", "number", "object", "array", "boolean", "null", "any", "int", "")
PIECES = [
    "(",
    ")",
    "(?:",
    "(?=",
    "(?!",
    "[",
    "]",
    "[^",
    "a",
    "é",
    "\u2003",
    "\ud800",
    ".",
    "*",
    "+",
    "?",
    "|",
]
PIECES += [
    "^",
    "$",
    "{2}",
    "{3,}",
    "{0,300}",
    "{99999}",
    "\\d",
    "\\S",
    "\\w",
    "\\b",
    "\\1",
    "\\u{1F600}",
    "\\",
    "-",
]
RULES = [
    "root ::= ",
    "a ::= ",
    "b ::= ",
    '"x"',
    "[^a-z]",
    "root",
    "a",
    "b",
    " | ",
    "(",
    ")",
    "*",
    "?",
    "{3,9}",
]
RULES += ["\n", "{2000}", "#", "\\", ".", "[", '"', "<think>", "-", "_1", "::=", "\0", "\ud800"]


def prepare(folder: Path) -> tuple[Any, LlamaVocab]:
    """What llguidance knows of a vocabulary, and llama.cpp."""
    path = convert_checkpoint(NANO, folder, "Q8_0", None).model
    session = Session(path, projector=None, n_ctx=64, n_threads=1)
    return token_table(session.engine.model), LlamaVocab(path)


def attempt(case: int, shared: tuple[Any, LlamaVocab], folder: Path) -> str:
    rng = random.Random(case)
    table, vocab = shared
    kind = ("schema", "schema", "schema", "tool", "pattern", "grammar")[case % 6]
    if kind == "pattern":
        constraint = as_constraint(Pattern("".join(rng.choices(PIECES, k=rng.choice((1, 5, 20, 300))))))
    elif kind == "grammar":
        constraint = as_constraint(
            "root ::= " + "".join(rng.choices(RULES, k=rng.choice((3, 20, 400)))) + "::="
        )
    else:
        schema = changed(rng)
        constraint = as_constraint(schema) if kind == "schema" else tool_constraint([_tool(schema)])
        if kind == "schema":
            LlamaJudge(vocab, grammars.from_schema(schema)).close()
    matcher = table.matcher(constraint.grammar)
    for token in _some_tokens(matcher, rng, table.n_vocab):
        matcher.consume_token(token)
    return kind


def _tool(schema: Any) -> dict[str, Any]:
    return {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}}


def _some_tokens(matcher: Any, rng: random.Random, n_vocab: int) -> Any:
    import numpy as np

    bits = np.zeros((n_vocab + 31) // 32, dtype=np.int32)
    for _ in range(8):
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if matcher.is_error():
            return
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
        if not len(allowed):
            return
        yield int(allowed[rng.randrange(len(allowed))])


def changed(rng: random.Random) -> Any:
    """A sound schema with a few changes; sometimes deep, long or both."""
    schema = copy.deepcopy(rng.choice(BASES))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        place, key = _place(schema, rng)
        place[key] = _value(rng, place, key)
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2, 30, 5_000))):
        word = rng.choice(("items", "not", "anyOf", "properties", "contains"))
        schema = {
            word: [schema, {}] if word == "anyOf" else {"a": schema} if word == "properties" else schema
        }
    return schema


def _place(schema: Any, rng: random.Random) -> tuple[Any, Any]:
    """Somewhere in a schema: a dict or list, and a key of it or a new one."""
    here = schema
    while True:
        inner = [
            v
            for v in (here.values() if isinstance(here, dict) else here)
            if isinstance(v, (dict, list)) and v
        ]
        if not inner or rng.random() < 0.4:
            break
        here = rng.choice(inner)
    if isinstance(here, list):
        return here, rng.randrange(len(here))
    return here, rng.choice([*here, rng.choice(WORDS)])


def _value(rng: random.Random, place: Any, key: Any) -> Any:
    """A value that may or may not suit a keyword."""
    schema = copy.deepcopy(rng.choice(BASES))
    choices = (
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice(TYPES),
        lambda: rng.choice(WORDS),
        lambda: schema,
        lambda: [schema, rng.choice(BASES)],
        lambda: {rng.choice(WORDS): schema},
        lambda: {f"p{i}": {"type": rng.choice(TYPES[:7])} for i in range(rng.choice((3, 300)))},
        lambda: [f"v{i}" for i in range(rng.choice((3, 3_000)))],
        lambda: rng.choice((None, [], {}, True, False, "#", "#/$defs/base", "#/properties/a", "http://x/y")),
        lambda: "".join(rng.choices(PIECES, k=6)),
    )
    return rng.choice(choices)()
