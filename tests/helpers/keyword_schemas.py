"""Schemas, one keyword or combination each, with values that fit and values that do not."""

from __future__ import annotations

from typing import Any

AB = {"a": {"type": "integer"}, "b": {"type": "string"}}
CONDITION = {"properties": {"k": {"enum": ["x", "y"]}, "n": {"type": "integer"}}, "required": ["k"]}

# Schema, values that are valid, values that are not.
KEYWORDS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "multipleOf": ({"type": "integer", "multipleOf": 15}, [0, -45, 300], [1, 20, 9]),
    "multipleOf of decimals": ({"type": "number", "multipleOf": 0.25}, [0.5, -1.75, 3], [0.1, 0.255]),
    "multipleOf between": (
        {"type": "integer", "multipleOf": 6, "minimum": 1, "maximum": 10**6},
        [6, 6 * 9999],
        [0, 8, 6_000_006],
    ),
    "dependentRequired": (
        {"properties": AB, "dependentRequired": {"a": ["b"]}},
        [{}, {"b": ""}, {"a": 1, "b": ""}],
        [{"a": 1}],
    ),
    "dependentSchemas": (
        {"properties": AB, "dependentSchemas": {"a": {"properties": {"b": {"minLength": 2}}}}},
        [{"b": ""}, {"a": 1, "b": "xx"}],
        [{"a": 1, "b": "x"}],
    ),
    "dependencies": ({"properties": AB, "dependencies": {"b": ["a"]}}, [{"a": 1}], [{"b": ""}]),
    "not over enum": ({"type": "string", "not": {"enum": ["a", "b"]}}, ["", "c", "ab"], ["a", "b", 1]),
    "not over const": ({"type": "integer", "not": {"const": 3}}, [2, 4, 33], [3]),
    "not over type": ({"not": {"type": "object"}}, [1, "a", [], None], [{}]),
    "not over a pattern": ({"type": "string", "not": {"pattern": "^x"}}, ["", "ax"], ["x", "xa"]),
    "not over required": ({"properties": AB, "not": {"required": ["a"]}}, [{}, {"b": ""}], [{"a": 1}]),
    "not over bounds": ({"type": "number", "not": {"minimum": 2, "maximum": 4}}, [1, 4.5], [2, 3]),
    "not over not": ({"type": "integer", "not": {"not": {"minimum": 3}}}, [3, 40], [2]),
    "if then else": (
        {
            **CONDITION,
            "if": {"properties": {"k": {"const": "x"}}},
            "then": {"required": ["n"]},
            "else": {"properties": {"n": False}},
        },
        [{"k": "x", "n": 1}, {"k": "y"}],
        [{"k": "x"}, {"k": "y", "n": 1}],
    ),
    "contains": (
        {"items": {"type": "integer"}, "contains": {"minimum": 5}, "type": "array"},
        [[5], [1, 9, 2]],
        [[], [1, 2]],
    ),
    "contains beside prefixItems": (
        {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}, "contains": {"const": 1}},
        [["a", 1], ["", 2, 1]],
        [["a"], [1], ["a", 2]],
    ),
    "contains, at most": (
        {"items": {"enum": [0, 1]}, "type": "array", "contains": {"const": 1}, "maxContains": 2},
        [[1], [0, 1, 0, 1]],
        [[0], [1, 1, 1]],
    ),
    "oneOf of objects": (
        {"properties": AB, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": ""}],
        [{}, {"a": 1, "b": ""}],
    ),
    "oneOf of texts": (
        {"type": "string", "oneOf": [{"maxLength": 3}, {"pattern": "^a"}]},
        ["b", "abcd"],
        ["a", "bcde"],
    ),
    "unevaluatedProperties": (
        {
            "$ref": "#/$defs/base",
            "properties": {"b": {"type": "null"}},
            "unevaluatedProperties": False,
            "$defs": {"base": {"properties": {"a": {"type": "integer"}}, "additionalProperties": True}},
        },
        [{"b": None, "a": 1}, {"b": None, "a": 1, "c": 1}],
        [{"a": "x"}],
    ),
    "unevaluatedProperties over allOf": (
        {"allOf": [{"properties": AB}], "properties": {"c": {}}, "unevaluatedProperties": False},
        [{"c": 1, "a": 1, "b": ""}, {}],
        [{"d": 1}],
    ),
    "propertyNames beside properties": (
        {"properties": AB, "propertyNames": {"maxLength": 1}, "additionalProperties": {"type": "null"}},
        [{"a": 1, "x": None}],
        [{"xy": None}, {"x": 1}],
    ),
    "patternProperties in two schemas": (
        {
            "allOf": [
                {"patternProperties": {"^x": {"type": "integer"}}},
                {"patternProperties": {"y$": {"minimum": 3}}, "additionalProperties": {"maximum": 9}},
            ]
        },
        [{"xay": 3}, {"xb": 9}],
        [{"xay": 2}, {"xb": 10}, {"xb": "a"}],
    ),
    "percent-encoded reference": (
        {"$defs": {"a b/%": {"type": "null"}}, "type": "array", "items": {"$ref": "#/$defs/a%20b~1%25"}},
        [[None]],
        [[1]],
    ),
    "anchor": (
        {"$defs": {"x": {"$anchor": "here", "type": "null"}}, "type": "array", "items": {"$ref": "#here"}},
        [[None]],
        [[1]],
    ),
    "anchors inside groups": (
        {"type": "string", "pattern": "^(a$)|(^b$)|(c|d$)"},
        ["a", "b", "xcx", "xd"],
        ["ab", "dx"],
    ),
    "white space of ECMA-262": (
        {"type": "string", "pattern": r"^\S.\s$"},
        ["a\u2003\u3000", "\u2014\u2014\u00a0"],
        ["\u2003a ", "\u3000a ", "a\u2028 ", "aa\u200b"],
    ),
    "format beside a length": (
        {"type": "string", "format": "email", "maxLength": 9},
        ["a@b.co"],
        ["a@bcdef.co", "a@b"],
    ),
    "long host name": (
        {"type": "string", "format": "hostname"},
        ["a.b", "a-b"],
        ["a" * 64, ".".join(["a" * 60] * 5), "ab--c", "-a"],
    ),
}
