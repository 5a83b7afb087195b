"""What templates are shown of the schemas of tools: nothing lost, in the forms of the official templates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma4_gguf.errors import ToolError
from gemma4_gguf.templates import printable_tools, render
from gemma4_gguf.tools import as_tools

CASES = Path(__file__).parents[1] / "data" / "tool_declarations.jsonl"
DECLARED = [json.loads(line) for line in CASES.read_text("utf-8").splitlines()]
OFFICIAL_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}


def printed(tools: list[Mapping[str, Any]]) -> str:
    """The first declaration as a template prints it."""
    text = render([{"role": "user", "content": "?"}], tools, size="small")
    return text.partition("<|tool>declaration:")[2].partition("<tool|>")[0]


def shown(schema: Any, **definitions: Any) -> str:
    """What is printed of one argument, after its name, with " around texts."""
    parameters = {"type": "object", "properties": {"x": schema}, "$defs": definitions}
    tool = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": parameters}}
    text = printed([tool.shown for tool in as_tools([tool])]).replace('<|"|>', '"')
    return text.partition("properties:{x:")[2].removesuffix('},type:"OBJECT"}}')


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize("case", DECLARED, ids=lambda case: case["name"])
def test_declarations_of_agents_and_servers(case: dict[str, Any]) -> None:
    declared = case["declared"].removeprefix("declaration:")
    assert printed([tool.shown for tool in as_tools([case["tool"]])]) == declared
    assert printed(printable_tools([case["tool"]])) == declared


INTEGER_OR_NULL = '{nullable:true,type:"INTEGER"}'
AB = '{enum:["a","b"],type:"STRING"}'


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, INTEGER_OR_NULL),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, INTEGER_OR_NULL),
        ({"type": ["integer", "null"]}, INTEGER_OR_NULL),
        ({"type": ["null", "integer"], "minimum": 1}, INTEGER_OR_NULL),
        ({"type": "integer", "nullable": True}, INTEGER_OR_NULL),
        ({"anyOf": [{"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": "null"}]}, INTEGER_OR_NULL),
        ({"allOf": [{"type": ["integer", "null"]}]}, INTEGER_OR_NULL),
        ({"type": ["string"]}, '{type:"STRING"}'),
        ({"type": "null"}, '{type:"NULL"}'),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, '{type:"NUMBER"}'),
        ({"type": ["integer", "string"]}, '{description:"Integer or string.",type:"INTEGER"}'),
        (
            {"type": ["integer", "string", "null"], "description": "An id"},
            '{description:"An id. Integer or string.",nullable:true,type:"INTEGER"}',
        ),
        (
            {
                "anyOf": [
                    {"type": "string", "description": "a name"},
                    {"type": "array", "items": {"type": "string"}},
                ]
            },
            '{description:"String (a name) or array of string.",items:{type:"STRING"},type:"ARRAY"}',
        ),
        ({"enum": ["a", "b"]}, AB),
        ({"type": "string", "enum": ["a", "b"]}, AB),
        ({"anyOf": [{"const": "a"}, {"const": "b"}]}, AB),
        ({"anyOf": [{"enum": ["a"]}, {"enum": ["b"]}]}, AB),
        ({"allOf": [{"type": "string"}, {"enum": ["a", "b"]}]}, AB),
        ({"enum": ["a", "b", None]}, '{enum:["a","b"],nullable:true,type:"STRING"}'),
        (
            {"type": ["string", "null"], "enum": ["a", "b", None]},
            '{enum:["a","b"],nullable:true,type:"STRING"}',
        ),
        ({"const": "a"}, '{enum:["a"],type:"STRING"}'),
        ({"type": "string", "const": "a"}, '{enum:["a"],type:"STRING"}'),
        ({"enum": [1, 2]}, '{description:"One of: 1, 2.",type:"INTEGER"}'),
        (
            {"type": "integer", "enum": [1, 2], "description": "How loud"},
            '{description:"How loud. One of: 1, 2.",type:"INTEGER"}',
        ),
        ({"enum": [0.5, 1]}, '{description:"One of: 0.5, 1.",type:"NUMBER"}'),
        ({"const": True}, '{description:"One of: true.",type:"BOOLEAN"}'),
        ({"enum": ["auto", 1]}, '{enum:["auto",1],type:"STRING"}'),
        (
            {"oneOf": [{"const": 1, "title": "low"}, {"const": 2, "title": "high"}]},
            '{description:"One of: 1 (low), 2 (high).",type:"INTEGER"}',
        ),
        (
            {
                "anyOf": [
                    {"oneOf": [{"const": 1, "title": "low"}, {"const": 2, "title": "high"}]},
                    {"type": "null"},
                ]
            },
            '{description:"One of: 1 (low), 2 (high).",nullable:true,type:"INTEGER"}',
        ),
        (
            {"type": "string", "enum": ["a", "b"], "enumNames": ["Ay", "Bee"]},
            '{description:"One of: "a" (Ay), "b" (Bee).",enum:["a","b"],type:"STRING"}',
        ),
        (
            {"type": "integer", "enum": [1, 2], "enumDescriptions": ["low", "high"]},
            '{description:"One of: 1 (low), 2 (high).",type:"INTEGER"}',
        ),
        (
            {
                "oneOf": [
                    {**obj(a={}), "description": "By name."},
                    {"type": "array", "description": "by place"},
                ]
            },
            '{description:"Object {a?} (By name) or array (by place).",properties:{'
            'a:{description:"Any JSON value.",type:"STRING"}},type:"OBJECT"}',
        ),
        ({}, '{description:"Any JSON value.",type:"STRING"}'),
        (True, '{description:"Any JSON value.",type:"STRING"}'),
        ({"minLength": 2}, '{type:"STRING"}'),
        (
            {"type": "integer", "enum": None, "items": None, "nullable": None, "$ref": None},
            '{type:"INTEGER"}',
        ),
        ({"type": "integer", "required": True}, '{type:"INTEGER"}'),
        ({"minimum": 2}, '{type:"NUMBER"}'),
        ({"items": {"type": "integer"}}, '{items:{type:"INTEGER"},type:"ARRAY"}'),
        ({"properties": {"a": {"type": "integer"}}}, '{properties:{a:{type:"INTEGER"}},type:"OBJECT"}'),
        ({"type": "object", "additionalProperties": False}, '{properties:{},type:"OBJECT"}'),
        ({"type": "object", "additionalProperties": True, "default": {}}, '{properties:{},type:"OBJECT"}'),
        (
            {"type": "object", "additionalProperties": {"type": ["integer", "null"]}},
            '{description:"Any keys, with values: integer or null.",properties:{},type:"OBJECT"}',
        ),
        ({"type": "object", "city": {"type": "string"}}, '{properties:{city:{type:"STRING"}},type:"OBJECT"}'),
        (
            {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
            '{items:{type:["STRING","INTEGER"]},type:"ARRAY"}',
        ),
        (
            {"type": "array", "items": {"type": ["string", "null"]}},
            '{items:{nullable:true,type:"STRING"},type:"ARRAY"}',
        ),
        ({"type": "array", "items": {"enum": [1, 2]}}, '{items:{enum:[1,2],type:"INTEGER"},type:"ARRAY"}'),
        (
            {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]},
            '{description:"In this order: string, integer.",items:{type:["STRING","INTEGER"]},type:"ARRAY"}',
        ),
        (
            {"type": "array", "items": [{"type": "number"}, {"type": "number"}]},
            '{description:"In this order: number, number.",items:{type:"NUMBER"},type:"ARRAY"}',
        ),
        (
            {
                "oneOf": [
                    {**obj(kind={"const": "cat"}, lives={"type": "integer"}), "required": ["kind"]},
                    {**obj(kind={"const": "dog"}, name={"type": "string"}), "required": ["kind", "name"]},
                ]
            },
            '{description:"Object {kind: "cat", lives?} or object {kind: "dog", name}.",properties:{'
            'kind:{enum:["cat","dog"],type:"STRING"},lives:{type:"INTEGER"},name:{type:"STRING"}},'
            'required:["kind"],type:"OBJECT"}',
        ),
    ],
)
def test_forms(schema: Any, expected: str) -> None:
    assert shown(schema) == expected


POINT = {"title": "Point", "$anchor": "spot", "description": "Where.", **obj(x={"type": "integer"})}
POINT_SHOWN = 'properties:{x:{type:"INTEGER"}},type:"OBJECT"}'


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"$ref": "#/$defs/Point"}, f'{{description:"Where.",{POINT_SHOWN}'),
        ({"$ref": "#/$defs/Point", "description": "Goal."}, f'{{description:"Goal.",{POINT_SHOWN}'),
        (
            {"allOf": [{"$ref": "#/$defs/Point"}], "description": "Goal."},
            f'{{description:"Goal.",{POINT_SHOWN}',
        ),
        (
            {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
            f'{{description:"Where.",nullable:true,{POINT_SHOWN}',
        ),
        (
            {"type": "array", "items": {"$ref": "#/$defs/Point"}},
            f'{{items:{{description:"Where.",{POINT_SHOWN},type:"ARRAY"}}',
        ),
        ({"$ref": "#/$defs/a~1b%20c"}, '{type:"BOOLEAN"}'),
        ({"$ref": "#spot"}, f'{{description:"Where.",{POINT_SHOWN}'),
        ({"$ref": "#/$defs/Alias"}, f'{{description:"Where.",{POINT_SHOWN}'),
        (
            {"$ref": "https://example.com/x.json"},
            '{description:"As https://example.com/x.json describes it. Any JSON value.",type:"STRING"}',
        ),
    ],
)
def test_references_are_followed(schema: Any, expected: str) -> None:
    definitions = {"Point": POINT, "a/b c": {"type": "boolean"}, "Alias": {"$ref": "#/$defs/Point"}}
    assert shown(schema, **definitions) == expected


@pytest.mark.parametrize("place", ["items", "properties", "anyOf"])
def test_what_holds_itself_is_cut_where_it_comes_again(place: str) -> None:
    again = {"$ref": "#/$defs/Node"}
    inner = {
        "items": {"type": "array", "items": again},
        "properties": again,
        "anyOf": {"anyOf": [again, {"type": "null"}]},
    }[place]
    text = shown({"$ref": "#/$defs/Node"}, Node=obj(value={"type": "integer"}, inner=inner))
    assert text.count("Again Node (value, inner).") == 1 and text.count('value:{type:"INTEGER"}') == 1


def test_definitions_used_many_times_stay_small() -> None:
    definitions = {
        f"L{i}": obj(a={"$ref": f"#/$defs/L{i + 1}"}, b={"$ref": f"#/$defs/L{i + 1}"}) for i in range(40)
    }
    text = shown({"$ref": "#/$defs/L0"}, **definitions, L40={"type": "integer"})
    assert len(text) < 200_000 and "Again L40" in text


NAMES = (
    "type",
    "default",
    "description",
    "properties",
    "required",
    "items",
    "enum",
    "nullable",
    "title",
    "$ref",
)
NAMES += ("anyOf", "const", "additionalProperties", "format", "$defs", "not", "name", "parameters")


@pytest.mark.parametrize("name", NAMES)
def test_a_property_may_be_named_like_a_keyword(name: str) -> None:
    for inner in (
        obj(**{name: {"type": "integer"}}),
        {"type": "array", "items": obj(**{name: {"type": "integer"}})},
    ):
        assert f'properties:{{{name}:{{type:"INTEGER"}}}},type:"OBJECT"' in shown(inner)


leaves = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "number", "boolean", "array", "null"])},
    optional={
        "description": st.text("abc .", max_size=8),
        "nullable": st.just(True),
        "minimum": st.integers(0, 9),
    },
) | st.fixed_dictionaries(
    {"type": st.just("string"), "enum": st.lists(st.text("abc"), min_size=1, max_size=3)}
)
names = st.sampled_from(["a", "B", "c", "type", "items", "description", "required"])
known = st.recursive(
    leaves,
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=3)},
            optional={"description": st.text("abc .", max_size=8), "required": st.just(["a"])},
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"maxItems": st.just(3)})
    ),
    max_leaves=8,
)


@given(st.dictionaries(names, known, max_size=4))
def test_what_the_official_template_can_print_is_left_alone(properties: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    tool = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": schema}}
    assert printed([tool.shown for tool in as_tools([tool])]) == printed([tool])


branch = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "null"},
        {"const": "x"},
        {"$ref": "#/$defs/P"},
        {"$ref": "#/$defs/R"},
        {},
        True,
    ]
)
anything = st.recursive(
    branch | leaves,
    lambda inner: (
        st.builds(
            lambda word, parts: {word: parts},
            st.sampled_from(["anyOf", "oneOf", "allOf", "prefixItems"]),
            st.lists(inner, min_size=1, max_size=3),
        )
        | st.builds(lambda name, part: {"type": "object", "properties": {name: part}}, names, inner)
        | st.builds(lambda part: {"type": "array", "items": part}, inner)
        | st.builds(
            lambda a, b: {**a, **b} if isinstance(a, dict) and isinstance(b, dict) else a, inner, inner
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(names, anything, max_size=4))
def test_every_schema_is_shown_with_known_types(properties: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": properties}
    schema["$defs"] = {"P": POINT, "R": obj(inner={"anyOf": [{"$ref": "#/$defs/R"}, {"type": "null"}]})}
    tool = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": schema}}
    before = json.dumps(tool)
    (read,) = as_tools([tool])
    text = printed([read.shown])
    assert set(re.findall(r'type:<\|"\|>(.*?)<\|"\|>', text)) <= OFFICIAL_TYPES
    assert "$ref" not in text and "Of:[" not in text
    assert read.declaration == tool and json.dumps(tool) == before  # the grammar goes by what was given


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (obj(x={"$ref": "#/$defs/gone"}), "leads to nothing"),
        ({"type": "string"}, "declared as string; expected an object"),
        ({"type": "array", "items": {}}, "declared as array"),
        *(
            (obj(x={"type": kind}), f"type is {re.escape(json.dumps(kind))}")
            for kind in (5, "", [[]], [None], {})
        ),
        *(
            (obj(x={word: 5}), f"{re.escape(word)} is 5")
            for word in ("properties", "enum", "anyOf", "allOf", "items", "$ref", "description")
        ),
        (obj(x={"type": "object", "required": [{}]}), "required is"),
        (obj(x={"oneOf": ["a"]}), "oneOf is"),
        (obj(x="string"), '"string" is no schema'),
        (obj(x=None), "null is no schema"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(schema: Any, said: str) -> None:
    with pytest.raises(ToolError, match=rf"of f .*{said}"):
        as_tools([{"type": "function", "function": {"name": "f", "parameters": schema}}])


def test_a_deep_schema_is_refused() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(600):
        schema = obj(x=schema)
    with pytest.raises(ToolError, match="too deeply"):
        as_tools([{"type": "function", "function": {"name": "f", "parameters": schema}}])


def test_alternatives_of_all_arguments_are_told_by_the_function() -> None:
    schema = {
        "anyOf": [
            {**obj(a={"type": "string"}), "required": ["a"]},
            {**obj(b={"type": "string"}), "required": ["b"]},
        ]
    }
    (tool,) = as_tools(
        [{"type": "function", "function": {"name": "f", "description": "F", "parameters": schema}}]
    )
    assert tool.shown["function"]["description"] == "F. Object {a} or object {b}."
    assert set(tool.shown["function"]["parameters"]["properties"]) == {"a", "b"}
