"""Declarations as agents have them: declared, shown, drawn along their grammar, and read back."""

from __future__ import annotations

from typing import Any

import jsonschema
from gbnf_tools import Writer
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma4_gguf import grammars, parse_reply
from gemma4_gguf.templates import render
from gemma4_gguf.tools import as_tools

NAMES = "path query max_results -A -i output_mode oldText type description items required properties default"
NAMES += " enum nullable title name $filter @odata.type user.id x-api-key Größe 名前 a/b content const format"
NAMES += " foo[bar] true null 1 # * xml:lang call:x a,b a=b it's {x}"
TEXTS = (
    "a",
    "b c",
    "<b>",
    "it's",
    "x,y",
    "{z}",
    "k:v",
    'say "hi"',
    "né",
    "1",
    "true",
    "null",
    "",
    " lead",
    "[1]",
    "}",
)
DEFINITIONS: dict[str, Any] = {
    "Point": {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
        "required": ["x", "y"],
        "additionalProperties": False,
    },
    "Tree": {
        "type": "object",
        "properties": {
            "value": {"type": "string"},
            "left": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    },
}
LEAVES: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
    {"type": ["integer", "string"]},
    {"const": 5},
    {"enum": ["a", None, 2]},
    {"$ref": "#/$defs/Point"},
    {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
    {"allOf": [{"$ref": "#/$defs/Point"}], "description": "where"},
    {"$ref": "#/$defs/Tree"},
    {"type": "string", "format": "date"},
    {"type": "string", "minLength": 1, "maxLength": 8},
    {"type": "string", "pattern": "^[a-z]{2,4}$"},
    {"type": "integer", "minimum": 1, "maximum": 10},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object"},
    {"type": "array"},
    {},
]


def of(properties: dict[str, Any], required: int) -> dict[str, Any]:
    """An object that holds these and nothing else."""
    schema = {"type": "object", "properties": properties, "required": sorted(properties)[:required]}
    return {**schema, "additionalProperties": False}


names = st.sampled_from(NAMES.split())
leaves = (
    st.sampled_from(LEAVES)
    | st.builds(
        lambda values: {"enum": values}, st.lists(st.integers(-3, 9), min_size=1, max_size=3, unique=True)
    )
    | st.builds(lambda value: {"const": value}, st.sampled_from(TEXTS))
    | st.builds(
        lambda values: {"type": "string", "enum": values},
        st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True),
    )
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(of, st.dictionaries(names, inner, max_size=3), st.integers(0, 3))
        | st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
    ),
    max_leaves=5,
)
parameters = st.builds(of, st.dictionaries(names, values, max_size=4), st.integers(0, 4))


@settings(max_examples=75)
@given(st.lists(parameters, min_size=4, max_size=4), st.integers(0, 99))
def test_what_is_declared_comes_back(schemas: list[dict[str, Any]], seed: int) -> None:
    given = [
        {"name": f"tool-{i}", "description": "Does it.", "inputSchema": {**schema, "$defs": DEFINITIONS}}
        for i, schema in enumerate(schemas)
    ]
    tools = as_tools(given)
    text = render([{"role": "user", "content": "Go."}], [tool.shown for tool in tools], size="small")
    assert all(f"declaration:{tool.name}{{" in text for tool in tools)
    checks = {tool["name"]: jsonschema.Draft202012Validator(tool["inputSchema"]) for tool in given}
    writer = Writer(grammars.from_tools(given, parallel=False), seed=seed)
    for _ in range(4):
        written = writer.text()
        reply = parse_reply(written, given)
        assert (
            len(reply.tool_calls) == 1 and not reply.text and all("twice" in said for said in reply.warnings)
        ), written
        call = reply.tool_calls[0]
        checks[call.name].validate(call.arguments)
