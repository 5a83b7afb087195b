"""Tool dicts of every provider: read alike everywhere, refused by name where something would be lost."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, Field

from gemma4_gguf import grammars, parse_reply
from gemma4_gguf.errors import SchemaError, ToolError
from gemma4_gguf.tools import Tool, as_tools

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Weather.", "parameters": SCHEMA}
CANONICAL = {"type": "function", "function": FUNCTION}
NAMED = {"name": "weather", "description": "Weather."}
GEMINI = {
    "type": "OBJECT",
    "properties": {"city": {"type": "STRING"}},
    "required": ["city"],
}


class McpTool(BaseModel):
    """As an MCP client lists them."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] = Field(alias="inputSchema")
    meta: dict[str, Any] | None = Field(default=None, alias="_meta")


SHAPES: dict[str, Any] = {
    "OpenAI, Ollama": CANONICAL,
    "OpenAI without a type": {"function": FUNCTION},
    "OpenAI with a null": {"type": "function", "function": {**FUNCTION, "strict": None}},
    "OpenAI's old functions": FUNCTION,
    "Responses": {"type": "function", **FUNCTION},
    "Anthropic": {**NAMED, "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
    "Anthropic with a type": {"type": "custom", **NAMED, "input_schema": SCHEMA},
    "MCP": {**NAMED, "title": "Weather", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True}},
    "MCP with a result": {**NAMED, "inputSchema": SCHEMA, "outputSchema": SCHEMA, "_meta": {"a": 1}},
    "MCP client": McpTool(**NAMED, inputSchema=SCHEMA),
    "Gemini": {"functionDeclarations": [{**NAMED, "parameters": GEMINI}]},
    "Gemini in Python": {"function_declarations": [{**NAMED, "parameters": GEMINI}]},
    "Gemini, JSON schema": {"functionDeclarations": [{**NAMED, "parametersJsonSchema": SCHEMA}]},
    "Gemini, one function": {**NAMED, "parameters_json_schema": SCHEMA},
    "Bedrock": {"toolSpec": {**NAMED, "inputSchema": {"json": SCHEMA}}},
    "a mapping": MappingProxyType({**NAMED, "inputSchema": MappingProxyType(SCHEMA)}),
}


@pytest.mark.parametrize("tool", SHAPES.values(), ids=SHAPES)
def test_shapes(tool: Any) -> None:
    (read,) = as_tools([tool])
    assert read.declaration == CANONICAL
    assert read.run is None


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "MCP client"])
def test_grammars_and_readers_take_the_same(shape: str) -> None:
    tool = SHAPES[shape]
    assert grammars.from_tools([tool]) == grammars.from_tools([CANONICAL])
    reply = parse_reply("<|tool_call>call:weather{city:7}<tool_call|>", [tool])
    assert reply.tool_calls[0].arguments == {"city": "7"}  # a text is declared


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "now"}},
        {"type": "function", "function": {"name": "now", "parameters": None}},
        {"type": "function", "function": {"name": "now", "parameters": {}}},
        {"type": "function", "name": "now"},
        {"name": "now"},
        {"functionDeclarations": [{"name": "now"}]},
    ],
)
def test_without_a_schema_there_are_no_arguments(tool: Any) -> None:
    (read,) = as_tools([tool])
    assert read.parameters == {} and "parameters" not in read.declaration["function"]


def test_gemini_holds_several_functions_in_one_tool() -> None:
    tools = as_tools([{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}, {"name": "c"}])
    assert [tool.name for tool in tools] == ["a", "b", "c"]


def test_gemini_spelling_becomes_that_of_json_schema() -> None:
    schema = {
        "type": "OBJECT",
        "properties": {
            "type": {"type": "STRING", "enum": ["STRING", "OBJECT"]},
            "many": {"type": "ARRAY", "minItems": "1", "maxItems": "3", "items": {"type": "INTEGER"}},
            "any": {"anyOf": [{"type": "BOOLEAN"}, {"type": "NULL"}]},
            "open": {"type": "TYPE_UNSPECIFIED"},
            "both": {"type": ["STRING", "NULL"]},
        },
    }
    (read,) = as_tools([{"functionDeclarations": [{"name": "f", "parameters": schema}]}])
    assert read.parameters == {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["STRING", "OBJECT"]},
            "many": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "integer"}},
            "any": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            "open": {},
            "both": {"type": ["string", "null"]},
        },
    }
    assert "call:f" in grammars.from_tools([{"functionDeclarations": [{"name": "f", "parameters": schema}]}])


def test_what_stands_for_nothing_is_nothing() -> None:
    """Nulls of SDKs, and empty objects as PHP writes them."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "enum": None, "description": None, "items": None, "default": None},
            "b": {"type": "object", "properties": [], "required": None, "const": None},
        },
        "required": None,
        "$defs": [],
    }
    (read,) = as_tools([{"name": "f", "inputSchema": schema}])
    assert read.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "default": None},
            "b": {"type": "object", "properties": {}, "const": None},
        },
        "$defs": {},
    }
    empty = {"name": "f", "inputSchema": {"type": "object", "properties": []}}
    assert grammars.from_tools([empty]) == grammars.from_tools([{"name": "f"}])


def test_a_grammar_of_arguments_by_reference_takes_them() -> None:
    schema = {"$ref": "#/$defs/In", "$defs": {"In": SCHEMA}}
    assert "city:" in grammars.from_tools([{"name": "f", "inputSchema": schema}])


@pytest.mark.parametrize("place", ["function", "tool"])
@pytest.mark.parametrize("strict", [True, False])
def test_strict_is_kept_wherever_it_stands(place: str, strict: bool) -> None:
    tool = {
        "function": {"type": "function", "function": {**FUNCTION, "strict": strict}},
        "tool": {"type": "function", "function": FUNCTION, "strict": strict},
    }[place]
    for given in (
        tool,
        {"type": "function", **FUNCTION, "strict": strict},
        {**NAMED, "input_schema": SCHEMA, "strict": strict},
    ):
        assert as_tools([given])[0].declaration["function"]["strict"] is strict


def test_examples_are_told() -> None:
    tool = {**NAMED, "input_schema": SCHEMA, "input_examples": [{"city": "Århus"}]}
    assert as_tools([tool])[0].description == 'Weather.\nExample: {"city": "Århus"}'


def test_what_was_given_may_change_later() -> None:
    schema = {"type": "object", "properties": {}}
    (read,) = as_tools([{"name": "f", "parameters": schema}])
    schema["properties"] = {"x": {"type": "integer"}}
    assert read.parameters == {"type": "object", "properties": {}}


class Weather(BaseModel):
    city: str


class Bare:
    pass


HOSTED = ["web_search", "web_search_20250305", "computer_use", "computer_20250124", "code_interpreter", "mcp"]
HOSTED += ["file_search", "image_generation", "bash_20250124", "custom", "namespace", "local_shell"]
BAD_NAMES = ("", " a", "a ", "a\nb", '<|"|>', "<turn|>", "<|x")


def shallow(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"}}}


def deep(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"anyOf": [{"type": "array", "items": shallow(name)}, {}]}}}


HOLDS_ITSELF: dict[str, Any] = {"name": "f", "parameters": {"type": "object"}}
HOLDS_ITSELF["parameters"]["properties"] = HOLDS_ITSELF["parameters"]


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        *(({"type": kind, "name": "x"}, f"of type '{kind}'.*provider") for kind in HOSTED),
        ({"googleSearch": {"a": 1}}, "names no function"),
        ({"functionDeclarations": [{"name": "f"}], "codeExecution": {"a": 1}}, "'codeExecution'"),
        ({"functionDeclarations": {"name": "f"}}, "expected a list of functions"),
        ({"functionDeclarations": [None]}, r"functionDeclarations\[0\] is a NoneType"),
        ({"type": "function", "function": "f"}, "function is a str"),
        ({"type": "function"}, "names no function"),
        ({"type": "tool", "function": FUNCTION}, "type 'tool'"),
        ({"type": "object", "properties": {}}, "JSON schema and not a tool"),
        ({**FUNCTION, "inputSchema": SCHEMA}, "parameters and inputSchema"),
        ({**NAMED, "inputschema": SCHEMA}, "'inputschema'"),
        ({**NAMED, "params": SCHEMA}, "'params'"),
        ({**NAMED, "parameter_definitions": {"city": {"type": "str"}}}, "'parameter_definitions'"),
        ({"type": "function", "function": NAMED, "parameters": SCHEMA}, "'parameters'"),
        ({**NAMED, "annotations": {"title": "x"}}, "no schema of its arguments"),
        ({**NAMED, "inputSchema": None}, "no schema of its arguments"),
        ({"toolSpec": NAMED}, "no schema of its arguments"),
        ({**NAMED, "parameters": "{}"}, "parameters is a str"),
        ({**NAMED, "parameters": [SCHEMA]}, "parameters is a list"),
        ({**NAMED, "parameters": True}, "parameters is a bool"),
        ({**NAMED, "description": ["a"]}, "description is a list"),
        ({**NAMED, "strict": "yes"}, "strict is 'yes'"),
        ({**NAMED, "response": "text"}, "response is a str"),
        ({"name": 3}, "names no function"),
        ({**NAMED, "parameters": {"type": "object", "properties": {"x": {"type": str}}}}, "no plain JSON"),
        ({**NAMED, "parameters": {"type": "object", "properties": {1: {}}}}, "key 1 is no text"),
        ({**NAMED, "parameters": {"type": "object", "default": float("nan")}}, "no plain JSON"),
        ({**NAMED, "parameters": {"type": "object", "examples": {1, 2}}}, "no plain JSON"),
        *(
            ({**NAMED, "parameters": at(name)}, "an argument called")
            for name in BAD_NAMES
            for at in (shallow, deep)
        ),
        (HOLDS_ITSELF, "holds itself"),
        (Weather(city="Oslo"), "'city'|names no function"),
        (None, "NoneType"),
        ("weather", "is a str"),
        (7, "is a int"),
        (Bare, "class Bare"),
        (Bare(), "is a Bare"),
        (int, "class int"),
        (dict, "class dict"),
        ([FUNCTION], "is a list"),
        *(
            ({"name": name}, "no tool name")
            for name in ("", "two words", "a{b}", "a,b", 'a"b', "<|x|>", ":a", "a.", "x" * 129)
        ),
    ],
)
def test_what_would_be_lost_is_refused(tool: Any, said: str) -> None:
    with pytest.raises(ToolError, match=rf"tools\[1\].*{said}"):
        as_tools([CANONICAL, tool])
    if isinstance(tool, dict) and not re.search("no tool name|an argument", said):
        with pytest.raises(SchemaError):
            grammars.from_tools([tool])


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("weather", "a str; expected a list"),
        (b"weather", "a bytes; expected a list"),
        (7, "a int; expected a list"),
        (CANONICAL, "a dict; expected a list"),
        ({"tools": [CANONICAL]}, "give that list"),
        (Weather, "expected a list"),
        ((tool for tool in [CANONICAL]), "a generator; expected a list"),
        ({"weather"}, "a set; expected a list"),
        ([Tool(7, "", {})], "names no function"),  # type: ignore[arg-type]
        ([Tool("f", "", [1])], "parameters is a list"),  # type: ignore[arg-type]
        ([Tool("f", "", {"type": "string"})], "declared as string"),
        ([Tool("f g", "", {})], "no tool name"),
        ([CANONICAL, FUNCTION], "name 'weather'"),
    ],
)
def test_what_is_no_list_of_tools_is_refused(tools: Any, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        as_tools(tools)


@pytest.mark.parametrize(
    "name",
    ["a", "get-weather", "a.b", "ns:tool", "github/create_issue", "météo", "天気", "x" * 128, "_f", "f2"],
)
def test_names_come_back_from_calls(name: str) -> None:
    (tool,) = as_tools([{"name": name, "parameters": SCHEMA}])
    reply = parse_reply(f'<|tool_call>call:{name}{{city:<|"|>Oslo<|"|>}}<tool_call|>', [tool.declaration])
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [(name, {"city": "Oslo"})]
    assert not reply.warnings


ODD = (
    "xml:lang",
    "call:x",
    "a b",
    "a,b",
    "a=b",
    "it's",
    'say "x"',
    "{x}",
    "filter[status]",
    "-A",
    "$ref",
    "@type",
    "ö",
    "type",
)


@pytest.mark.parametrize("name", ODD)
def test_names_of_arguments_come_back_from_calls(name: str) -> None:
    inner = shallow(name)
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer"}, "in": {"anyOf": [inner, {"type": "null"}]}},
    }
    tool = {"name": "f", "inputSchema": schema}
    assert name in as_tools([tool])[0].shown["function"]["parameters"]["properties"]
    text = f'<|tool_call>call:f{{{name}:3,in:{{{name}:<|"|>a{{b<|"|>}}}}<tool_call|>'
    reply = parse_reply(text, [tool])
    assert [call.arguments for call in reply.tool_calls] == [{name: 3, "in": {name: "a{b"}}]
    assert not reply.warnings and not reply.text


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_a_key_that_says_nothing_loses_nothing(value: Any) -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}, "defer_loading": value}
    (declared,) = as_tools([tool])
    assert declared.name == "f"
